//! HTTP/1.0, HTTP/1.1 and HTTP/2 with prior knowledge, on either side.

use anyhow::{Result, ensure};
use http::Version;
use pillion_tests::{Mesh, Sidecar, Wire, burst, wire};

async fn mesh() -> Result<(Mesh, Sidecar, pillion_tests::Instance)> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    let (sidecar, _client) = mesh.caller().await?;
    Ok((mesh, sidecar, app))
}

#[tokio::test]
async fn http_1_0_is_served_and_closed() -> Result<()> {
    let (_mesh, sidecar, _app) = mesh().await?;
    let answer = wire::exchange(sidecar.outbound, "GET /echo HTTP/1.0\r\nHost: app\r\n\r\n").await?;
    ensure!(answer.starts_with("HTTP/1.") && answer.contains(" 200 "), "{answer}");
    ensure!(answer.contains("\"path\":\"/echo\""), "{answer}");
    Ok(())
}

#[tokio::test]
async fn http_1_0_may_keep_its_connection() -> Result<()> {
    let (_mesh, sidecar, _app) = mesh().await?;
    let mut wire = Wire::connect(sidecar.outbound).await?;
    for _ in 0..2 {
        wire.send("GET /bytes/3 HTTP/1.0\r\nHost: app\r\nConnection: keep-alive\r\n\r\n").await?;
        let head = wire.head().await?.to_lowercase();
        ensure!(head.contains("connection: keep-alive"), "{head}");
        wire.until("xxx").await?;
    }
    Ok(())
}

#[tokio::test]
async fn http_1_0_gets_no_chunks_and_no_trailers() -> Result<()> {
    let (_mesh, sidecar, _app) = mesh().await?;
    let answer = wire::exchange(sidecar.outbound, "GET /stream/2 HTTP/1.0\r\nHost: app\r\n\r\n").await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    ensure!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
    assert_eq!(body, "line 0\nline 1\n");
    let answer = wire::exchange(sidecar.outbound, "GET /trailers HTTP/1.0\r\nHost: app\r\n\r\n").await?;
    ensure!(answer.ends_with("a body, then trailers\n"), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn a_connection_serves_many_requests_in_order() -> Result<()> {
    let (_mesh, sidecar, _app) = mesh().await?;
    let mut wire = Wire::connect(sidecar.outbound).await?;
    // All three at once: pipelined.
    wire.send("GET /bytes/1 HTTP/1.1\r\nHost: app\r\n\r\nGET /bytes/2 HTTP/1.1\r\nHost: app\r\n\r\n").await?;
    wire.send("GET /bytes/3 HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n").await?;
    let answer = wire.rest().await?.to_lowercase();
    let lengths: Vec<&str> =
        answer.lines().filter_map(|line| line.strip_prefix("content-length: ")).collect();
    assert_eq!(lengths, ["1", "2", "3"]);
    Ok(())
}

#[tokio::test]
async fn http_2_clients_reach_http_1_apps() -> Result<()> {
    let (_mesh, sidecar, _app) = mesh().await?;
    let reply = sidecar.app_http2().post("http://app/echo").body("hello").send().await?.expect(200)?;
    assert_eq!(reply.version, Version::HTTP_2);
    assert_eq!(reply.json()?["version"], "HTTP/1.1");
    assert_eq!(reply.json()?["body"], "hello");
    assert_eq!(reply.received("host")?, ["app"]);
    Ok(())
}

#[tokio::test]
async fn a_service_that_speaks_http_2_is_called_so() -> Result<()> {
    for name in ["http2", "grpc", "http2-api"] {
        let mut mesh = Mesh::new()?;
        let app = mesh.serve("app", "v1").await?;
        mesh.policy.service_speaking("app", name)?;
        let (sidecar, client) = mesh.caller().await?;
        for client in [&client, &sidecar.app_http2()] {
            let reply = client.get("http://app/echo").send().await?.expect(200)?;
            assert_eq!(reply.json()?["version"], "HTTP/2.0", "port named {name}");
            assert_eq!(reply.json()?["authority"], "app");
        }
        let report = burst(200, 20, || client.get("http://app/").send()).await;
        report.expect_no_failure()?;
        ensure!(
            app.stats()?.connections() <= 4,
            "{} connections for 202 requests",
            app.stats()?.connections()
        );
    }
    Ok(())
}

#[tokio::test]
async fn app_protocol_tells_the_protocol_too() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    let yaml = pillion_tests::policy::service("app")
        .replace("port: 80\n", "port: 80\n    appProtocol: kubernetes.io/h2c\n");
    mesh.policy.apply("service-app", &yaml)?;
    let (_sidecar, client) = mesh.caller().await?;
    let reply = client.get("http://app/echo").send().await?.expect(200)?;
    assert_eq!(reply.json()?["version"], "HTTP/2.0");
    Ok(())
}

#[tokio::test]
async fn many_streams_of_one_connection_run_at_once() -> Result<()> {
    let (_mesh, sidecar, app) = mesh().await?;
    let client = sidecar.app_http2();
    client.get("http://app/").send().await?;
    let report = burst(60, 60, || client.get("http://app/delay/300").send()).await;
    report.expect_no_failure()?;
    ensure!(app.stats()?.in_flight_peak() >= 40, "only {} at once", app.stats()?.in_flight_peak());
    Ok(())
}

#[tokio::test]
async fn upstream_connections_are_reused() -> Result<()> {
    let (_mesh, sidecar, app) = mesh().await?;
    let client = sidecar.app();
    for _ in 0..50 {
        client.get("http://app/").send().await?.expect(200)?;
    }
    ensure!(
        app.stats()?.connections() <= 2,
        "{} connections for 50 requests in a row",
        app.stats()?.connections()
    );
    Ok(())
}
