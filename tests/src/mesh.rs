//! A whole mesh for one test: policy directory, control plane, service instances, sidecars.
//!
//! Services run in the test process, so that a test can ask them what they saw; control plane and
//! sidecars are the real binaries. Files written before [`Mesh::start`] are in force once it returns.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::access_log::AccessLog;
use crate::black_hole::BlackHole;
use crate::control_plane::ControlPlane;
use crate::keys::Keys;
use crate::policy::{Policy, TARGET_PORT};
use crate::relay::Relay;
use crate::shop::{App, Front, Identity, Service, Stats, serve};
use crate::sidecar::{self, OUTBOUND_PORT, Sidecar};
use crate::task::{self, Task};
use crate::{address, client::Client};

/// The parts of one mesh.
#[derive(Debug)]
pub struct Mesh {
    /// The policy in force.
    pub policy: Policy,
    control_plane: Option<ControlPlane>,
    services: BTreeSet<String>,
    pods: u32,
    security: Option<Security>,
    /// Environment of the sidecars, as `NAME=value`.
    environment: Vec<String>,
}

/// What makes a mesh secure.
#[derive(Debug)]
struct Security {
    keys: Keys,
    /// Further flags of the control plane.
    flags: Vec<String>,
}

/// One instance of a service.
#[derive(Debug)]
pub struct Instance {
    /// Its pod's name.
    pub pod: String,
    /// The address its pod is known by.
    pub address: SocketAddr,
    /// The app, if it is a sample service.
    app: Option<App>,
    stop: Option<oneshot::Sender<()>>,
    task: Task<()>,
    hole: Option<BlackHole>,
}

impl Mesh {
    /// An empty mesh; nothing runs yet.
    pub fn new() -> Result<Self> {
        let (policy, services) = (Policy::new()?, BTreeSet::new());
        Ok(Self { policy, control_plane: None, services, pods: 0, security: None, environment: Vec::new() })
    }

    /// An empty mesh whose control plane is a certificate authority, started with these flags too, and whose sidecars
    /// all have an identity.
    pub fn secure(flags: &[&str]) -> Result<Self> {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        Ok(Self { security: Some(Security { keys: Keys::new()?, flags }), ..Self::new()? })
    }

