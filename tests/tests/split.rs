//! Traffic splitting: weights over subsets, by the seed policy and others.

use anyhow::Result;
use pillion_tests::policy::SUBSETS;
use pillion_tests::{Instance, Mesh, burst};

const SEED: &str = include_str!("../../k8s/examples/shop/order-routing.yaml");

async fn shop() -> Result<(Mesh, [Instance; 2])> {
    let mut mesh = Mesh::new()?;
    let v1 = mesh.serve("order-service", "v1").await?;
    let v2 = mesh.serve("order-service", "v2").await?;
    Ok((mesh, [v1, v2]))
}

#[tokio::test]
async fn the_seed_policy_sends_one_in_ten_to_v2() -> Result<()> {
    let (mut mesh, _instances) = shop().await?;
    mesh.policy.apply("seed", SEED)?;
    mesh.start().await?;
    // A seed of its own, since one of a thousand samples of fair draws is off by more than a point.
    let sidecar = mesh.sidecar("caller")?.arg("--seed", "1").start().await?;
    let client = sidecar.app();
    let report = burst(10_000, 16, || client.get("http://order-service/").send()).await;
    report.expect_no_failure()?;
    let share = report.version_percent("v2");
    assert!((9.0..=11.0).contains(&share), "{share} % reached v2");
    Ok(())
}

#[tokio::test]
async fn the_seed_policy_sends_premium_users_to_v2() -> Result<()> {
    let (mut mesh, [v1, _v2]) = shop().await?;
    mesh.policy.apply("seed", SEED)?;
    let (_sidecar, client) = mesh.caller().await?;
    let report =
        burst(1000, 16, || client.get("http://order-service/").header("user-type", "premium").send()).await;
    report.expect_no_failure()?;
    assert_eq!(report.by_version.get("v2"), Some(&1000));
    assert_eq!(v1.stats()?.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn a_header_that_differs_in_value_is_not_premium() -> Result<()> {
    let (mut mesh, _instances) = shop().await?;
    mesh.policy.apply("seed", SEED)?;
    let (_sidecar, client) = mesh.caller().await?;
    let report =
        burst(200, 16, || client.get("http://order-service/").header("user-type", "premiums").send()).await;
    report.expect_no_failure()?;
    assert!(report.version_percent("v1") > 70.0, "{:?}", report.by_version);
    Ok(())
}

#[tokio::test]
async fn weights_are_shares_of_their_sum_and_zero_is_never() -> Result<()> {
    let (mut mesh, _instances) = shop().await?;
    let v3 = mesh.serve("order-service", "v3").await?;
    mesh.policy.destination("order-service", &format!("{SUBSETS}- name: v3\n  labels: {{version: v3}}\n"))?;
    mesh.policy.routes(
        "order-service",
        "- route:
  - {destination: {host: order-service, subset: v1}, weight: 1}
  - {destination: {host: order-service, subset: v2}, weight: 3}
  - {destination: {host: order-service, subset: v3}, weight: 0}",
    )?;
    let (_sidecar, client) = mesh.caller().await?;
    let report = burst(4000, 16, || client.get("http://order-service/").send()).await;
    report.expect_no_failure()?;
    let share = report.version_percent("v2");
    assert!((72.0..=78.0).contains(&share), "{share} % reached v2");
    assert_eq!(v3.stats()?.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn a_route_may_split_over_services() -> Result<()> {
    let (mut mesh, _instances) = shop().await?;
    let other = mesh.serve("new-orders", "v9").await?;
    mesh.policy.routes(
        "order-service",
        "- route:
  - {destination: {host: order-service}, weight: 50}
  - {destination: {host: new-orders}, weight: 50}",
    )?;
    let (_sidecar, client) = mesh.caller().await?;
    let report = burst(1000, 16, || client.get("http://order-service/").send()).await;
    report.expect_no_failure()?;
    let share = report.version_percent("v9");
    assert!((43.0..=57.0).contains(&share), "{share} % reached the other service");
    assert_eq!(other.stats()?.requests(), report.by_version["v9"]);
    Ok(())
}
