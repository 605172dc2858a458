//! The processes of the demo: started, stopped, crashed, and all gone at the end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::future::{join_all, try_join_all};
use pillion_tests::{Client, Collector, ControlPlane, Keys, Policy, Process, Sidecar, eventually, process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::Signals;
use crate::cast::{API, FILES, PATIENT, PODS, Pod, ROUTING};
use crate::screen::Screen;

const XDS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 1, 1)), 15012);
const ADMIN: SocketAddr = SocketAddr::new(XDS.ip(), 15014);

/// Where the demo's own collector takes traces.
const OTLP: [SocketAddr; 2] = [SocketAddr::new(XDS.ip(), 4317), SocketAddr::new(XDS.ip(), 4318)];

/// Longest wait for a process to end by itself.
const GRACE: Duration = Duration::from_secs(8);

/// The running mesh.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) policy: Policy,
    logs: TempDir,
    keys: Keys,
    telemetry: Option<Telemetry>,
    control_plane: Option<ControlPlane>,
    running: BTreeMap<&'static str, Running>,
}

/// Who receives what the mesh tells of itself.
#[derive(Debug)]
pub(crate) enum Telemetry {
    /// A collector of the demo's own.
    Own(Collector),
    /// The user's, at this address.
    Users {
        endpoint: String,
        /// `grpc` or `http/protobuf`.
        protocol: Option<String>,
    },
}

/// The two processes of a pod.
#[derive(Debug)]
struct Running {
    app: Process,
    sidecar: Sidecar,
}

impl Telemetry {
    /// The user's collector, where the environment names one, or an own.
    async fn start() -> Result<Self> {
        let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(endpoint) = named("OTEL_EXPORTER_OTLP_ENDPOINT") else {
            let [grpc, http] = OTLP;
            return Ok(Self::Own(Collector::start_at(grpc, http).await?));
        };
        Ok(Self::Users { endpoint, protocol: named("OTEL_EXPORTER_OTLP_PROTOCOL") })
    }

    /// Its address, and what it speaks.
    pub(crate) fn address(&self) -> (String, Option<&str>) {
        match self {
            Self::Own(collector) => (format!("http://{}", collector.grpc), None),
            Self::Users { endpoint, protocol } => (endpoint.clone(), protocol.as_deref()),
        }
    }
}

impl Stage {
    /// An empty stage: a fresh policy directory, nothing runs.
    pub(crate) fn new() -> Result<Self> {
        let logs = tempfile::Builder::new().prefix("pillion-logs-").tempdir();
        let logs = logs.context("cannot make a directory for the logs")?;
        Ok(Self {
            policy: Policy::new()?,
            logs,
            keys: Keys::new()?,
            telemetry: None,
            control_plane: None,
            running: BTreeMap::new(),
        })
    }

    /// Starts everything and waits until the front answers.
    pub(crate) async fn open(&mut self, screen: &Screen) -> Result<()> {
        for address in PODS.iter().flat_map(|pod| [pod.inbound(), pod.outbound(), pod.admin(), pod.app()]) {
            let free = TcpListener::bind(address).await;
            free.with_context(|| format!("{address} is in use: is another demo running?"))?;
        }
        for (name, yaml) in FILES {
            self.policy.apply(name, yaml)?;
        }
        screen.say(&format!(
            "  policy      {}  (edit it: a save is in force at once)",
            self.policy.path().display()
        ));
        screen.say(&format!("  access logs {}", self.logs.path().display()));
        let telemetry = self.telemetry.insert(Telemetry::start().await?);
        let (endpoint, protocol) = telemetry.address();
        screen.say(&format!("  telemetry   {endpoint}"));
        let mut flags = vec!["--otlp-endpoint", &endpoint];
        if let Some(protocol) = protocol {
            flags.extend(["--otlp-protocol", protocol]);
        }
        let (policy, addresses) = (self.policy.path(), (XDS, ADMIN));
        let control_plane = ControlPlane::spawn_secure(policy, &self.keys, &flags, addresses)?;
        let control_plane = self.control_plane.insert(control_plane);
        control_plane.process.silence();
        control_plane.wait_ready().await?;
        screen.say(&format!("  control plane ready ({XDS}); it is a certificate authority of its own"));
        for (pod, running) in try_join_all(PODS.map(|pod| self.start(pod))).await? {
            self.running.insert(pod.name, running);
        }
        screen.say(&format!("  {} pods ready, each with its sidecar and a certificate", PODS.len()));
        let client = Client::http1(API.inbound());
        eventually("the shop's front answers", || async {
            client.get("http://api/").send().await?.expect(200)
        })
        .await?;
        screen.say("  the shop is open\n");
        Ok(())
    }

