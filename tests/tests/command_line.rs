//! The command line: mistakes are one line that says what to do, with a non-zero exit code.

use std::time::Duration;

use anyhow::{Result, ensure};
use pillion_tests::{ControlPlane, Instance, Mesh, Policy, Process, address, process};

/// Runs a binary that must refuse; gives back what it said on standard error.
async fn refused(program: &str, args: &[&str]) -> Result<String> {
    let (status, _, stderr) = process::run(program, args).await?;
    ensure!(!status.success(), "{program} {args:?} ended with {status}");
    ensure!(status.code().is_some(), "{program} {args:?} was ended by a signal: {status}");
    ensure!(!stderr.contains("panicked"), "{stderr}");
    Ok(stderr)
}

#[tokio::test]
async fn unknown_flags_and_bad_values_are_refused() -> Result<()> {
    for (program, args, named) in [
        ("pillion-proxy", &["--bogus"][..], "--bogus"),
        ("pillion-proxy", &["--workers", "many"], "--workers"),
        ("pillion-proxy", &["--outbound-addr", "here"], "--outbound-addr"),
        ("pillion-proxy", &["--access-log-format", "xml"], "--access-log-format"),
        ("pillion-proxy", &["--outbound-mode", "maybe"], "--outbound-mode"),
        ("pillion-control-plane", &["--bogus"], "--bogus"),
        ("pillion-control-plane", &["--source", "etcd:x"], "etcd"),
        ("pillion", &["bogus"], "bogus"),
    ] {
        let told = refused(program, args).await?;
        ensure!(told.contains(named), "{program} {args:?}: {named} is not named: {told}");
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_directory_is_one_line() -> Result<()> {
    let told = refused(
        "pillion-control-plane",
        &["--source", "dir:/nonexistent/policy", "--xds-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"],
    )
    .await?;
    ensure!(told.contains("/nonexistent/policy"), "{told}");
    assert_eq!(told.trim_end().lines().count(), 1, "{told}");
    Ok(())
}

#[tokio::test]
async fn a_busy_port_is_one_line_that_names_it() -> Result<()> {
    let mut mesh = Mesh::new()?;
    mesh.start().await?;
    let taken = Instance::sample("app", "v1", "app-0", address::unused_at(15001)?).await?;
    let busy = taken.address.to_string();
    let xds = format!("http://{}", mesh.control_plane()?.xds);
    let ip = taken.address.ip();
    let (inbound, admin) = (format!("{ip}:15006"), format!("{ip}:15000"));
    let common =
        ["--control-plane", &xds, "--namespace", "default", "--workload", "w", "--service-account", "w"];
    for addresses in [
        ["--outbound-addr", &busy, "--inbound-addr", &inbound, "--admin-addr", &admin],
        ["--outbound-addr", &inbound, "--inbound-addr", &busy, "--admin-addr", &admin],
        ["--outbound-addr", &inbound, "--inbound-addr", &admin, "--admin-addr", &busy],
    ] {
        let args: Vec<&str> = common.iter().chain(&addresses).copied().collect();
        let told = refused("pillion-proxy", &args).await?;
        ensure!(told.contains(&busy), "the address is not named: {told}");
        assert_eq!(told.trim_end().lines().count(), 1, "{told}");
    }
    let policy = Policy::new()?;
    let source = format!("dir:{}", policy.path().display());
    let free = address::unused_at(15010)?.to_string();
    for (xds, admin) in [(busy.as_str(), free.as_str()), (free.as_str(), busy.as_str())] {
        let args = ["--source", &source, "--xds-addr", xds, "--admin-addr", admin];
        let told = refused("pillion-control-plane", &args).await?;
        ensure!(told.contains(&busy), "the address is not named: {told}");
        assert_eq!(told.trim_end().lines().count(), 1, "{told}");
    }
    Ok(())
}

#[tokio::test]
async fn help_explains_every_flag() -> Result<()> {
    for (program, flags) in [
        (
            "pillion-proxy",
            &[
                "--control-plane",
                "--resources",
                "--namespace",
                "--workload",
                "--service-account",
                "--pod-ip",
                "--outbound-addr",
                "--inbound-addr",
                "--inbound-app",
                "--admin-addr",
                "--workers",
                "--access-log",
                "--access-log-format",
                "--snapshot-file",
                "--outbound-mode",
                "--hold-timeout",
                "--idle-unsubscribe",
                "--drain-timeout",
                "--log",
                "PILLION_CONTROL_PLANE",
                "PILLION_WORKERS",
            ][..],
        ),
        (
            "pillion-control-plane",
            &[
                "--source",
                "--xds-addr",
                "--allow-plaintext-xds",
                "--xds-tls-addr",
                "--state-dir",
                "--ca-cert",
                "--ca-key",
                "--leaf-lifetime",
                "--token-issuer",
                "--token-jwks",
                "--admin-addr",
                "--cluster-domain",
                "--trust-domain",
                "PILLION_SOURCE",
            ],
        ),
        ("pillion", &["validate", "status", "config"]),
    ] {
        let (status, told, _) = process::run(program, &["--help"]).await?;
        ensure!(status.success());
        for flag in flags {
            ensure!(told.contains(flag), "{program} --help does not tell of {flag}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn status_shows_the_mesh() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    let (_sidecar, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    mesh.policy.apply("wrong", "apiVersion: v1\nkind: Servise\nmetadata: {name: x}\n")?;
    let control_plane: &ControlPlane = mesh.control_plane()?;
    let admin = format!("http://{}", control_plane.admin);
    let (status, told, _) = process::run("pillion", &["config", "--control-plane-admin", &admin]).await?;
    ensure!(status.success() && told.contains("app.default"), "{told}");
    pillion_tests::eventually("the problem is told", || async {
        let (_, told, errors) = process::run("pillion", &["status", "--control-plane-admin", &admin]).await?;
        ensure!(told.contains("Servise"), "{told}{errors}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn environment_variables_are_flags_too() -> Result<()> {
    let launcher =
        ["env", "PILLION_SOURCE=dir:/nonexistent/policy", "PILLION_XDS_ADDR=127.0.0.1:0"].map(str::to_owned);
    let mut refused = Process::start_with("control plane", "pillion-control-plane", &[], &launcher)?;
    ensure!(!refused.ended(Duration::from_secs(10)).await?.success());
    ensure!(refused.log().text().contains("/nonexistent/policy"), "{}", refused.log().text());
    let launcher = ["env", "PILLION_WORKERS=many"].map(str::to_owned);
    let mut refused = Process::start_with("sidecar", "pillion-proxy", &[], &launcher)?;
    ensure!(!refused.ended(Duration::from_secs(10)).await?.success());
    ensure!(refused.log().text().contains("many"), "{}", refused.log().text());
    Ok(())
}
