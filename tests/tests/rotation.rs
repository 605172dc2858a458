//! A change of the root under load: told to everybody, signed with, and the old one given up, without a failed request;
//! and one that comes too late, when the root has expired already.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use pillion_tests::{Load, Mesh, Sidecar, eventually, is_full_size, process::Process, within};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

/// Longest wait for a phase: it lasts 15 seconds at least, and proxies renew within 10.
const PHASE: Duration = Duration::from_secs(60);

/// For how long the root is valid that expires under the eyes of a test: long enough to start on a busy machine.
const SHORT: Duration = Duration::from_secs(60);

/// How large a test is.
struct Size {
    /// Requests in a second.
    rate: u32,
    /// Flags of the control plane, and of the command.
    flags: (&'static [&'static str], &'static [&'static str]),
    /// Longest wait for a phase, and for how long there is load at least.
    times: (Duration, Duration),
}

impl Size {
    /// With `PILLION_TEST_FULL` what was promised: certificates that live for a minute, ten minutes of load, and nobody
    /// who is away is forgotten. That takes the nextest profile `full`, whose tests may last so long.
    fn new() -> Self {
        if is_full_size() {
            let times = (2 * PHASE, 10 * PHASE);
            Self { rate: 500, flags: (&["--leaf-lifetime", "1m"], &[]), times }
        } else {
            Self { rate: 100, flags: (&[], &["--connected-only"]), times: (PHASE, Duration::ZERO) }
        }
    }
}

/// The command that changes the root.
fn rotate(mesh: &mut Mesh, flags: &[&str]) -> Result<Process> {
    let state_dir = mesh.keys()?.state_dir().display().to_string();
    let admin = format!("http://{}", mesh.control_plane()?.admin);
    let args = ["ca", "rotate", "--state-dir", &state_dir, "--control-plane-admin", &admin];
    let args: Vec<String> = args.iter().chain(flags).map(|&arg| arg.to_owned()).collect();
    Process::start("rotate", "pillion", &args)
}

/// The roots that a sidecar believes.
async fn roots(sidecar: &Sidecar) -> Result<Vec<String>> {
    let certs = sidecar.certs().await?;
    let roots = certs["roots"].as_array().cloned().unwrap_or_default();
    Ok(roots.iter().filter_map(|root| root["sha256"].as_str()).map(ToOwned::to_owned).collect())
}

#[tokio::test]
async fn a_root_is_changed_without_a_failed_request() -> Result<()> {
    let Size { rate, flags, times: (phase, least) } = Size::new();
    let mut mesh = Mesh::secure(flags.0)?;
    let (_app, server) = mesh.serve_meshed("app", "v1").await?;
    let (caller, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    let old = roots(&caller).await?;
    assert_eq!(old.len(), 1);
    let until = Instant::now() + least;
    let load = {
        let client = client.clone();
        Load::start(rate, 16, move || client.get("http://app/").send())
    };

    let mut command = rotate(&mut mesh, flags.1)?;
    let control_plane = mesh.control_plane()?;
    within(phase, "the new root signs", || async {
        let status: Value = serde_json::from_str(&control_plane.page("/status").await?)?;
        let authority = &status["authority"];
        ensure!(authority["rotation"].is_string() && authority["signer"] != old[0].as_str(), "{authority}");
        Ok(())
    })
    .await?;
    // What has been reached stands on disk, and the command waits for whoever goes on with it.
    mesh.control_plane()?.kill().await?;
    mesh.control_plane()?.restart().await?;
    let status = command.ended(3 * phase).await?;
    let told = command.log().text();
    ensure!(status.success(), "{told}");
    for phase in ["distributing the new root", "signing with the new root", "not believed any more"] {
        ensure!(told.contains(phase), "{told}");
    }

    for sidecar in [&server, &caller] {
        within(phase, "only the new root is believed", || async {
            let now = roots(sidecar).await?;
            ensure!(now.len() == 1 && now != old, "{now:?}");
            let chain = sidecar.certs().await?["chain"].as_array().cloned().unwrap_or_default();
            ensure!(chain.last().and_then(|last| last["sha256"].as_str()) == Some(&now[0]), "{chain:?}");
            Ok(())
        })
        .await?;
    }
    sleep_until(until).await;
    let report = load.stop().await?;
    report.expect_no_failure()?;
    let due = u64::from(rate) * least.as_secs();
    ensure!(report.total() * 10 >= due * 9, "{} of {due} requests", report.total());
    Ok(())
}

/// Puts a root with its key where a control plane looks for its own.
fn make_short_root(mesh: &Mesh) -> Result<()> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Pillion root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::UNIX_EPOCH + SystemTime::UNIX_EPOCH.elapsed()?;
    params.not_before = (now - SHORT).into();
    params.not_after = (now + SHORT).into();
    let key = KeyPair::generate()?;
    let state_dir = mesh.keys()?.state_dir();
    fs::create_dir(&state_dir)?;
    fs::write(state_dir.join("root.pem"), params.self_signed(&key)?.pem())?;
    fs::write(state_dir.join("root-key.pem"), key.serialize_pem())?;
    fs::set_permissions(state_dir.join("root-key.pem"), fs::Permissions::from_mode(0o600))?;
    Ok(())
}

#[tokio::test]
async fn an_expired_root_is_replaced_by_one_command() -> Result<()> {
    let mut mesh = Mesh::secure(&[])?;
    make_short_root(&mesh)?;
    let (_app, server) = mesh.serve_meshed("app", "v1").await?;
    let (caller, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    let old = roots(&caller).await?;
    // One that has its own copy of the root.
    let copy = mesh.keys()?.file("copy.pem");
    fs::copy(mesh.keys()?.root_file(), &copy)?;
    within(2 * SHORT, "all is over", || async {
        for sidecar in [&server, &caller] {
            ensure!(sidecar.certs().await?["certificate"]["expired"] == true, "not yet");
        }
        Ok(())
    })
    .await?;
    let control_plane = mesh.control_plane()?;
    eventually("operators are told what to do", || async {
        let told = control_plane.process.log().text();
        ensure!(told.contains("pillion ca rotate"), "{told}");
        Ok(())
    })
    .await?;

    let mut command = rotate(&mut mesh, &[])?;
    let status = command.ended(PHASE).await?;
    ensure!(status.success(), "{}", command.log().text());
    eventually("all heals without a restart", || async {
        for sidecar in [&server, &caller] {
            ensure!(sidecar.certs().await?["certificate"]["expired"] == false, "not yet");
            let now = roots(sidecar).await?;
            ensure!(now.len() == 1 && now != old, "{now:?}");
        }
        // A connection that must be made anew.
        caller.app().get("http://app/").send().await?.expect(200)?;
        Ok(())
    })
    .await?;

    let late = mesh.sidecar("late")?.arg("--root-file", &copy.display().to_string());
    let mut late = late.spawn()?;
    eventually("it says what to do", || async {
        let told = late.readiness_text().await?;
        ensure!(told.contains("put the control plane's present root.pem there"), "{told}");
        Ok(())
    })
    .await?;
    fs::copy(mesh.keys()?.root_file(), &copy).context("cannot do what it says")?;
    late.wait_ready().await
}
