//! A sidecar on its own, configured by a file of resources.

use std::time::Duration;

use anyhow::{Result, ensure};
use pillion_tests::{Mesh, Policy, Sidecar, process};

#[tokio::test]
async fn a_dump_of_one_sidecar_configures_another() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    mesh.policy.routes(
        "app",
        "- {headers: {response: {set: {x-edit: dumped}}}, route: [{destination: {host: app}}]}",
    )?;
    let (sidecar, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    let disk = Policy::new()?;
    disk.apply("resources", &sidecar.page("/config_dump").await?)?;
    let file = disk.file("resources").display().to_string();
    let alone = Sidecar::of("caller").arg("--resources", &file).start().await?;
    for client in [alone.app(), alone.app_http2()] {
        let reply = client.get("http://app/").send().await?.expect(200)?;
        assert_eq!(reply.header("x-edit"), "dumped");
        // There is nobody to wait for.
        let reply = client.get("http://other/").limit(Duration::from_secs(2)).send().await?;
        ensure!(!reply.status.is_success() && !reply.flag().is_empty(), "{reply:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_wrong_is_one_line() -> Result<()> {
    let disk = Policy::new()?;
    disk.apply("wrong", "- {kind: nothing}\n")?;
    for file in [disk.file("wrong"), disk.file("missing")] {
        let path = file.display().to_string();
        let off = ["--outbound-addr", "127.0.0.1:0", "--inbound-addr", "off", "--admin-addr", "127.0.0.1:0"];
        let args: Vec<&str> = ["--resources", &path].into_iter().chain(off).collect();
        let (status, _, stderr) = process::run("pillion-proxy", &args).await?;
        ensure!(!status.success(), "{path}: {status}");
        ensure!(stderr.contains(&path), "{path} is not named: {stderr}");
        assert_eq!(stderr.lines().filter(|line| !line.contains(" INFO ")).count(), 1, "{stderr}");
    }
    Ok(())
}
