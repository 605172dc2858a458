//! On-demand configuration: a sidecar holds what its app calls, whatever the size of the mesh.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use pillion_tests::{ControlPlane, Instance, Mesh, Relay, Sidecar, Wire, burst, eventually, within};

/// Calls these many services of a mesh that has `total` of them; gives back the sidecar's memory in KiB.
async fn memory(total: usize, called: usize) -> Result<u64> {
    let mut mesh = Mesh::new()?;
    let mut apps = Vec::new();
    for n in 0..called {
        apps.push(mesh.serve(&format!("called-{n}"), "v1").await?);
    }
    let mut yaml = String::new();
    for n in called..total {
        writeln!(yaml, "{}---", pillion_tests::policy::service(&format!("service-{n}")))?;
    }
    mesh.policy.apply("many", &yaml)?;
    let (sidecar, client) = mesh.caller().await?;
    for n in 0..called {
        let client = client.clone();
        let report = burst(200, 4, || client.get(&format!("http://called-{n}/")).send()).await;
        report.expect_no_failure()?;
    }
    sidecar.process.memory_kib()
}

#[tokio::test]
async fn memory_follows_what_is_called() -> Result<()> {
    let small = memory(10, 5).await?;
    let large = memory(10_000, 5).await?;
    ensure!(large <= small + 1024, "{small} KiB with 10 services, {large} KiB with 10,000");
    Ok(())
}

#[tokio::test]
async fn a_change_nobody_asked_for_is_not_sent() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _called = mesh.serve("called", "v1").await?;
    let quiet = mesh.serve("quiet", "v1").await?;
    mesh.start().await?;
    let relay = Relay::start(mesh.control_plane()?.xds).await?;
    let sidecar = Sidecar::of("caller").control_plane(relay.address).start().await?;
    let client = sidecar.app();
    client.get("http://called/").send().await?.expect(200)?;
    let other = Sidecar::of("other").control_plane(mesh.control_plane()?.xds).start().await?;
    other.app().get("http://quiet/").send().await?.expect(200)?;
    let before = relay.bytes_down();
    ensure!(before > 0, "nothing was ever sent");
    for n in 0..10 {
        mesh.policy
            .routes("quiet", &format!("- directResponse: {{status: 200, body: {{string: edit-{n}}}}}"))?;
        mesh.policy.remove_pod(&quiet.pod)?;
        mesh.rejoin("quiet", "v1", &quiet)?;
        eventually("the sidecar that called it has the edit", || async {
            let reply = other.app().get("http://quiet/").send().await?.expect(200)?;
            ensure!(reply.text() == format!("edit-{n}"), "{}", reply.text());
            Ok(())
        })
        .await?;
    }
    let sent = relay.bytes_down() - before;
    // HTTP/2 PINGs of 17 bytes may pass; a resource would not fit.
    ensure!(sent <= 3 * 17, "{sent} bytes were sent for changes to a service that is not called");
    Ok(())
}

#[tokio::test]
async fn a_small_edit_is_a_small_message() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let mut apps: Vec<Instance> = Vec::new();
    for _ in 0..30 {
        apps.push(mesh.serve("app", "v1").await?);
    }
    mesh.policy.routes("app", "- {name: first, route: [{destination: {host: app}}]}")?;
    mesh.start().await?;
    let relay = Relay::start(mesh.control_plane()?.xds).await?;
    let sidecar = Sidecar::of("caller").control_plane(relay.address).start().await?;
    sidecar.app().get("http://app/").send().await?.expect(200)?;
    let before = relay.bytes_down();
    mesh.policy.routes("app", "- directResponse: {status: 418}")?;
    eventually("the edit", || async { sidecar.app().get("http://app/").send().await?.expect(418) }).await?;
    let sent = relay.bytes_down() - before;
    // The thirty endpoints have not changed, so they do not travel again.
    ensure!(sent < 1024, "{sent} bytes for one edited route");
    Ok(())
}

#[tokio::test]
async fn a_service_added_later_is_found() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (_sidecar, client) = mesh.caller().await?;
    let reply = client.get("http://late/").send().await?;
    ensure!(!reply.status.is_success() && !reply.flag().is_empty(), "{reply:?}");
    let _late = mesh.serve("late", "v1").await?;
    let limit = Duration::from_secs(5);
    within(limit, "the service is known", || async { client.get("http://late/").send().await?.expect(200) })
        .await?;
    Ok(())
}

#[tokio::test]
async fn unknown_hosts_cost_little() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    let (sidecar, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    let before = sidecar.process.memory_kib()?;
    // On one connection: those of an ordinary client would be kept apart by host.
    let mut wire = Wire::connect(sidecar.outbound).await?;
    for n in 0..2000 {
        wire.send(format!("HEAD / HTTP/1.1\r\nHost: unknown-{n}\r\n\r\n")).await?;
        let head = wire.head().await?;
        ensure!(head.starts_with("HTTP/1.1 404 ") || head.starts_with("HTTP/1.1 502 "), "{head}");
    }
    let series = sidecar.metrics().await?.samples().len();
    ensure!(series <= 2000, "{series} metric series after 2,000 unknown hosts");
    let grown = sidecar.process.memory_kib()?.saturating_sub(before);
    ensure!(grown < 8 * 1024, "{grown} KiB more after 2,000 unknown hosts");
    client.get("http://app/").send().await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn what_is_not_called_any_more_is_let_go_and_fetched_again() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    mesh.start().await?;
    let sidecar = mesh.sidecar("caller")?.arg("--idle-unsubscribe", "1s").start().await?;
    let client = sidecar.app();
    client.get("http://app/").send().await?.expect(200)?;
    ensure!(sidecar.page("/endpoints").await?.contains("app"));
    eventually("the service is let go", || async {
        let endpoints = sidecar.page("/endpoints").await?;
        ensure!(!endpoints.contains("app.default"), "{endpoints}");
        Ok(())
    })
    .await?;
    client.get("http://app/").send().await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn first_requests_wait_for_their_destination() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let mut apps = Vec::new();
    for n in 0..20 {
        apps.push(mesh.serve(&format!("app-{n}"), "v1").await?);
    }
    let (_sidecar, client) = mesh.caller().await?;
    let next = std::sync::atomic::AtomicUsize::new(0);
    let report = burst(200, 40, || {
        let n = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % 20;
        client.get(&format!("http://app-{n}/")).send()
    })
    .await;
    report.expect_no_failure()
}

#[tokio::test]
async fn the_wait_for_a_destination_is_bounded() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    mesh.start().await?;
    let sidecar = mesh.sidecar("caller")?.arg("--hold-timeout", "500ms").start().await?;
    let control_plane: &mut ControlPlane = mesh.control_plane()?;
    control_plane.process.freeze().await?;
    let call = sidecar.app().get("http://app/").limit(Duration::from_secs(5));
    let reply = call.send().await?;
    ensure!(reply.status.is_server_error() && !reply.flag().is_empty(), "{reply:?}");
    control_plane.process.thaw()?;
    eventually("the answer", || async { sidecar.app().get("http://app/").send().await?.expect(200) }).await?;
    Ok(())
}
