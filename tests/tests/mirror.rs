//! Mirrored traffic: a copy goes elsewhere, and nothing about the answer depends on it.

use std::time::Duration;

use anyhow::{Result, ensure};
use pillion_tests::{Instance, Mesh, burst, eventually};
use tokio::time::Instant;

async fn received(shadow: &Instance, wanted: u64) -> Result<()> {
    eventually("the copies have arrived", || async {
        let found = shadow.stats()?.requests();
        ensure!(found == wanted, "{found} copies, not {wanted}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn every_request_is_copied_by_default() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    let shadow = mesh.serve("shadow", "v2").await?;
    mesh.policy.routes("app", "- route: [{destination: {host: app}}]\n  mirror: {host: shadow}")?;
    let (_sidecar, client) = mesh.caller().await?;
    let report = burst(100, 8, || client.post("http://app/upload").body("a body").send()).await;
    report.expect_no_failure()?;
    assert_eq!(report.by_version.get("v1"), Some(&100));
    received(&shadow, 100).await
}

#[tokio::test]
async fn several_mirrors_each_have_their_share() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    let all = mesh.serve("all", "v1").await?;
    let half = mesh.serve("half", "v1").await?;
    let none = mesh.serve("none", "v1").await?;
    mesh.policy.routes(
        "app",
        "- route: [{destination: {host: app}}]
  mirrors:
  - {destination: {host: all}}
  - {destination: {host: half}, percentage: {value: 50}}
  - {destination: {host: none}, percentage: {value: 0}}",
    )?;
    let (_sidecar, client) = mesh.caller().await?;
    burst(600, 8, || client.get("http://app/").send()).await.expect_no_failure()?;
    received(&all, 600).await?;
    eventually("half of the copies", || async {
        let found = half.stats()?.requests();
        ensure!((230..=370).contains(&found), "{found} of 600 copies");
        Ok(())
    })
    .await?;
    assert_eq!(none.stats()?.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn a_copy_carries_the_body() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    let (sender, mut bodies) = tokio::sync::mpsc::unbounded_channel();
    let handle = move |stream| {
        let sender = sender.clone();
        async move {
            let mut wire = pillion_tests::Wire::accepted(stream);
            let _ = sender.send(wire.until("the very end").await.unwrap_or_default());
            let _ = wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    };
    let _shadow = mesh.serve_raw("shadow", handle).await?;
    mesh.policy.routes("app", "- route: [{destination: {host: app}}]\n  mirror: {host: shadow}")?;
    let (_sidecar, client) = mesh.caller().await?;
    client.post("http://app/upload").body("a body to the very end").send().await?.expect(200)?;
    let copy = tokio::time::timeout(Duration::from_secs(10), bodies.recv()).await?.unwrap_or_default();
    ensure!(copy.starts_with("POST /upload HTTP/1.1") && copy.contains("a body to the very end"), "{copy:?}");
    Ok(())
}

#[tokio::test]
async fn a_broken_or_slow_mirror_is_not_noticed() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    let slow = mesh.serve("slow", "v1").await?;
    slow.app()?.faults().set_delay(Duration::from_secs(20));
    mesh.serve_nothing("broken", "v1")?;
    mesh.policy.routes(
        "app",
        "- route: [{destination: {host: app}}]
  mirrors: [{destination: {host: slow}}, {destination: {host: broken}}, {destination: {host: missing}}]",
    )?;
    let (_sidecar, client) = mesh.caller().await?;
    let begun = Instant::now();
    burst(50, 4, || client.get("http://app/").send()).await.expect_no_failure()?;
    ensure!(begun.elapsed() < Duration::from_secs(10), "{:?} for 50 requests", begun.elapsed());
    Ok(())
}
