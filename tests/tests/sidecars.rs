//! Sidecars on both sides of a call.

use anyhow::{Result, ensure};
use pillion_tests::{Client, Mesh, burst, eventually};

#[tokio::test]
async fn a_call_passes_both_sidecars() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (app, sidecar) = mesh.serve_meshed("app", "v1").await?;
    let (caller, _client) = mesh.caller().await?;
    for client in [caller.app(), caller.app_http2()] {
        let reply =
            client.post("http://app/echo?a=b").header("k", "v").body("hello").send().await?.expect(200)?;
        let echo = reply.json()?;
        assert_eq!((echo["path"].as_str(), echo["body"].as_str()), (Some("/echo?a=b"), Some("hello")));
        assert_eq!(reply.received("host")?, ["app"]);
        assert_eq!(reply.received("k")?, ["v"]);
        ensure!(reply.flag().is_empty());
    }
    assert_eq!(app.stats()?.requests(), 2);
    let received = sidecar.metrics().await?.sum("istio_requests_total", &[("reporter", "destination")]);
    assert_eq!(received, 2.0, "the app's sidecar was passed by");
    Ok(())
}

#[tokio::test]
async fn a_request_id_is_the_same_all_along() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (_app, sidecar) = mesh.serve_meshed("app", "v1").await?;
    let (_caller, client) = mesh.caller().await?;
    let reply = client.get("http://app/echo").header("x-request-id", "one").send().await?;
    assert_eq!(reply.received("x-request-id")?, ["one"]);
    // Straight to the inbound listener: it makes one where there is none.
    let reply = Client::http1(sidecar.inbound).get("http://app/echo").send().await?;
    assert_eq!(reply.received("x-request-id")?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn the_inbound_side_serves_http_2_to_an_http_1_app() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (_app, sidecar) = mesh.serve_meshed("app", "v1").await?;
    let reply = Client::http2(sidecar.inbound).get("http://app/echo").send().await?.expect(200)?;
    ensure!(reply.json()?["path"] == "/echo", "{}", reply.text());
    Ok(())
}

#[tokio::test]
async fn many_calls_at_once_all_arrive() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (_one, _s1) = mesh.serve_meshed("app", "v1").await?;
    let (two, _s2) = mesh.serve_meshed("app", "v2").await?;
    let (_caller, client) = mesh.caller().await?;
    eventually("both instances are known", || async {
        client.get("http://app/").send().await?.expect(200)?;
        ensure!(two.stats()?.requests() > 0);
        Ok(())
    })
    .await?;
    let report = burst(2000, 50, || client.post("http://app/upload").body("some body").send()).await;
    report.expect_no_failure()?;
    ensure!(report.by_version.len() == 2, "{:?}", report.by_version);
    Ok(())
}

#[tokio::test]
async fn routes_are_the_caller_s_side_alone() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (_app, sidecar) = mesh.serve_meshed("app", "v1").await?;
    mesh.policy.routes("app", "- directResponse: {status: 418}")?;
    let (_caller, client) = mesh.caller().await?;
    eventually("the route", || async { client.get("http://app/").send().await?.expect(418) }).await?;
    Client::http1(sidecar.inbound).get("http://app/").send().await?.expect(200)?;
    Ok(())
}
