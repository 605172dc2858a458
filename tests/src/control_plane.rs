//! A control plane on a directory: one `pillion-control-plane` on a loopback address of its own.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use crate::address;
use crate::client::Client;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::process::Process;
use crate::sidecar::ready;

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    /// The process.
    pub process: Process,
    /// Where sidecars connect: over TLS if it is a certificate authority.
    pub xds: SocketAddr,
    /// Probes, metrics and status.
    pub admin: SocketAddr,
    args: Vec<String>,
}

impl ControlPlane {
    /// Starts one on this policy directory and waits until it is ready.
    pub async fn start(source: &Path) -> Result<Self> {
        let ip = address::unused()?;
        Self::start_at(source, SocketAddr::new(ip, 15010), SocketAddr::new(ip, 15014)).await
    }

    /// Starts one that is a certificate authority with these keys, and waits until it is ready.
    pub async fn start_secure(source: &Path, keys: &Keys, flags: &[&str]) -> Result<Self> {
        let ip = address::unused()?;
        let (xds, admin) = (SocketAddr::new(ip, 15012), SocketAddr::new(ip, 15014));
        let mut started = Self::spawn_secure(source, keys, flags, (xds, admin))?;
        started.wait_ready().await?;
        Ok(started)
    }

    /// Starts one that is a certificate authority at these addresses without waiting for readiness.
    pub fn spawn_secure(
        source: &Path,
        keys: &Keys,
        flags: &[&str],
        (xds, admin): (SocketAddr, SocketAddr),
    ) -> Result<Self> {
        let state = keys.state_dir().display().to_string();
        let mut args = args(source, "--xds-tls-addr", xds, admin);
        args.extend(["--state-dir", &state].iter().chain(flags).map(|&arg| arg.to_owned()));
        Ok(Self { process: spawn(&args)?, xds, admin, args })
    }

    /// Starts one at these addresses and waits until it is ready.
    pub async fn start_at(source: &Path, xds: SocketAddr, admin: SocketAddr) -> Result<Self> {
        let mut started = Self::spawn(source, xds, admin)?;
        started.wait_ready().await?;
        Ok(started)
    }

    /// Starts one at these addresses without waiting for readiness.
    pub fn spawn(source: &Path, xds: SocketAddr, admin: SocketAddr) -> Result<Self> {
        let args = args(source, "--xds-addr", xds, admin);
        Ok(Self { process: spawn(&args)?, xds, admin, args })
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
        self.process = spawn(&self.args)?;
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

fn args(source: &Path, xds_flag: &str, xds: SocketAddr, admin: SocketAddr) -> Vec<String> {
    vec![
        "--source".to_owned(),
        format!("dir:{}", source.display()),
        xds_flag.to_owned(),
        xds.to_string(),
        "--admin-addr".to_owned(),
        admin.to_string(),
    ]
}

fn spawn(args: &[String]) -> Result<Process> {
    Process::start("control plane", "pillion-control-plane", args)
}