    /// Sets an environment variable of the sidecars that are still to be started.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push(format!("{name}={value}"));
    }

    /// The secrets of a secure mesh.
    pub fn keys(&self) -> Result<&Keys> {
        Ok(&self.security.as_ref().context("the mesh is not secure")?.keys)
    }

    /// Starts the control plane on what the policy directory holds now.
    pub async fn start(&mut self) -> Result<()> {
        let source = self.policy.path();
        self.control_plane = Some(match &self.security {
            None => ControlPlane::start(source).await?,
            Some(Security { keys, flags }) => {
                let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
                ControlPlane::start_secure(source, keys, &flags).await?
            }
        });
        Ok(())
    }

    /// The running control plane.
    pub fn control_plane(&mut self) -> Result<&mut ControlPlane> {
        self.control_plane.as_mut().context("the mesh has not been started")
    }

    /// What the control plane has logged.
    pub fn control_plane_log(&self) -> Result<String> {
        let control_plane = self.control_plane.as_ref().context("the mesh has not been started")?;
        Ok(control_plane.process.log().text())
    }

    /// A sidecar of this workload, still to be started; the control plane must run.
    pub fn sidecar(&self, workload: &str) -> Result<sidecar::Builder> {
        let control_plane = self.control_plane.as_ref().context("the mesh has not been started")?;
        let mut sidecar = Sidecar::of(workload);
        if !self.environment.is_empty() {
            let launcher: Vec<&str> =
                ["env"].into_iter().chain(self.environment.iter().map(String::as_str)).collect();
            sidecar = sidecar.launched_by(&launcher);
        }
        Ok(match &self.security {
            None => sidecar.control_plane(control_plane.xds),
            Some(Security { keys, .. }) => sidecar.secure_control_plane(
                control_plane.xds,
                &keys.root_file(),
                &keys.token_file(workload)?,
            ),
        })
    }

    /// Starts the control plane, unless it runs, and a sidecar for the calls of a test.
    pub async fn caller(&mut self) -> Result<(Sidecar, Client)> {
        if self.control_plane.is_none() {
            self.start().await?;
        }
        let sidecar = self.sidecar("caller")?.start().await?;
        let client = sidecar.app();
        Ok((sidecar, client))
    }

    /// Like [`Mesh::caller`], with an access log.
    pub async fn logging_caller(&mut self) -> Result<(Sidecar, Client, AccessLog)> {
        if self.control_plane.is_none() {
            self.start().await?;
        }
        let log = AccessLog::new()?;
        let sidecar = self.sidecar("caller")?.logging(&log).start().await?;
        let client = sidecar.app();
        Ok((sidecar, client, log))
    }

    /// Adds an instance of a sample service, and the Service if it is the first.
    pub async fn serve(&mut self, service: &str, version: &str) -> Result<Instance> {
        let (pod, ip) = self.name_pod(service, version)?;
        let instance = Instance::sample(service, version, &pod, SocketAddr::new(ip, TARGET_PORT)).await?;
        self.expose(service, version, &pod, ip)?;
        Ok(instance)
    }

    /// Adds an instance of a sample service behind a sidecar of its own; starts the control plane, unless it runs.
    pub async fn serve_meshed(&mut self, service: &str, version: &str) -> Result<(Instance, Sidecar)> {
        let (pod, ip) = self.name_pod(service, version)?;
        let app = Instance::sample(service, version, &pod, address::unused_at(TARGET_PORT)?).await?;
        let sidecar = self.sidecar_of(service, version, &app, ip).await?.start().await?;
        Ok((app, sidecar))
    }

    /// Like [`Mesh::serve_meshed`], with an access log of the instance's sidecar.
    pub async fn serve_logged(&mut self, service: &str) -> Result<(Instance, Sidecar, AccessLog)> {
        let (pod, ip) = self.name_pod(service, "v1")?;
        let app = Instance::sample(service, "v1", &pod, address::unused_at(TARGET_PORT)?).await?;
        let log = AccessLog::new()?;
        let sidecar = self.sidecar_of(service, "v1", &app, ip).await?.logging(&log).start().await?;
        Ok((app, sidecar, log))
    }

    /// Like [`Mesh::serve_meshed`], an instance that answers `/` by calling other services through its sidecar.
    pub async fn serve_calling(&mut self, service: &str, next: &[&str]) -> Result<(Instance, Sidecar)> {
        let (pod, ip) = self.name_pod(service, "v1")?;
        let identity = Identity::of(service, "v1", &pod);
        let parts: Vec<(&str, &str)> = next.iter().map(|&name| (name, name)).collect();
        let front = Front::calling(SocketAddr::new(ip, OUTBOUND_PORT), &parts);
        let address = address::unused_at(TARGET_PORT)?;
        let app = Instance::start(App::front(identity, front), &pod, address).await?;
        let sidecar = self.sidecar_of(service, "v1", &app, ip).await?.start().await?;
        Ok((app, sidecar))
    }

    /// Like [`Mesh::serve_meshed`], with a relay between the pod's address and its sidecar, which keeps what travels.
    pub async fn serve_tapped(&mut self, service: &str) -> Result<(Instance, Sidecar, Relay)> {
        let (pod, ip) = self.name_pod(service, "v1")?;
        let app = Instance::sample(service, "v1", &pod, address::unused_at(TARGET_PORT)?).await?;
        let relay = Relay::start(SocketAddr::new(ip, TARGET_PORT)).await?;
        let seen = relay.address.ip();
        self.expose(service, "v1", &pod, seen)?;
        self.policy.meshed_pod(&pod, service, "v1", seen)?;
        if self.control_plane.is_none() {
            self.start().await?;
        }
        let sidecar = self.sidecar(service)?.ip(ip).arg("--pod-ip", &seen.to_string());
        let sidecar = sidecar.in_front_of(app.address, TARGET_PORT).start().await?;
        Ok((app, sidecar, relay))
    }

    async fn sidecar_of(
        &mut self,
        service: &str,
        version: &str,
        app: &Instance,
        ip: IpAddr,
    ) -> Result<sidecar::Builder> {
        self.expose(service, version, &app.pod, ip)?;
        if self.security.is_some() {
            self.policy.meshed_pod(&app.pod, service, version, ip)?;
        }
        if self.control_plane.is_none() {
            self.start().await?;
        }
        Ok(self.sidecar(service)?.ip(ip).in_front_of(app.address, TARGET_PORT))
    }

    /// Adds an instance that treats each connection as `handle` does, at the level of bytes.
    pub async fn serve_raw<F>(
        &mut self,
        service: &str,
        handle: impl Fn(TcpStream) -> F + Clone + Send + Sync + 'static,
    ) -> Result<Instance>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (pod, ip) = self.name_pod(service, "v1")?;
        let instance = Instance::raw(&pod, SocketAddr::new(ip, TARGET_PORT), handle).await?;
        self.expose(service, "v1", &pod, ip)?;
        Ok(instance)
    }

    /// Adds a pod at an address where nothing listens.
    pub fn serve_nothing(&mut self, service: &str, version: &str) -> Result<SocketAddr> {
        let (pod, ip) = self.name_pod(service, version)?;
        self.expose(service, version, &pod, ip)?;
        Ok(SocketAddr::new(ip, TARGET_PORT))
    }

    /// Puts a pod that was removed back into the policy.
    pub fn rejoin(&self, service: &str, version: &str, instance: &Instance) -> Result<()> {
        self.policy.pod(&instance.pod, service, version, instance.address.ip())
    }

    fn name_pod(&mut self, service: &str, version: &str) -> Result<(String, IpAddr)> {
        self.pods += 1;
        Ok((format!("{service}-{version}-{}", self.pods), address::unused()?))
    }

    fn expose(&mut self, service: &str, version: &str, pod: &str, ip: IpAddr) -> Result<()> {
        if self.services.insert(service.to_owned()) {
            self.policy.service(service)?;
        }
        self.policy.pod(pod, service, version, ip)
    }
}

