//! The command line of the control plane. Every flag is also an environment variable.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use clap::{Parser, ValueEnum};
use pillion_policy::{
    identity::TrustDomain,
    mesh::{MeshConfig, OutboundMode},
    name::Hostname,
    ratio::Fraction,
    telemetry::{AccessLogging, Collector, LogSink, OtlpProtocol, Telemetry, Tracing},
};

use crate::{api::duration::parse as duration, compile::Settings};

/// The control plane of Pillion: reads policy and tells it to proxies.
#[derive(Debug, Parser)]
#[command(name = "pillion-control-plane", version)]
pub struct Config {
    /// Where objects come from: dir:PATH reads and watches a directory of YAML files
    #[arg(long, env = "PILLION_SOURCE", value_name = "dir:PATH")]
    pub source: Source,

    /// Where proxies connect in plain text; 127.0.0.1:15010 without a certificate authority, nowhere with one
    #[arg(long, env = "PILLION_XDS_ADDR", value_name = "ADDR")]
    pub xds_addr: Option<SocketAddr>,

    /// Allow plain text on an address that others can reach: whoever can connect reads every policy
    #[arg(long, env = "PILLION_ALLOW_PLAINTEXT_XDS")]
    pub allow_plaintext_xds: bool,

    /// Where proxies connect over TLS and have their certificates signed, with a certificate authority
    #[arg(long, env = "PILLION_XDS_TLS_ADDR", value_name = "ADDR", default_value = "127.0.0.1:15012")]
    pub xds_tls_addr: SocketAddr,

    /// Be a certificate authority, with its root and keys in this directory; made on first start
    #[arg(long, env = "PILLION_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Be a certificate authority with this root, or this intermediate followed by its chain up to the root
    #[arg(long, env = "PILLION_CA_CERT", value_name = "FILE", requires = "ca_key")]
    pub ca_cert: Option<PathBuf>,

    /// The private key of --ca-cert
    #[arg(long, env = "PILLION_CA_KEY", value_name = "FILE", requires = "ca_cert")]
    pub ca_key: Option<PathBuf>,

    /// For how long certificates of workloads are valid, from 1m to 90d
    #[arg(long, env = "PILLION_LEAF_LIFETIME", value_name = "TIME", default_value = "24h", value_parser = leaf_lifetime)]
    pub leaf_lifetime: Duration,

    /// Believe the service account tokens of this issuer, as the claim iss names it
    #[arg(long, env = "PILLION_TOKEN_ISSUER", value_name = "URL", requires = "token_jwks")]
    pub token_issuer: Option<String>,

    /// The public keys of --token-issuer, a JSON Web Key Set; read again when it changes
    #[arg(long, env = "PILLION_TOKEN_JWKS", value_name = "FILE", requires = "token_issuer")]
    pub token_jwks: Option<PathBuf>,

    /// Where /live, /ready, /metrics, /status and /config_dump are
    #[arg(long, env = "PILLION_ADMIN_ADDR", value_name = "ADDR", default_value = "127.0.0.1:15014")]
    pub admin_addr: SocketAddr,

    /// DNS domain of the cluster: services are called NAME.NAMESPACE.svc.DOMAIN
    #[arg(long, env = "PILLION_CLUSTER_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: Hostname,

    /// Trust domain of workload identities
    #[arg(long, env = "PILLION_TRUST_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    pub trust_domain: TrustDomain,

    /// Another name of the trust domain, such as the one before: proxies believe identities in it as well; repeatable
    #[arg(long, env = "PILLION_TRUST_DOMAIN_ALIAS", value_name = "DOMAIN", value_delimiter = ',')]
    pub trust_domain_alias: Vec<TrustDomain>,

    /// What proxies do with traffic for hosts that nothing here describes
    #[arg(long, env = "PILLION_OUTBOUND_MODE", value_name = "MODE", default_value = "allow-any")]
    pub outbound_mode: Outbound,

    /// Where proxies and the control plane send telemetry, as in http://collector:4317; nowhere without
    #[arg(long, env = "PILLION_OTLP_ENDPOINT", value_name = "URL", value_parser = collector_url)]
    pub otlp_endpoint: Option<String>,

    /// What is spoken to --otlp-endpoint; without it grpc to port 4317, http/protobuf to any other
    #[arg(long, env = "PILLION_OTLP_PROTOCOL", value_name = "PROTOCOL")]
    pub otlp_protocol: Option<Otlp>,

    /// Share of new traces that proxies record where no Telemetry says, in percent
    #[arg(long, env = "PILLION_TRACE_SAMPLING", value_name = "PERCENT", default_value = "1", value_parser = percent)]
    pub trace_sampling: Fraction,

