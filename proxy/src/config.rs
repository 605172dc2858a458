//! The command line of the proxy. Every flag is also an environment variable, `PILLION_` and its name.
//!
//! What stands in a [`Config`] is checked and typed; nothing is parsed later. Durations are written as `250ms`, `5s`
//! or `1m30s`. What else can be set is policy and comes from the control plane.

mod access_log;

use std::{
    ffi::OsString,
    fs,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    str::FromStr,
    thread,
    time::Duration,
};

use clap::{Args, Parser, ValueEnum, error::ErrorKind};
use http::Uri;
use pillion_policy::{
    identity::{Identity, TrustDomain},
    mesh::OutboundMode,
    name::{Label, WorkloadName},
    telemetry::LogFilter,
};

pub use self::access_log::{AccessLogFormat, AccessLogTarget, Field, Operator, Part, Piece, Template};

/// Workers beyond this gain little beside an application that needs the processors itself.
const MOST_DEFAULT_WORKERS: usize = 2;

/// The sidecar proxy of Pillion: routes, balances and limits the traffic of one pod.
#[derive(Debug, Clone, Parser)]
#[command(name = "pillion-proxy", version)]
pub struct Config {
    #[command(flatten)]
    source: SourceArgs,

    /// Namespace of the workload
    #[arg(long, env = "PILLION_NAMESPACE", value_name = "NAME", default_value = "default")]
    pub namespace: Label,

    /// Name of the workload, such as the app of its pods
    #[arg(long, env = "PILLION_WORKLOAD", value_name = "NAME", default_value = "unknown")]
    pub workload: Label,

    /// Service account the workload runs as
    #[arg(long, env = "PILLION_SERVICE_ACCOUNT", value_name = "NAME", default_value = "default")]
    pub service_account: Label,

    #[command(flatten)]
    identity: IdentityArgs,

    /// Address of the pod, told to the control plane
    #[arg(long, env = "PILLION_POD_IP", value_name = "IP")]
    pub pod_ip: Option<IpAddr>,

    /// Where the app's calls arrive; "off" for none
    #[arg(long, env = "PILLION_OUTBOUND_ADDR", value_name = "ADDR", default_value = "127.0.0.1:15001")]
    pub outbound_addr: Listen,

    /// Where calls to the app arrive, redirected or at the pod's address and port; "off" for none
    #[arg(long, env = "PILLION_INBOUND_ADDR", value_name = "ADDR", default_value = "127.0.0.1:15006")]
    pub inbound_addr: Listen,

    /// Where the app itself listens; needed where calls to it are not redirected
    #[arg(long, env = "PILLION_INBOUND_APP", value_name = "ADDR")]
    pub inbound_app: Option<SocketAddr>,

    /// Where /live, /ready, /metrics and other pages for operators are
    #[arg(long, env = "PILLION_ADMIN_ADDR", value_name = "ADDR", default_value = "127.0.0.1:15000")]
    pub admin_addr: SocketAddr,

    /// Threads that carry traffic [default: the CPU limit, at most 2]
    #[arg(long, env = "PILLION_WORKERS", value_name = "N")]
    workers: Option<NonZeroUsize>,

    /// Connections from clients that are served at the same time, on each listener
    #[arg(long, env = "PILLION_MAX_CONNECTIONS", value_name = "N", default_value = "50000")]
    pub max_connections: NonZeroUsize,

    /// Largest header list in bytes, of requests and of responses
    #[arg(long, env = "PILLION_MAX_HEADER_BYTES", value_name = "N", default_value = "65536",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(8192..=1_048_576))]
    pub max_header_bytes: usize,

    /// Most header fields, of requests and of responses
    #[arg(long, env = "PILLION_MAX_HEADERS", value_name = "N", default_value = "256",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(16..=4096))]
    pub max_headers: usize,

    /// Largest body of a request in bytes [default: any]
    #[arg(long, env = "PILLION_MAX_BODY_BYTES", value_name = "N")]
    pub max_body_bytes: Option<u64>,

