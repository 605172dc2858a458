//! The timeout of a route: from the head of the request to the end of the response.

use std::time::Duration;

use anyhow::{Result, ensure};
use http_body_util::BodyExt;
use pillion_tests::{Client, Instance, Mesh, Sidecar, eventually};
use tokio::time::Instant;

async fn mesh() -> Result<(Mesh, Sidecar, Client, Instance)> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    mesh.policy.routes("app", "- timeout: 300ms\n  route: [{destination: {host: app}}]")?;
    let (sidecar, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    Ok((mesh, sidecar, client, app))
}

#[tokio::test]
async fn a_response_that_does_not_come_is_504() -> Result<()> {
    let (_mesh, sidecar, client, app) = mesh().await?;
    for client in [client, sidecar.app_http2()] {
        let begun = Instant::now();
        client.get("http://app/delay/20000").send().await?.expect_own(504, "UT")?;
        let took = begun.elapsed();
        ensure!((Duration::from_millis(290)..Duration::from_secs(3)).contains(&took), "{took:?}");
    }
    eventually("the app is told", || async {
        let open = app.stats()?.in_flight();
        ensure!(open == 0, "{open} in flight");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_response_in_time_is_untouched() -> Result<()> {
    let (_mesh, _sidecar, client, _app) = mesh().await?;
    let reply = client.get("http://app/delay/50").send().await?.expect(200)?;
    ensure!(reply.flag().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_body_that_takes_too_long_is_cut_off() -> Result<()> {
    let (_mesh, sidecar, client, _app) = mesh().await?;
    for client in [client, sidecar.app_http2()] {
        let begun = Instant::now();
        let rsp = client.get("http://app/stream/1000").open().await?;
        ensure!(rsp.status() == 200, "{}", rsp.status());
        let body = tokio::time::timeout(Duration::from_secs(5), rsp.into_body().collect()).await?;
        ensure!(body.is_err(), "a body of ten seconds arrived whole after {:?}", begun.elapsed());
    }
    Ok(())
}

#[tokio::test]
async fn an_app_that_answers_504_itself_is_not_us() -> Result<()> {
    let (_mesh, _sidecar, client, _app) = mesh().await?;
    let reply = client.get("http://app/status/504").send().await?.expect(504)?;
    ensure!(reply.flag().is_empty(), "{:?}", reply.headers);
    Ok(())
}

#[tokio::test]
async fn without_a_timeout_a_request_may_take_its_time() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    let (_sidecar, client) = mesh.caller().await?;
    client.get("http://app/delay/3000").send().await?.expect(200)?;
    Ok(())
}
