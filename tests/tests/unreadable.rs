//! Heads the HTTP library cannot read: answered with a cause, counted and logged like any other refusal.

use anyhow::{Result, ensure};
use pillion_tests::{Client, Instance, Mesh, Metrics, Policy, Sidecar, Wire, burst, eventually, wire};

const GOOD: &str = "GET / HTTP/1.1\r\nHost: app\r\n\r\n";

struct Faces {
    _mesh: Mesh,
    app: Instance,
    near: Sidecar,
    far: Sidecar,
    disk: Policy,
}

/// An app behind a sidecar, and a caller; both sidecars log to files named after their faces.
async fn faces() -> Result<Faces> {
    let mut mesh = Mesh::new()?;
    let (app, far) = mesh.serve_meshed("app", "v1").await?;
    let disk = Policy::new()?;
    let path = disk.path().join("access.log").display().to_string();
    let near = mesh.sidecar("caller")?.arg("--access-log", &path).start().await?;
    near.app().get("http://app/").send().await?.expect(200)?;
    Ok(Faces { _mesh: mesh, app, near, far, disk })
}

fn counted(metrics: &Metrics, status: &str) -> f64 {
    let flag = if status == "431" { "DHL" } else { "DPE" };
    metrics.sum("istio_requests_total", &[("response_code", status), ("response_flags", flag)])
}

fn unreadable() -> Vec<(&'static str, u16, String)> {
    let many: String = (0..300).map(|n| format!("X-N{n}: v\r\n")).collect();
    vec![
        ("bad request line", 400, "garbage\r\n\r\n".into()),
        ("bad version", 400, "GET / HTTP/7.3\r\nHost: app\r\n\r\n".into()),
        ("bad header", 400, "GET / HTTP/1.1\r\nHost: app\r\nX A: b\r\n\r\n".into()),
        ("bad length", 400, "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: x\r\n\r\n".into()),
        ("too many headers", 431, format!("GET / HTTP/1.1\r\nHost: app\r\n{many}\r\n")),
        (
            "70 KiB of headers",
            431,
            format!("GET / HTTP/1.1\r\nHost: app\r\nX: {}\r\n\r\n", "x".repeat(70 << 10)),
        ),
    ]
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_a_cause() -> Result<()> {
    let faces = faces().await?;
    for (sidecar, address) in [(&faces.near, faces.near.outbound), (&faces.far, faces.far.inbound)] {
        for (what, status, bytes) in unreadable() {
            let answer = wire::exchange(address, &bytes).await?;
            ensure!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer:?}");
            let flag = if status == 431 { "DHL" } else { "DPE" };
            let told = answer.matches(&format!("x-pillion-error: {flag}; ")).count();
            ensure!(told == 1, "{what}: {answer:?}");
            ensure!(answer.ends_with("\r\n\r\n"), "{what}: {answer:?}");
        }
        eventually("each is counted once", || async {
            let metrics = sidecar.metrics().await?;
            let found = (counted(&metrics, "400"), counted(&metrics, "431"));
            ensure!(found == (4.0, 2.0), "{found:?}");
            Ok(())
        })
        .await?;
    }
    eventually("each is logged", || async {
        let log = std::fs::read_to_string(faces.disk.path().join("access.log"))?;
        for (cause, wanted) in [("not valid HTTP", 4), ("exceed 65536 bytes or 256 fields", 2)] {
            let flag = if cause.contains("exceed") { " DHL " } else { " DPE " };
            let lines = log.lines().filter(|line| line.contains(cause) && line.contains(flag)).count();
            ensure!(lines == wanted, "{lines} lines with {cause:?}, not {wanted}: {log}");
        }
        Ok(())
    })
    .await?;
    assert_eq!(faces.app.stats()?.requests(), 1, "something unreadable reached the app");
    Ok(())
}

#[tokio::test]
async fn what_came_before_is_answered_first() -> Result<()> {
    let faces = faces().await?;
    for good in 0..3 {
        let bytes = format!("{}garbage\r\n\r\n", GOOD.repeat(good));
        let answer = wire::exchange(faces.near.outbound, &bytes).await?;
        assert_eq!(answer.matches("HTTP/1.1 200 ").count(), good, "{answer:?}");
        ensure!(answer.matches("x-pillion-error: DPE; ").count() == 1, "{answer:?}");
        let mut wire = Wire::connect(faces.near.outbound).await?;
        for _ in 0..good {
            wire.send(GOOD).await?;
            wire.until("HTTP/1.1 200 ").await?;
            wire.head().await?;
        }
        wire.send("garbage\r\n\r\n").await?;
        ensure!(wire.rest().await?.contains("x-pillion-error: DPE; "));
    }
    Ok(())
}

#[tokio::test]
async fn other_connections_do_not_notice() -> Result<()> {
    let faces = faces().await?;
    let client = faces.near.app();
    let disturb = async {
        for _ in 0..20 {
            for (_, _, bytes) in unreadable() {
                wire::exchange(faces.near.outbound, &bytes).await?;
            }
        }
        anyhow::Ok(())
    };
    let (report, disturbed) = tokio::join!(burst(300, 4, || client.get("http://app/").send()), disturb);
    disturbed?;
    report.expect_no_failure()
}

#[tokio::test]
async fn an_app_s_own_refusal_is_left_alone() -> Result<()> {
    // What the library itself would say, as a head without a body and as a body.
    const OWN: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let as_body = format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{OWN}", OWN.len());
    let chunked =
        format!("HTTP/1.1 431 x\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{OWN}\r\n0\r\n\r\n", OWN.len());
    for response in [OWN.to_owned(), as_body, chunked] {
        let mut mesh = Mesh::new()?;
        let (handle, _heads) = wire::canned(response.clone());
        let _app = mesh.serve_raw("app", handle).await?;
        let (sidecar, client) = mesh.caller().await?;
        for client in [client, sidecar.app_http2()] {
            for _ in 0..3 {
                let reply = client.get("http://app/").send().await?;
                ensure!(reply.flag().is_empty() && matches!(reply.status.as_u16(), 400 | 431), "{reply:?}");
                ensure!(!reply.text().contains("x-pillion-error"), "{reply:?}");
            }
        }
        let metrics = sidecar.metrics().await?;
        assert_eq!((counted(&metrics, "400"), counted(&metrics, "431")), (0.0, 0.0));
    }
    Ok(())
}

#[tokio::test]
async fn http2_header_lists_over_the_limit_are_refused() -> Result<()> {
    let faces = faces().await?;
    let client = Client::http2(faces.near.outbound);
    let large = "x".repeat(70 << 10);
    client.get("http://app/").header("x-large", &large).send().await?.expect_own(431, "DHL")?;
    let many = (0..300).fold(client.get("http://app/"), |call, n| call.header(&format!("x-{n}"), "v"));
    many.send().await?.expect_own(431, "DHL")?;
    assert_eq!(counted(&faces.near.metrics().await?, "431"), 2.0);
    client.get("http://app/").send().await?.expect(200)?;
    Ok(())
}
