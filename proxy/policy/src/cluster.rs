//! How traffic reaches a destination: protocol, balancing and the limits of its connections.
//!
//! A [`Cluster`] is policy only; its living counterpart in the proxy is the upstream. Defaults are Istio's where
//! Istio has one, and are stated at each field.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::HeaderName;
use serde::{Deserialize, Serialize};

use crate::{
    header,
    identity::Identity,
    name::{ClusterName, Hostname},
    resilience::ClusterResilience,
};

/// Labels of an endpoint, or the labels a subset asks for.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// A destination with its policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// Its name, which also names its endpoints.
    pub name: ClusterName,
    /// Labels an endpoint must carry to belong to the subset; empty takes all.
    pub labels: Labels,
    /// What the endpoints speak.
    pub protocol: Protocol,
    /// How one of them is chosen.
    pub balancing: Balancing,
    /// Limits and timeouts of connections.
    pub pool: ConnectionPool,
    /// How connections are secured.
    #[serde(default)]
    pub tls: ClusterTls,
    /// What is done about failure.
    #[serde(default)]
    pub resilience: ClusterResilience,
}

/// What a port speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Protocol {
    /// Not declared: upstream is spoken to as downstream spoke.
    #[default]
    Auto,
    /// HTTP/1.1. A gRPC call still travels as HTTP/2, the only version that can carry it.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Opaque bytes.
    Tcp,
}

/// How connections to endpoints are secured (`tls.mode`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ClusterTls {
    /// Mutual TLS with the mesh's identities where a sidecar stands in front of the endpoint, else plain text.
    #[default]
    Auto,
    /// `DISABLE`: plain text.
    Disable,
    /// `ISTIO_MUTUAL`: mutual TLS with the mesh's identities to every endpoint, which must prove one of these, or its own
    /// where none is given.
    Mutual(Vec<Identity>),
    /// `SIMPLE` and `MUTUAL`: TLS as any other client speaks it.
    Originate(Box<Origination>),
}

/// TLS as a client outside of the mesh speaks it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Origination {
    /// Files of the proxy's with the certificate chain and the private key it shows; `MUTUAL`.
    #[serde(default)]
    pub client_certificate: Option<CertificateFiles>,
    /// File of the proxy's with the roots to believe; absent is those of the operating system.
    #[serde(default)]
    pub roots: Option<String>,
    /// The name asked for; absent is the host of the request.
    #[serde(default)]
    pub sni: Option<Hostname>,
    /// Names to accept in place of the one asked for: DNS names or URIs.
    #[serde(default)]
    pub subject_alt_names: Vec<String>,
    /// Believe any certificate.
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

/// Two files in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateFiles {
    /// Path of the certificate chain, leaf first.
    pub chain: String,
    /// Path of the private key.
    pub key: String,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Balancing {
    /// The algorithm.
    pub policy: LoadBalancer,
    /// How a new endpoint is led up to its full share.
    pub warmup: Option<Warmup>,
}

/// The algorithms.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum LoadBalancer {
    /// The less busy of two random endpoints (power of two choices, Mitzenmacher 2001).
    #[default]
    LeastRequest,
    /// The one of two random endpoints that promises the sooner answer: peak latency, decaying over 10 s, times its
    /// load (Finagle's peak EWMA).
    PeakEwma,
    /// Each in turn, by weight.
    RoundRobin,
    /// By weighted dice.
    Random,
    /// The same key goes to the same endpoint while it is there (ketama ring).
    RingHash {
        /// What is hashed.
        key: HashKey,
        /// Fewest points on the ring; Istio's default is 1024.
        minimum_size: u32,
    },
}

/// What a consistent hash is made of. A request without the key goes to a random endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum HashKey {
    /// The value of a header.
    Header(#[serde(with = "header::name_text")] HeaderName),
    /// The value of a cookie, which is made up and set when absent and `ttl` is given.
    Cookie {
        /// Name of the cookie.
        name: String,
        /// Path attribute of a cookie that is set.
        path: Option<String>,
        /// Lifetime of a cookie that is set; zero makes a session cookie, absent sets none.
        ttl: Option<Duration>,
    },
    /// The address the client connects from.
    SourceIp,
    /// The first value of a query parameter.
    Query(String),
}

/// Slow start (Envoy's): the weight of an endpoint grows over `duration` from `minimum_percent` to its full value as
/// `(elapsed / duration)^(1 / aggression)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Warmup {
    /// Length of the window.
    pub duration: Duration,
    /// Share of the weight at the start, 0 to 100; default 10.
    pub minimum_percent: u8,
    /// Aggression in thousandths; default 1000 is linear growth.
    pub aggression_thousandths: u32,
}

/// Limits and timeouts of a cluster's connections, counted over all its endpoints in one proxy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectionPool {
    /// `tcp.maxConnections`; default no limit.
    pub max_connections: u32,
    /// `tcp.connectTimeout`; default 10 s.
    pub connect_timeout: Duration,
    /// `tcp.tcpKeepalive`; default off.
    pub keepalive: Option<Keepalive>,
    /// `http.http1MaxPendingRequests`: requests waiting for a connection; default no limit.
    pub max_pending: u32,
    /// `http.http2MaxRequests`: requests under way, whatever the version; default no limit.
    pub max_requests: u32,
    /// `http.maxRequestsPerConnection`; 0, the default, is no limit and 1 switches keep-alive off.
    pub max_requests_per_connection: u32,
    /// `http.maxConcurrentStreams` on one HTTP/2 connection; default no limit but the peer's.
    pub max_concurrent_streams: u32,
    /// `http.idleTimeout`: how long an unused connection is kept; default 1 h, zero keeps it for ever.
    pub idle_timeout: Duration,
    /// `tcp.idleTimeout`: how long an opaque stream may be silent; default 1 h, zero for ever.
    pub tcp_idle_timeout: Duration,
    /// `tcp.maxConnectionDuration`; default no limit.
    pub max_connection_duration: Option<Duration>,
}

/// TCP keep-alive probes; what is absent is left to the operating system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Keepalive {
    /// Probes sent before a connection is taken for dead.
    pub probes: Option<u32>,
    /// Silence before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

impl Default for ConnectionPool {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self {
            max_connections: u32::MAX,
            connect_timeout: Duration::from_secs(10),
            keepalive: None,
            max_pending: u32::MAX,
            max_requests: u32::MAX,
            max_requests_per_connection: 0,
            max_concurrent_streams: u32::MAX,
            idle_timeout: HOUR,
            tcp_idle_timeout: HOUR,
            max_connection_duration: None,
        }
    }
}

impl Cluster {
    /// A cluster without any policy: the defaults.
    pub fn plain(name: ClusterName, protocol: Protocol) -> Self {
        Self {
            name,
            labels: Labels::new(),
            protocol,
            balancing: Balancing::default(),
            pool: ConnectionPool::default(),
            tls: ClusterTls::default(),
            resilience: ClusterResilience::default(),
        }
    }
}
