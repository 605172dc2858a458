//! gRPC: streams both ways, status in trailers, and answers of our own that a gRPC caller understands.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use pillion_tests::{Client, Mesh, Reply, body};

const CHAT: &str = "http://chat/shop.Chat/Talk";

async fn next(body: &mut Incoming) -> Result<Bytes> {
    let frame = body.frame().await.context("the stream ended")??;
    frame.into_data().ok().context("trailers came before the message")
}

/// Sends messages one by one, each after the answer to the one before, then reads the status.
async fn talk(client: &Client) -> Result<()> {
    let (sender, body) = body::channel();
    sender.send(Ok(Frame::data(Bytes::from_static(b"one")))).await?;
    let call = client.post(CHAT).header("content-type", "application/grpc").header("te", "trailers");
    let rsp = call.streaming(body).open().await?;
    ensure!(rsp.status() == 200, "{}", rsp.status());
    let mut answers = rsp.into_body();
    assert_eq!(next(&mut answers).await?, "one");
    for message in ["two", "three"] {
        sender.send(Ok(Frame::data(Bytes::from_static(message.as_bytes())))).await?;
        assert_eq!(next(&mut answers).await?, message);
    }
    drop(sender);
    let last = answers.collect().await?;
    let trailers = last.trailers().context("no trailers")?;
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["grpc-message"], "done");
    Ok(())
}

fn unary(client: &Client, url: &str) -> impl Future<Output = Result<Reply>> + use<> {
    client
        .post(url)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body("message")
        .send()
}

/// The gRPC status, in the headers of a trailers-only answer or in the trailers.
fn status(reply: &Reply) -> &str {
    if reply.header("grpc-status").is_empty() {
        reply.trailer("grpc-status")
    } else {
        reply.header("grpc-status")
    }
}

#[tokio::test]
async fn both_sides_stream_through_one_sidecar() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("chat", "v1").await?;
    mesh.policy.service_speaking("chat", "grpc")?;
    let (sidecar, _client) = mesh.caller().await?;
    talk(&sidecar.app_http2()).await
}

#[tokio::test]
async fn both_sides_stream_through_two_sidecars() -> Result<()> {
    let mut mesh = Mesh::new()?;
    mesh.policy.service_speaking("chat", "grpc")?;
    let (_app, _sidecar) = mesh.serve_meshed("chat", "v1").await?;
    let (caller, _client) = mesh.caller().await?;
    talk(&caller.app_http2()).await
}

#[tokio::test]
async fn the_app_s_status_arrives() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("chat", "v1").await?;
    mesh.policy.service_speaking("chat", "grpc")?;
    let (sidecar, _client) = mesh.caller().await?;
    let call =
        sidecar.app_http2().post(CHAT).header("content-type", "application/grpc").header("te", "trailers");
    let reply = call.header("x-want-status", "7").body("message").send().await?.expect(200)?;
    assert_eq!((reply.text().as_str(), reply.trailer("grpc-status")), ("message", "7"));
    ensure!(reply.flag().is_empty(), "an answer of the app is marked as ours");
    Ok(())
}

#[tokio::test]
async fn our_own_answers_are_grpc_answers() -> Result<()> {
    let mut mesh = Mesh::new()?;
    mesh.policy.service("empty")?;
    mesh.serve_nothing("refusing", "v1")?;
    let _slow = mesh.serve("slow", "v1").await?;
    mesh.policy.routes("slow", "- timeout: 200ms\n  route: [{destination: {host: slow}}]")?;
    let _known = mesh.serve("known", "v1").await?;
    mesh.policy
        .routes("known", "- match: [{uri: {prefix: /only.This}}]\n  route: [{destination: {host: known}}]")?;
    let (sidecar, _client) = mesh.caller().await?;
    let client = sidecar.app_http2();
    for (url, flag, expected) in [
        ("http://empty/a.B/C", "UH", &["14"][..]),
        ("http://refusing/a.B/C", "UF", &["14"]),
        ("http://known/a.B/C", "NR", &["5", "12"]),
    ] {
        let reply = unary(&client, url).await?.expect(200)?;
        ensure!(reply.flag() == flag, "{url}: {:?}", reply.headers);
        ensure!(expected.contains(&status(&reply)), "{url}: grpc-status {}", status(&reply));
        assert_eq!(reply.header("content-type"), "application/grpc");
    }
    // The sample service answers a gRPC stream only as long as the stream goes on: it never ends here.
    let (sender, body) = body::channel();
    let call =
        client.post("http://slow/a.B/C").header("content-type", "application/grpc").header("te", "trailers");
    let reply = call.streaming(body).send().await;
    drop(sender);
    if let Ok(reply) = reply {
        assert_eq!(status(&reply), "4", "a timed out call: {:?}", reply.headers);
    }
    Ok(())
}

#[tokio::test]
async fn the_caller_s_deadline_is_kept() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("chat", "v1").await?;
    app.app()?.faults().set_delay(std::time::Duration::from_secs(30));
    mesh.policy.service_speaking("chat", "grpc")?;
    let (sidecar, _client) = mesh.caller().await?;
    let call =
        sidecar.app_http2().post(CHAT).header("content-type", "application/grpc").header("te", "trailers");
    let reply = call.header("grpc-timeout", "200m").body("message").send().await?.expect(200)?;
    assert_eq!((status(&reply), reply.flag()), ("4", "UT"));
    Ok(())
}
