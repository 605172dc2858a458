//! Ending a sidecar: SIGTERM and `/drain`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pillion_tests::{Client, Instance, Mesh, Sidecar, Wire, eventually, task};
use tokio::net::TcpStream;
use tokio::time::Instant;

async fn meshed() -> Result<(Mesh, Instance, Sidecar)> {
    let mut mesh = Mesh::new()?;
    let (app, sidecar) = mesh.serve_meshed("app", "v1").await?;
    Ok((mesh, app, sidecar))
}

async fn in_flight(app: &Instance, wanted: u64) -> Result<()> {
    eventually("requests in flight", || async {
        let found = app.stats()?.in_flight();
        ensure!(found == wanted, "{found} in flight, not {wanted}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn sigterm_lets_requests_in_flight_finish() -> Result<()> {
    let (_mesh, app, mut sidecar) = meshed().await?;
    let client = Client::http1(sidecar.inbound);
    // A connection that idles must not hold up the end.
    let mut idle = Wire::connect(sidecar.inbound).await?;
    idle.send("GET /bytes/1 HTTP/1.1\r\nHost: app\r\n\r\n").await?;
    idle.until("\r\n\r\nx").await?;
    let slow = client.get("http://app/delay/1500").send();
    let end = async {
        in_flight(&app, 1).await?;
        sidecar.process.stop(Duration::from_secs(8)).await
    };
    let (slow, end) = tokio::join!(slow, end);
    slow?.expect(200)?;
    end?;
    assert_eq!(idle.rest().await?, "");
    Ok(())
}

#[tokio::test]
async fn sigterm_does_not_wait_for_ever() -> Result<()> {
    let (mut mesh, app, _unused) = meshed().await?;
    let caller = mesh.sidecar("caller")?.arg("--drain-timeout", "1s");
    let mut caller = caller.start().await?;
    let slow = caller.app().get("http://app/delay/60000").limit(Duration::from_secs(30)).send();
    let end = async {
        in_flight(&app, 1).await?;
        let begun = Instant::now();
        caller.process.terminate()?;
        caller.process.ended(Duration::from_secs(5)).await?;
        ensure!(begun.elapsed() >= Duration::from_millis(900), "ended after {:?}", begun.elapsed());
        Ok(())
    };
    let (slow, end) = tokio::join!(slow, end);
    ensure!(slow.map_or(true, |reply| !reply.status.is_success()), "a request cut off was answered");
    end?;
    mesh.control_plane()?.process.ensure_running()
}

#[tokio::test]
async fn an_idle_sidecar_ends_at_once() -> Result<()> {
    let (_mesh, _app, mut sidecar) = meshed().await?;
    let begun = Instant::now();
    sidecar.process.stop(Duration::from_secs(5)).await?;
    ensure!(begun.elapsed() < Duration::from_secs(3), "took {:?}", begun.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_draining_sidecar_says_so_and_keeps_serving() -> Result<()> {
    let (_mesh, _app, sidecar) = meshed().await?;
    let mut kept = Wire::connect(sidecar.inbound).await?;
    let ask = "GET /bytes/1 HTTP/1.1\r\nHost: app\r\n\r\n";
    kept.send(ask).await?;
    let head = kept.until("\r\n\r\nx").await?.to_lowercase();
    ensure!(!head.contains("connection: close"), "{head}");
    assert_eq!(sidecar.readiness().await?, 200);
    sidecar.drain().await?;
    assert_eq!(sidecar.readiness().await?, 503);
    // An idle kept connection is either closed at once or at its next answer.
    if kept.send(ask).await.is_ok() {
        let answer = kept.rest().await?.to_lowercase();
        ensure!(answer.is_empty() || answer.contains("connection: close"), "{answer}");
    }
    // Endpoints propagate slowly: who still comes is served, inbound and outbound.
    for _ in 0..3 {
        let mut late = Wire::connect(sidecar.inbound).await?;
        late.send(ask).await?;
        let answer = late.rest().await?.to_lowercase();
        ensure!(answer.starts_with("http/1.1 200 ") && answer.contains("connection: close"), "{answer}");
    }
    sidecar.app().get("http://app/").send().await?.expect(200)?;
    let live = Client::http1(sidecar.admin).get("http://admin/live").send().await?;
    live.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn http_2_clients_are_told_to_go() -> Result<()> {
    let (_mesh, app, sidecar) = meshed().await?;
    let stream = TcpStream::connect(sidecar.inbound).await?;
    let (mut requests, connection) = hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(
        TokioExecutor::new(),
        TokioIo::new(stream),
    )
    .await?;
    let connection = task::spawn(connection);
    let request = Request::get("http://app/delay/700").body(Empty::new())?;
    let answer = requests.send_request(request);
    let drain = async {
        in_flight(&app, 1).await?;
        sidecar.drain().await
    };
    let (answer, drain) = tokio::join!(answer, drain);
    drain?;
    let answer = answer.context("the request in flight was not finished")?;
    assert_eq!(answer.status(), 200);
    answer.into_body().collect().await?;
    let closed = tokio::time::timeout(Duration::from_secs(5), connection.join()).await;
    closed.context("no GOAWAY: the connection is still open")???;
    Ok(())
}

#[tokio::test]
async fn an_upgraded_connection_ends_with_the_drain() -> Result<()> {
    let (mesh, _app, _unused) = meshed().await?;
    let mut caller = mesh.sidecar("caller")?.arg("--drain-timeout", "1s").start().await?;
    let mut wire = Wire::connect(caller.outbound).await?;
    wire.send("GET /chat HTTP/1.1\r\nHost: app\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").await?;
    ensure!(wire.head().await?.starts_with("HTTP/1.1 101 "));
    caller.process.terminate()?;
    caller.process.ended(Duration::from_secs(5)).await?;
    assert_eq!(wire.rest().await?, "");
    Ok(())
}
