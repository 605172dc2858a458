//! A change of the root under load: told to everybody, signed with, and the old one given up, without a failed request.

use std::time::Duration;

use anyhow::{Result, ensure};
use pillion_tests::{Load, Mesh, Sidecar, process::Process, within};
use serde_json::Value;

/// Longest wait for a phase: it lasts 15 seconds at least, and proxies renew within 10.
const PHASE: Duration = Duration::from_secs(60);

/// The roots that a sidecar believes.
async fn roots(sidecar: &Sidecar) -> Result<Vec<String>> {
    let certs = sidecar.certs().await?;
    let roots = certs["roots"].as_array().cloned().unwrap_or_default();
    Ok(roots.iter().filter_map(|root| root["sha256"].as_str()).map(ToOwned::to_owned).collect())
}

#[tokio::test]
async fn a_root_is_changed_without_a_failed_request() -> Result<()> {
    let mut mesh = Mesh::secure(&[])?;
    let (_app, server) = mesh.serve_meshed("app", "v1").await?;
    let (caller, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    let old = roots(&caller).await?;
    assert_eq!(old.len(), 1);
    let load = {
        let client = client.clone();
        Load::start(100, 16, move || client.get("http://app/").send())
    };

    let state_dir = mesh.keys()?.state_dir().display().to_string();
    let admin = format!("http://{}", mesh.control_plane()?.admin);
    let args = ["ca", "rotate", "--state-dir", &state_dir, "--control-plane-admin", &admin];
    let mut command = Process::start("rotate", "pillion", &args.map(ToOwned::to_owned))?;
    let control_plane = mesh.control_plane()?;
    within(PHASE, "the new root signs", || async {
        let status: Value = serde_json::from_str(&control_plane.page("/status").await?)?;
        let authority = &status["authority"];
        ensure!(authority["rotation"].is_string() && authority["signer"] != old[0].as_str(), "{authority}");
        Ok(())
    })
    .await?;
    // What has been reached stands on disk, and the command waits for whoever goes on with it.
    mesh.control_plane()?.kill().await?;
    mesh.control_plane()?.restart().await?;
    let status = command.ended(3 * PHASE).await?;
    let told = command.log().text();
    ensure!(status.success(), "{told}");
    for phase in ["distributing the new root", "signing with the new root", "not believed any more"] {
        ensure!(told.contains(phase), "{told}");
    }

    for sidecar in [&server, &caller] {
        within(PHASE, "only the new root is believed", || async {
            let now = roots(sidecar).await?;
            ensure!(now.len() == 1 && now != old, "{now:?}");
            let chain = sidecar.certs().await?["chain"].as_array().cloned().unwrap_or_default();
            ensure!(chain.last().and_then(|last| last["sha256"].as_str()) == Some(&now[0]), "{chain:?}");
            Ok(())
        })
        .await?;
    }
    load.stop().await?.expect_no_failure()
}
