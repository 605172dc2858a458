//! The identity of sidecars: issued at the start, renewed in time, kept through an outage, refused where it is not due.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pillion_tests::{Keys, Load, Mesh, Sidecar, eventually, process, within};
use serde_json::Value;

/// The shortest lifetime a control plane gives.
const SHORT: [&str; 2] = ["--leaf-lifetime", "1m"];

/// Longest wait for something that happens within such a lifetime.
const LIFETIME: Duration = Duration::from_secs(75);

fn text<'a>(page: &'a Value, pointer: &str) -> Result<&'a str> {
    page.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no {pointer} in {page}"))
}

/// Waits until `/ready` says no, with this text.
async fn refuses_to_be_ready(sidecar: &Sidecar, says: &str) -> Result<()> {
    eventually(&format!("{says:?} is the reason"), || async {
        let told = sidecar.readiness_text().await?;
        ensure!(sidecar.readiness().await? == 503 && told.contains(says), "{told}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_sidecar_has_a_certificate_when_it_is_ready() -> Result<()> {
    let mut mesh = Mesh::secure(&[])?;
    let (sidecar, _client) = mesh.caller().await?;
    let certs = sidecar.certs().await?;
    assert_eq!(text(&certs, "/certificate/identity")?, "spiffe://cluster.local/ns/default/sa/caller");
    assert_eq!(text(&certs, "/source")?, "authority");
    let days = certs.pointer("/certificate/daysLeft").and_then(Value::as_f64).context("no daysLeft")?;
    ensure!((0.9..=1.0).contains(&days), "{certs}");
    let root = text(&certs, "/roots/0/sha256")?;
    assert_eq!(text(&certs, "/chain/1/sha256")?, root, "the chain ends in the root: {certs}");
    let metrics = sidecar.metrics().await?;
    let expiry = metrics.sum("pillion_certificate_expiry_timestamp_seconds", &[]);
    let now = std::time::UNIX_EPOCH.elapsed()?.as_secs_f64();
    ensure!((now + 80_000.0..now + 90_000.0).contains(&expiry), "{expiry}, and now is {now}");
    assert_eq!(metrics.sum("pillion_certificate_renewals_total", &[("result", "ok")]), 1.0);
    assert_eq!(metrics.sum("pillion_certificate_renewals_total", &[("result", "failed")]), 0.0);
    Ok(())
}

#[tokio::test]
async fn no_page_and_no_log_holds_a_secret() -> Result<()> {
    let mut mesh = Mesh::secure(&[])?;
    mesh.start().await?;
    let sidecar = mesh.sidecar("caller")?.arg("--log", "debug").start().await?;
    let token = fs::read_to_string(mesh.keys()?.token_file("caller")?)?;
    let signature = token.trim().rsplit('.').next().context("no token")?.to_owned();
    let mut told = sidecar.process.log().text();
    ensure!(told.contains("proxy started"), "the log is not whole");
    for page in ["/certs", "/config_dump", "/metrics", "/endpoints"] {
        told += &sidecar.page(page).await?;
    }
    ensure!(!told.contains(&signature), "the token was told");
    ensure!(!told.contains("PRIVATE KEY"), "a key was told");
    Ok(())
}

#[tokio::test]
async fn a_crash_leaves_no_core() -> Result<()> {
    let mut mesh = Mesh::secure(&[])?;
    mesh.start().await?;
    let mut sidecar = mesh.sidecar("caller")?.launched_by(&["prlimit", "--core=unlimited"]).start().await?;
    sidecar.process.abort()?;
    let status = sidecar.process.ended(Duration::from_secs(10)).await?;
    ensure!(status.signal() == Some(6) && !status.core_dumped(), "{status}");
    Ok(())
}

#[tokio::test]
async fn a_sidecar_waits_for_the_control_plane() -> Result<()> {
    let mut mesh = Mesh::secure(&[])?;
    mesh.start().await?;
    mesh.control_plane()?.kill().await?;
    let mut sidecar = mesh.sidecar("caller")?.spawn()?;
    eventually("it is alive", || sidecar.readiness()).await?;
    refuses_to_be_ready(&sidecar, "no certificate has been issued yet: ").await?;
    sidecar.process.ensure_running()?;
    mesh.control_plane()?.restart().await?;
    sidecar.wait_ready().await
}

#[tokio::test]
async fn a_bad_token_is_refused_until_there_is_a_good_one() -> Result<()> {
    let mut mesh = Mesh::secure(&[])?;
    mesh.start().await?;
    let token_file = mesh.keys()?.file("token");
    fs::write(&token_file, "not.a.token")?;
    let mut sidecar =
        mesh.sidecar("caller")?.arg("--token-file", &token_file.display().to_string()).spawn()?;
    eventually("it is alive", || sidecar.readiness()).await?;
    refuses_to_be_ready(&sidecar, "Unauthenticated").await?;
    fs::copy(mesh.keys()?.token_file("caller")?, &token_file)?;
    sidecar.wait_ready().await
}

#[tokio::test]
async fn a_token_is_for_one_identity() -> Result<()> {
    let mut mesh = Mesh::secure(&[])?;
    mesh.start().await?;
    let of_another = mesh.keys()?.token_file("another")?;
    let sidecar = mesh.sidecar("caller")?.arg("--token-file", &of_another.display().to_string()).spawn()?;
    eventually("it is alive", || sidecar.readiness()).await?;
    refuses_to_be_ready(&sidecar, "no certificate has been issued yet: ").await?;
    eventually("it has failed", || async {
        let metrics = sidecar.metrics().await?;
        ensure!(metrics.sum("pillion_certificate_renewals_total", &[("result", "failed")]) >= 2.0);
        Ok(())
    })
    .await?;
    assert_eq!(sidecar.certs().await?["certificate"], Value::Null);
    Ok(())
}

#[tokio::test]
async fn a_control_plane_of_another_root_is_not_believed() -> Result<()> {
    let mut mesh = Mesh::secure(&[])?;
    mesh.start().await?;
    let mut other = Mesh::secure(&[])?;
    other.start().await?;
    let roots = other.keys()?.root_file().display().to_string();
    let sidecar = mesh.sidecar("caller")?.arg("--root-file", &roots).spawn()?;
    eventually("it is alive", || sidecar.readiness()).await?;
    refuses_to_be_ready(&sidecar, "invalid peer certificate").await?;
    let shown = mesh.control_plane()?.page("/config_dump").await?;
    ensure!(!shown.contains("default/caller"), "it has subscribed: {shown}");
    Ok(())
}

#[tokio::test]
async fn with_a_certificate_no_token_is_needed_any_more() -> Result<()> {
    let mut mesh = Mesh::secure(&[])?;
    let app = mesh.serve("app", "v1").await?;
    let (sidecar, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    fs::write(mesh.keys()?.file("token-caller"), "not.a.token")?;
    mesh.control_plane()?.kill().await?;
    mesh.policy.routes(
        "app",
        "- {headers: {response: {set: {x-edit: seen}}}, route: [{destination: {host: app}}]}",
    )?;
    mesh.control_plane()?.restart().await?;
    eventually("the edit is in force", || async {
        let reply = client.get("http://app/").send().await?.expect(200)?;
        ensure!(reply.header("x-edit") == "seen", "{:?}", sidecar.process.log().text());
        Ok(())
    })
    .await?;
    ensure!(app.stats()?.requests() > 0);
    Ok(())
}

#[tokio::test]
async fn certificates_are_renewed_and_an_outage_is_survived() -> Result<()> {
    let mut mesh = Mesh::secure(&SHORT)?;
    let (_app, server) = mesh.serve_meshed("app", "v1").await?;
    let (caller, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    let first = (server.serial().await?, caller.serial().await?);
    let load = {
        let client = client.clone();
        Load::start(100, 16, move || client.get("http://app/").send())
    };
    within(LIFETIME, "both are renewed", || async {
        ensure!(server.serial().await? != first.0 && caller.serial().await? != first.1, "not yet");
        Ok(())
    })
    .await?;
    mesh.control_plane()?.kill().await?;
    within(LIFETIME, "renewals fail", || async {
        for sidecar in [&server, &caller] {
            let failed =
                sidecar.metrics().await?.sum("pillion_certificate_renewals_total", &[("result", "failed")]);
            ensure!(failed >= 1.0, "not yet");
        }
        Ok(())
    })
    .await?;
    load.stop().await?.expect_no_failure()?;
    let second = (server.serial().await?, caller.serial().await?);
    within(LIFETIME, "both have expired", || async {
        for sidecar in [&server, &caller] {
            ensure!(sidecar.certs().await?["certificate"]["expired"] == true, "not yet");
        }
        Ok(())
    })
    .await?;
    mesh.control_plane()?.restart().await?;
    eventually("both are renewed without a restart", || async {
        ensure!(server.serial().await? != second.0 && caller.serial().await? != second.1, "not yet");
        client.get("http://app/").send().await?.expect(200)?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_stream_ends_with_the_certificate_it_was_opened_with() -> Result<()> {
    let mut mesh = Mesh::secure(&SHORT)?;
    let _app = mesh.serve("app", "v1").await?;
    let (caller, client) = mesh.caller().await?;
    let first = caller.serial().await?;
    let connections = || async {
        Ok::<_, anyhow::Error>(caller.metrics().await?.sum("pillion_xds_connections_total", &[]))
    };
    let before = connections().await?;
    // From now on it can only come back by a certificate.
    fs::write(mesh.keys()?.file("token-caller"), "not.a.token")?;
    within(LIFETIME, "the stream is ended", || async {
        let told = mesh.control_plane_log()?;
        ensure!(told.contains("the certificate it came with has expired"), "not yet");
        ensure!(connections().await? > before, "it is not back yet");
        Ok(())
    })
    .await?;
    ensure!(caller.serial().await? != first, "it has no other certificate");
    mesh.policy.routes(
        "app",
        "- {headers: {response: {set: {x-edit: seen}}}, route: [{destination: {host: app}}]}",
    )?;
    eventually("what is new still arrives", || async {
        let reply = client.get("http://app/").send().await?.expect(200)?;
        ensure!(reply.header("x-edit") == "seen", "not yet");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn files_that_are_no_identity_are_one_line() -> Result<()> {
    let keys = Keys::new()?;
    let missing = keys.file("missing.pem").display().to_string();
    let resources = keys.file("resources.yaml");
    fs::write(&resources, "[]")?;
    let resources = resources.display().to_string();
    let args = [
        "--resources",
        &resources,
        "--root-file",
        &missing,
        "--certificate-file",
        &missing,
        "--key-file",
        &missing,
        "--outbound-addr",
        "127.0.0.1:0",
        "--inbound-addr",
        "127.0.0.1:0",
        "--admin-addr",
        "127.0.0.1:0",
    ];
    let (status, _, told) = process::run("pillion-proxy", &args).await?;
    ensure!(!status.success() && told.contains(&missing), "{told}");
    let lines: Vec<&str> = told.lines().filter(|line| line.starts_with("pillion-proxy: ")).collect();
    assert_eq!(lines.len(), 1, "{told}");
    Ok(())
}
