//! A network namespace with iptables redirection, as a pod has it.
//!
//! Needs root, `unshare`, `nsenter`, `ip` and `iptables`; where any of them is missing a test says
//! so and does not run.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;

use crate::process::{Process, binary};

/// The user a sidecar runs as in a pod; its own connections are not redirected.
pub const PROXY_UID: &str = "1337";

/// A namespace of its own; gone with the process that holds it.
#[derive(Debug)]
pub struct Namespace {
    holder: Process,
    enter: Vec<String>,
}

impl Namespace {
    /// Makes one whose loopback is up; an error says what the machine lacks.
    pub async fn new() -> Result<Self> {
        let unshare = ["unshare".to_owned(), "--net".to_owned()];
        // Any long-running program holds the namespace.
        let args = ["serve", "--role", "user", "--listen", "127.0.0.1:9"].map(str::to_owned);
        let holder = Process::start_with("holder of the namespace", "shop", &args, &unshare)?;
        let own = std::fs::read_link("/proc/self/ns/net")?;
        let path = format!("/proc/{}/ns/net", holder.pid());
        crate::within(Duration::from_secs(3), "a network namespace", || async {
            ensure!(std::fs::read_link(&path)? != own, "not in a namespace: {}", holder.log().text());
            Ok(())
        })
        .await
        .context("this needs root and `unshare`")?;
        let enter = ["nsenter".to_owned(), format!("--net={path}")].to_vec();
        let namespace = Self { holder, enter };
        namespace.run("ip link set lo up").await.context("this needs `ip` and `nsenter`")?;
        namespace.run("iptables -t nat -S").await.context("this needs iptables with its nat table")?;
        Ok(namespace)
    }

    /// Makes one; where that cannot be, says why on standard error.
    #[expect(clippy::print_stderr, reason = "the reader of a test run wants to know what did not run")]
    pub async fn or_skip() -> Option<Self> {
        match Self::new().await {
            Ok(namespace) => Some(namespace),
            Err(reason) => {
                eprintln!("skipped: {reason:#}");
                None
            }
        }
    }

    /// Runs a command in the namespace; gives back its output.
    pub async fn run(&self, command: &str) -> Result<String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        self.output(&words).await
    }

    /// The answer to one GET request sent from the namespace.
    pub async fn get(&self, address: SocketAddr, host: &str, path: &str) -> Result<String> {
        let shop = binary("shop")?.display().to_string();
        self.output(&[&shop, "get", &address.to_string(), host, path]).await
    }

    /// The names of the programs that run in the namespace, its holder left out.
    pub fn inhabitants(&self) -> Result<Vec<String>> {
        let holder = self.holder.pid();
        let here = std::fs::read_link(format!("/proc/{holder}/ns/net"))?;
        let mut names = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let path = entry?.path();
            let isholder = path.ends_with(holder.to_string());
            // What ends while we look is not here any more.
            if !isholder && std::fs::read_link(path.join("ns/net")).is_ok_and(|link| link == here) {
                names.push(std::fs::read_to_string(path.join("comm")).unwrap_or_default().trim().to_owned());
            }
        }
        Ok(names)
    }

    /// The words that start a program in the namespace.
    pub fn launcher(&self) -> Vec<&str> {
        self.enter.iter().map(String::as_str).collect()
    }

    /// The words that start a sidecar in the namespace, as the user a sidecar runs as.
    pub fn sidecar_launcher(&self) -> Vec<&str> {
        let mut words = self.launcher();
        words.extend(["setpriv", "--reuid", PROXY_UID, "--regid", PROXY_UID, "--clear-groups"]);
        words
    }

    /// Starts a binary of the workspace in the namespace.
    pub fn start(&self, name: &str, program: &str, args: &[String]) -> Result<Process> {
        Process::start_with(name, program, args, &self.enter)
    }

    async fn output(&self, words: &[&str]) -> Result<String> {
        let Some((program, args)) = self.enter.split_first() else { bail!("no namespace") };
        let mut command = Command::new(program);
        command.args(args).args(words).stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.with_context(|| format!("cannot run {words:?}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(output.status.success(), "{words:?}: {}: {}", output.status, text(&output.stderr));
        Ok(text(&output.stdout))
    }
}
