//! What users say about telemetry, from the file to the proxies it is for, and what the control plane tells of its own work.

use anyhow::{Context, Result, ensure};
use pillion_tests::collector::Collector;
use pillion_tests::{Mesh, eventually};

fn telemetry(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{spec}\n"
    )
}

fn sampling(percent: u32) -> String {
    format!("  tracing: [{{randomSamplingPercentage: {percent}}}]")
}

#[tokio::test]
async fn an_edit_of_telemetry_reaches_the_proxies_it_is_for() -> Result<()> {
    let mut mesh = Mesh::new()?;
    mesh.policy.apply("mesh", &telemetry("mesh", "istio-system", &sampling(5)))?;
    let (sidecar, _client) = mesh.caller().await?;
    sidecar.shows("/config_dump", "\"sampling\": 50000").await?;
    mesh.policy.apply("own", &telemetry("own", "default", &sampling(25)))?;
    sidecar.shows("/config_dump", "\"sampling\": 250000").await?;
    mesh.policy.apply("elsewhere", &telemetry("elsewhere", "other", &sampling(75)))?;
    let logs = "  accessLogging: [{match: {mode: SERVER}, disabled: true}, {match: {mode: CLIENT}, providers: [{name: json}], \
                filter: {expression: 'response.code >= 500'}}]";
    mesh.policy.apply("own", &telemetry("own", "default", logs))?;
    sidecar.shows("/config_dump", "\"outbound\"").await?;
    sidecar.shows("/config_dump", "\"sampling\": 50000").await?;
    mesh.policy.delete("own")?;
    mesh.policy.delete("mesh")?;
    // One percent, unless somebody says something else.
    sidecar.shows("/config_dump", "\"sampling\": 10000").await?;
    Ok(())
}

#[tokio::test]
async fn a_filter_decides_what_is_logged() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _order = mesh.serve("order-service", "v1").await?;
    let (sidecar, client, log) = mesh.logging_caller().await?;
    let call = |path: &str, id: &str| {
        client.get(&format!("http://order-service{path}")).header("x-request-id", id).send()
    };
    call("/left-out", "before").await?;
    log.line_of("before").await?;
    let filter = "  accessLogging: [{filter: {expression: \"request.url_path.startsWith('/kept')\"}}]";
    mesh.policy.apply("own", &telemetry("own", "default", filter))?;
    sidecar.shows("/config_dump", "pathStartsWith").await?;
    call("/left-out", "left-out").await?;
    call("/kept?x", "kept").await?;
    // Lines keep their order: what is told of the second request comes behind whatever is told of the first.
    log.line_of("kept").await?;
    ensure!(
        log.lines()?.iter().all(|line| line.request_id.as_deref() != Some("left-out")),
        "{:?}",
        log.lines()?
    );
    mesh.policy.apply("own", &telemetry("own", "default", "  accessLogging: [{disabled: true}]"))?;
    sidecar.shows("/config_dump", "\"sinks\": []").await?;
    let before = log.lines()?.len();
    call("/kept", "silent").await?;
    mesh.policy.delete("own")?;
    sidecar.shows("/config_dump", "\"accessLog\": null").await?;
    call("/left-out", "after").await?;
    log.line_of("after").await?;
    assert_eq!(log.lines()?.len(), before + 1, "nothing is logged while that is disabled");
    Ok(())
}

