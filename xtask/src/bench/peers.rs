//! The proxies that are compared, and how each is started for a scenario.
//!
//! Every peer gets the same: one process per hop, one or two workers, keep-alive on both sides, no
//! access log and no traces but where its name says so, no admin traffic, TLS between the hops only where the scenario says so. Otherwise each runs with its own defaults; the
//! configurations are the files in `config/`. Pillion is configured the way users do it: Kubernetes
//! objects in a directory, a control plane, a sidecar. Between two sidecars, Envoy and HAProxy are
//! told to speak HTTP/2, nginx can only speak HTTP/1.1, Pillion does what it does by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::child::{Child, free_port};
use super::load::{self, Protocol};
use super::{BODY, Scenario};
use crate::process;

/// How long a proxy has from its start to its first good answer.
const START_SECONDS: u64 = 20;

/// Has Envoy use each connection to the next hop for one request.
const ONCE: &str = "        common_http_protocol_options: {max_requests_per_connection: 1}\n";

/// One column of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) kind: Kind,
    pub(super) n_workers: u32,
    pub(super) setup: Setup,
}

/// What a peer does beside forwarding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setup {
    /// Nothing; metrics are counted by all.
    Plain,
    /// Retries, outlier detection, limits and timeouts (and Pillion's breaker), which cost and find nothing to do.
    Policy,
    /// An access log in a file and 1 % of the requests traced, to the back end as collector.
    Observed,
    /// The same with every request traced.
    Traced,
}

/// A program, or none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Pillion,
    Envoy,
    Haproxy,
    Nginx,
    Direct,
}

/// All peers, in the order in which they take turns.
pub(super) const PEERS: &[Peer] = &[
    Peer::plain(Kind::Pillion, 1),
    Peer::plain(Kind::Envoy, 1),
    Peer { setup: Setup::Policy, ..Peer::plain(Kind::Pillion, 1) },
    Peer { setup: Setup::Policy, ..Peer::plain(Kind::Envoy, 1) },
    Peer { setup: Setup::Observed, ..Peer::plain(Kind::Pillion, 1) },
    Peer { setup: Setup::Traced, ..Peer::plain(Kind::Pillion, 1) },
    Peer::plain(Kind::Haproxy, 1),
    Peer::plain(Kind::Nginx, 1),
    Peer::plain(Kind::Direct, 1),
    Peer::plain(Kind::Pillion, 2),
    Peer::plain(Kind::Envoy, 2),
];

impl Peer {
    pub(super) const fn plain(kind: Kind, n_workers: u32) -> Self {
        Self { kind, n_workers, setup: Setup::Plain }
    }

    /// The name that `--only` takes and the tables show.
    pub(super) fn name(self) -> String {
        let name = match self.kind {
            Kind::Pillion => "pillion",
            Kind::Envoy => "envoy",
            Kind::Haproxy => "haproxy",
            Kind::Nginx => "nginx",
            Kind::Direct => "direct",
        };
        match (self.setup, self.n_workers) {
            (Setup::Policy, _) => format!("{name}-policy"),
            (Setup::Observed, _) => format!("{name}-observed"),
            (Setup::Traced, _) => format!("{name}-traced"),
            (Setup::Plain, 1) => name.to_owned(),
            (Setup::Plain, n_workers) => format!("{name}-{n_workers}"),
        }
    }

    /// nginx of the common distributions speaks no HTTP/2 to an upstream.
    /// Of the others, Envoy alone proves SPIFFE identities.
    pub(super) fn takes_part(self, scenario: Scenario) -> bool {
        match scenario {
            Scenario::Http1 | Scenario::TwoSidecars => true,
            Scenario::Http2 => self.kind != Kind::Nginx,
            Scenario::Mtls => matches!(self.kind, Kind::Pillion | Kind::Envoy | Kind::Direct),
            // Policies would only be asked as often as handshakes are done.
            Scenario::Handshakes => {
                matches!(self.kind, Kind::Pillion | Kind::Envoy) && self.setup == Setup::Plain
            }
        }
    }
}

/// Where the programs are; a missing one is left out of the comparison.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) nginx: PathBuf,
    /// Generates the load at a fixed rate; without it there are no such runs.
    pub(super) oha: Option<PathBuf>,
    pub(super) haproxy: Option<PathBuf>,
    pub(super) envoy: Option<PathBuf>,
    pub(super) proxy: PathBuf,
    pub(super) control_plane: PathBuf,
    pub(super) pillion: PathBuf,
}