    /// Access log of proxies where no Telemetry says; without it each does what its own command line says
    #[arg(long, env = "PILLION_ACCESS_LOG", value_name = "FORM")]
    pub access_log: Option<AccessLog>,

    /// What is logged to standard error, as in "info" or "warn,pillion_control_plane=debug"
    #[arg(long, env = "PILLION_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
}

/// Where objects come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory of YAML files.
    Directory(PathBuf),
}

/// What proxies do with traffic for unknown hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Outbound {
    /// Let it pass to the address it was meant for.
    AllowAny,
    /// Refuse it.
    RegistryOnly,
}

/// How OTLP travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Otlp {
    /// gRPC, by custom on port 4317.
    Grpc,
    /// Protobuf over HTTP, by custom on port 4318.
    #[value(name = "http/protobuf")]
    HttpProtobuf,
}

/// What becomes of the access log of proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AccessLog {
    /// Lines of text.
    Text,
    /// Lines of JSON.
    Json,
    /// OTLP log records, sent to the collector.
    Otel,
    /// None.
    Off,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Directory(path.into())),
            _ => Err("write dir:PATH, for example dir:./policy".to_owned()),
        }
    }
}

/// A time as in `24h`, `1h30m` or `90d`.
pub fn lifetime(text: &str) -> Result<Duration, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok());
    match days.and_then(|days| days.checked_mul(24 * 3600)) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => duration(text),
    }
}

/// Shorter ones are renewed all the time, longer ones Istio does not give either.
fn leaf_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = lifetime(text)?;
    let allowed = Duration::from_secs(60)..=Duration::from_secs(90 * 24 * 3600);
    if allowed.contains(&lifetime) { Ok(lifetime) } else { Err("give a time from 1m to 90d".to_owned()) }
}

/// The address of a collector, without what a proxy would have to guess.
fn collector_url(text: &str) -> Result<String, String> {
    let malformed =
        || format!("{text:?} is not an http or https URL with a host, as in http://collector:4317");
    let uri: http::Uri = text.parse().map_err(|_| malformed())?;
    let is_address = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    if is_address { Ok(text.to_owned()) } else { Err(malformed()) }
}

fn percent(text: &str) -> Result<Fraction, String> {
    let percent: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    Fraction::from_percent(percent).map_err(|invalid| invalid.to_string())
}

impl Config {
    /// Whether this control plane is a certificate authority.
    pub(crate) fn has_authority(&self) -> bool {
        self.state_dir.is_some() || self.ca_cert.is_some()
    }

    /// Where plain text is served, if anywhere. An error says what would have to be allowed.
    pub(crate) fn plaintext(&self) -> Result<Option<SocketAddr>, String> {
        let default = (!self.has_authority()).then_some(SocketAddr::from(([127, 0, 0, 1], 15010)));
        let addr = self.xds_addr.or(default);
        match addr {
            Some(addr) if !addr.ip().is_loopback() && !self.allow_plaintext_xds => Err(format!(
                "--xds-addr {addr} is in plain text where others can reach it: use --xds-tls-addr with --state-dir, \
                 or give --allow-plaintext-xds"
            )),
            addr => Ok(addr),
        }
    }

    /// The settings that go to every proxy.
    fn mesh(&self) -> MeshConfig {
        MeshConfig {
            cluster_domain: self.cluster_domain.clone(),
            trust_domain: self.trust_domain.clone(),
            trust_domain_aliases: self.trust_domain_alias.clone(),
            trust: None,
            outbound: match self.outbound_mode {
                Outbound::AllowAny => OutboundMode::AllowAny,
                Outbound::RegistryOnly => OutboundMode::RegistryOnly,
            },
            collector: self.otlp_endpoint.clone().map(|endpoint| Collector {
                protocol: match self.otlp_protocol {
                    Some(Otlp::Grpc) => OtlpProtocol::Grpc,
                    Some(Otlp::HttpProtobuf) => OtlpProtocol::HttpProtobuf,
                    None => OtlpProtocol::by_port(&endpoint),
                },
                endpoint,
            }),
        }
    }

    /// What holds for every workload.
    pub(crate) fn settings(&self) -> Settings {
        let sinks = |form| match form {
            AccessLog::Text => vec![LogSink::Text],
            AccessLog::Json => vec![LogSink::Json],
            AccessLog::Otel => vec![LogSink::Otlp],
            AccessLog::Off => Vec::new(),
        };
        let access_log = self.access_log.map(|form| AccessLogging { sinks: sinks(form), filter: None });
        let tracing = Tracing { sampling: self.trace_sampling, ..Tracing::default() };
        Settings { mesh: Arc::new(self.mesh()), telemetry: Telemetry { tracing, access_log } }
    }
}

#[cfg(test)]
mod tests;
