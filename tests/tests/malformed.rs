//! Malformed HTTP is answered 400, the connection is closed, and nothing of it reaches an app.

use anyhow::{Result, ensure};
use pillion_tests::{Instance, Mesh, Sidecar, Wire, wire};

async fn mesh() -> Result<(Mesh, Sidecar, Instance)> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    let (sidecar, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    Ok((mesh, sidecar, app))
}

const REFUSED: [(&str, &str); 20] = [
    ("no request line", "garbage\r\n\r\n"),
    ("no version", "GET /\r\nHost: app\r\n\r\n"),
    ("a version of no HTTP", "GET / HTTP/7.3\r\nHost: app\r\n\r\n"),
    ("a method with a bad character", "G(T / HTTP/1.1\r\nHost: app\r\n\r\n"),
    ("no Host", "GET / HTTP/1.1\r\n\r\n"),
    ("two Hosts", "GET / HTTP/1.1\r\nHost: app\r\nHost: app\r\n\r\n"),
    ("a Host with a space", "GET / HTTP/1.1\r\nHost: ap p\r\n\r\n"),
    ("a Host with a path", "GET / HTTP/1.1\r\nHost: app/x\r\n\r\n"),
    ("a space before the colon", "GET / HTTP/1.1\r\nHost: app\r\nX-A : b\r\n\r\n"),
    ("a space in a name", "GET / HTTP/1.1\r\nHost: app\r\nX A: b\r\n\r\n"),
    ("a folded line", "GET / HTTP/1.1\r\nHost: app\r\nX-A: b\r\n c\r\n\r\n"),
    ("a NUL in a value", "GET / HTTP/1.1\r\nHost: app\r\nX-A: b\0c\r\n\r\n"),
    ("a line without a colon", "GET / HTTP/1.1\r\nHost: app\r\nX-A\r\n\r\n"),
    (
        "a length and chunks",
        "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("two lengths", "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    ("a length that is no number", "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: five\r\n\r\nhello"),
    ("a negative length", "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: -1\r\n\r\n"),
    ("a signed length", "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: +5\r\n\r\nhello"),
    (
        "a coding that is not chunked last",
        "POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    ),
    ("an unknown coding", "POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
];

#[tokio::test]
async fn malformed_heads_are_refused_on_the_way_out() -> Result<()> {
    let (_mesh, sidecar, app) = mesh().await?;
    for (what, bytes) in REFUSED {
        let answer = wire::exchange(sidecar.outbound, bytes).await?;
        ensure!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer:?}");
        ensure!(answer.matches("HTTP/1.").count() == 1, "{what}: more than one answer: {answer:?}");
    }
    assert_eq!(app.stats()?.requests(), 1, "something malformed reached the app");
    Ok(())
}

#[tokio::test]
async fn malformed_heads_are_refused_on_the_way_in() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (app, sidecar) = mesh.serve_meshed("app", "v1").await?;
    for (what, bytes) in REFUSED {
        let answer = wire::exchange(sidecar.inbound, bytes).await?;
        ensure!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer:?}");
    }
    assert_eq!(app.stats()?.requests(), 0, "something malformed reached the app");
    Ok(())
}

#[tokio::test]
async fn a_refused_request_is_never_followed_by_what_came_behind_it() -> Result<()> {
    let (_mesh, sidecar, app) = mesh().await?;
    let smuggled = "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
                    GET /admin HTTP/1.1\r\nHost: app\r\n\r\n";
    let answer = wire::exchange(sidecar.outbound, smuggled).await?;
    ensure!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
    ensure!(answer.matches("HTTP/1.").count() == 1, "more than one answer: {answer:?}");
    assert_eq!(app.stats()?.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn a_body_that_breaks_its_framing_is_cut_off() -> Result<()> {
    let (_mesh, sidecar, _app) = mesh().await?;
    let mut wire = Wire::connect(sidecar.outbound).await?;
    wire.send("POST /upload HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n")
        .await?;
    let answer = wire.rest().await?;
    ensure!(!answer.starts_with("HTTP/1.1 2"), "a broken body was taken for a whole one: {answer:?}");
    Ok(())
}

#[tokio::test]
async fn good_requests_are_still_served_after_bad_ones() -> Result<()> {
    let (_mesh, sidecar, _app) = mesh().await?;
    for (_, bytes) in REFUSED {
        wire::exchange(sidecar.outbound, bytes).await?;
    }
    // What no HTTP peer would send at all, cut off at any place.
    for bytes in
        [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"\0\0\0\0", b"GET / HT"]
    {
        let mut wire = Wire::connect(sidecar.outbound).await?;
        wire.send(bytes).await?;
        wire.finish().await?;
        let _ = wire.rest().await?;
    }
    sidecar.app().get("http://app/").send().await?.expect(200)?;
    Ok(())
}