impl Programs {
    /// Says whether the peer can be started on this machine.
    pub(super) const fn have(&self, kind: Kind) -> bool {
        match kind {
            Kind::Haproxy => self.haproxy.is_some(),
            Kind::Envoy => self.envoy.is_some(),
            Kind::Pillion | Kind::Nginx | Kind::Direct => true,
        }
    }
}

/// The back end that every request ends at.
#[derive(Debug)]
pub(super) struct Backend {
    _process: Child,
    http1: u16,
    http2: u16,
}

impl Backend {
    /// Starts it: nginx, which answers out of its configuration.
    pub(super) fn start(programs: &Programs, directory: &Path) -> Result<Self> {
        let (http1, http2) = (free_port()?, free_port()?);
        let config = include_str!("config/backend.conf")
            .replace("@HTTP1@", &http1.to_string())
            .replace("@HTTP2@", &http2.to_string())
            .replace("@BODY@", BODY);
        let process = nginx(programs, directory, &config)?;
        Ok(Self { _process: process, http1, http2 })
    }

    const fn port(&self, protocol: Protocol) -> u16 {
        match protocol {
            Protocol::Http1 => self.http1,
            Protocol::Http2 => self.http2,
        }
    }
}

/// A peer that answers.
#[derive(Debug)]
pub(super) struct Running {
    /// The processes whose cost is counted.
    pub(super) proxies: Vec<Child>,
    /// Where requests go.
    pub(super) port: u16,
    _control_plane: Option<Child>,
}

/// Starts a peer for a scenario and waits until it answers; its files go into `directory`.
pub(super) fn start(
    peer: Peer,
    scenario: Scenario,
    programs: &Programs,
    backend: &Backend,
    directory: &Path,
) -> Result<Running> {
    let target = backend.port(scenario.upstream());
    let mut running = match peer.kind {
        Kind::Direct => Running { proxies: Vec::new(), port: target, _control_plane: None },
        Kind::Pillion => pillion(peer, scenario, programs, (target, backend.http1), directory)?,
        Kind::Envoy | Kind::Haproxy | Kind::Nginx => chain(peer, scenario, programs, target, directory)?,
    };
    let start = process::now();
    while !load::probe(scenario.downstream(), running.port) {
        let all_run = running.proxies.iter_mut().all(Child::is_running);
        if !all_run || start.elapsed().as_secs() > START_SECONDS {
            bail!("{} does not answer; its output is in {}", peer.name(), directory.display());
        }
        super::pause(Duration::from_millis(50));
    }
    Ok(running)
}

/// One process per hop, last hop first, each with the next as its target.
fn chain(
    peer: Peer,
    scenario: Scenario,
    programs: &Programs,
    target: u16,
    directory: &Path,
) -> Result<Running> {
    let mut proxies = Vec::new();
    let mut port = target;
    let n_hops = scenario.n_hops();
    let certificates = if scenario.is_secure() { Some(certificates(programs, directory)?) } else { None };
    for hop in (1..=n_hops).rev() {
        let downstream = if hop == 1 { scenario.downstream() } else { Protocol::Http2 };
        let upstream = if hop == n_hops { scenario.upstream() } else { Protocol::Http2 };
        let listen = free_port()?;
        let directory = fresh(&directory.join(format!("hop-{hop}")))?;
        let fill = |config: &str| {
            config.replace("@LISTEN@", &listen.to_string()).replace("@TARGET@", &port.to_string())
        };
        proxies.push(match peer.kind {
            Kind::Envoy => {
                let tls = |wanted: bool, config: &str| match &certificates {
                    Some(certificates) if wanted => config.replace("@CERTIFICATES@", certificates),
                    Some(_) | None => String::new(),
                };
                let config = fill(include_str!("config/envoy.yaml"))
                    .replace("@TLS_DOWN@", &tls(hop > 1, include_str!("config/envoy-tls-downstream.yaml")))
                    .replace("@TLS_UP@", &tls(hop < n_hops, include_str!("config/envoy-tls-upstream.yaml")))
                    .replace(
                        "@ONCE@",
                        if scenario == Scenario::Handshakes && hop < n_hops { ONCE } else { "" },
                    );
                envoy(peer, programs, &directory, &config, upstream)?
            }
            Kind::Haproxy => {
                let proto = |protocol| if protocol == Protocol::Http2 { "proto h2" } else { "" };
                // HAProxy restores HTTP/1.1 from HTTP/2 without a reason phrase, and h2load takes
                // such an answer for a failure.
                let restores = (downstream, upstream) == (Protocol::Http1, Protocol::Http2);
                let config = fill(include_str!("config/haproxy.cfg"))
                    .replace(
                        "@RESPONSE@",
                        if restores { "http-response set-status 200 reason OK" } else { "" },
                    )
                    .replace("@DOWNSTREAM@", proto(downstream))
                    .replace("@UPSTREAM@", proto(upstream));
                let program = programs.haproxy.as_deref().context("haproxy is not installed")?;
                let file = write(&directory, "haproxy.cfg", &config)?;
                Child::spawn(program, &["-db", "-f", &file], &directory)?
            }
            _ => nginx(programs, &directory, &fill(include_str!("config/nginx.conf")))?,
        });
        port = listen;
    }
    Ok(Running { proxies, port, _control_plane: None })
}

