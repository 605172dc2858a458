//! The timeout of a route: from the head of the request to the end of the response.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::BodyExt;
use pillion_tests::black_hole::BlackHole;
use pillion_tests::{Client, Failure, Instance, Mesh, Sidecar, eventually};
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

#[tokio::test]
async fn a_policy_s_timeout_is_one_too() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    mesh.policy.resilience("app", "timeout: 300ms")?;
    let (_sidecar, client, log) = mesh.logging_caller().await?;
    client.get("http://app/delay/10").send().await?.expect(200)?;
    let call = client.get("http://app/delay/20000").header("x-request-id", "late");
    call.send().await?.expect_own(504, "UT")?;
    let took = log.line_of("late").await?.duration_ms;
    ensure!((290.0..3000.0).contains(&took), "{took} ms");
    Ok(())
}

#[tokio::test]
async fn a_policy_s_connect_timeout_ends_a_vain_wait() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _hole = BlackHole::dig(mesh.serve_nothing("app", "v1")?).await?;
    mesh.policy.resilience("app", "connectTimeout: 300ms\nretry: {attempts: 0}")?;
    let (_sidecar, client, log) = mesh.logging_caller().await?;
    client.get("http://app/").header("x-request-id", "vain").send().await?.expect_own(503, "UCT")?;
    let took = log.line_of("vain").await?.duration_ms;
    ensure!((290.0..3000.0).contains(&took), "{took} ms");
    Ok(())
}

/// What `grpc-timeout` says.
fn remaining(value: &str) -> Result<Duration> {
    let (number, unit) = value.split_at(value.len().saturating_sub(1));
    let number: u64 = number.parse().with_context(|| format!("grpc-timeout: {value:?}"))?;
    match unit {
        "S" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_millis(number)),
        "u" => Ok(Duration::from_micros(number)),
        "n" => Ok(Duration::from_nanos(number)),
        _ => anyhow::bail!("grpc-timeout: {value:?}"),
    }
}

#[tokio::test]
async fn an_app_is_told_what_remains_of_the_caller_s_time() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    mesh.policy.service_speaking("app", "grpc")?;
    mesh.policy.routes(
        "app",
        "- timeout: 30s
  retries: {attempts: 1, retryOn: unavailable, backoff: 25ms}
  route: [{destination: {host: app}}]",
    )?;
    let (sidecar, _client) = mesh.caller().await?;
    let client = sidecar.app_http2();
    for (id, asked, least, most) in [("less", "20S", 10, 20), ("more", "5M", 20, 30)] {
        // The first try takes half a second and is repeated.
        app.app()?.faults().script([Failure::grpc(14).with("grpc-retry-pushback-ms", "500")]);
        let call = client.post("http://app/a.B/C").header("x-id", id).header("grpc-timeout", asked);
        let call = call.header("content-type", "application/grpc").header("te", "trailers");
        call.body("message").send().await?.expect(200)?;
        let told: Vec<Duration> = app
            .stats()?
            .seen_of(id)
            .iter()
            .map(|seen| remaining(&seen.grpc_timeout))
            .collect::<Result<_>>()?;
        ensure!(told.len() == 2, "{told:?}");
        let within =
            |told: &Duration| (Duration::from_secs(least)..=Duration::from_secs(most)).contains(told);
        ensure!(told.iter().all(within), "{asked} became {told:?}");
        ensure!(told[0] >= told[1] + Duration::from_millis(490), "the second try was told {told:?}");
    }
    Ok(())
}
