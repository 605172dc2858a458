//! Traces: whoever begins one, its spans arrive in a collector with their links right across every hop.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use http::Method;
use pillion_tests::collector::Span;
use pillion_tests::{Client, Collector, Failure, Instance, Mesh, Sidecar, eventually};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// Another trace each time, recorded.
fn traceparent(trace: u128) -> String {
    format!("00-{trace:032x}-{SPAN}-01")
}

/// A mesh whose sidecars report to a collector, over gRPC.
fn traced(collector: SocketAddr, sampler: &str) -> Result<Mesh> {
    let mut mesh = Mesh::new()?;
    mesh.set_env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{collector}"));
    mesh.set_env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    mesh.set_env("OTEL_TRACES_SAMPLER", sampler);
    mesh.set_env("OTEL_BSP_SCHEDULE_DELAY", "50");
    Ok(mesh)
}

/// A caller and an app, each with a sidecar.
struct Pair {
    mesh: Mesh,
    app: Instance,
    caller: Sidecar,
    client: Client,
    _of_app: Sidecar,
}

async fn pair(mut mesh: Mesh) -> Result<Pair> {
    let (app, of_app) = mesh.serve_meshed("app", "v1").await?;
    let (caller, client) = mesh.caller().await?;
    Ok(Pair { mesh, app, caller, client, _of_app: of_app })
}

fn find<'a>(spans: &'a [Span], service: &str, kind: &str, name: &str) -> Result<&'a Span> {
    let mut found = spans.iter().filter(|span| (span.service.as_str(), span.kind) == (service, kind));
    let found = found.find(|span| span.name.starts_with(name));
    found.with_context(|| format!("no {kind} span {name} of {service} in\n{}", Span::tree(spans)))
}

/// Checks that each of these spans (service, kind, begin of the name) is below the one before, the first below `root`.
fn check_chain(spans: &[Span], root: &str, chain: &[(&str, &str, &str)]) -> Result<()> {
    ensure!(spans.len() == chain.len(), "{} spans\n{}", spans.len(), Span::tree(spans));
    let mut parent = root;
    for (service, kind, name) in chain {
        let span = find(spans, service, kind, name)?;
        ensure!(span.parent == parent, "{span:?} is not below {parent} in\n{}", Span::tree(spans));
        ensure!(!span.is_error, "{span:?}");
        parent = &span.span_id;
    }
    Ok(())
}

