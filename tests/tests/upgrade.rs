//! HTTP/1.1 upgrades, as WebSocket makes them: bytes pass both ways after 101.

use anyhow::{Result, ensure};
use pillion_tests::{Mesh, Sidecar, Wire, eventually, wire};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

async fn converse(sidecar: &Sidecar) -> Result<()> {
    let mut wire = Wire::connect(sidecar.outbound).await?;
    wire.send(ASK).await?;
    let head = wire.head().await?;
    ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let lower = head.to_lowercase();
    ensure!(lower.contains("upgrade: websocket") && lower.contains("connection: upgrade"), "{head}");
    for message in ["hello", "\u{0}\u{1}binary", "GET / HTTP/1.1\r\n\r\n"] {
        wire.send(message).await?;
        assert_eq!(wire.until(message).await?, message);
    }
    wire.finish().await?;
    assert_eq!(wire.rest().await?, "");
    Ok(())
}

#[tokio::test]
async fn upgraded_connections_pass_bytes_both_ways() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    let (sidecar, _client) = mesh.caller().await?;
    converse(&sidecar).await?;
    eventually("the app's side is closed too", || async {
        let open = app.stats()?.in_flight();
        ensure!(open == 0, "{open} in flight");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn upgrades_pass_two_sidecars() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (_app, _sidecar) = mesh.serve_meshed("app", "v1").await?;
    let (caller, _client) = mesh.caller().await?;
    converse(&caller).await
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (handle, mut heads) = wire::canned("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    let _app = mesh.serve_raw("app", handle).await?;
    let (sidecar, _client) = mesh.caller().await?;
    let mut wire = Wire::connect(sidecar.outbound).await?;
    for _ in 0..2 {
        wire.send(ASK).await?;
        let head = wire.head().await?;
        ensure!(head.starts_with("HTTP/1.1 403 ") && !head.contains("x-pillion-error"), "{head}");
        wire.until("no").await?;
        let asked = heads.recv().await.unwrap_or_default().to_lowercase();
        ensure!(asked.contains("upgrade: websocket") && asked.contains("connection: upgrade"), "{asked}");
    }
    Ok(())
}

#[tokio::test]
async fn a_switch_that_does_not_come_about_is_given_up() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (handle, _heads) =
        wire::canned("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    let _app = mesh.serve_raw("app", handle).await?;
    let (sidecar, _client) = mesh.caller().await?;
    let mut wire = Wire::connect(sidecar.outbound).await?;
    // The connection cannot switch before the body has been read, which is not sent.
    wire.send(ASK.replace("Host: app\r\n", "Host: app\r\nContent-Length: 5\r\n")).await?;
    ensure!(wire.head().await?.starts_with("HTTP/1.1 101 "));
    eventually("the exchange is given up and counted", || async {
        let metrics = sidecar.metrics().await?;
        // Both sides wait for the body, and either may be the first to give up.
        let counted = ["DC", "UBO"].map(|flag| {
            metrics.sum("istio_requests_total", &[("response_code", "101"), ("response_flags", flag)])
        });
        ensure!(counted.iter().sum::<f64>() == 1.0, "not yet");
        Ok(())
    })
    .await?;
    assert_eq!(wire.rest().await?, "");
    Ok(())
}