    /// The processes of one pod, started and ready.
    async fn start(&self, pod: Pod) -> Result<(Pod, Running)> {
        let mut args = vec!["serve".to_owned()];
        for (flag, value) in [
            ("--role", pod.role.to_owned()),
            ("--version", pod.version.to_owned()),
            ("--instance", pod.name.to_owned()),
            ("--listen", pod.app().to_string()),
            ("--sidecar", pod.outbound().to_string()),
        ] {
            args.extend([flag.to_owned(), value]);
        }
        let mut app = Process::start(pod.name, "shop", &args)?;
        app.silence();
        let log = self.logs.path().join(format!("{}.log", pod.name));
        let mut sidecar = Sidecar::of(pod.name)
            .secure_control_plane(XDS, &self.keys.root_file(), &self.keys.token_file(pod.service)?)
            .ip(pod.ip())
            .in_front_of(pod.app(), pod.inbound().port())
            .arg("--service-account", pod.service)
            .arg("--access-log", &log.display().to_string())
            .spawn()?;
        sidecar.process.silence();
        sidecar.wait_ready().await?;
        let client = Client::http1(pod.app());
        eventually(pod.name, || async { client.get("http://app/health").send().await?.expect(200) }).await?;
        app.ensure_running()?;
        Ok((pod, Running { app, sidecar }))
    }

    /// Who receives what the mesh tells of itself.
    pub(crate) fn telemetry(&self) -> Result<&Telemetry> {
        self.telemetry.as_ref().context("the stage has not been opened")
    }

    /// Takes a pod out of the policy, so that no new request goes to it.
    pub(crate) fn leave(&self, pod: Pod) -> Result<()> {
        self.policy.delete(&pod.file())
    }

    /// Puts a pod into the policy.
    pub(crate) fn join(&self, pod: Pod) -> Result<()> {
        self.policy.apply(&pod.file(), pod.yaml())
    }

    /// Starts a pod that was stopped or has crashed; the policy does not name it yet.
    pub(crate) async fn revive(&mut self, pod: Pod) -> Result<()> {
        let (pod, running) = self.start(pod).await?;
        self.running.insert(pod.name, running);
        Ok(())
    }

    /// Stops a pod as a cluster does: drain, stop the app, stop the sidecar; each finishes its work.
    pub(crate) async fn stop_pod(&mut self, pod: Pod) -> Result<()> {
        let mut running =
            self.running.remove(pod.name).with_context(|| format!("{} does not run", pod.name))?;
        running.sidecar.drain().await?;
        running.app.stop(GRACE).await?;
        running.sidecar.process.stop(GRACE).await
    }

    /// Kills a pod's processes without a warning.
    pub(crate) async fn crash(&mut self, pod: Pod) -> Result<()> {
        let mut running =
            self.running.remove(pod.name).with_context(|| format!("{} does not run", pod.name))?;
        running.sidecar.process.kill().await?;
        running.app.kill().await
    }

    /// The endpoints the front's sidecar knows.
    pub(crate) async fn endpoints(&self) -> Result<String> {
        self.front()?.page("/endpoints").await
    }

    /// What the front's sidecar has found out about a pod: whether it is healthy, ejected, unreachable or being probed.
    pub(crate) async fn state_of(&self, pod: Pod) -> Result<String> {
        self.front()?.state_of(pod.inbound()).await
    }

    /// Whether the front's sidecar has outlier detection for a service.
    pub(crate) async fn ejects(&self, service: &str) -> Result<bool> {
        let clusters: Vec<Value> = serde_json::from_str(&self.endpoints().await?)?;
        let is_of = |cluster: &&Value| cluster["cluster"].as_str().is_some_and(|name| name.contains(service));
        let cluster = clusters.iter().find(is_of).context("the service is not known")?;
        Ok(!cluster["outlierDetection"].is_null())
    }

    /// The breaker before a service, as the front's sidecar tells it; `None` where there is none.
    pub(crate) async fn breaker(&self, service: &str) -> Result<Option<Value>> {
        let breakers: Vec<Value> = serde_json::from_str(&self.front()?.page("/breakers").await?)?;
        let is_for = |breaker: &Value| breaker["name"].as_str().is_some_and(|name| name.contains(service));
        Ok(breakers.into_iter().find(is_for))
    }

