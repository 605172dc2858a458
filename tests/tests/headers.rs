//! Header hygiene: hop-by-hop headers, request ids, forwarding, sizes.

use anyhow::{Context, Result, ensure};
use http::Method;
use pillion_tests::{Client, Instance, Mesh, Sidecar, Wire, wire};

async fn mesh() -> Result<(Mesh, Sidecar, Client, Instance)> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    let (sidecar, client) = mesh.caller().await?;
    Ok((mesh, sidecar, client, app))
}

#[tokio::test]
async fn hop_by_hop_request_headers_stay_on_their_hop() -> Result<()> {
    let (_mesh, sidecar, _client, _app) = mesh().await?;
    let mut wire = Wire::connect(sidecar.outbound).await?;
    wire.send(
        "GET /echo HTTP/1.1\r\nHost: app\r\nConnection: close, X-Secret, x-OTHER\r\nX-Secret: 1\r\nX-Other: 2\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip, trailers\r\nX-Kept: 3\r\n\r\n",
    )
    .await?;
    let answer = wire.rest().await?.to_lowercase();
    for gone in ["x-secret", "x-other", "[\"keep-alive\"", "proxy-connection", "gzip"] {
        ensure!(!answer.contains(gone), "{gone} reached the app: {answer}");
    }
    ensure!(answer.contains("[\"x-kept\",\"3\"]"), "{answer}");
    ensure!(answer.contains("[\"te\",\"trailers\"]"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn hop_by_hop_response_headers_stay_on_their_hop() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (handle, _heads) = wire::canned(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-internal\r\nX-Internal: 1\r\nKeep-Alive: timeout=9\r\n\
         Proxy-Connection: keep-alive\r\nX-Kept: 3\r\n\r\nok",
    );
    let _app = mesh.serve_raw("app", handle).await?;
    let (sidecar, client) = mesh.caller().await?;
    for client in [client, sidecar.app_http2()] {
        let reply = client.get("http://app/").send().await?.expect(200)?;
        for gone in ["x-internal", "keep-alive", "proxy-connection", "connection"] {
            ensure!(!reply.headers.contains_key(gone), "{gone} reached the client: {:?}", reply.headers);
        }
        assert_eq!((reply.header("x-kept"), reply.text().as_str()), ("3", "ok"));
    }
    Ok(())
}

#[tokio::test]
async fn a_request_id_is_kept_or_made() -> Result<()> {
    let (_mesh, _sidecar, client, _app) = mesh().await?;
    let reply = client.get("http://app/echo").header("x-request-id", "my-own-1").send().await?;
    assert_eq!(reply.received("x-request-id")?, ["my-own-1"]);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let reply = client.get("http://app/echo").send().await?;
        let id = reply.received("x-request-id")?.pop().context("no request id")?;
        // A UUID of version 4.
        let parts: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
        ensure!(
            id.chars().nth(14) == Some('4') && id.chars().nth(19).is_some_and(|c| "89ab".contains(c)),
            "{id}"
        );
        seen.push(id);
    }
    assert_ne!(seen[0], seen[1]);
    Ok(())
}

#[tokio::test]
async fn end_to_end_headers_pass_untouched() -> Result<()> {
    let (_mesh, _sidecar, client, _app) = mesh().await?;
    let call = client
        .get("http://app:80/echo?q=%20a&b")
        .header("x-forwarded-for", "10.0.0.1")
        .header("cookie", "a=b");
    let reply =
        call.header("x-multi", "1").header("x-multi", "2").header("authorization", "Bearer x").send().await?;
    assert_eq!(reply.received("x-forwarded-for")?, ["10.0.0.1"]);
    assert_eq!(reply.received("x-multi")?, ["1", "2"]);
    assert_eq!(reply.received("cookie")?, ["a=b"]);
    assert_eq!(reply.received("authorization")?, ["Bearer x"]);
    assert_eq!(reply.received("host")?.len(), 1);
    ensure!(reply.received("host")?[0].starts_with("app"), "{}", reply.text());
    assert_eq!(reply.json()?["path"], "/echo?q=%20a&b");
    Ok(())
}

#[tokio::test]
async fn sixty_kibibytes_of_headers_pass_both_ways() -> Result<()> {
    let large = "x".repeat(60 * 1024);
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    let (handle, _heads) =
        wire::canned(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Large: {large}\r\n\r\n"));
    let _raw = mesh.serve_raw("raw", handle).await?;
    let (sidecar, client) = mesh.caller().await?;
    for client in [client, sidecar.app_http2()] {
        let reply = client.get("http://app/echo").header("x-large", &large).send().await?.expect(200)?;
        assert_eq!(reply.received("x-large")?[0].len(), large.len());
        let reply = client.get("http://raw/").send().await?.expect(200)?;
        assert_eq!(reply.header("x-large").len(), large.len());
    }
    Ok(())
}

#[tokio::test]
async fn more_than_64_kibibytes_of_headers_are_refused() -> Result<()> {
    let large = "x".repeat(70 * 1024);
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    let (handle, _heads) =
        wire::canned(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Large: {large}\r\n\r\n"));
    let _raw = mesh.serve_raw("raw", handle).await?;
    let (sidecar, client) = mesh.caller().await?;
    let request = format!("GET / HTTP/1.1\r\nHost: app\r\nX-Large: {large}\r\n\r\n");
    let answer = wire::exchange(sidecar.outbound, request).await?;
    ensure!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    assert_eq!(app.stats()?.requests(), 0);
    let reply = client.get("http://raw/").send().await?.expect(502)?;
    ensure!(!reply.flag().is_empty(), "{:?}", reply.headers);
    client.get("http://app/").send().await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn two_hundred_headers_pass_and_three_hundred_do_not() -> Result<()> {
    let (_mesh, sidecar, _client, app) = mesh().await?;
    let request = |count: usize| {
        let headers: String = (0..count).map(|n| format!("X-N{n}: v\r\n")).collect();
        format!("GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n{headers}\r\n")
    };
    let answer = wire::exchange(sidecar.outbound, request(200)).await?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    let answer = wire::exchange(sidecar.outbound, request(300)).await?;
    ensure!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    assert_eq!(app.stats()?.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn paths_are_normalized() -> Result<()> {
    let (_mesh, sidecar, _client, _app) = mesh().await?;
    for (sent, received) in [
        ("/a/../echo", "/echo"),
        ("/./echo/./x", "/echo/x"),
        ("/a/%2e%2e/echo", "/echo"),
        ("/echo\\x", "/echo/x"),
        ("/echo%2Fx", "/echo%2Fx"),
        ("/echo/%7Ex?a=../b", "/echo/~x?a=../b"),
        ("/../../echo", "/echo"),
    ] {
        let request = format!("GET {sent} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n");
        let answer = wire::exchange(sidecar.outbound, request).await?;
        ensure!(answer.contains(&format!("\"path\":\"{received}\"")), "{sent}: {answer}");
    }
    Ok(())
}

#[tokio::test]
async fn an_absolute_form_target_names_the_service() -> Result<()> {
    let (_mesh, sidecar, _client, _app) = mesh().await?;
    let request = "GET http://app/echo?a=b HTTP/1.1\r\nHost: elsewhere\r\nConnection: close\r\n\r\n";
    let answer = wire::exchange(sidecar.outbound, request).await?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    ensure!(answer.contains("\"path\":\"/echo?a=b\"") && answer.contains("[\"host\",\"app\"]"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn connect_to_nobody_is_not_allowed() -> Result<()> {
    let (_mesh, sidecar, _client, _app) = mesh().await?;
    let mut wire = Wire::connect(sidecar.outbound).await?;
    wire.send("CONNECT nowhere:443 HTTP/1.1\r\nHost: nowhere:443\r\n\r\n").await?;
    let answer = wire.head().await?;
    ensure!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    Ok(())
}

#[tokio::test]
async fn responses_that_have_no_body_have_none() -> Result<()> {
    let (_mesh, sidecar, client, _app) = mesh().await?;
    let mut wire = Wire::connect(sidecar.outbound).await?;
    for (request, status) in [
        ("HEAD /bytes/100", "200"),
        ("GET /status/204", "204"),
        ("GET /status/304", "304"),
        ("GET /bytes/3", "200"),
    ] {
        wire.send(format!("{request} HTTP/1.1\r\nHost: app\r\n\r\n")).await?;
        // A stray body would stand before the next head.
        let head = wire.head().await?;
        ensure!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}");
    }
    wire.until("xxx").await?;
    let reply = client.request(Method::HEAD, "http://app/bytes/100").send().await?.expect(200)?;
    assert_eq!((reply.header("content-length"), reply.body.len()), ("100", 0));
    Ok(())
}
