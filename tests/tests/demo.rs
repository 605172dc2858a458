//! The demo leaves nothing behind, however it ends. (`cargo xtask demo --once` is its own test of what it shows.)

use std::time::Duration;

use anyhow::{Result, ensure};
use pillion_tests::netns::Namespace;
use pillion_tests::{Process, eventually};

/// The demo in a namespace of its own, since its addresses are fixed; running, with its shop open.
async fn demo() -> Result<Option<(Namespace, Process)>> {
    let Some(namespace) = Namespace::or_skip().await else { return Ok(None) };
    let demo = namespace.start("demo", "pillion-demo", &[])?;
    eventually("the shop is open", || async {
        let told = demo.log().text();
        ensure!(told.contains("the shop is open"), "{told}");
        Ok(())
    })
    .await?;
    let inhabitants = namespace.inhabitants()?;
    // Itself, the control plane, nine apps and their sidecars.
    ensure!(inhabitants.len() == 20, "{inhabitants:?}");
    Ok(Some((namespace, demo)))
}

async fn deserted(namespace: &Namespace) -> Result<()> {
    eventually("nothing is left", || async {
        let left = namespace.inhabitants()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_demo_that_is_stopped_leaves_nothing() -> Result<()> {
    let Some((namespace, mut demo)) = demo().await? else { return Ok(()) };
    demo.stop(Duration::from_secs(20)).await?;
    deserted(&namespace).await
}

#[tokio::test]
async fn a_demo_that_is_killed_leaves_nothing() -> Result<()> {
    let Some((namespace, mut demo)) = demo().await? else { return Ok(()) };
    demo.kill().await?;
    deserted(&namespace).await
}

#[tokio::test]
async fn two_demos_do_not_mix() -> Result<()> {
    let Some((namespace, mut first)) = demo().await? else { return Ok(()) };
    let mut second = namespace.start("second demo", "pillion-demo", &[])?;
    let status = second.ended(Duration::from_secs(10)).await?;
    ensure!(
        !status.success() && second.log().text().contains("is another demo running?"),
        "{}",
        second.log().text()
    );
    first.ensure_running()
}