impl Instance {
    /// Starts a sample service in this process.
    pub async fn sample(service: &str, version: &str, pod: &str, address: SocketAddr) -> Result<Self> {
        Self::start(App::new(Identity::of(service, version, pod)), pod, address).await
    }

    async fn start(app: App, pod: &str, address: SocketAddr) -> Result<Self> {
        let mut instance = Self {
            pod: pod.to_owned(),
            address,
            app: Some(app),
            stop: None,
            task: task::spawn(async {}),
            hole: None,
        };
        instance.revive().await?;
        Ok(instance)
    }

    /// Starts a server at the level of bytes in this process.
    pub async fn raw<F>(
        pod: &str,
        address: SocketAddr,
        handle: impl Fn(TcpStream) -> F + Clone + Send + Sync + 'static,
    ) -> Result<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = listen(address).await?;
        let task = task::spawn(async move {
            while let Ok((stream, _peer)) = listener.accept().await {
                task::detach(handle(stream));
            }
        });
        Ok(Self { pod: pod.to_owned(), address, app: None, stop: None, task, hole: None })
    }

    /// The sample service itself.
    pub fn app(&self) -> Result<&App> {
        self.app.as_ref().context("this instance is no sample service")
    }

    /// What the sample service saw.
    pub fn stats(&self) -> Result<&Stats> {
        Ok(self.app()?.stats())
    }

    /// Ends it as the death of its process would: its connections are reset, further ones refused.
    pub async fn kill(&mut self) -> Result<()> {
        self.app()?.faults().kill();
        std::mem::replace(&mut self.task, task::spawn(async {})).join().await
    }

    /// Ends it as a cable that breaks would: nothing that is sent to it is ever answered, not even a connect.
    pub async fn vanish(&mut self) -> Result<()> {
        self.kill().await?;
        self.hole = Some(BlackHole::dig(self.address).await?);
        Ok(())
    }

    /// Starts it again, at the same address and knowing all it has seen.
    pub async fn revive(&mut self) -> Result<()> {
        self.hole = None;
        let app = self.app()?.clone();
        let listener = listen(self.address).await?;
        let (stop, stopped) = oneshot::channel::<()>();
        self.stop = Some(stop);
        let stopped = async move { drop(stopped.await) };
        self.task = task::spawn(serve(listener, app, stopped));
        Ok(())
    }

    /// Stops accepting, finishes what is in flight, ends.
    pub async fn stop(mut self) -> Result<()> {
        drop(self.stop.take());
        self.task.join().await
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}
