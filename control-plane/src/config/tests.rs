use super::*;

#[test]
fn flags_have_the_documented_defaults() {
    let config = Config::try_parse_from(["x", "--source", "dir:/policy"]).unwrap();
    assert_eq!(config.source, Source::Directory("/policy".into()));
    assert_eq!(config.plaintext(), Ok(Some("127.0.0.1:15010".parse().unwrap())));
    assert_eq!(config.xds_tls_addr, "127.0.0.1:15012".parse().unwrap());
    assert_eq!(config.leaf_lifetime, Duration::from_secs(24 * 3600));
    assert_eq!(config.admin_addr, "127.0.0.1:15014".parse().unwrap());
    assert_eq!(config.cluster_domain.as_str(), "cluster.local");
}

#[test]
fn a_wrong_source_says_what_is_right() {
    let error = Config::try_parse_from(["x", "--source", "/policy"]).unwrap_err().to_string();
    assert!(error.contains("write dir:PATH"), "{error}");
}

fn parse(args: &[&str]) -> Result<Config, clap::Error> {
    Config::try_parse_from(["x", "--source", "dir:/policy"].iter().chain(args))
}

#[test]
fn plain_text_is_for_loopback_unless_allowed_and_for_nobody_beside_an_authority() {
    let plaintext = |args: &[&str]| parse(args).unwrap().plaintext();
    assert_eq!(plaintext(&["--state-dir", "/state"]), Ok(None));
    assert_eq!(plaintext(&["--ca-cert", "/c", "--ca-key", "/k"]), Ok(None));
    let local = "127.0.0.1:1".parse().unwrap();
    assert_eq!(plaintext(&["--state-dir", "/state", "--xds-addr", "127.0.0.1:1"]), Ok(Some(local)));
    for addr in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1"] {
        let refused = plaintext(&["--xds-addr", addr]).unwrap_err();
        assert!(refused.contains("--allow-plaintext-xds"), "{refused}");
        assert!(plaintext(&["--xds-addr", addr, "--allow-plaintext-xds"]).is_ok());
    }
    assert!(plaintext(&["--xds-addr", "[::1]:1"]).is_ok());
}

#[test]
fn flags_that_need_each_other_come_together() {
    for args in [["--ca-cert", "/c"], ["--ca-key", "/k"], ["--token-issuer", "u"], ["--token-jwks", "/j"]] {
        assert!(parse(&args).is_err(), "{args:?}");
    }
    assert!(parse(&["--token-issuer", "https://kubernetes", "--token-jwks", "/j"]).is_ok());
}

#[test]
fn certificates_live_from_a_minute_to_ninety_days() {
    for (text, seconds) in
        [("1m", Some(60)), ("90d", Some(90 * 86_400)), ("1h30m", Some(5400)), ("59s", None)]
    {
        let parsed = parse(&["--leaf-lifetime", text]).ok().map(|config| config.leaf_lifetime.as_secs());
        assert_eq!(parsed, seconds, "{text}");
    }
    for text in ["91d", "2161h", "0d", "d", "x", "10", "-1h", "99999999999999999999d"] {
        assert!(parse(&["--leaf-lifetime", text]).is_err(), "{text}");
    }
}

#[test]
fn what_is_told_of_traffic_where_no_object_says_is_given_by_flags() {
    let plain = parse(&[]).unwrap().settings();
    assert_eq!((plain.telemetry, plain.mesh.collector.clone()), (Telemetry::default(), None));
    let args = [
        "--otlp-endpoint=http://collector:4318",
        "--otlp-protocol=http/protobuf",
        "--trace-sampling=12.5",
        "--access-log=otel",
    ];
    let settings = parse(&args).unwrap().settings();
    let collector = settings.mesh.collector.clone().unwrap();
    assert_eq!(collector.endpoint, "http://collector:4318");
    assert_eq!(collector.protocol, OtlpProtocol::HttpProtobuf);
    assert_eq!(settings.telemetry.tracing.sampling.parts_per_million(), 125_000);
    assert_eq!(settings.telemetry.access_log.unwrap().sinks, [LogSink::Otlp]);
    for (port, protocol) in [(4317, OtlpProtocol::Grpc), (4318, OtlpProtocol::HttpProtobuf)] {
        let args = [format!("--otlp-endpoint=https://collector:{port}")];
        let mesh = parse(&args.each_ref().map(String::as_str)).unwrap().settings().mesh;
        assert_eq!(mesh.collector.as_ref().unwrap().protocol, protocol);
    }
    let silent = parse(&["--access-log=off"]).unwrap().settings();
    assert_eq!(silent.telemetry.access_log, Some(AccessLogging { sinks: Vec::new(), filter: None }));
    for wrong in [
        "--otlp-endpoint=collector:4317",
        "--otlp-endpoint=grpc://collector:4317",
        "--otlp-endpoint=http://",
        "--otlp-protocol=http/json",
        "--trace-sampling=101",
        "--access-log=xml",
    ] {
        assert!(parse(&[wrong]).is_err(), "{wrong}");
    }
}
