//! A sidecar: one `pillion-proxy` with listeners on a loopback address of its own.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::access_log::AccessLog;
use crate::address;
use crate::client::Client;
use crate::metrics::Metrics;
use crate::process::Process;
use crate::wait::{eventually, within};

/// The port of a sidecar's outbound listener.
pub const OUTBOUND_PORT: u16 = 15001;

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar {
    /// The process.
    pub process: Process,
    /// Where the app sends its calls.
    pub outbound: SocketAddr,
    /// Where calls to the app arrive.
    pub inbound: SocketAddr,
    /// Probes, metrics and dumps.
    pub admin: SocketAddr,
}

/// How a sidecar is started.
#[derive(Debug)]
pub struct Builder {
    workload: String,
    ip: Option<IpAddr>,
    inbound_port: u16,
    args: Vec<String>,
    launcher: Vec<String>,
}

impl Sidecar {
    /// A sidecar of the workload of this name, with the defaults of a test.
    pub fn of(workload: &str) -> Builder {
        let args = ["--namespace", "default", "--service-account", workload, "--workload", workload];
        let mut args: Vec<String> = args.map(str::to_owned).to_vec();
        args.extend(["--workers", "1"].map(str::to_owned));
        Builder { workload: workload.to_owned(), ip: None, inbound_port: 15006, args, launcher: Vec::new() }
    }

    /// An HTTP/1.1 client of the outbound listener: the app's side.
    pub fn app(&self) -> Client {
        Client::http1(self.outbound)
    }

    /// An HTTP/2 client of the outbound listener.
    pub fn app_http2(&self) -> Client {
        Client::http2(self.outbound)
    }

    /// Scrapes its metrics.
    pub async fn metrics(&self) -> Result<Metrics> {
        Metrics::scrape(self.admin).await
    }

    /// The text of one of the admin pages, such as `/config_dump`.
    pub async fn page(&self, path: &str) -> Result<String> {
        let reply = Client::http1(self.admin).get(&format!("http://{}{path}", self.admin)).send().await?;
        Ok(reply.expect(200)?.text())
    }

    /// The status of `/ready`.
    pub async fn readiness(&self) -> Result<u16> {
        let reply = Client::http1(self.admin).get(&format!("http://{}/ready", self.admin)).send().await?;
        Ok(reply.status.as_u16())
    }

    /// Waits until it is ready; fails if it ends.
    pub async fn wait_ready(&mut self) -> Result<()> {
        ready(&mut self.process, self.admin).await
    }

    /// What `/ready` says, whatever its status.
    pub async fn readiness_text(&self) -> Result<String> {
        let reply = Client::http1(self.admin).get(&format!("http://{}/ready", self.admin)).send().await?;
        Ok(reply.text())
    }

    /// What `/certs` says of the own identity.
    pub async fn certs(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.page("/certs").await?)?)
    }

    /// The serial number of the own certificate.
    pub async fn serial(&self) -> Result<String> {
        let certs = self.certs().await?;
        let serial = certs.pointer("/certificate/serial").and_then(Value::as_str);
        serial.map(str::to_owned).with_context(|| format!("no certificate in {certs}"))
    }

    /// Asks it to drain.
    pub async fn drain(&self) -> Result<()> {
        Client::http1(self.admin).post(&format!("http://{}/drain", self.admin)).send().await?.expect(200)?;
        Ok(())
    }

    /// The state of an endpoint, as `/endpoints` tells it.
    pub async fn state_of(&self, endpoint: SocketAddr) -> Result<String> {
        let page: Value = serde_json::from_str(&self.page("/endpoints").await?)?;
        let state = find(&page, &endpoint.to_string()).and_then(|found| found.get("state")?.as_str());
        state.map(str::to_owned).with_context(|| format!("no state of {endpoint} in {page}"))
    }

    /// Waits until a page of its admin port contains a text.
    pub async fn shows(&self, path: &str, text: &str) -> Result<()> {
        eventually(&format!("{text:?} in {path}"), || async {
            let page = self.page(path).await?;
            ensure!(page.contains(text), "the page is {page}");
            Ok(())
        })
        .await
    }
}

