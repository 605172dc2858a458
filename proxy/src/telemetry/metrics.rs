//! All metrics of the proxy, and their text.
//!
//! A set of figures is asked for when its cluster or listener is made, is kept alive by it, and leaves the text when
//! it is gone. The lock around the register is taken then and for a scrape, never by a request. At most
//! [`MAX_SERIES`] series exist, whatever peers and configuration do.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use super::{
    access::AccessStats,
    counter::{Counter, Gauge},
    exposition::Text,
    handshakes::TlsStats,
    process,
    requests::{Labels, Reporter, RequestStats, TcpStats},
    series::{Budget, Sets},
    upstreams::{COLUMNS, ClusterGauges},
};
use crate::rt::{clock, drain::Drain, task};

pub use super::exposition::CONTENT_TYPE;

/// The most series the text can have.
pub const MAX_SERIES: usize = 2000;
/// Set aside for the figures of the process and the sets that no budget limits.
const RESERVED: usize = 310;

/// Every metric of the process.
#[derive(Debug)]
pub struct Metrics {
    /// The stream to the control plane.
    pub xds: XdsStats,
    /// The proxy itself.
    pub proxy: ProxyStats,
    /// Connections that were to be secured.
    pub tls: TlsStats,
    /// The own identity.
    pub identity: IdentityStats,
    /// Who was let in.
    pub access: AccessStats,
    budget: Arc<Budget>,
    unmatched: Arc<RequestStats>,
    register: Mutex<Register>,
}

#[derive(Debug)]
struct Register {
    requests: Sets<Labels, RequestStats>,
    tcp: Sets<Labels, TcpStats>,
    clusters: Sets<Arc<str>, ClusterGauges>,
}

/// Figures of the stream to the control plane.
#[derive(Debug, Default)]
pub struct XdsStats {
    /// 1 while connected.
    pub connected: Gauge,
    /// Connections made.
    pub connections: Counter,
    /// Resources taken in.
    pub updates: Counter,
    /// Resources refused.
    pub rejected: Counter,
    /// Resources subscribed to.
    pub subscriptions: Gauge,
    /// Destinations the control plane has described.
    pub known: Gauge,
    /// Destinations the control plane does not have.
    pub absent: Gauge,
    /// How often the configuration in force has changed.
    pub revision: Gauge,
    /// Bits of the seconds since 1970 of the last update; 0 is never.
    updated_at: AtomicU64,
}

impl XdsStats {
    /// Notes that an update came in now.
    pub fn touch(&self) {
        self.updated_at.store(clock::unix_seconds(clock::now()).to_bits(), Relaxed);
    }
}

/// Figures of the own identity.
#[derive(Debug, Default)]
pub struct IdentityStats {
    /// Certificates taken into use.
    pub renewed: Counter,
    /// Attempts to get one that failed.
    pub failed: Counter,
    /// Bits of the seconds since 1970 at which the certificate in use expires; 0 is none.
    expires_at: AtomicU64,
}

impl IdentityStats {
    /// Notes when the certificate in use expires.
    pub fn expires(&self, at: SystemTime) {
        self.expires_at.store(clock::unix_seconds(at).to_bits(), Relaxed);
    }
}

/// Figures of the proxy itself.
#[derive(Debug, Default)]
pub struct ProxyStats {
    /// Connections from clients open now.
    pub downstream_connections: Gauge,
    /// Connections that could not be accepted.
    pub accept_errors: Counter,
    /// Connections handed to a less busy worker.
    pub handed_over: Counter,
    /// Requests that wait for a destination to be looked up.
    pub holds_active: Gauge,
    /// Requests that had to wait for that.
    pub holds: Counter,
    /// Requests that waited in vain.
    pub holds_timed_out: Counter,
    /// Connections whose client did not say in time what it speaks.
    pub detection_timeouts: Counter,
    /// Requests a rate limit has refused.
    pub rate_limited: Counter,
    /// Requests delayed because the policy wants that.
    pub faults_delayed: Counter,
    /// Requests answered with a failure because the policy wants that.
    pub faults_aborted: Counter,
    /// Lines of the access log that were lost.
    pub access_log_dropped: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            xds: XdsStats::default(),
            proxy: ProxyStats::default(),
            tls: TlsStats::default(),
            identity: IdentityStats::default(),
            access: AccessStats::default(),
            unmatched: Arc::new(RequestStats::free(Labels::unknown(Reporter::Source))),
            budget: Budget::new(MAX_SERIES - RESERVED),
            register: Mutex::new(Register {
                requests: Sets::new(RequestStats::free(Labels::overflow())),
                tcp: Sets::new(TcpStats::free(Labels::overflow())),
                clusters: Sets::new(ClusterGauges::free("overflow".into())),
            }),
        }
    }
}