    /// How long a client that has connected may take for its first request
    #[arg(long, env = "PILLION_FIRST_REQUEST_TIMEOUT", value_name = "TIME", default_value = "1m", value_parser = duration)]
    pub first_request_timeout: Duration,

    /// How long nothing may move on a request and its response; "off" for any time
    #[arg(long, env = "PILLION_STREAM_IDLE_TIMEOUT", value_name = "TIME", default_value = "5m")]
    pub stream_idle_timeout: Limit,

    /// Where requests are logged: a file, or - for standard output
    #[arg(long, env = "PILLION_ACCESS_LOG", value_name = "PATH|-")]
    pub access_log: Option<AccessLogTarget>,

    /// Form of the access log: text, json, or a template in Envoy's operators, as in "%START_TIME% %RESPONSE_CODE%"
    #[arg(long, env = "PILLION_ACCESS_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub access_log_format: AccessLogFormat,

    /// Which requests are logged while no policy says so: any of errors, slower-than=TIME, sample=PERCENT%, joined by
    /// commas [default: all]
    #[arg(long, env = "PILLION_ACCESS_LOG_FILTER", value_name = "CONDITIONS", value_parser = access_log::filter)]
    pub access_log_filter: Option<LogFilter>,

    /// From what time on a request is slow, so that its story is kept for /explain
    #[arg(long, env = "PILLION_EXPLAIN_SLOW", value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub explain_slow: Duration,

    /// Where the configuration is kept, to restart without the control plane
    #[arg(long, env = "PILLION_SNAPSHOT_FILE", value_name = "PATH")]
    pub snapshot_file: Option<PathBuf>,

    /// What happens to traffic for hosts that nothing describes [default: the mesh's setting]
    #[arg(long, env = "PILLION_OUTBOUND_MODE", value_name = "MODE")]
    outbound_mode: Option<Outbound>,

    /// How long a request for an unknown host waits for the control plane
    #[arg(long, env = "PILLION_HOLD_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub hold_timeout: Duration,

    /// After what time without a request a host is no longer subscribed to
    #[arg(long, env = "PILLION_IDLE_UNSUBSCRIBE", value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub idle_unsubscribe: Duration,

    /// How long open requests may take after SIGTERM
    #[arg(long, env = "PILLION_DRAIN_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub drain_timeout: Duration,

    /// What is logged to standard error, as in "info" or "warn,pillion_proxy=debug"
    #[arg(long, env = "PILLION_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,

    /// Seed of all random choices, to repeat a run; the one in use is logged at the start
    #[arg(long, env = "PILLION_SEED", value_name = "N", hide = true)]
    pub seed: Option<u64>,
}

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
struct SourceArgs {
    /// Control plane to get the configuration from
    #[arg(long, env = "PILLION_CONTROL_PLANE", value_name = "URL", value_parser = control_plane)]
    control_plane: Option<Uri>,

    /// File to read the configuration from, instead of a control plane
    #[arg(long, env = "PILLION_RESOURCES", value_name = "FILE")]
    resources: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
struct IdentityArgs {
    /// Trust domain of the workload's identity
    #[arg(long, env = "PILLION_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    trust_domain: TrustDomain,

    /// Root certificates (PEM) to believe the control plane by; with --certificate-file, other proxies too
    #[arg(long, env = "PILLION_ROOT_FILE", value_name = "FILE")]
    root_file: Option<PathBuf>,

    /// Token that proves to the control plane who the workload is; read anew whenever it is shown
    #[arg(long, env = "PILLION_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Own certificate and its chain (PEM), instead of one that the control plane signs; read anew when it changes
    #[arg(long, env = "PILLION_CERTIFICATE_FILE", value_name = "FILE")]
    certificate_file: Option<PathBuf>,

