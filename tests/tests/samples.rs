//! The sample services themselves: what they answer without any proxy in between.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use pillion_tests::{Client, Instance, Process, Wire, address, body, eventually, process};
use std::time::Duration;

async fn service() -> Result<(Instance, Client)> {
    let address = address::unused_at(3000)?;
    let instance = Instance::sample("order-service", "v2", "order-0", address).await?;
    let client = Client::http1(address);
    Ok((instance, client))
}

#[tokio::test]
async fn says_who_it_is_and_what_it_received() -> Result<()> {
    let (_instance, client) = service().await?;
    let reply = client.get("http://order-service/").send().await?.expect(200)?;
    assert_eq!(reply.json()?["version"], "v2");
    assert_eq!(reply.header("x-instance"), "order-0");
    let reply = client.post("http://order-service/echo?a=b").header("k", "v").body("hello").send().await?;
    let echo = reply.json()?;
    assert_eq!((echo["path"].as_str(), echo["body"].as_str()), (Some("/echo?a=b"), Some("hello")));
    assert_eq!(reply.received("host")?, ["order-service"]);
    assert_eq!(reply.received("k")?, ["v"]);
    Ok(())
}

#[tokio::test]
async fn answers_as_asked() -> Result<()> {
    let (instance, client) = service().await?;
    client.get("http://x/status/418").send().await?.expect(418)?;
    assert_eq!(client.get("http://x/bytes/200000").send().await?.body.len(), 200_000);
    assert_eq!(client.get("http://x/stream/3").send().await?.text(), "line 0\nline 1\nline 2\n");
    client.post("http://x/admin").body(r#"{"fail_percent": 100}"#).send().await?.expect(200)?;
    client.get("http://x/").send().await?.expect(500)?;
    client.get("http://x/health").send().await?.expect(200)?;
    client.post("http://x/admin").body(r#"{"fail": 1}"#).send().await?.expect(400)?;
    assert_eq!(instance.stats()?.requests(), 4);
    Ok(())
}

#[tokio::test]
async fn sends_trailers_and_grpc_streams() -> Result<()> {
    let (instance, client) = service().await?;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    let http2 = Client::http2(instance.address);
    for client in [&client, &http2] {
        let body = body::chunked(vec![Bytes::from_static(b"data")], Some(trailers.clone()));
        let call = client.post("http://x/trailers").header("te", "trailers").header("trailer", "x-sum");
        let reply = call.streaming(body).send().await?.expect(200)?;
        assert_eq!((reply.trailer("x-checksum"), reply.trailer("echo-x-sum")), ("abc123", "7"));
    }
    let call = http2.post("http://x/shop.Echo/Chat").header("content-type", "application/grpc");
    let reply = call.body("frame").send().await?;
    assert_eq!((reply.text().as_str(), reply.trailer("grpc-status")), ("frame", "0"));
    Ok(())
}

#[tokio::test]
async fn switches_protocols() -> Result<()> {
    let (instance, _client) = service().await?;
    let mut wire = Wire::connect(instance.address).await?;
    wire.send("GET /chat HTTP/1.1\r\nhost: x\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\nearly").await?;
    assert!(wire.head().await?.starts_with("HTTP/1.1 101"));
    wire.send("hello").await?;
    wire.until("earlyhello").await?;
    wire.finish().await?;
    assert_eq!(wire.rest().await?, "");
    Ok(())
}

#[tokio::test]
async fn finishes_what_is_in_flight_on_sigterm() -> Result<()> {
    let address = address::unused_at(3000)?;
    let args = ["serve", "--role", "payment", "--listen", &address.to_string()].map(str::to_owned);
    let mut process = Process::start("payment", "shop", &args)?;
    let client = Client::http1(address);
    eventually("health", || async { client.get("http://x/health").send().await }).await?;
    let slow = client.get("http://x/delay/700").send();
    let stop = async {
        eventually("the request is in flight", || async {
            let state = client.get("http://x/admin").send().await?.json()?;
            ensure!(state["in_flight"] == 1, "{state}");
            Ok(())
        })
        .await?;
        process.stop(Duration::from_secs(5)).await
    };
    let (slow, stop) = tokio::join!(slow, stop);
    slow?.expect(200)?;
    stop
}

#[tokio::test]
async fn a_busy_port_is_one_line_and_exit_code_1() -> Result<()> {
    let (instance, _client) = service().await?;
    let address = instance.address.to_string();
    let (status, _, stderr) =
        process::run("shop", &["serve", "--role", "user", "--listen", &address]).await?;
    assert_eq!(status.code(), Some(1));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr.contains(&address).then_some(()).context("the address is not named")
}
