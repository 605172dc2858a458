//! Connections that are used again: what happens when the app has closed them meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use pillion_tests::{Instance, Mesh, Wire, burst};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An app that answers the first request of a connection and closes on the second, unanswered; and how many it got.
async fn closing_on_the_second(mesh: &mut Mesh) -> Result<(Instance, Arc<AtomicU64>)> {
    let received = Arc::new(AtomicU64::new(0));
    let counter = received.clone();
    let handle = move |stream| {
        let counter = counter.clone();
        async move {
            let mut wire = Wire::accepted(stream);
            for answer in [Some(OK), None] {
                if wire.head().await.is_err() {
                    return;
                }
                counter.fetch_add(1, Ordering::SeqCst);
                let Some(answer) = answer else { return };
                if wire.send(answer).await.is_err() {
                    return;
                }
            }
        }
    };
    Ok((mesh.serve_raw("app", handle).await?, received))
}

#[tokio::test]
async fn a_get_that_met_a_closing_connection_is_sent_again() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (_app, received) = closing_on_the_second(&mut mesh).await?;
    let (_sidecar, client) = mesh.caller().await?;
    for _ in 0..6 {
        client.get("http://app/").send().await?.expect(200)?;
    }
    // Every second one found a used connection and was sent once more.
    let received = received.load(Ordering::SeqCst);
    ensure!((6..=11).contains(&received), "{received} requests for 6 calls");
    Ok(())
}

#[tokio::test]
async fn a_post_that_may_have_arrived_is_not_sent_again() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (_app, received) = closing_on_the_second(&mut mesh).await?;
    let (_sidecar, client) = mesh.caller().await?;
    client.post("http://app/").send().await?.expect(200)?;
    client.post("http://app/").send().await?.expect_own(503, "UC")?;
    assert_eq!(received.load(Ordering::SeqCst), 2, "a POST was delivered twice");
    Ok(())
}

#[tokio::test]
async fn connections_closed_while_idle_are_not_used() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let handle = |stream| async move {
        let mut wire = Wire::accepted(stream);
        if wire.head().await.is_ok() {
            // Closes without having said so.
            let _ = wire.send(OK).await;
        }
    };
    let _app = mesh.serve_raw("app", handle).await?;
    let (_sidecar, client) = mesh.caller().await?;
    let report = burst(200, 1, || client.get("http://app/").send()).await;
    report.expect_no_failure()
}

#[tokio::test]
async fn an_app_that_restarts_is_reached_again() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    let (_sidecar, client) = mesh.caller().await?;
    burst(20, 4, || client.get("http://app/").send()).await.expect_no_failure()?;
    let (pod, address) = (app.pod.clone(), app.address);
    app.stop().await?;
    let _again = Instance::sample("app", "v2", &pod, address).await?;
    let report = burst(20, 4, || client.get("http://app/").send()).await;
    report.expect_no_failure()?;
    assert_eq!(report.by_version.get("v2"), Some(&20));
    Ok(())
}
