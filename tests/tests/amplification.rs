//! Retries in a chain of services: however many hops retry, a failure is not multiplied.

use anyhow::{Result, ensure};
use pillion_tests::{Failure, Instance, Mesh, Sidecar, burst, eventually};

/// The services of the chain, each of which calls the next.
const CHAIN: [&str; 4] = ["first", "second", "third", "leaf"];
const CALLS: u64 = 1000;

/// Every hop repeats whatever fails, three times.
fn retrying(service: &str) -> String {
    format!("- retries: {{attempts: 3, retryOn: 5xx}}\n  route: [{{destination: {{host: {service}}}}}]")
}

async fn chain(mesh: &mut Mesh) -> Result<Vec<(Instance, Sidecar)>> {
    let mut hops = Vec::new();
    for service in CHAIN {
        mesh.policy.routes(service, &retrying(service))?;
    }
    for pair in CHAIN.windows(2) {
        hops.push(mesh.serve_calling(pair[0], &[pair[1]]).await?);
    }
    hops.push(mesh.serve_meshed("leaf", "v1").await?);
    Ok(hops)
}

#[tokio::test]
async fn a_failing_leaf_is_not_called_more_often_than_its_callers_are() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let hops = chain(&mut mesh).await?;
    let (_caller, client) = mesh.caller().await?;
    eventually("the chain answers", || async { client.get("http://first/").send().await?.expect(200) })
        .await?;
    let (leaf, _sidecar) = &hops[3];
    leaf.app()?.faults().fail(Failure::status(503));
    let mut before = Vec::new();
    for (hop, _sidecar) in &hops {
        before.push(hop.stats()?.requests());
    }
    let report = burst(CALLS, 8, || client.get("http://first/").send()).await;
    assert_eq!(report.successes, 0);
    let mut calls = Vec::new();
    for ((hop, _sidecar), before) in hops.iter().zip(before) {
        calls.push(hop.stats()?.requests() - before);
    }
    let most = CALLS * 125 / 100;
    ensure!(calls.iter().all(|calls| (CALLS..=most).contains(calls)), "{CALLS} calls became {calls:?}");
    // Only the hop next to the failure repeats.
    ensure!(calls[..3].iter().all(|calls| *calls == CALLS), "{CALLS} calls became {calls:?}");
    ensure!(calls[3] > CALLS, "nobody has repeated anything: {calls:?}");
    Ok(())
}

#[tokio::test]
async fn a_leaf_that_fails_now_and_then_is_hidden_by_its_neighbour() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let hops = chain(&mut mesh).await?;
    let (_caller, client) = mesh.caller().await?;
    eventually("the chain answers", || async { client.get("http://first/").send().await?.expect(200) })
        .await?;
    let (leaf, _sidecar) = &hops[3];
    leaf.app()?.faults().fail_some(10, Failure::status(503));
    let before = hops[0].0.stats()?.requests();
    let report = burst(300, 8, || client.get("http://first/").send()).await;
    // One in ten thousand fails four times in a row.
    ensure!(report.failures <= 2, "{} of 300 failed: {:?}", report.failures, report.reasons);
    ensure!(hops[0].0.stats()?.requests() - before <= 302, "farther hops have repeated, too");
    Ok(())
}