fn envoy(
    peer: Peer,
    programs: &Programs,
    directory: &Path,
    config: &str,
    upstream: Protocol,
) -> Result<Child> {
    let options =
        if upstream == Protocol::Http2 { "http2_protocol_options" } else { "http_protocol_options" };
    let (of_route, of_cluster) = if peer.setup == Setup::Policy {
        (include_str!("config/envoy-route.yaml"), include_str!("config/envoy-cluster.yaml"))
    } else {
        ("", "")
    };
    let config = config
        .replace("@UPSTREAM@", options)
        .replace("@ROUTE@", of_route.trim_end())
        .replace("@CLUSTER@", of_cluster);
    let file = write(directory, "envoy.yaml", &config)?;
    let n_workers = peer.n_workers.to_string();
    let args = ["-c", &file, "--concurrency", &n_workers, "--disable-hot-restart", "--log-level", "warning"];
    Child::spawn(programs.envoy.as_deref().context("envoy is not installed")?, &args, directory)
}

fn nginx(programs: &Programs, directory: &Path, config: &str) -> Result<Child> {
    let file = write(directory, "nginx.conf", config)?;
    let prefix = directory.to_string_lossy();
    Child::spawn(&programs.nginx, &["-p", &prefix, "-c", &file, "-e", "stderr"], directory)
}

/// Makes an authority and a certificate of it for peers that are not Pillion's; says in which directory they are.
fn certificates(programs: &Programs, directory: &Path) -> Result<String> {
    let out = fresh(&directory.join("certificates"))?.to_string_lossy().into_owned();
    let state = fresh(&directory.join("state"))?;
    process::output(
        Command::new(&programs.pillion)
            .args(["certificate", "create", "--namespace", "default", "--service-account", "default"])
            .args(["--out", &out, "--state-dir"])
            .arg(state),
    )?;
    Ok(out)
}

/// A token by which a sidecar proves who it is, of the authority that keeps its state there.
fn token(programs: &Programs, state: &Path) -> Result<String> {
    let mut create = Command::new(&programs.pillion);
    create.args(["token", "create", "--namespace", "default", "--service-account", "default", "--state-dir"]);
    process::output(create.arg(state))
}