#[tokio::test]
async fn flags_speak_where_no_object_does() -> Result<()> {
    let mut mesh = Mesh::secure(&[
        "--trace-sampling",
        "40",
        "--access-log",
        "json",
        "--otlp-endpoint",
        "http://127.0.0.1:9",
    ])?;
    let (sidecar, _client) = mesh.caller().await?;
    for text in ["\"sampling\": 400000", "\"json\"", "\"endpoint\": \"http://127.0.0.1:9\""] {
        sidecar.shows("/config_dump", text).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_control_plane_tells_how_long_a_change_takes() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (sidecar, _client) = mesh.caller().await?;
    mesh.policy.apply("own", &telemetry("own", "default", &sampling(25)))?;
    sidecar.shows("/config_dump", "\"sampling\": 250000").await?;
    let control_plane = mesh.control_plane()?;
    eventually("the push is measured", || async {
        let metrics = control_plane.metrics().await?;
        for name in ["load", "compile", "push"] {
            let name = format!("pillion_{name}_duration_seconds");
            let (count, sum) = (format!("{name}_count"), format!("{name}_sum"));
            ensure!(metrics.sum(&count, &[]) >= 1.0, "{name}: {metrics:?}");
            ensure!((0.0..60.0).contains(&metrics.sum(&sum, &[])), "{name}: {metrics:?}");
        }
        ensure!(metrics.sum("pillion_config_version", &[]) >= 1.0, "{metrics:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_control_plane_traces_its_changes_to_the_proxies() -> Result<()> {
    for protocol in ["grpc", "http/protobuf"] {
        let collector = Collector::start().await?;
        let address = if protocol == "grpc" { collector.grpc } else { collector.http };
        let endpoint = format!("http://{address}");
        let mut mesh = Mesh::secure(&["--otlp-endpoint", &endpoint, "--otlp-protocol", protocol])?;
        let (sidecar, _client) = mesh.caller().await?;
        mesh.policy.apply("own", &telemetry("own", "default", &sampling(25)))?;
        sidecar.shows("/config_dump", "\"sampling\": 250000").await?;
        eventually("the trace of the change has arrived", || async {
            let spans = collector.spans();
            let push = spans
                .iter()
                .find(|span| span.name == "push" && span.attribute("pillion.proxy") == "default/caller");
            let Some(push) = push else { anyhow::bail!("no push in {spans:?}") };
            ensure!(push.service == "pillion-control-plane", "{push:?}");
            let trace = collector.trace(&push.trace_id);
            let change = trace.iter().find(|span| span.span_id == push.parent);
            let Some(change) = change else { anyhow::bail!("no parent of {push:?} in {trace:?}") };
            ensure!(change.name == "change" && change.parent.is_empty(), "{change:?}");
            ensure!(change.attribute("pillion.objects") == "1", "{change:?}");
            ensure!(change.attribute("pillion.proxies") == "1", "{change:?}");
            for step in ["load", "compile"] {
                let step = trace.iter().find(|span| span.name == step && span.parent == change.span_id);
                ensure!(step.is_some(), "{trace:?}");
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn lines_go_to_the_collector_where_policy_wants_that() -> Result<()> {
    let collector = Collector::start().await?;
    let mut mesh = Mesh::new()?;
    mesh.set_env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{}", collector.http));
    mesh.set_env("OTEL_BSP_SCHEDULE_DELAY", "50");
    let _order = mesh.serve("order-service", "v1").await?;
    let to_collector = "  accessLogging: [{providers: [{name: otel}]}]";
    mesh.policy.apply("own", &telemetry("own", "default", to_collector))?;
    let (sidecar, client) = mesh.caller().await?;
    sidecar.shows("/config_dump", "\"otlp\"").await?;
    let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let call = client.get("http://order-service/told").header("x-request-id", "told");
    call.header("traceparent", &format!("00-{trace}-{span}-01")).send().await?.expect(200)?;
    client.get("http://nobody/").header("x-request-id", "refused").send().await?.expect_own(404, "NH")?;
    let line_of = async |id: &str| {
        eventually(&format!("the line of {id}"), || async {
            let logs = collector.logs();
            let line = logs.iter().find(|log| log.attributes.get("request_id").is_some_and(|it| it == id));
            line.cloned().with_context(|| format!("only {logs:?}"))
        })
        .await
    };
    let told = line_of("told").await?;
    assert_eq!((told.service.as_str(), told.trace_id.as_str()), ("caller", trace));
    ensure!(told.body.contains("\"GET /told HTTP/1.1\" 200 - "), "{told:?}");
    for (name, value) in [("status", "200"), ("flags", "-"), ("path", "/told"), ("attempts", "1")] {
        assert_eq!(told.attributes.get(name).map(String::as_str), Some(value), "{name} of {told:?}");
    }
    let refused = line_of("refused").await?;
    assert_eq!(refused.attributes.get("flags").map(String::as_str), Some("NH"));
    ensure!(refused.attributes.get("cause").is_some_and(|cause| cause.contains("nobody")), "{refused:?}");
    let exported = sidecar.metrics().await?.sum("pillion_otlp_logs_exported_total", &[]);
    ensure!(exported >= 1.0, "{exported} lines are counted");
    Ok(())
}
