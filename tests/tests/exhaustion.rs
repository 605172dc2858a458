//! File descriptors that run out slow a sidecar down and do not kill it.

use anyhow::{Result, ensure};
use pillion_tests::{Mesh, Wire, eventually};

#[tokio::test]
async fn without_descriptors_connections_wait() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    mesh.start().await?;
    let mut sidecar = mesh.sidecar("caller")?.launched_by(&["prlimit", "--nofile=64:64"]).start().await?;
    sidecar.app().get("http://app/").send().await?.expect(200)?;
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(Wire::connect(sidecar.outbound).await?);
    }
    // All are accepted by the kernel; those the sidecar has no descriptor for wait.
    for wire in &mut crowd {
        wire.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await?;
    }
    sidecar.process.ensure_running()?;
    drop(crowd);
    eventually("it serves again", || async { sidecar.app().get("http://app/").send().await?.expect(200) })
        .await?;
    sidecar.process.ensure_running()?;
    let log = sidecar.process.log().text();
    ensure!(!log.contains("panicked"), "{log}");
    ensure!(
        log.lines().count() < 200,
        "running out of descriptors floods the log: {} lines",
        log.lines().count()
    );
    Ok(())
}
