//! The parts of an exchange beside its head: Expect, interim responses, trailers, large and slow bodies.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::BodyExt;
use pillion_tests::{Client, Instance, Mesh, Sidecar, Wire, body, eventually, wire};

async fn mesh() -> Result<(Mesh, Sidecar, Client, Instance)> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    let (sidecar, client) = mesh.caller().await?;
    Ok((mesh, sidecar, client, app))
}

#[tokio::test]
async fn expect_continue_is_answered_by_the_app() -> Result<()> {
    let (_mesh, sidecar, _client, _app) = mesh().await?;
    let mut wire = Wire::connect(sidecar.outbound).await?;
    wire.send("POST /echo HTTP/1.1\r\nHost: app\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        .await?;
    let interim = wire.head().await?;
    ensure!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
    wire.send("hello").await?;
    ensure!(wire.head().await?.starts_with("HTTP/1.1 200 "));
    wire.until("\"body\":\"hello\"").await?;
    Ok(())
}

#[tokio::test]
async fn an_app_may_refuse_before_the_body() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (handle, mut heads) = wire::canned("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n");
    let _app = mesh.serve_raw("app", handle).await?;
    let (sidecar, _client) = mesh.caller().await?;
    let mut wire = Wire::connect(sidecar.outbound).await?;
    wire.send("POST / HTTP/1.1\r\nHost: app\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await?;
    let answer = wire.head().await?;
    ensure!(answer.starts_with("HTTP/1.1 417 "), "{answer}");
    let head = heads.recv().await.unwrap_or_default().to_lowercase();
    ensure!(head.contains("expect: 100-continue"), "Expect was not handed on: {head}");
    Ok(())
}

#[tokio::test]
async fn interim_responses_are_handed_on() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (handle, _heads) = wire::canned(
        "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    let _app = mesh.serve_raw("app", handle).await?;
    let (sidecar, _client) = mesh.caller().await?;
    let mut wire = Wire::connect(sidecar.outbound).await?;
    wire.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await?;
    let interim = wire.head().await?;
    ensure!(interim.starts_with("HTTP/1.1 103 ") && interim.contains("</style.css>"), "{interim}");
    ensure!(wire.head().await?.starts_with("HTTP/1.1 200 "));
    wire.until("ok").await?;
    Ok(())
}

#[tokio::test]
async fn trailers_pass_both_ways() -> Result<()> {
    let (_mesh, sidecar, client, _app) = mesh().await?;
    for client in [client, sidecar.app_http2()] {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        let body = body::chunked(vec![Bytes::from_static(b"data")], Some(trailers));
        let call = client.post("http://app/trailers").header("te", "trailers").header("trailer", "x-sum");
        let reply = call.streaming(body).send().await?.expect(200)?;
        assert_eq!((reply.trailer("x-checksum"), reply.trailer("echo-x-sum")), ("abc123", "7"));
    }
    Ok(())
}

#[tokio::test]
async fn trailers_pass_two_sidecars() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (_app, _sidecar) = mesh.serve_meshed("app", "v1").await?;
    let (caller, client) = mesh.caller().await?;
    for client in [client, caller.app_http2()] {
        let call = client.post("http://app/trailers").header("te", "trailers");
        let reply = call.body("data").send().await?.expect(200)?;
        assert_eq!(reply.trailer("x-checksum"), "abc123");
    }
    Ok(())
}

#[tokio::test]
async fn large_bodies_pass_both_ways() -> Result<()> {
    const SIZE: usize = 20 * 1024 * 1024;
    let (_mesh, sidecar, client, _app) = mesh().await?;
    for client in [client, sidecar.app_http2()] {
        let reply = client.post("http://app/upload").body(vec![b'x'; SIZE]).send().await?.expect(200)?;
        assert_eq!(reply.json()?["received"], SIZE);
        let reply = client.get(&format!("http://app/bytes/{SIZE}")).send().await?.expect(200)?;
        assert_eq!(reply.body.len(), SIZE);
    }
    Ok(())
}

#[tokio::test]
async fn bodies_are_streamed_not_collected() -> Result<()> {
    let (_mesh, sidecar, client, _app) = mesh().await?;
    for client in [client, sidecar.app_http2()] {
        let rsp = client.get("http://app/stream/300").open().await?;
        let mut body = rsp.into_body();
        let first =
            body.frame().await.transpose()?.and_then(|frame| frame.into_data().ok()).unwrap_or_default();
        // All 300 lines take three seconds; the first is here while the rest is still to come.
        ensure!(first.starts_with(b"line 0") && first.len() < 2000, "{} bytes at once", first.len());
    }
    Ok(())
}

#[tokio::test]
async fn a_request_body_is_handed_on_as_it_comes() -> Result<()> {
    let (_mesh, _sidecar, client, app) = mesh().await?;
    let (sender, body) = body::channel();
    let answer = client.post("http://app/upload").streaming(body).send();
    let feed = async {
        sender.send(Ok(Frame::data(Bytes::from_static(b"first ")))).await?;
        eventually("the request has reached the app before it is complete", || async {
            ensure!(app.stats()?.in_flight() == 1, "not yet");
            Ok(())
        })
        .await?;
        sender.send(Ok(Frame::data(Bytes::from_static(b"second")))).await?;
        drop(sender);
        anyhow::Ok(())
    };
    let (answer, fed) = tokio::join!(answer, feed);
    fed?;
    assert_eq!(answer?.expect(200)?.json()?["received"], 12);
    Ok(())
}

#[tokio::test]
async fn a_client_that_goes_away_frees_the_app() -> Result<()> {
    let (_mesh, sidecar, _client, app) = mesh().await?;
    let mut wire = Wire::connect(sidecar.outbound).await?;
    wire.send("GET /delay/60000 HTTP/1.1\r\nHost: app\r\n\r\n").await?;
    let in_flight = |wanted: u64| {
        let app = &app;
        eventually("requests in flight", move || async move {
            let found = app.stats()?.in_flight();
            ensure!(found == wanted, "{found} in flight, not {wanted}");
            Ok(())
        })
    };
    in_flight(1).await?;
    drop(wire);
    in_flight(0).await
}

#[tokio::test]
async fn an_app_that_breaks_off_is_not_taken_for_done() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let handle = |stream| async move {
        let mut wire = Wire::accepted(stream);
        let _ = wire.head().await;
        let _ = wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this").await;
    };
    let _app = mesh.serve_raw("app", handle).await?;
    let (sidecar, client) = mesh.caller().await?;
    for client in [client, sidecar.app_http2()] {
        let reply = client.get("http://app/").limit(Duration::from_secs(5)).send().await;
        ensure!(reply.is_err(), "a cut response was handed on as whole: {reply:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_only_itself() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    mesh.policy.service_speaking("app", "http2")?;
    let (sidecar, _client) = mesh.caller().await?;
    let mut unread = Vec::new();
    for _ in 0..4 {
        // A connection each: their windows are their own matter.
        unread.push(sidecar.app_http2().get("http://app/bytes/100000000").open().await?);
    }
    let client = sidecar.app_http2();
    for _ in 0..20 {
        let reply =
            client.get("http://app/bytes/20000").limit(Duration::from_secs(5)).send().await?.expect(200)?;
        assert_eq!(reply.body.len(), 20_000);
    }
    // What is not read is not kept either.
    let memory = sidecar.process.memory_kib()?;
    ensure!(memory < 100 * 1024, "{memory} KiB while 400 MB wait to be read");
    drop(unread);
    Ok(())
}
