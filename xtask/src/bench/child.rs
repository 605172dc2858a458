//! Background programs of a measurement, and what the kernel says about them.
//!
//! A `Child` never outlives xtask: it is killed when dropped, and where `setpriv` exists the
//! kernel kills it even if xtask itself is killed. Each peer runs as one process, so the readings
//! of one process id are the whole peer.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;

/// A running program.
#[derive(Debug)]
pub(super) struct Child {
    process: std::process::Child,
}

impl Child {
    /// Starts `program` in `directory`, its output going to `output.log` in there.
    pub(super) fn spawn(program: &Path, args: &[&str], directory: &Path) -> Result<Self> {
        let log = fs::File::create(directory.join("output.log"))?;
        let mut command = if process::succeeds(Command::new("setpriv").arg("--version")) {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let process = command
            .args(args)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { process })
    }

    /// Says whether the program still runs.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// CPU time that all threads of the program have used so far, in the kernel and out of it.
    pub(super) fn cpu(&self) -> Result<Duration> {
        // `setpriv` replaces itself by the program, so the id is the program's.
        let id = self.process.id();
        let mut total = Duration::ZERO;
        for task in fs::read_dir(format!("/proc/{id}/task"))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let nanos = text.split_whitespace().next().and_then(|word| word.parse().ok());
            total += Duration::from_nanos(nanos.context("cannot read schedstat")?);
        }
        Ok(total)
    }

    /// Resident memory in MiB.
    pub(super) fn rss(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        Ok(kib.context("no VmRSS in /proc")?.parse::<f64>()? / 1024.0)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A loopback port that nobody listens on, below those that the kernel gives to outgoing
/// connections: there it could be taken before the program has bound it.
pub(super) fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if port >= 32_000 {
            bail!("no free port between 20000 and 32000");
        }
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
}
