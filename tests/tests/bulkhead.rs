//! Bulkheads: how many requests may be under way, how many may wait and how long, and who is not concerned.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pillion_tests::{
    AccessLog, Client, Failure, Instance, Load, Mesh, Report, Sidecar, burst, eventually, task,
};

struct Shop {
    _mesh: Mesh,
    app: Instance,
    sidecar: Sidecar,
    client: Client,
    log: AccessLog,
}

async fn shop(policy: &str) -> Result<Shop> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    mesh.policy.resilience("app", policy)?;
    let (sidecar, client, log) = mesh.logging_caller().await?;
    Ok(Shop { _mesh: mesh, app, sidecar, client, log })
}

impl Shop {
    async fn at_once(&self, count: usize) -> Report {
        burst(count as u64, count, || self.client.get("http://app/").send()).await
    }

    async fn figure(&self, name: &str) -> Result<f64> {
        Ok(self.sidecar.metrics().await?.sum(name, &[]))
    }
}

#[tokio::test]
async fn those_who_wait_get_their_turn() -> Result<()> {
    let shop = shop("bulkhead: {maxConcurrent: 2, maxPending: 10, queueTimeout: 10s}").await?;
    shop.app.app()?.faults().set_delay(Duration::from_millis(150));
    shop.at_once(10).await.expect_no_failure()?;
    assert_eq!(shop.app.stats()?.in_flight_peak(), 2);
    assert_eq!(shop.figure("pillion_bulkhead_queued_total").await?, 8.0);
    // The last two have waited for four others, one after the other.
    let waited = shop.figure("pillion_bulkhead_wait_seconds_total").await?;
    ensure!(waited >= 2.0 * (0.15 + 0.3 + 0.45 + 0.6) * 0.95, "{waited} s");
    assert_eq!(shop.figure("pillion_bulkhead_queued_active").await?, 0.0);
    Ok(())
}

#[tokio::test]
async fn there_is_a_limit_to_waiting() -> Result<()> {
    let shop = shop("bulkhead: {maxConcurrent: 2, maxPending: 3, queueTimeout: 400ms}\ntimeout: 3s").await?;
    shop.app.app()?.faults().fail(Failure::Hang);
    let report = shop.at_once(10).await;
    let refused = |with: &str| report.reasons.iter().filter(|reason| reason.contains(with)).count();
    let refused_at_once = 8 - refused("\"BHQ;");
    assert_eq!((refused("\"BHF;"), refused("\"UT;")), (refused_at_once, 2), "{:?}", report.reasons);
    assert_eq!(shop.app.stats()?.in_flight_peak(), 2);
    let lines = shop.log.at_least(10).await?;
    let waited = lines.iter().filter(|line| line.flags == "BHQ" && line.duration_ms >= 399.0).count();
    ensure!((3..=4).contains(&waited), "{waited} have waited in a queue of three: {lines:?}");
    assert_eq!(shop.figure("pillion_bulkhead_rejected_total").await?, 8.0);
    Ok(())
}

#[tokio::test]
async fn a_fallback_stands_in() -> Result<()> {
    let breaker = "circuitBreaker: {consecutiveFailures: 1000, fallback: {status: 200, body: later}}";
    let shop =
        shop(&format!("bulkhead: {{maxConcurrent: 1, maxPending: 0}}\ntimeout: 5s\n{breaker}")).await?;
    shop.app.app()?.faults().fail(Failure::Hang);
    let held = {
        let client = shop.client.clone();
        task::spawn(async move { client.get("http://app/").send().await })
    };
    eventually("the one place is taken", || async {
        ensure!(shop.app.stats()?.in_flight() == 1);
        Ok(())
    })
    .await?;
    let reply = shop.client.get("http://app/").send().await?.expect(200)?;
    assert_eq!((reply.text().as_str(), reply.flag()), ("later", "BHF"));
    drop(held);
    Ok(())
}

/// The value at a quantile.
fn quantile(mut of: Vec<f64>, percent: usize) -> Result<f64> {
    of.sort_by(f64::total_cmp);
    of.get(of.len() * percent / 100).copied().context("nothing was measured")
}

#[tokio::test]
async fn a_frozen_destination_does_not_slow_another() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let healthy = mesh.serve("healthy", "v1").await?;
    let frozen = mesh.serve("frozen", "v1").await?;
    for app in ["healthy", "frozen"] {
        let policy = "bulkhead: {maxConcurrent: 20, maxPending: 50, queueTimeout: 200ms}\ntimeout: 5s";
        mesh.policy.resilience(app, policy)?;
    }
    let (_sidecar, client, log) = mesh.logging_caller().await?;
    healthy.app()?.faults().set_delay(Duration::from_millis(100));
    frozen.app()?.faults().fail(Failure::Hang);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let mut logged = 0;
    // Turn by turn, so that whatever else the machine does falls on both. It can only add to a slice; the frozen one, if it
    // did, would add to each: the best of either sort counts.
    for turn in 0..10 {
        let callers = (turn % 2 == 1).then(|| {
            // More than may run and wait.
            let client = client.clone();
            Load::start(200, 200, move || client.get("http://frozen/").limit(Duration::from_secs(6)).send())
        });
        if callers.is_some() {
            eventually("the frozen one is full", || async {
                ensure!(frozen.stats()?.in_flight() == 20, "{} in flight", frozen.stats()?.in_flight());
                Ok(())
            })
            .await?;
        }
        burst(60, 10, || client.get("http://healthy/").send()).await.expect_no_failure()?;
        drop(callers);
        // As its proxy measures it.
        let slice: Vec<f64> = eventually("the lines of the slice", || async {
            let lines = log.lines()?.into_iter().skip(logged);
            let healthy =
                lines.filter(|line| line.cluster.as_deref().is_some_and(|of| of.contains("healthy")));
            let took: Vec<f64> = healthy.map(|line| line.duration_ms).collect();
            ensure!(took.len() >= 60, "{} of 60", took.len());
            Ok(took)
        })
        .await?;
        eventually("the frozen one is left alone", || async {
            ensure!(frozen.stats()?.in_flight() == 0);
            Ok(())
        })
        .await?;
        logged = log.lines()?.len();
        let p99 = quantile(slice, 99)?;
        if turn % 2 == 1 { beside.push(p99) } else { alone.push(p99) }
    }
    let (alone, beside) = (quantile(alone, 0)?, quantile(beside, 0)?);
    ensure!(beside < alone * 1.1, "{alone} ms alone, {beside} ms beside a frozen destination");
    Ok(())
}
