//! Failures made on purpose: delays and aborts, for the share of requests that the policy names.

use anyhow::{Result, ensure};
use pillion_tests::{AccessLog, Client, Instance, Mesh, Reply, Report, Sidecar, burst};

struct Shop {
    _mesh: Mesh,
    app: Instance,
    sidecar: Sidecar,
    client: Client,
    log: AccessLog,
}

async fn shop(fault: &str) -> Result<Shop> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    mesh.policy.routes("app", &format!("- fault: {fault}\n  route: [{{destination: {{host: app}}}}]"))?;
    let (sidecar, client, log) = mesh.logging_caller().await?;
    Ok(Shop { _mesh: mesh, app, sidecar, client, log })
}

impl Shop {
    async fn calls(&self, count: u64) -> Report {
        burst(count, 16, || self.client.get("http://app/").send()).await
    }

    async fn grpc(&self) -> Result<Reply> {
        let call = self.sidecar.app_http2().post("http://app/a.B/C").header("te", "trailers");
        call.header("content-type", "application/grpc").body("message").send().await?.expect(200)
    }

    async fn flagged(&self, flag: &str, of: usize) -> Result<Vec<f64>> {
        let lines = self.log.at_least(of).await?;
        Ok(lines.iter().filter(|line| line.flags == flag).map(|line| line.duration_ms).collect())
    }
}

/// Five standard deviations to both sides: one run in a million is farther off.
fn is_about(count: u64, of: u32, share: f64) -> Result<()> {
    let mean = f64::from(of) * share;
    let far = 5.0 * (mean * (1.0 - share)).sqrt();
    let found = f64::from(u32::try_from(count)?);
    ensure!((found - mean).abs() <= far, "{count} of {of} instead of {mean}");
    Ok(())
}

#[tokio::test]
async fn all_are_aborted() -> Result<()> {
    let shop = shop("{abort: {percentage: {value: 100}, httpStatus: 418}}").await?;
    shop.client.get("http://app/").header("x-request-id", "a").send().await?.expect_own(418, "FI")?;
    assert_eq!(shop.log.line_of("a").await?.flags, "FI");
    let reply = shop.grpc().await?;
    assert_eq!(reply.flag(), "FI");
    ensure!(!["", "0"].contains(&reply.header("grpc-status")), "{reply:?}");
    assert_eq!(shop.app.stats()?.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn a_share_is_aborted() -> Result<()> {
    let shop = shop("{abort: {percentage: {value: 30}, httpStatus: 503}}").await?;
    let report = shop.calls(1000).await;
    ensure!(report.reasons.iter().all(|reason| reason.contains("\"FI;")), "{:?}", report.reasons);
    is_about(report.failures, 1000, 0.3)?;
    assert_eq!(shop.app.stats()?.requests(), report.successes);
    Ok(())
}

#[tokio::test]
async fn aborts_with_a_grpc_status() -> Result<()> {
    let shop = shop("{abort: {percentage: {value: 100}, grpcStatus: RESOURCE_EXHAUSTED}}").await?;
    let reply = shop.grpc().await?;
    assert_eq!((reply.header("grpc-status"), reply.flag()), ("8", "FI"));
    assert_eq!(reply.header("content-type"), "application/grpc");
    assert_eq!(shop.app.stats()?.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn a_share_is_delayed() -> Result<()> {
    let shop = shop("{delay: {percentage: {value: 40}, fixedDelay: 300ms}}").await?;
    shop.calls(500).await.expect_no_failure()?;
    let delayed = shop.flagged("DI", 500).await?;
    ensure!(delayed.iter().all(|took| *took >= 299.0), "{delayed:?}");
    is_about(delayed.len() as u64, 500, 0.4)?;
    let quick = shop.flagged("-", 500).await?;
    assert_eq!(quick.len() + delayed.len(), 500);
    // A machine may be slow with some requests, but not with most.
    let slow = quick.iter().filter(|took| **took >= 299.0).count();
    ensure!(slow * 2 < quick.len(), "{slow} of {} took as long without a delay", quick.len());
    Ok(())
}

#[tokio::test]
async fn delays_and_aborts_are_drawn_apart() -> Result<()> {
    let fault = "{delay: {percentage: {value: 50}, fixedDelay: 100ms}, abort: {percentage: {value: 50}, httpStatus: 500}}";
    let shop = shop(fault).await?;
    let report = shop.calls(600).await;
    is_about(report.failures, 600, 0.5)?;
    let aborted = shop.flagged("FI", 600).await?;
    let waited = aborted.iter().filter(|took| **took >= 99.0).count() as u64;
    is_about(waited, u32::try_from(aborted.len())?, 0.5)
}

#[tokio::test]
async fn an_unnamed_share_is_none() -> Result<()> {
    let shop = shop("{delay: {fixedDelay: 30s}, abort: {httpStatus: 500}}").await?;
    shop.calls(100).await.expect_no_failure()
}

#[tokio::test]
async fn a_fault_is_not_repeated() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    mesh.policy.routes(
        "app",
        "- fault: {abort: {percentage: {value: 100}, httpStatus: 503}}
  retries: {attempts: 3, retryOn: 5xx}
  route: [{destination: {host: app}}]",
    )?;
    let (sidecar, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect_own(503, "FI")?;
    assert_eq!(sidecar.metrics().await?.sum("pillion_upstream_retries_total", &[]), 0.0);
    assert_eq!(app.stats()?.requests(), 0);
    Ok(())
}
