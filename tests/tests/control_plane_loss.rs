//! Sidecars without their control plane: they serve on, catch up, and restart from disk.

use std::time::Duration;

use anyhow::{Result, ensure};
use pillion_tests::policy::SUBSETS;
use pillion_tests::wait::PATIENCE;
use pillion_tests::{
    Client, ControlPlane, Instance, Load, Mesh, Policy, Relay, Sidecar, address, eventually, is_full_size,
    within,
};
use tokio::time::Instant;

/// Services called, each with its own configuration.
const SERVICES: usize = 20;

/// How long the control plane is gone; with `PILLION_TEST_FULL` the half minute of the promise.
fn outage() -> Duration {
    Duration::from_secs(if is_full_size() { 30 } else { 3 })
}

async fn call_all(client: &Client) -> Result<()> {
    for n in 0..SERVICES {
        client.get(&format!("http://app-{n}/")).send().await?.expect(200)?;
    }
    Ok(())
}

async fn shop() -> Result<(Mesh, Vec<Instance>)> {
    let mut mesh = Mesh::new()?;
    let mut apps = Vec::new();
    for n in 0..SERVICES {
        let host = format!("app-{n}");
        apps.push(mesh.serve(&host, "v1").await?);
        mesh.policy.destination(&host, SUBSETS)?;
        mesh.policy.routes(&host, &format!("- route: [{{destination: {{host: {host}, subset: v1}}}}]"))?;
    }
    mesh.start().await?;
    Ok((mesh, apps))
}

#[tokio::test]
async fn an_outage_fails_no_request_and_only_changes_travel_after_it() -> Result<()> {
    let (mut mesh, apps) = shop().await?;
    let relay = Relay::start(mesh.control_plane()?.xds).await?;
    let sidecar = Sidecar::of("caller").control_plane(relay.address).start().await?;
    let client = sidecar.app();
    call_all(&client).await?;
    let initial = relay.bytes_down();
    let load = {
        let (client, next) = (client.clone(), std::sync::atomic::AtomicUsize::new(0));
        Load::start(200, 32, move || {
            let n = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % SERVICES;
            client.get(&format!("http://app-{n}/")).send()
        })
    };
    mesh.control_plane()?.kill().await?;
    let gone = Instant::now();
    mesh.policy.routes(
        "app-0",
        "- {headers: {response: {set: {x-edit: e1}}}, route: [{destination: {host: app-0}}]}",
    )?;
    within(outage() + PATIENCE, "the outage is over", || async {
        ensure!(gone.elapsed() >= outage() || load.so_far().failures > 0, "it goes on");
        Ok(())
    })
    .await?;
    let before = relay.bytes_down();
    mesh.control_plane()?.restart().await?;
    eventually("the edit made meanwhile is in force", || async {
        let reply = client.get("http://app-0/").send().await?.expect(200)?;
        ensure!(reply.header("x-edit") == "e1");
        Ok(())
    })
    .await?;
    let caught_up = relay.bytes_down() - before;
    load.stop().await?.expect_no_failure()?;
    ensure!(caught_up * 4 < initial, "{caught_up} bytes after the reconnect, {initial} at first");
    ensure!(apps.iter().all(|app| app.stats().is_ok_and(|stats| stats.requests() > 0)));
    Ok(())
}

#[tokio::test]
async fn what_was_removed_meanwhile_is_gone_after_the_reconnect() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _stays = mesh.serve("app", "v1").await?;
    let leaves = mesh.serve("app", "v1").await?;
    let (sidecar, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    mesh.control_plane()?.kill().await?;
    mesh.policy.remove_pod(&leaves.pod)?;
    let address = leaves.address.to_string();
    ensure!(sidecar.page("/endpoints").await?.contains(&address), "last known good was given up");
    mesh.control_plane()?.restart().await?;
    eventually("the endpoint is gone", || async {
        let endpoints = sidecar.page("/endpoints").await?;
        ensure!(!endpoints.contains(&address), "{endpoints}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_sidecar_restarts_from_its_snapshot() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    mesh.policy.routes(
        "app",
        "- {headers: {response: {set: {x-edit: kept}}}, route: [{destination: {host: app}}]}",
    )?;
    mesh.start().await?;
    let disk = Policy::new()?;
    let file = disk.path().join("snapshot");
    let snapshot = file.display().to_string();
    let mut sidecar = mesh.sidecar("caller")?.arg("--snapshot-file", &snapshot).start().await?;
    sidecar.app().get("http://app/").send().await?.expect(200)?;
    eventually("the snapshot is written", || async {
        let written = std::fs::metadata(&file)?.len();
        ensure!(written > 0, "it is empty");
        let text = std::fs::read(&file)?;
        ensure!(text.windows(4).any(|window| window == b"kept"), "it does not hold the route yet");
        Ok(())
    })
    .await?;
    mesh.control_plane()?.kill().await?;
    sidecar.process.stop(Duration::from_secs(8)).await?;
    let restarted = mesh.sidecar("caller")?.arg("--snapshot-file", &snapshot).start().await?;
    let reply = restarted.app().get("http://app/").send().await?.expect(200)?;
    assert_eq!(reply.header("x-edit"), "kept");
    // And it follows the control plane again once that is back.
    mesh.policy.routes("app", "- directResponse: {status: 418}")?;
    mesh.control_plane()?.restart().await?;
    eventually("the edit", || async { restarted.app().get("http://app/").send().await?.expect(418) }).await?;
    Ok(())
}

#[tokio::test]
async fn a_broken_snapshot_is_as_none() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    mesh.start().await?;
    let disk = Policy::new()?;
    let file = disk.path().join("snapshot");
    std::fs::write(&file, b"\x00\xffnot a snapshot")?;
    let sidecar = mesh.sidecar("caller")?.arg("--snapshot-file", &file.display().to_string()).start().await?;
    sidecar.app().get("http://app/").send().await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn without_configuration_a_sidecar_is_alive_but_not_ready() -> Result<()> {
    let nobody = address::unused_at(15010)?;
    let mut sidecar = Sidecar::of("caller").control_plane(nobody).spawn()?;
    let admin = Client::http1(sidecar.admin);
    eventually("it is alive", || async { admin.get("http://admin/live").send().await?.expect(200) }).await?;
    assert_eq!(sidecar.readiness().await?, 503);
    sidecar.process.ensure_running()?;
    let policy = Policy::new()?;
    let source = policy.path();
    let _control_plane =
        ControlPlane::start_at(source, nobody, std::net::SocketAddr::new(nobody.ip(), 15014)).await?;
    sidecar.wait_ready().await
}
