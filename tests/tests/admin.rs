//! The admin port of a sidecar and of the control plane.

use anyhow::{Context, Result, ensure};
use pillion_tests::{Client, Instance, Mesh, Sidecar, burst, eventually};

async fn mesh() -> Result<(Mesh, Sidecar, Client, Instance)> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    let (sidecar, client) = mesh.caller().await?;
    Ok((mesh, sidecar, client, app))
}

#[tokio::test]
async fn requests_are_counted_by_code_and_destination() -> Result<()> {
    let (_mesh, sidecar, client, _app) = mesh().await?;
    burst(20, 4, || client.get("http://app/").send()).await.expect_no_failure()?;
    client.get("http://app/status/418").send().await?.expect(418)?;
    let metrics = sidecar.metrics().await?;
    let count = |labels: &[(&str, &str)]| metrics.sum("istio_requests_total", labels);
    let to_app = ("destination_service_name", "app");
    assert_eq!(count(&[to_app, ("response_code", "200"), ("reporter", "source")]), 20.0);
    assert_eq!(count(&[to_app, ("response_code", "418"), ("request_protocol", "http")]), 1.0);
    assert_eq!(count(&[to_app, ("destination_service_namespace", "default")]), 21.0);
    assert_eq!(count(&[("destination_service", "app.default.svc.cluster.local")]), 21.0);
    Ok(())
}

#[tokio::test]
async fn latency_is_a_histogram_in_milliseconds() -> Result<()> {
    let (_mesh, sidecar, client, _app) = mesh().await?;
    client.get("http://app/").send().await?.expect(200)?;
    client.get("http://app/delay/300").send().await?.expect(200)?;
    let metrics = sidecar.metrics().await?;
    let name = "istio_request_duration_milliseconds";
    assert_eq!(metrics.types.get(name).map(String::as_str), Some("histogram"));
    assert_eq!(metrics.sum(&format!("{name}_count"), &[]), 2.0);
    let sum = metrics.sum(&format!("{name}_sum"), &[]);
    ensure!((300.0..2000.0).contains(&sum), "{sum} ms");
    let below = |bound: f64| -> f64 {
        let buckets = metrics.samples().iter().filter(|sample| sample.name == format!("{name}_bucket"));
        buckets
            .filter(|sample| sample.labels.get("le").and_then(|le| le.parse::<f64>().ok()) == Some(bound))
            .map(|sample| sample.value)
            .sum()
    };
    assert_eq!((below(250.0), below(2500.0), below(f64::INFINITY)), (1.0, 2.0, 2.0));
    Ok(())
}

#[tokio::test]
async fn both_ends_of_a_call_report_it() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (_app, sidecar) = mesh.serve_meshed("app", "v1").await?;
    let (caller, client) = mesh.caller().await?;
    burst(10, 2, || client.get("http://app/").send()).await.expect_no_failure()?;
    let sent = caller.metrics().await?.sum("istio_requests_total", &[("reporter", "source")]);
    let received = sidecar.metrics().await?.sum("istio_requests_total", &[("reporter", "destination")]);
    assert_eq!((sent, received), (10.0, 10.0));
    Ok(())
}

#[tokio::test]
async fn metrics_are_valid_and_typed() -> Result<()> {
    let (mut mesh, sidecar, client, _app) = mesh().await?;
    client.get("http://app/").send().await?.expect(200)?;
    for metrics in [sidecar.metrics().await?, mesh.control_plane()?.metrics().await?] {
        ensure!(!metrics.samples().is_empty());
        for sample in metrics.samples() {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
                let family = sample.name.strip_suffix(end)?;
                metrics.types.contains_key(family).then_some(family)
            });
            // The text format of OpenMetrics declares a counter without its `_total`.
            let plain = sample.name.strip_suffix("_total").unwrap_or(&sample.name);
            let typed = family.is_some()
                || metrics.types.contains_key(&sample.name)
                || metrics.types.contains_key(plain)
                || sample.name.ends_with("_info");
            ensure!(typed, "{} has no declared type", sample.name);
        }
    }
    Ok(())
}

#[tokio::test]
async fn dumps_tell_what_is_known() -> Result<()> {
    let (mut mesh, sidecar, client, app) = mesh().await?;
    mesh.policy.routes("app", "- {name: the-one, route: [{destination: {host: app}}]}")?;
    client.get("http://app/").send().await?.expect(200)?;
    let address = app.address.to_string();
    sidecar.shows("/endpoints", &address).await?;
    sidecar.shows("/config_dump", "app.default").await?;
    let dump = mesh.control_plane()?.page("/config_dump").await?;
    ensure!(dump.contains("app.default"), "{dump}");
    let status: serde_json::Value = serde_json::from_str(&mesh.control_plane()?.page("/status").await?)?;
    ensure!(status.is_object(), "{status}");
    Ok(())
}

#[tokio::test]
async fn the_log_level_changes_at_runtime() -> Result<()> {
    let (_mesh, sidecar, client, _app) = mesh().await?;
    let admin = Client::http1(sidecar.admin);
    let level = admin.get("http://admin/log_level").send().await?.expect(200)?.text();
    admin.post("http://admin/log_level?level=trace").send().await?.expect(200)?;
    let changed = admin.get("http://admin/log_level").send().await?.expect(200)?.text();
    ensure!(changed.contains("trace") && changed != level, "{level:?} then {changed:?}");
    client.get("http://app/").send().await?.expect(200)?;
    let refused = admin.post("http://admin/log_level?level=((").send().await?;
    ensure!(refused.status.is_client_error(), "{}", refused.status);
    Ok(())
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() -> Result<()> {
    let (mut mesh, sidecar, _client, _app) = mesh().await?;
    for admin in [sidecar.admin, mesh.control_plane()?.admin] {
        let client = Client::http1(admin);
        client.get("http://admin/nothing").send().await?.expect(404)?;
        for page in ["/live", "/ready", "/metrics"] {
            client.get(&format!("http://admin{page}")).send().await?.expect(200)?;
        }
    }
    let drain = Client::http1(sidecar.admin).get("http://admin/drain").send().await?;
    ensure!(drain.status == 405 || drain.status == 404, "GET /drain: {}", drain.status);
    assert_eq!(sidecar.readiness().await?, 200, "a GET must not drain");
    Ok(())
}

#[tokio::test]
async fn problems_are_in_the_status() -> Result<()> {
    let (mut mesh, _sidecar, _client, _app) = mesh().await?;
    mesh.policy.apply(
        "wrong",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: wrong}\nspec:\n  hosts: [app]\n  \
         http:\n  - rout: [{destination: {host: app}}]\n",
    )?;
    let control_plane = mesh.control_plane()?;
    eventually("the misspelt field is named", || async {
        let status = control_plane.page("/status").await?;
        ensure!(status.contains("rout") && status.contains("wrong"), "{status}");
        Ok(())
    })
    .await?;
    let (_, told, _) = pillion_tests::process::run("pillion", &["--help"]).await?;
    told.contains("status").then_some(()).context("`pillion status` is not offered")
}
