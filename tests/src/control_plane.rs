//! A control plane on a directory: one `pillion-control-plane` on a loopback address of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::address;
use crate::client::Client;
use crate::metrics::Metrics;
use crate::process::Process;
use crate::sidecar::ready;

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    /// The process.
    pub process: Process,
    /// Where sidecars connect.
    pub xds: SocketAddr,
    /// Probes, metrics and status.
    pub admin: SocketAddr,
    source: PathBuf,
}

impl ControlPlane {
    /// Starts one on this policy directory and waits until it is ready.
    pub async fn start(source: &Path) -> Result<Self> {
        let ip = address::unused()?;
        Self::start_at(source, SocketAddr::new(ip, 15010), SocketAddr::new(ip, 15014)).await
    }

    /// Starts one at these addresses and waits until it is ready.
    pub async fn start_at(source: &Path, xds: SocketAddr, admin: SocketAddr) -> Result<Self> {
        let mut started = Self::spawn(source, xds, admin)?;
        started.wait_ready().await?;
        Ok(started)
    }

    /// Starts one at these addresses without waiting for readiness.
    pub fn spawn(source: &Path, xds: SocketAddr, admin: SocketAddr) -> Result<Self> {
        Ok(Self { process: spawn(source, xds, admin)?, xds, admin, source: source.to_owned() })
    }

    /// Waits until it is ready; fails if it ends.
    pub async fn wait_ready(&mut self) -> Result<()> {
        ready(&mut self.process, self.admin).await
    }

    /// Kills it, as a crash would.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }

    /// Starts it again at the same addresses after [`ControlPlane::kill`].
    pub async fn restart(&mut self) -> Result<()> {
        self.process = spawn(&self.source, self.xds, self.admin)?;
        self.wait_ready().await
    }

    /// Scrapes its metrics.
    pub async fn metrics(&self) -> Result<Metrics> {
        Metrics::scrape(self.admin).await
    }

    /// The text of one of the admin pages, such as `/status`.
    pub async fn page(&self, path: &str) -> Result<String> {
        let reply = Client::http1(self.admin).get(&format!("http://{}{path}", self.admin)).send().await?;
        Ok(reply.expect(200)?.text())
    }
}

fn spawn(source: &Path, xds: SocketAddr, admin: SocketAddr) -> Result<Process> {
    let args = [
        "--source".to_owned(),
        format!("dir:{}", source.display()),
        "--xds-addr".to_owned(),
        xds.to_string(),
        "--admin-addr".to_owned(),
        admin.to_string(),
    ];
    Process::start("control plane", "pillion-control-plane", &args)
}