    /// Private key (PEM) of --certificate-file
    #[arg(long, env = "PILLION_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// Speak plain text to a control plane that is not on this machine
    #[arg(long, env = "PILLION_ALLOW_PLAINTEXT_CONTROL_PLANE")]
    allow_plaintext_control_plane: bool,
}

/// Where the own identity comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySource {
    /// From nowhere: the proxy has none, and speaks plain text.
    None,
    /// The control plane certifies it.
    Authority {
        /// Certificates to believe the control plane by.
        root_file: PathBuf,
        /// What proves who the workload is.
        token_file: PathBuf,
    },
    /// Somebody keeps it in files.
    Files {
        /// Certificates to believe others by.
        root_file: PathBuf,
        /// The certificate and its chain.
        certificate_file: PathBuf,
        /// Its private key.
        key_file: PathBuf,
    },
}

/// Where the configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A control plane.
    ControlPlane(Uri),
    /// A YAML file of resources.
    Resources(PathBuf),
}

/// An address to listen on, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen(pub Option<SocketAddr>);

/// A limit in time, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(pub Option<Duration>);

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Outbound {
    /// It passes to the address it was meant for.
    AllowAny,
    /// It is refused.
    RegistryOnly,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Help or the version was asked for.
    #[error("{0}")]
    Answer(String),
    /// A flag is wrong; the text is one line.
    #[error("{0}")]
    Usage(String),
}

impl Config {
    /// Reads a command line, whose first word is the program, and the environment.
    pub fn from_args<I>(args: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator,
        I::Item: Into<OsString> + Clone,
    {
        let config = Self::try_parse_from(args).map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ConfigError::Answer(error.to_string()),
            _ => ConfigError::Usage(one_line(&error.to_string())),
        })?;
        config.contradiction().map_or(Ok(config), |mistake| Err(ConfigError::Usage(mistake)))
    }

    /// What cannot work although each flag by itself could.
    fn contradiction(&self) -> Option<String> {
        let mistake = if matches!((self.outbound_addr, self.inbound_addr), (Listen(None), Listen(None))) {
            "--outbound-addr and --inbound-addr are both off: give one of them an address"
        } else {
            self.identity.contradiction(self.source.control_plane.as_ref())?
        };
        Some(mistake.to_owned())
    }

    /// Where the configuration comes from.
    pub fn source(&self) -> Source {
        match (&self.source.control_plane, &self.source.resources) {
            (Some(uri), _) => Source::ControlPlane(uri.clone()),
            // The command line has exactly one of the two.
            (None, file) => Source::Resources(file.clone().unwrap_or_default()),
        }
    }

    /// The workload the proxy stands beside.
    pub fn workload_name(&self) -> WorkloadName {
        WorkloadName { namespace: self.namespace.clone(), name: self.workload.clone() }
    }

    /// Who the workload is, where the control plane certifies it.
    pub fn identity(&self) -> Identity {
        Identity::new(&self.identity.trust_domain, &self.namespace, &self.service_account)
    }

    /// The trust domain the workload and its control plane belong to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.identity.trust_domain
    }

    /// Where the own identity comes from.
    pub fn identity_source(&self) -> IdentitySource {
        let IdentityArgs { root_file, token_file, certificate_file, key_file, .. } = self.identity.clone();
        match (root_file, token_file, certificate_file, key_file) {
            (Some(root_file), _, Some(certificate_file), Some(key_file)) => {
                IdentitySource::Files { root_file, certificate_file, key_file }
            }
            (Some(root_file), Some(token_file), ..) => IdentitySource::Authority { root_file, token_file },
            _ => IdentitySource::None,
        }
    }

    /// How many threads carry traffic.
    pub fn workers(&self) -> usize {
        self.workers.map_or_else(default_workers, NonZeroUsize::get)
    }

    /// What happens to traffic for hosts that nothing describes; the mesh's setting when absent.
    pub fn outbound_mode(&self) -> Option<OutboundMode> {
        self.outbound_mode.map(|mode| match mode {
            Outbound::AllowAny => OutboundMode::AllowAny,
            Outbound::RegistryOnly => OutboundMode::RegistryOnly,
        })
    }
}

