//! Sidecars that speak mutual TLS to each other, without the app or the user doing anything.

use anyhow::{Context, Result, ensure};
use pillion_tests::frames::{self, GOAWAY, HEADERS, SETTINGS};
use pillion_tests::wait::PATIENCE;
use pillion_tests::{Client, Mesh, Sidecar, Wire, eventually};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What must never be seen on the wire.
const MARKER: &str = "plain-text-marker-20817";

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn only_tls_is_seen_between_sidecars() -> Result<()> {
    let mut mesh = Mesh::secure(&[])?;
    let (app, _server, relay) = mesh.serve_tapped("app").await?;
    let (caller, _client) = mesh.caller().await?;
    for client in [caller.app(), caller.app_http2()] {
        let request =
            client.post(&format!("http://app/echo?{MARKER}")).header("x-marker", MARKER).body(MARKER);
        let echo = request.send().await?.expect(200)?.json()?;
        assert_eq!(echo["body"].as_str(), Some(MARKER));
    }
    assert_eq!(app.stats()?.requests(), 2);
    let taps = relay.taps();
    ensure!(!taps.is_empty(), "nothing passed the relay");
    for tap in taps {
        let (up, down) = (tap.up(), tap.down());
        // A handshake record of TLS (RFC 8446, section 5.1).
        ensure!(up.starts_with(&[0x16, 3]), "sent: {:?}", up.get(..16));
        ensure!(down.starts_with(&[0x16, 3]), "came back: {:?}", down.get(..16));
        for text in [MARKER, "/echo", "HTTP/1.1", "PRI * HTTP/2.0"] {
            ensure!(!holds(&up, text) && !holds(&down, text), "{text:?} was seen on the wire");
        }
    }
    Ok(())
}