#[tokio::test]
async fn a_trace_holds_every_hop_whatever_form_it_comes_in() -> Result<()> {
    let collector = Collector::start().await?;
    let mut mesh = traced(collector.grpc, "parentbased_always_off")?;
    let (_app, _of_app) = mesh.serve_meshed("app", "v1").await?;
    let (_front, _of_front) = mesh.serve_calling("front", &["app"]).await?;
    let (_caller, client) = mesh.caller().await?;
    let chain = [
        ("caller", "client", "GET"),
        ("caller", "client", "attempt"),
        ("front", "server", "GET"),
        ("front", "client", "GET"),
        ("front", "client", "attempt"),
        ("app", "server", "GET"),
    ];
    let (short, whole) = ("80f198ee56343ba8", "1".repeat(32));
    let multi = [("x-b3-traceid", whole.as_str()), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")];
    for (fields, trace) in [
        (&[("traceparent", &*format!("00-{TRACE}-{SPAN}-01"))][..], TRACE),
        (&[("b3", &*format!("{short}-{SPAN}-1"))][..], &*format!("{short:0>32}")),
        (&multi[..], &*whole),
        (&[("grpc-trace-bin", "AABtbW1tbW1tbW1tbW1tbW1tAbeta3FpIDMxAgE")][..], &*"6d".repeat(16)),
    ] {
        let call = client.get("http://front/");
        let call = fields.iter().fold(call, |call, (name, value)| call.header(name, value));
        call.send().await?.expect(200)?;
        let spans = collector.complete_trace(trace, chain.len()).await?;
        check_chain(&spans, SPAN, &chain)?;
    }
    Ok(())
}

#[tokio::test]
async fn the_app_goes_on_below_the_span_of_its_sidecar() -> Result<()> {
    let collector = Collector::start().await?;
    let pair = pair(traced(collector.grpc, "always_on")?).await?;
    let client = &pair.client;
    let reply = client
        .get("http://app/echo?secret=1")
        .header("b3", &format!("{TRACE}-{SPAN}-1"))
        .header("baggage", "user=7")
        .header("x-request-id", "r-1")
        .send()
        .await?
        .expect(200)?;
    let spans = collector.complete_trace(TRACE, 3).await?;
    let (called, server) = (find(&spans, "caller", "client", "GET")?, find(&spans, "app", "server", "GET")?);
    assert_eq!(reply.received("traceparent")?, [format!("00-{TRACE}-{}-01", server.span_id)]);
    assert_eq!(reply.received("b3")?, [format!("{TRACE}-{}-1", server.span_id)]);
    assert_eq!(reply.received("baggage")?, ["user=7"]);
    for span in [called, server] {
        for (name, value) in [
            ("http.request.method", "GET"),
            ("url.path", "/echo"),
            ("server.address", "app"),
            ("http.response.status_code", "200"),
            ("pillion.request_id", "r-1"),
            ("error.type", ""),
        ] {
            assert_eq!(span.attribute(name), value, "{name} of {span:?}");
        }
        assert_eq!(span.resource.get("service.namespace").map(String::as_str), Some("default"));
    }
    ensure!(called.duration >= server.duration, "{}", Span::tree(&spans));
    ensure!(!format!("{spans:?}").contains("secret"), "a query is told");
    Ok(())
}

#[tokio::test]
async fn tries_are_spans_of_their_own_with_what_became_of_them() -> Result<()> {
    let collector = Collector::start().await?;
    let mesh = traced(collector.grpc, "parentbased_always_off")?;
    mesh.policy
        .routes("app", "- retries: {attempts: 2, retryOn: \"5xx\"}\n  route: [{destination: {host: app}}]")?;
    let Pair { app, client, mesh: _mesh, caller: _caller, _of_app } = pair(mesh).await?;
    app.app()?.faults().script([Failure::status(503)]);
    client.get("http://app/").header("traceparent", &traceparent(1)).send().await?.expect(200)?;
    let spans = collector.complete_trace(&format!("{:032x}", 1), 5).await?;
    let exchange = find(&spans, "caller", "client", "GET")?;
    let attempts: Vec<&Span> = spans.iter().filter(|span| span.name == "attempt").collect();
    let [first, second] = attempts[..] else { anyhow::bail!("{}", Span::tree(&spans)) };
    for (attempt, number, status, verdict) in [(first, "1", "503", "retried"), (second, "2", "200", "final")]
    {
        assert_eq!(attempt.parent, exchange.span_id);
        assert_eq!(attempt.attribute("pillion.attempt"), number);
        assert_eq!(attempt.attribute("http.response.status_code"), status);
        assert_eq!(attempt.attribute("pillion.verdict"), verdict);
        ensure!(!attempt.attribute("network.peer.address").is_empty());
        let callee = spans.iter().find(|span| span.parent == attempt.span_id);
        let callee = callee.with_context(|| format!("nothing below {attempt:?}"))?;
        assert_eq!((callee.kind, callee.attribute("http.response.status_code")), ("server", status));
    }
    ensure!(first.is_error && !second.is_error && !exchange.is_error);
    assert_eq!(exchange.attribute("pillion.retries"), "1");
    Ok(())
}

#[tokio::test]
async fn of_what_is_not_recorded_only_the_proxy_s_own_errors_are_told() -> Result<()> {
    let collector = Collector::start().await?;
    let mesh = traced(collector.grpc, "parentbased_always_off")?;
    mesh.policy.routes("app", "- match: [{uri: {prefix: /}}]\n  route: [{destination: {host: app}}]")?;
    let Pair { app, client, mesh: _mesh, caller: _caller, _of_app } = pair(mesh).await?;
    let unsampled = format!("00-{TRACE}-{SPAN}-00");
    let ask = async |id: &str, url: &str| {
        client.get(url).header("traceparent", &unsampled).header("x-request-id", id).send().await
    };
    ask("fine", "http://app/").await?.expect(200)?;
    ask("of the app", "http://app/status/500").await?.expect(500)?;
    // Whoever begins a trace here is not recorded either.
    client.get("http://app/").send().await?.expect(200)?;
    ask("unknown", "http://nobody/").await?.expect_own(404, "NH")?;
    app.app()?.faults().script([Failure::Close]);
    let request = client.request(Method::POST, "http://app/echo").header("traceparent", &unsampled);
    request.header("x-request-id", "closed").body("x").send().await?.expect_own(503, "UC")?;
    // The sidecar of the app has answered for it; the caller's has passed that on.
    let told = eventually("both errors", || async {
        let spans = collector.trace(TRACE);
        let has = |id, kind| {
            spans.iter().any(|span| span.kind == kind && span.attribute("pillion.request_id") == id)
        };
        let all = has("unknown", "client") && has("closed", "server");
        ensure!(all, "{spans:#?}");
        Ok(spans)
    })
    .await?;
    let unknown = told.iter().find(|span| span.attribute("pillion.request_id") == "unknown");
    let unknown = unknown.context("told before")?;
    ensure!(unknown.is_error && unknown.parent == SPAN, "{unknown:?}");
    assert_eq!((unknown.attribute("pillion.flag"), unknown.attribute("error.type")), ("NH", "NH"));
    ensure!(unknown.attribute("pillion.cause").contains("nobody"), "{unknown:?}");
    // What was over before has been exported before, if it was to be.
    for span in collector.spans() {
        let id = span.attribute("pillion.request_id");
        ensure!(span.name == "attempt" || id == "unknown" || id == "closed", "{span:?}");
    }
    Ok(())
}

#[tokio::test]
async fn decisions_are_events() -> Result<()> {
    let collector = Collector::start().await?;
    let mesh = traced(collector.grpc, "always_on")?;
    mesh.policy.routes(
        "app",
        "- fault: {delay: {percentage: {value: 100}, fixedDelay: 10ms}, abort: {percentage: {value: 100}, httpStatus: 418}}\n  \
         route: [{destination: {host: app}}]",
    )?;
    let pair = pair(mesh).await?;
    let reply = pair.client.get("http://app/").header("traceparent", &traceparent(2)).send().await?;
    reply.expect_own(418, "FI")?;
    let spans = collector.complete_trace(&format!("{:032x}", 2), 1).await?;
    let span = find(&spans, "caller", "client", "GET")?;
    for event in ["pillion.held", "pillion.fault_delay", "pillion.fault_abort"] {
        ensure!(span.has_event(event), "no {event} in {span:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_collector_that_comes_back_is_found_again() -> Result<()> {
    // In a runtime of its own, with which its connections end.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let collector = runtime.spawn(Collector::start()).await??;
    let (grpc, http) = (collector.grpc, collector.http);
    let pair = pair(traced(grpc, "parentbased_always_off")?).await?;
    let (client, caller) = (&pair.client, &pair.caller);
    client.get("http://app/").header("traceparent", &traceparent(10)).send().await?.expect(200)?;
    collector.complete_trace(&format!("{:032x}", 10), 3).await?;
    drop(collector);
    runtime.shutdown_background();
    // Requests do not notice.
    for trace in 11..31 {
        client.get("http://app/").header("traceparent", &traceparent(trace)).send().await?.expect(200)?;
    }
    let collector = eventually("the collector is back", || Collector::start_at(grpc, http)).await?;
    for trace in [11, 30] {
        collector.complete_trace(&format!("{trace:032x}"), 3).await?;
    }
    eventually("the count", || async {
        let metrics = caller.metrics().await?;
        let figure = |name: &str| metrics.sum(&format!("pillion_otlp_spans_{name}_total"), &[]);
        let counts = ["exported", "dropped", "failed"].map(figure);
        ensure!(counts == [2.0 * 21.0, 0.0, 0.0], "{counts:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn spans_travel_as_protobuf_over_http_too() -> Result<()> {
    let collector = Collector::start().await?;
    let mut mesh = traced(collector.http, "always_on")?;
    mesh.set_env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    mesh.set_env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip");
    mesh.set_env("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=a%20b");
    mesh.set_env("OTEL_SERVICE_NAME", "everybody");
    let pair = pair(mesh).await?;
    pair.client.get("http://app/").header("traceparent", &traceparent(20)).send().await?.expect(200)?;
    let spans = collector.complete_trace(&format!("{:032x}", 20), 3).await?;
    ensure!(spans.iter().all(|span| span.service == "everybody"), "{spans:?}");
    let headers = collector.headers();
    assert_eq!(headers.get("x-api-key").map(String::as_str), Some("a b"));
    assert_eq!(headers.get("content-encoding").map(String::as_str), Some("gzip"));
    Ok(())
}

#[tokio::test]
async fn without_a_collector_nothing_is_changed() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (_app, _of_app) = mesh.serve_meshed("app", "v1").await?;
    let (caller, client) = mesh.caller().await?;
    let reply = client.get("http://app/echo").header("b3", "1").send().await?.expect(200)?;
    assert_eq!(reply.received("b3")?, ["1"]);
    ensure!(reply.received("traceparent")?.is_empty(), "a trace nobody asked for");
    let came = format!("00-{TRACE}-{SPAN}-01");
    let reply = client.get("http://app/echo").header("traceparent", &came).send().await?.expect(200)?;
    assert_eq!(reply.received("traceparent")?, [came]);
    ensure!(caller.metrics().await?.sum("pillion_otlp_spans_exported_total", &[]) == 0.0);
    Ok(())
}

#[tokio::test]
async fn the_last_spans_are_sent_before_the_process_ends() -> Result<()> {
    let collector = Collector::start().await?;
    let mut mesh = traced(collector.grpc, "always_on")?;
    mesh.set_env("OTEL_BSP_SCHEDULE_DELAY", "600000");
    let mut pair = pair(mesh).await?;
    pair.client.get("http://app/").header("traceparent", &traceparent(30)).send().await?.expect(200)?;
    ensure!(collector.spans().is_empty(), "it did not wait for a batch");
    pair.caller.process.stop(std::time::Duration::from_secs(20)).await?;
    collector.complete_trace(&format!("{:032x}", 30), 2).await?;
    Ok(())
}