impl Builder {
    /// Configured by the control plane at this address.
    pub fn control_plane(self, xds: SocketAddr) -> Self {
        self.arg("--control-plane", &format!("http://{xds}"))
    }

    /// Configured, and given an identity, by the control plane at this address.
    pub fn secure_control_plane(self, xds: SocketAddr, root_file: &Path, token_file: &Path) -> Self {
        self.arg("--control-plane", &format!("https://{xds}"))
            .arg("--root-file", &root_file.display().to_string())
            .arg("--token-file", &token_file.display().to_string())
    }

    /// Sits in front of the app at this address, and takes `port` of the pod's own address.
    pub fn in_front_of(mut self, app: SocketAddr, port: u16) -> Self {
        self.inbound_port = port;
        self.arg("--inbound-app", &app.to_string())
    }

    /// Writes an access log.
    pub fn logging(self, log: &AccessLog) -> Self {
        self.arg("--access-log", &log.path().display().to_string()).arg("--access-log-format", "json")
    }

    /// The pod's address; a fresh one if not given.
    pub fn ip(mut self, ip: IpAddr) -> Self {
        self.ip = Some(ip);
        self
    }

    /// One more flag with its value; a flag given twice takes the later value.
    pub fn arg(mut self, flag: &str, value: &str) -> Self {
        if let Some(at) = self.args.iter().position(|arg| arg == flag) {
            self.args.drain(at..at + 2);
        }
        self.args.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// Started by a launcher, such as `prlimit --nofile=64`.
    pub fn launched_by(mut self, launcher: &[&str]) -> Self {
        self.launcher = launcher.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Starts it without waiting for readiness.
    pub fn spawn(self) -> Result<Sidecar> {
        let ip = self.ip.map_or_else(address::unused, Ok)?;
        let outbound = SocketAddr::new(ip, OUTBOUND_PORT);
        let inbound = SocketAddr::new(ip, self.inbound_port);
        let admin = SocketAddr::new(ip, 15000);
        let mut args = self.args;
        for (flag, value) in [
            ("--pod-ip", ip.to_string()),
            ("--outbound-addr", outbound.to_string()),
            ("--inbound-addr", inbound.to_string()),
            ("--admin-addr", admin.to_string()),
        ] {
            if !args.iter().any(|arg| arg == flag) {
                args.extend([flag.to_owned(), value]);
            }
        }
        let name = format!("sidecar of {}", self.workload);
        let process = Process::start_with(&name, "pillion-proxy", &args, &self.launcher)?;
        Ok(Sidecar { process, outbound, inbound, admin })
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Result<Sidecar> {
        let mut sidecar = self.spawn()?;
        sidecar.wait_ready().await?;
        Ok(sidecar)
    }
}

/// The first object, however deep, whose `address` is this.
fn find<'a>(page: &'a Value, address: &str) -> Option<&'a Value> {
    match page {
        Value::Object(fields) => {
            let here = fields.get("address").and_then(Value::as_str) == Some(address);
            here.then_some(page).or_else(|| fields.values().find_map(|inner| find(inner, address)))
        }
        Value::Array(items) => items.iter().find_map(|inner| find(inner, address)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// Waits for `/ready` on an admin port, or for the process to end.
pub(crate) async fn ready(process: &mut Process, admin: SocketAddr) -> Result<()> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        process.ensure_running()?;
        let probe = within(Duration::from_millis(300), "ready", || async {
            let reply = Client::http1(admin).get(&format!("http://{admin}/ready")).send().await?;
            reply.expect(200).context("not ready")
        });
        match probe.await {
            Ok(_) => return Ok(()),
            Err(error) if tokio::time::Instant::now() > deadline => {
                return Err(error.context(format!("not ready in time; it wrote:\n{}", process.log().text())));
            }
            Err(_) => {}
        }
    }
}