impl Metrics {
    /// No figures yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The figures of requests with those labels, shared by all who ask for them.
    pub fn request_stats(&self, labels: &Labels) -> Arc<RequestStats> {
        if *labels == self.unmatched.labels {
            return self.unmatched();
        }
        self.register().requests.get(labels, || RequestStats::within(&self.budget, labels.clone()))
    }

    /// The figures of requests that belong to no destination.
    pub fn unmatched(&self) -> Arc<RequestStats> {
        Arc::clone(&self.unmatched)
    }

    /// The figures of opaque connections with those labels, shared by all who ask for them.
    pub fn tcp_stats(&self, labels: &Labels) -> Arc<TcpStats> {
        self.register().tcp.get(labels, || TcpStats::within(&self.budget, labels.clone()))
    }

    /// The figures of a cluster, shared by all who ask for them.
    pub fn cluster(&self, cluster: &Arc<str>) -> Arc<ClusterGauges> {
        self.register().clusters.get(cluster, || ClusterGauges::within(&self.budget, Arc::clone(cluster)))
    }

    /// Everything in the text format of Prometheus.
    pub fn render(&self, drain: &Drain) -> String {
        // Living sets are taken out of the register, so that it is not locked while text is made.
        let (mut requests, tcp, clusters) = {
            let register = self.register();
            (register.requests.living(), register.tcp.living(), register.clusters.living())
        };
        requests.push(self.unmatched());
        let mut text = Text::default();
        write_requests(&mut text, &requests);
        write_tcp(&mut text, &tcp);
        write_clusters(&mut text, &clusters);
        self.xds.write(&mut text);
        self.proxy.write(&mut text, drain);
        self.tls.write(&mut text);
        self.identity.write(&mut text);
        self.access.write(&mut text);
        process::write(&mut text);
        text.finish()
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_requests(text: &mut Text, all: &[Arc<RequestStats>]) {
    let used: Vec<_> = all
        .iter()
        .map(|stats| (stats.labels.pairs(), stats.duration.read(), stats))
        .filter(|(_, duration, _)| duration.count > 0)
        .collect();
    let name = "istio_requests_total";
    text.family(name, "counter", "Requests by how they ended.");
    for (pairs, _, stats) in &used {
        let (kinds, other) = stats.read();
        for (kind, count) in kinds {
            let grpc_status = kind.grpc_status.map(|status| status.to_string()).unwrap_or_default();
            let status = kind.status.to_string();
            let of_kind = [
                ("request_protocol", if kind.grpc { "grpc" } else { "http" }),
                ("response_code", &*status),
                ("grpc_response_status", &*grpc_status),
                ("response_flags", kind.flag.as_str()),
                ("connection_security_policy", if kind.secured { "mutual_tls" } else { "none" }),
            ];
            text.sample(name, &[pairs, &of_kind[..]].concat(), count);
        }
        if other > 0 {
            text.sample(name, &[pairs, &[("response_code", "other")][..]].concat(), other);
        }
    }
    let name = "istio_request_duration_milliseconds";
    text.family(name, "histogram", "How long requests took, from their head to the end of the response.");
    for (pairs, duration, _) in &used {
        for (bound, count) in &duration.buckets {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            let labels = [pairs, &[("le", &*bound)][..]].concat();
            text.sample("istio_request_duration_milliseconds_bucket", &labels, count);
        }
        text.sample("istio_request_duration_milliseconds_sum", pairs, duration.sum);
        text.sample("istio_request_duration_milliseconds_count", pairs, duration.count);
    }
    // Istio has histograms of sizes; their buckets would take more series than all else, so only sum and count are kept.
    for (name, help, bytes) in [
        (
            "istio_request_bytes",
            "Size of request bodies.",
            (|stats| &stats.request_bytes) as fn(&RequestStats) -> &Counter,
        ),
        ("istio_response_bytes", "Size of response bodies.", |stats| &stats.response_bytes),
    ] {
        text.family(name, "summary", help);
        for (pairs, duration, stats) in &used {
            text.sample(&format!("{name}_sum"), pairs, bytes(stats).get());
            text.sample(&format!("{name}_count"), pairs, duration.count);
        }
    }
}

fn write_tcp(text: &mut Text, all: &[Arc<TcpStats>]) {
    let used: Vec<_> = all.iter().filter(|stats| stats.opened.get() > 0).collect();
    type Column = (&'static str, &'static str, fn(&TcpStats) -> &Counter);
    let columns: [Column; 4] = [
        ("istio_tcp_sent_bytes_total", "Bytes sent to clients.", |stats| &stats.sent),
        ("istio_tcp_received_bytes_total", "Bytes received from clients.", |stats| &stats.received),
        ("istio_tcp_connections_opened_total", "Opaque connections opened.", |stats| &stats.opened),
        ("istio_tcp_connections_closed_total", "Opaque connections closed.", |stats| &stats.closed),
    ];
    for (name, help, read) in columns {
        text.family(name, "counter", help);
        for stats in &used {
            let labels = [&stats.labels.pairs(), &[("request_protocol", "tcp")][..]].concat();
            text.sample(name, &labels, read(stats).get());
        }
    }
}

fn write_clusters(text: &mut Text, all: &[Arc<ClusterGauges>]) {
    for column in &COLUMNS {
        let kind = if column.name.ends_with("_total") { "counter" } else { "gauge" };
        text.family(column.name, kind, column.help);
        for cluster in all {
            text.sample(column.name, &[("cluster", &*cluster.cluster)], (column.read)(cluster).load(Relaxed));
        }
    }
}

impl XdsStats {
    fn write(&self, text: &mut Text) {
        for (name, help, value) in [
            ("pillion_xds_connected", "Whether the control plane is connected.", &self.connected),
            ("pillion_xds_subscriptions", "Resources subscribed to.", &self.subscriptions),
            ("pillion_xds_known_destinations", "Destinations that are described.", &self.known),
            ("pillion_xds_absent_destinations", "Destinations asked for that do not exist.", &self.absent),
            ("pillion_xds_config_revision", "How often the configuration has changed.", &self.revision),
        ] {
            text.single(name, "gauge", help, value.get());
        }
        for (name, help, value) in [
            ("pillion_xds_connections_total", "Connections made to the control plane.", &self.connections),
            ("pillion_xds_updates_total", "Resources taken in.", &self.updates),
            ("pillion_xds_rejected_total", "Resources refused.", &self.rejected),
        ] {
            text.single(name, "counter", help, value.get());
        }
        let updated = f64::from_bits(self.updated_at.load(Relaxed));
        let help = "When the last update came, in seconds since 1970; 0 is never.";
        text.single("pillion_xds_last_update_timestamp_seconds", "gauge", help, updated);
    }
}

impl IdentityStats {
    fn write(&self, text: &mut Text) {
        let expires = f64::from_bits(self.expires_at.load(Relaxed));
        let help = "When the own certificate expires, in seconds since 1970; 0 is none.";
        text.single("pillion_certificate_expiry_timestamp_seconds", "gauge", help, expires);
        let name = "pillion_certificate_renewals_total";
        text.family(name, "counter", "Attempts to get a certificate, by how they ended.");
        for (result, count) in [("ok", &self.renewed), ("failed", &self.failed)] {
            text.sample(name, &[("result", result)], count.get());
        }
    }
}

impl ProxyStats {
    fn write(&self, text: &mut Text, drain: &Drain) {
        let phase = drain.phase() as u8;
        text.single("pillion_drain_phase", "gauge", "0 running, 1 draining, 2 closed, 3 forced.", phase);
        let name = "pillion_build_info";
        text.family(name, "gauge", "The version that runs.");
        text.sample(name, &[("version", env!("CARGO_PKG_VERSION"))], 1);
        for (name, help, value) in [
            ("pillion_downstream_connections", "Connections from clients.", &self.downstream_connections),
            ("pillion_holds_active", "Requests that wait for an unknown destination.", &self.holds_active),
        ] {
            text.single(name, "gauge", help, value.get());
        }
        let panics = task::panics();
        text.single("pillion_panics_total", "counter", "Panics caught; each is a bug.", panics);
        for (name, help, value) in [
            ("pillion_accept_errors_total", "Connections that could not be accepted.", &self.accept_errors),
            ("pillion_handed_over_total", "Connections given to a less busy worker.", &self.handed_over),
            ("pillion_holds_total", "Requests that waited for an unknown destination.", &self.holds),
            ("pillion_holds_timed_out_total", "Requests that waited in vain.", &self.holds_timed_out),
            (
                "pillion_detection_timeouts_total",
                "Clients that did not speak first.",
                &self.detection_timeouts,
            ),
            ("pillion_rate_limited_total", "Requests a rate limit has refused.", &self.rate_limited),
            ("pillion_faults_delayed_total", "Requests delayed by policy.", &self.faults_delayed),
            ("pillion_faults_aborted_total", "Requests failed by policy.", &self.faults_aborted),
            ("pillion_access_log_dropped_total", "Access log lines lost.", &self.access_log_dropped),
        ] {
            text.single(name, "counter", help, value.get());
        }
    }
}

#[cfg(test)]
mod tests;