    fn front(&self) -> Result<&Sidecar> {
        let Some(api) = self.running.get(API.name) else { bail!("the front does not run") };
        Ok(&api.sidecar)
    }

    /// Who a pod's sidecar proves to be.
    pub(crate) async fn identity(&self, pod: Pod) -> Result<String> {
        let running = self.running.get(pod.name).with_context(|| format!("{} does not run", pod.name))?;
        let certs = running.sidecar.certs().await?;
        let identity = certs.pointer("/certificate/identity").and_then(Value::as_str);
        identity.map(str::to_owned).with_context(|| format!("no identity in {certs}"))
    }

    /// Makes the app of a pod slow, or fail.
    pub(crate) async fn spoil(&self, pod: Pod, faults: &Value) -> Result<()> {
        let client = Client::http1(pod.app());
        client.post("http://app/admin").body(faults.to_string()).send().await?.expect(200)?;
        Ok(())
    }

    /// How many requests the app of a pod has got.
    pub(crate) async fn served(&self, pod: Pod) -> Result<u64> {
        let reply = Client::http1(pod.app()).get("http://app/admin").send().await?.expect(200)?;
        reply.json()?["requests"].as_u64().context("the app does not tell")
    }

    /// Fails if a process that should run has ended.
    pub(crate) fn ensure_running(&mut self) -> Result<()> {
        if let Some(control_plane) = &mut self.control_plane {
            control_plane.process.ensure_running()?;
        }
        for running in self.running.values_mut() {
            running.app.ensure_running()?;
            running.sidecar.process.ensure_running()?;
        }
        Ok(())
    }

    /// Adds to a failure what a process wrote that had ended by then, if the failure does not tell yet.
    pub(crate) fn blame(&mut self, failure: anyhow::Error) -> anyhow::Error {
        match self.ensure_running() {
            Err(ended) if !format!("{failure:#}").contains(" ended with ") => ended.context(failure),
            _ => failure,
        }
    }

    /// Stops everything gracefully; a second signal, or time running out, kills.
    pub(crate) async fn stop(mut self, signals: &mut Signals) {
        let graceful = async {
            let pods = self.running.values_mut().map(|running| async {
                let app = running.app.stop(GRACE);
                let sidecar = running.sidecar.process.stop(GRACE);
                let _ = tokio::join!(app, sidecar);
            });
            join_all(pods).await;
            if let Some(control_plane) = &mut self.control_plane {
                let _ = control_plane.process.stop(GRACE).await;
            }
        };
        tokio::select! {
            () = graceful => {}
            () = signals.any() => {}
        }
        // Whatever is left is killed when its handle is dropped here.
    }

    /// What a user may try now.
    pub(crate) fn invitation(&self) -> String {
        let (api, outbound, admin) = (API.inbound(), API.outbound(), API.admin());
        let routing = self.policy.file(ROUTING);
        let pillion = process::binary("pillion")
            .map_or_else(|_| "pillion".to_owned(), |path| path.display().to_string());
        let patient = PATIENT.app();
        format!(
            "\nThe mesh stays up; Ctrl-C stops it. Try, from another terminal:\n\
             \n  # the shop's front, as anybody and as a premium user\
             \n  curl -s http://{api}/\
             \n  curl -s -H 'user-type: premium' http://{api}/\
             \n  # one call through the front's sidecar, as the front itself makes it\
             \n  curl -si -H 'Host: order-service' http://{outbound}/\
             \n  # a service that does not exist: the answer says why\
             \n  curl -si -H 'Host: nowhere' http://{outbound}/\
             \n  # edit the split and watch the table\
             \n  sed -i 's/weight: 90/weight: 50/; s/weight: 10$/weight: 50/' {routing}\
             \n  # make one of three instances of inventory-service fail, or slow; 0 heals it\
             \n  curl -s -X POST -d '{{\"fail_percent\": 100}}' http://{patient}/admin\
             \n  curl -s -X POST -d '{{\"delay_ms\": 1500}}' http://{patient}/admin\
             \n  # what the sidecar and the control plane know\
             \n  curl -s http://{admin}/endpoints\
             \n  curl -s http://{admin}/breakers\
             \n  curl -s http://{admin}/metrics\
             \n  {pillion} status --control-plane-admin http://{ADMIN}\
             \n  tail -f {logs}/api.log\n",
            routing = routing.display(),
            logs = self.logs.path().display(),
        )
    }
}