#[tokio::test]
async fn strict_refuses_plain_text_and_permissive_takes_both() -> Result<()> {
    let mut mesh = Mesh::secure(&[])?;
    let (app, server) = mesh.serve_meshed("app", "v1").await?;
    let (_caller, meshed) = mesh.caller().await?;
    // A client of its own each time: what is decided is decided for a connection.
    let plain = || Client::http1(server.inbound).get("http://app/").send();
    meshed.get("http://app/").send().await?.expect(200)?;
    plain().await?.expect(200)?;
    mesh.policy.peer_authentication("STRICT")?;
    eventually("plain text is refused", || async {
        ensure!(plain().await.is_err(), "it is still taken");
        Ok(())
    })
    .await?;
    let before = app.stats()?.requests();
    let mut wire = Wire::connect(server.inbound).await?;
    wire.send(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n").await?;
    let answer = wire.rest().await.unwrap_or_default();
    // An alert of TLS at most.
    ensure!(!answer.contains("HTTP") && answer.len() < 16, "it was answered: {answer:?}");
    assert_eq!(app.stats()?.requests(), before, "plain text has reached the app");
    meshed.get("http://app/").send().await?.expect(200)?;
    mesh.policy.peer_authentication("PERMISSIVE")?;
    eventually("plain text is taken again", || async {
        plain().await?.expect(200)?;
        Ok(())
    })
    .await?;
    meshed.get("http://app/").send().await?.expect(200)?;
    Ok(())
}

/// What an HTTP/2 client sends before its first frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Sends `GET http://app/` on a stream, the first three fields by their numbers in the static table of RFC 7541.
async fn get_on(io: &mut TcpStream, stream: u32) -> Result<()> {
    const END_STREAM_AND_HEADERS: u8 = 5;
    let fields = [0x82, 0x86, 0x84, 0x41, 3, b'a', b'p', b'p'];
    Ok(frames::send(io, HEADERS, END_STREAM_AND_HEADERS, stream, &fields).await?)
}

/// Reads frames up to one of that kind on that stream.
async fn frame(io: &mut TcpStream, kind: u8, stream: u32) -> Result<()> {
    let wanted = async {
        loop {
            let frame = frames::receive(io).await?;
            if (frame.kind, frame.stream) == (kind, stream) {
                return Ok(());
            }
        }
    };
    timeout(PATIENCE, wanted).await.with_context(|| format!("no frame {kind} on stream {stream}"))?
}

/// At the level of frames: no library's client sends on a connection that it has been told to leave.
#[tokio::test]
async fn plain_text_lets_nothing_in_any_more_while_its_connection_ends() -> Result<()> {
    let mut mesh = Mesh::secure(&[])?;
    let (app, server) = mesh.serve_meshed("app", "v1").await?;
    let mut io = TcpStream::connect(server.inbound).await?;
    io.write_all(PREFACE).await?;
    frames::send(&mut io, SETTINGS, 0, 0, &[]).await?;
    get_on(&mut io, 1).await?;
    frame(&mut io, HEADERS, 1).await?;
    let before = app.stats()?.requests();
    mesh.policy.peer_authentication("STRICT")?;
    frame(&mut io, GOAWAY, 0).await?;
    get_on(&mut io, 3).await?;
    frame(&mut io, HEADERS, 3).await?;
    assert_eq!(app.stats()?.requests(), before, "it has reached the app");
    let metrics = server.metrics().await?;
    let counted = |labels: &[(&str, &str)]| metrics.sum("istio_requests_total", labels);
    assert_eq!(counted(&[("response_code", "403"), ("response_flags", "AUTHZ")]), 1.0);
    assert_eq!(counted(&[("cluster", "unknown")]), 0.0, "it counts for nobody");
    Ok(())
}

#[tokio::test]
async fn without_a_certificate_nothing_is_sent_in_plain_text() -> Result<()> {
    let mut mesh = Mesh::secure(&[])?;
    let (app, server, relay) = mesh.serve_tapped("app").await?;
    let (_caller, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    let before = app.stats()?.requests();
    // The server's identity is not the one its pod runs as: what answers there is somebody else.
    let pod = app.pod.clone();
    let yaml = std::fs::read_to_string(mesh.policy.file(&format!("pod-{pod}")))?;
    mesh.policy.apply(
        &format!("pod-{pod}"),
        &yaml.replace("serviceAccountName: app", "serviceAccountName: somebody-else"),
    )?;
    let (_other, other) = {
        let sidecar = mesh.sidecar("other")?.start().await?;
        let client = sidecar.app();
        (sidecar, client)
    };
    eventually("the wrong identity is refused", || async {
        let reply = other.get(&format!("http://app/{MARKER}")).send().await?.expect(503)?;
        ensure!(reply.flag().starts_with("TLS"), "{}", reply.flag());
        Ok(())
    })
    .await?;
    assert_eq!(app.stats()?.requests(), before, "it has reached the app");
    for tap in relay.taps() {
        ensure!(!holds(&tap.up(), MARKER), "it was sent in plain text");
    }
    drop(server);
    let _still_here = app.stats().context("the app is gone")?;
    Ok(())
}

/// A sidecar with a certificate from the trust domain that the mesh had before.
fn of_old(mesh: &mut Mesh) -> Result<Sidecar> {
    let files = mesh.keys()?.certificate("caller", "old.example")?;
    let mut sidecar = Sidecar::of("caller");
    let url = format!("https://{}", mesh.control_plane()?.xds);
    sidecar = sidecar.arg("--control-plane", &url);
    for (flag, name) in
        [("--certificate-file", "chain.pem"), ("--key-file", "key.pem"), ("--root-file", "root.pem")]
    {
        sidecar = sidecar.arg(flag, &files.join(name).display().to_string());
    }
    sidecar.spawn()
}

#[tokio::test]
async fn who_is_still_in_the_old_trust_domain_belongs_to_the_mesh() -> Result<()> {
    let mut mesh = Mesh::secure(&["--trust-domain-alias", "old.example"])?;
    let (app, server) = mesh.serve_meshed("app", "v1").await?;
    mesh.policy.peer_authentication("STRICT")?;
    eventually("plain text is refused", || async {
        ensure!(Client::http1(server.inbound).get("http://app/").send().await.is_err(), "it is still taken");
        Ok(())
    })
    .await?;
    let before = app.stats()?.requests();
    let mut caller = of_old(&mut mesh)?;
    caller.wait_ready().await?;
    let shown = caller.certs().await?;
    assert_eq!(shown["certificate"]["identity"], "spiffe://old.example/ns/default/sa/caller");
    caller.app().get("http://app/").send().await?.expect(200)?;
    assert_eq!(app.stats()?.requests(), before + 1);
    // Policies mean it under the new name, too.
    mesh.policy.deny("no-caller", "caller")?;
    eventually("it is denied", || async {
        caller.app().get("http://app/").send().await?.expect_own(403, "AUTHZ")?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_trust_domain_that_nobody_named_is_none_of_ours() -> Result<()> {
    let mut mesh = Mesh::secure(&[])?;
    mesh.start().await?;
    let caller = of_old(&mut mesh)?;
    eventually("it is turned away", || async {
        let told = caller.process.log().text();
        ensure!(told.contains("give a client certificate or a bearer token"), "{told}");
        Ok(())
    })
    .await?;
    assert_eq!(caller.readiness().await?, 503);
    Ok(())
}