/// A control plane that reads a directory, and one sidecar or two.
fn pillion(
    peer: Peer,
    scenario: Scenario,
    programs: &Programs,
    (target, collector): (u16, u16),
    directory: &Path,
) -> Result<Running> {
    let local = |port: u16| format!("127.0.0.1:{port}");
    let n_workers = peer.n_workers.to_string();
    let xds = free_port()?;
    let state = directory.join("state");
    let secure = scenario.is_secure();
    // Where there is an authority, sidecars prove who they are from the start.
    let (control_plane_url, of_authority, of_sidecar) = if secure {
        let port = free_port()?;
        let file = |name: &str| state.join(name).to_string_lossy().into_owned();
        (
            format!("https://{}", local(port)),
            vec!["--state-dir".to_owned(), file(""), "--xds-tls-addr".to_owned(), local(port)],
            vec!["--root-file".to_owned(), file("root.pem"), "--token-file".to_owned(), file("token")],
        )
    } else {
        (format!("http://{}", local(xds)), Vec::new(), Vec::new())
    };
    let sidecar = |workload: &str, address: &str, inbound: &str, outbound: u16| -> Result<Child> {
        let directory = fresh(&directory.join(workload))?;
        let app = local(target);
        let args = [
            ["--control-plane", &control_plane_url],
            ["--namespace", "default"],
            ["--workload", workload],
            ["--pod-ip", address],
            ["--outbound-addr", &local(outbound)],
            ["--inbound-addr", inbound],
            ["--inbound-app", &app],
            ["--admin-addr", &local(free_port()?)],
            ["--workers", &n_workers],
        ];
        let args = args.concat().into_iter().chain(of_sidecar.iter().map(String::as_str)).collect();
        spawn_proxy(programs, args, telemetry(peer.setup, collector), &directory)
    };
    // The second sidecar stands for its pod: own address, the app's port.
    let (address, label) = match scenario {
        Scenario::TwoSidecars | Scenario::Mtls | Scenario::Handshakes => {
            ("127.0.0.3", ", security.istio.io/tlsMode: istio")
        }
        Scenario::Http1 | Scenario::Http2 => ("127.0.0.1", ""),
    };
    let policy = fresh(&directory.join("policy"))?;
    let protocol = if scenario.upstream() == Protocol::Http2 { "http2" } else { "http" };
    let objects = include_str!("config/pillion.yaml")
        .replace("@PROTOCOL@", protocol)
        .replace("@ADDRESS@", address)
        .replace("@SIDECAR@", label)
        .replace("@TARGET@", &target.to_string());
    write(&policy, "bench.yaml", &objects)?;
    if peer.setup == Setup::Policy {
        write(&policy, "policy.yaml", include_str!("config/pillion-policy.yaml"))?;
    }
    if scenario == Scenario::Handshakes {
        write(&policy, "once.yaml", include_str!("config/pillion-once.yaml"))?;
    }
    let source = format!("dir:{}", policy.display());
    let (xds, admin) = (local(xds), local(free_port()?));
    let args = ["--source", &source, "--xds-addr", &xds, "--admin-addr", &admin];
    let args: Vec<&str> = args.into_iter().chain(of_authority.iter().map(String::as_str)).collect();
    let control_plane =
        Child::spawn(&programs.control_plane, &args, &fresh(&directory.join("control-plane"))?)?;
    if secure {
        write(&state, "token", &token(programs, &state)?)?;
    }
    let port = free_port()?;
    let mut proxies = vec![sidecar("client", "127.0.0.2", &local(free_port()?), port)?];
    if scenario.n_hops() == 2 {
        proxies.push(sidecar("bench", address, &format!("{address}:{target}"), free_port()?)?);
    }
    Ok(Running { proxies, port, _control_plane: Some(control_plane) })
}

/// Starts a proxy; one with an environment for telemetry writes an access log, too.
fn spawn_proxy(
    programs: &Programs,
    mut args: Vec<&str>,
    telemetry: Option<Vec<String>>,
    directory: &Path,
) -> Result<Child> {
    let Some(environment) = telemetry else { return Child::spawn(&programs.proxy, &args, directory) };
    args.extend(["--access-log", "access.log"]);
    // `env` replaces itself by the program, as `setpriv` does.
    let proxy = programs.proxy.to_string_lossy();
    let args: Vec<&str> = environment.iter().map(String::as_str).chain([&*proxy]).chain(args).collect();
    Child::spawn(Path::new("env"), &args, directory)
}

/// The environment of a proxy that traces; the back end takes its spans, which costs next to nothing.
fn telemetry(setup: Setup, collector: u16) -> Option<Vec<String>> {
    let share = match setup {
        Setup::Plain | Setup::Policy => return None,
        Setup::Observed => "0.01",
        Setup::Traced => "1",
    };
    Some(vec![
        format!("OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{collector}"),
        "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf".to_owned(),
        "OTEL_TRACES_SAMPLER=parentbased_traceidratio".to_owned(),
        format!("OTEL_TRACES_SAMPLER_ARG={share}"),
    ])
}

/// An empty directory at the path.
pub(super) fn fresh(path: &Path) -> Result<PathBuf> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path.to_owned())
}

fn write(directory: &Path, name: &str, text: &str) -> Result<String> {
    let path = directory.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.to_string_lossy().into_owned())
}
