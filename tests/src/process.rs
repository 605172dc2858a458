//! Real processes under test: found, started, logged, ended.
//!
//! A process dies when its handle is dropped, and the kernel kills it when the test process dies
//! in any other way. The last lines it wrote are kept and printed when the handle is dropped: test
//! runners show that only for a test that failed.

use std::collections::VecDeque;
use std::env;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use crate::eventually;
use crate::task::{self, Task};

const KEPT_LINES: usize = 300;

/// The path of one of the workspace's binaries, beside the running executable.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = env::current_exe().context("cannot tell where this executable is")?;
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "{name} is not built: run `cargo xtask test`, or `cargo build --workspace` before `cargo test`"
        )
    })
}

/// A running binary of the workspace.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    log: Log,
    quiet: bool,
    readers: [Task<()>; 2],
}

/// The last lines a process wrote.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<VecDeque<String>>>);

impl Log {
    /// All kept lines.
    pub fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn follow(&self, stream: impl AsyncRead + Send + Unpin + 'static) -> Task<()> {
        let log = self.clone();
        task::spawn(async move {
            let mut lines = BufReader::new(stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                log.push(line);
            }
        })
    }
}

impl Process {
    /// Starts a binary of the workspace; `name` is how messages call it.
    pub fn start(name: &str, program: &str, args: &[String]) -> Result<Self> {
        Self::start_with(name, program, args, &[])
    }

    /// Starts a binary under a launcher, such as `prlimit --nofile=64`.
    pub fn start_with(name: &str, program: &str, args: &[String], launcher: &[String]) -> Result<Self> {
        let mut command = Command::new(binary("shop")?);
        command.arg("tied").arg(std::process::id().to_string());
        command.args(launcher).arg(binary(program)?).args(args);
        // The caller's own PILLION_* settings are not the test's.
        command.env_clear().envs(env::vars_os().filter(|(key, _)| key == "PATH" || key == "HOME"));
        command.env("RUST_BACKTRACE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // A group of its own: Ctrl-C in the terminal is for the demo, which then stops its parts in order.
        command.process_group(0);
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let pid =
            child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).context("no process id")?;
        let log = Log::default();
        let stdout = child.stdout.take().context("no stdout")?;
        let stderr = child.stderr.take().context("no stderr")?;
        let readers = [log.follow(stdout), log.follow(stderr)];
        Ok(Self { name: name.to_owned(), child, pid, log, quiet: false, readers })
    }

    /// Has it say nothing when dropped.
    pub fn silence(&mut self) {
        self.quiet = true;
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// What it wrote.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Fails, with what it wrote last, if the process has ended.
    pub fn ensure_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status}:\n{}", self.name, self.log.text());
        }
        Ok(())
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Sends SIGABRT, as the end of a process that finds itself broken.
    pub fn abort(&self) -> Result<()> {
        self.signal(Signal::ABORT)
    }

    /// Stops the process where it is, as if the machine had no time for it; once this returns, none of its threads runs.
    pub async fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let tasks = format!("/proc/{}/task", self.pid());
        eventually(&format!("{} stands still", self.name), || async {
            for task in std::fs::read_dir(&tasks)? {
                let stat = std::fs::read_to_string(task?.path().join("stat"))?;
                // The state follows the name, which stands in brackets (proc_pid_stat(5)).
                let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
                ensure!(state.starts_with('T'), "a thread is still in state {state:.1}");
            }
            Ok(())
        })
        .await
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Sends SIGKILL and waits for the end.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("cannot kill {}", self.name))
    }

    /// Waits for the process to end by itself, and for all it wrote.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let ended = tokio::time::timeout(limit, self.child.wait()).await;
        let status = ended.with_context(|| format!("{} still runs after {limit:?}", self.name))??;
        let readers = &self.readers;
        eventually("all it wrote", || async {
            ensure!(readers.iter().all(Task::is_finished), "its output is still open");
            Ok(())
        })
        .await?;
        Ok(status)
    }

    /// Resident memory in KiB.
    pub fn memory_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let number = line.trim().trim_end_matches("kB").trim();
        number.parse().context("VmRSS is no number")
    }

    /// Ends the process gracefully and expects exit code 0.
    pub async fn stop(&mut self, limit: Duration) -> Result<()> {
        self.terminate()?;
        let status = self.ended(limit).await?;
        ensure!(status.success(), "{} ended with {status}:\n{}", self.name, self.log.text());
        Ok(())
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "test runners capture it and show it for failed tests")]
    fn drop(&mut self) {
        if !self.quiet {
            eprintln!("--- {} (process {}) wrote:\n{}", self.name, self.pid(), self.log.text());
        }
    }
}

/// Runs a binary of the workspace to its end: its exit status, standard output and standard error.
pub async fn run(program: &str, args: &[&str]) -> Result<(ExitStatus, String, String)> {
    let mut command = Command::new(binary(program)?);
    command.env_clear().args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(30), command.output())
        .await
        .with_context(|| format!("{program} {args:?} did not end"))??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status, text(output.stdout), text(output.stderr)))
}
