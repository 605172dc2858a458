use super::*;

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::of(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn mesh() -> Collector {
    Collector { endpoint: "http://collector.istio-system:4317/".to_owned(), protocol: OtlpProtocol::Grpc }
}

/// Address and protocol of spans, as text.
fn address(variables: &[(&str, &str)], mesh: Option<&Collector>) -> Option<(String, OtlpProtocol)> {
    let target = environment(variables).target(Signal::Traces, mesh)?;
    Some((target.uri.to_string(), target.protocol))
}

#[test]
fn the_environment_wins_over_the_mesh() {
    use OtlpProtocol::{Grpc, HttpProtobuf};
    const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const OWN: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
    let mesh = mesh();
    let of_mesh = ("http://collector.istio-system:4317/", Grpc);
    for (variables, expected) in [
        (vec![], Some(of_mesh)),
        (vec![(ALL, "")], Some(of_mesh)),
        (
            vec![(PROTOCOL, "http/protobuf")],
            Some(("http://collector.istio-system:4317/v1/traces", HttpProtobuf)),
        ),
        (vec![(ALL, "http://here:4318")], Some(("http://here:4318/v1/traces", HttpProtobuf))),
        (vec![(ALL, "http://here:4318/base/")], Some(("http://here:4318/base/v1/traces", HttpProtobuf))),
        (vec![(ALL, "http://here:4317")], Some(("http://here:4317/", Grpc))),
        (vec![(ALL, "https://[::1]:4317")], Some(("https://[::1]:4317/", Grpc))),
        (vec![(ALL, "http://here:9"), (PROTOCOL, "grpc")], Some(("http://here:9/", Grpc))),
        (vec![(ALL, "here:4317")], Some(("https://here:4317/", Grpc))),
        (
            vec![(ALL, "here:4317"), ("OTEL_EXPORTER_OTLP_INSECURE", "true")],
            Some(("http://here:4317/", Grpc)),
        ),
        (vec![(ALL, "http://a:1"), (OWN, "http://b:2/x")], Some(("http://b:2/x", HttpProtobuf))),
        (
            vec![
                (ALL, "http://a:1"),
                (PROTOCOL, "grpc"),
                ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ],
            Some(("http://a:1/v1/traces", HttpProtobuf)),
        ),
        (vec![(ALL, "ftp://a:1")], None),
        (vec![(ALL, "http://")], None),
        (vec![("OTEL_SDK_DISABLED", "true")], None),
        (vec![("OTEL_TRACES_EXPORTER", "none"), (ALL, "http://here:4318")], None),
        (vec![("OTEL_TRACES_EXPORTER", "zipkin")], None),
        (vec![("OTEL_TRACES_EXPORTER", "otlp")], Some(of_mesh)),
    ] {
        let expected = expected.map(|(uri, protocol)| (uri.to_owned(), protocol));
        assert_eq!(address(&variables, Some(&mesh)), expected, "{variables:?}");
    }
    assert_eq!(address(&[], None), None, "nobody has asked for it");
    let here = address(&[("OTEL_TRACES_EXPORTER", "otlp")], None);
    assert_eq!(here, Some(("http://localhost:4318/v1/traces".to_owned(), HttpProtobuf)));
    let here = address(&[("OTEL_TRACES_EXPORTER", "otlp"), (PROTOCOL, "grpc")], None);
    assert_eq!(here, Some(("http://localhost:4317/".to_owned(), Grpc)));
}

#[test]
fn signals_have_addresses_of_their_own() {
    let environment = environment(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://logs:1/here"),
        ("OTEL_METRICS_EXPORTER", "none"),
    ]);
    let uri = |signal| environment.target(signal, None).map(|target| target.uri.to_string());
    assert_eq!(uri(Signal::Traces).as_deref(), Some("http://all:4318/v1/traces"));
    assert_eq!(uri(Signal::Logs).as_deref(), Some("http://logs:1/here"));
    assert_eq!(uri(Signal::Metrics), None);
}

#[test]
fn what_requests_carry_and_how() {
    let target =
        |variables: &[(&str, &str)]| environment(variables).target(Signal::Traces, Some(&mesh())).unwrap();
    let plain = target(&[]);
    assert_eq!((plain.headers.len(), plain.timeout, plain.gzip, plain.roots), (0, TIMEOUT, false, None));
    let full = target(&[
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s%20ecret, x-tenant = a,broken,,=x,bad name=1"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/certs/ca.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/certs/own.pem"),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "/certs/own.key"),
    ]);
    let carried: Vec<_> =
        full.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(carried, [("api-key", "s ecret"), ("x-tenant", "a")]);
    assert!(!format!("{full:?}").contains("ecret"), "what may be secret is printed");
    assert_eq!((full.timeout, full.gzip), (Duration::from_millis(2500), true));
    assert_eq!(full.roots, Some("/certs/ca.pem".into()));
    assert_eq!(full.client, Some(("/certs/own.pem".into(), "/certs/own.key".into())));
    let odd = target(&[
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=b"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "c=d"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/certs/own.pem"),
    ]);
    assert_eq!((odd.timeout, odd.gzip, odd.headers.len(), odd.client), (TIMEOUT, false, 1, None));
}

#[test]
fn batches_are_as_the_environment_says_within_bounds() {
    let batching = |variables: &[(&str, &str)]| environment(variables).batching();
    assert_eq!(batching(&[]), Batching { items: 512, delay: Duration::from_secs(1), queue: 16_384 });
    let said = batching(&[
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "60"),
    ]);
    assert_eq!(said, Batching { items: 60, delay: Duration::from_millis(50), queue: 60 });
    let odd = batching(&[
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100000000"),
    ]);
    assert_eq!(odd, batching(&[]));
}