impl IdentityArgs {
    /// What of these flags cannot work together, or not with this control plane.
    fn contradiction(&self, control_plane: Option<&Uri>) -> Option<&'static str> {
        let is_https = control_plane.is_some_and(is_https);
        let is_far = control_plane.is_some_and(|uri| !is_https && !is_loopback(uri));
        let (root, token) = (self.root_file.is_some(), self.token_file.is_some());
        match (self.certificate_file.is_some(), self.key_file.is_some()) {
            (true, false) => return Some("--certificate-file needs --key-file, its private key"),
            (false, true) => return Some("--key-file needs --certificate-file, the certificate of that key"),
            (true, true) if token => {
                return Some("--token-file and --certificate-file cannot both say who the workload is");
            }
            (true, true) if !root => {
                return Some("--certificate-file needs --root-file, the certificates to believe others by");
            }
            (true, true) | (false, false) => {}
        }
        let is_certified = self.certificate_file.is_some();
        if is_far && !self.allow_plaintext_control_plane {
            Some(
                "--control-plane is plain text to another machine: write https://HOST:PORT, or give \
                 --allow-plaintext-control-plane",
            )
        } else if is_https && !root {
            Some("--control-plane https://… needs --root-file, the certificates to believe it by")
        } else if is_https && !token && !is_certified {
            Some("--control-plane https://… needs --token-file or --certificate-file to say who this is")
        } else if token && !is_https {
            Some("--token-file is only shown to a control plane at https://…")
        } else if root && !is_https && !is_certified {
            Some("--root-file is of no use without --control-plane https://… or --certificate-file")
        } else {
            None
        }
    }
}

/// Whether the control plane is spoken to over TLS.
pub fn is_https(control_plane: &Uri) -> bool {
    control_plane.scheme_str() == Some("https")
}

/// Whether what is sent there stays on this machine.
fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    ip.map_or(host == "localhost" || host.ends_with(".localhost"), |ip| ip.is_loopback())
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(None)),
            _ => text.parse().map(|addr| Self(Some(addr))).map_err(|_| "write IP:PORT, or off".to_owned()),
        }
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(None)),
            _ => duration(text).map(|limit| Self(Some(limit))).map_err(|wrong| format!("{wrong}, or off")),
        }
    }
}

fn control_plane(text: &str) -> Result<Uri, String> {
    let example = "write https://HOST:PORT, or on this machine http://127.0.0.1:15010";
    let uri: Uri = text.parse().map_err(|_| example.to_owned())?;
    match (uri.scheme_str(), uri.host(), uri.path()) {
        (Some("http" | "https"), Some(host), "" | "/") if !host.is_empty() => Ok(uri),
        _ => Err(example.to_owned()),
    }
}

/// Reads `250ms`, `5s`, `1m30s`, `2h`; more than a year is taken for a mistake.
fn duration(text: &str) -> Result<Duration, String> {
    const MOST: Duration = Duration::from_secs(86_400 * 366);
    let wrong = || format!("{text:?} is no duration: write 250ms, 5s, 1m30s or 2h");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(unit_at);
        let unit_len = tail.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let unit = match unit {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(wrong()),
        };
        let part = number.parse().ok().and_then(|n| unit.checked_mul(n)).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = tail;
    }
    if total.is_zero() || total > MOST { Err(wrong()) } else { Ok(total) }
}

/// The CPU limit of the container, else what the machine has; rounded up, because half a processor is a thread too.
fn default_workers() -> usize {
    let limit = fs::read_to_string("/sys/fs/cgroup/cpu.max").ok().and_then(|limit| cpu_limit(&limit));
    let available = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    limit.unwrap_or_else(available).clamp(1, MOST_DEFAULT_WORKERS)
}

/// Processors of a `cpu.max`, which holds microseconds per period of microseconds or `max`.
fn cpu_limit(limit: &str) -> Option<usize> {
    let (quota, period) = limit.trim().split_once(' ')?;
    let (quota, period): (usize, usize) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0).then(|| quota.div_ceil(period))
}

/// The message of the parser without its usage lines, on one line.
fn one_line(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let told = message.split("\n\nUsage:").next().unwrap_or_default();
    let told = told.split("\n\nFor more information").next().unwrap_or_default();
    let words: Vec<&str> = told.split_whitespace().collect();
    format!("{} (--help explains the flags)", words.join(" "))
}

#[cfg(test)]
mod tests;
