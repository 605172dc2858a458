//! Interim responses on HTTP/2 legs, and trailers for HTTP/1 clients.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use pillion_tests::{Client, Instance, Mesh, Sidecar, Wire, wire};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Serves HTTP/2 requests: a hint, then `ok` with a trailer nobody has announced.
async fn hinting(stream: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut answers = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                answers.push(answer(request, respond));
            }
            Some(()) = answers.next() => {}
        }
    }
}

async fn answer(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let hint = Response::builder().status(StatusCode::EARLY_HINTS).header("link", "</a.css>; rel=preload");
    let hinted = hint.body(()).map(|hint| respond.send_informational(hint));
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    if !matches!(hinted, Ok(Ok(()))) {
        return;
    }
    let Ok(mut stream) = respond.send_response(Response::new(()), false) else { return };
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    let _ = stream.send_data(Bytes::from_static(b"ok"), false);
    let _ = stream.send_trailers(trailers);
}

async fn hinting_mesh() -> Result<(Mesh, Sidecar, Instance)> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve_raw("app", hinting).await?;
    mesh.policy.service_speaking("app", "http2")?;
    let (sidecar, _client) = mesh.caller().await?;
    Ok((mesh, sidecar, app))
}

#[tokio::test]
async fn hints_of_an_http2_app_reach_http1_clients() -> Result<()> {
    let (_mesh, sidecar, _app) = hinting_mesh().await?;
    let mut wire = Wire::connect(sidecar.outbound).await?;
    for _ in 0..3 {
        wire.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await?;
        let interim = wire.head().await?;
        ensure!(interim.starts_with("HTTP/1.1 103 ") && interim.contains("</a.css>"), "{interim}");
        let head = wire.head().await?;
        ensure!(head.starts_with("HTTP/1.1 200 ") && !head.contains("x-sum"), "{head}");
        // The trailer was not announced, so that an HTTP/1 response cannot carry it.
        assert_eq!(wire.until("0\r\n\r\n").await?, "2\r\nok\r\n0\r\n\r\n");
    }
    Ok(())
}

#[tokio::test]
async fn hints_do_not_disturb_http2_clients() -> Result<()> {
    let (_mesh, sidecar, _app) = hinting_mesh().await?;
    let client = Client::http2(sidecar.outbound);
    for _ in 0..3 {
        let reply = client.post("http://app/").body("data").send().await?.expect(200)?;
        assert_eq!((reply.text().as_str(), reply.trailer("x-sum")), ("ok", "7"));
    }
    Ok(())
}

#[tokio::test]
async fn expect_continue_does_not_stall_on_http2_legs() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    mesh.policy.service_speaking("app", "http2")?;
    let (_behind, _sidecar) = mesh.serve_meshed("behind", "v1").await?;
    let (sidecar, _client) = mesh.caller().await?;
    for host in ["app", "behind"] {
        let begun = Instant::now();
        let mut wire = Wire::connect(sidecar.outbound).await?;
        wire.send(format!(
            "POST /echo HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        ))
        .await?;
        let interim = wire.head().await?;
        ensure!(interim.starts_with("HTTP/1.1 100 "), "{host}: {interim}");
        wire.send("hello").await?;
        ensure!(wire.head().await?.starts_with("HTTP/1.1 200 "));
        wire.until("\"body\":\"hello\"").await?;
        let client = sidecar.app_http2().post(&format!("http://{host}/echo"));
        let reply = client.header("expect", "100-continue").body("hello").send().await?.expect(200)?;
        assert_eq!(reply.json()?["body"], "hello");
        let took = begun.elapsed();
        ensure!(took < Duration::from_secs(5), "{host} took {took:?}");
    }
    Ok(())
}

#[tokio::test]
async fn trailers_go_to_http1_clients_that_accept_them() -> Result<()> {
    const ANNOUNCED: &str = "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                             2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n";
    let unannounced = ANNOUNCED.replace("Trailer: x-sum\r\n", "");
    for (response, te, wanted) in [
        (ANNOUNCED, "TE: trailers\r\nConnection: te\r\n", "2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n"),
        (ANNOUNCED, "", "2\r\nok\r\n0\r\n\r\n"),
        (&unannounced, "TE: trailers\r\nConnection: te\r\n", "2\r\nok\r\n0\r\n\r\n"),
    ] {
        let mut mesh = Mesh::new()?;
        let (handle, _heads) = wire::canned(response);
        let _app = mesh.serve_raw("app", handle).await?;
        let (sidecar, _client) = mesh.caller().await?;
        let mut wire = Wire::connect(sidecar.outbound).await?;
        for _ in 0..3 {
            wire.send(format!("GET / HTTP/1.1\r\nHost: app\r\n{te}\r\n")).await?;
            ensure!(wire.head().await?.starts_with("HTTP/1.1 200 "));
            assert_eq!(wire.until(wanted).await?, wanted, "with {te:?}");
        }
    }
    Ok(())
}
