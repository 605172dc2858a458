//! All metrics of the proxy, and their text.
//!
//! A set of figures is asked for when its cluster or listener is made, is kept alive by it, and leaves the text when
//! it is gone. The lock around the register is taken then and for a scrape, never by a request. At most
//! [`MAX_SERIES`] series exist, whatever peers and configuration do.

pub mod export;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    access::AccessStats,
    control::{IdentityStats, XdsStats},
    counter::{Counter, Gauge},
    detection::DetectionStats,
    exposition::{Audience, Kind, Text},
    handshakes::TlsStats,
    otlp::stats::{ExportStats, LOGS, POINTS, SPANS},
    process,
    requests::{self, Labels, Reporter, RequestStats, Room, TcpStats},
    series::{Budget, Sets},
    upstreams::{self, ClusterGauges},
    workers::{self, WorkerStats, Workers},
};
use crate::rt::{drain::Drain, task};

pub use super::exposition::Format;

/// The most series the text can have.
pub const MAX_SERIES: usize = 2000;
/// Set aside for the figures without labels, or with those whose values are fixed.
const FIXED: usize = 200;
/// Series that no budget limits: the fixed ones, and the sets of what is unknown and of what finds no room.
const RESERVED: usize =
    FIXED + workers::SERIES + 2 * RequestStats::MOST + TcpStats::SERIES + ClusterGauges::SERIES;

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
    /// What became of spans.
    pub spans: Arc<ExportStats>,
    /// What became of these figures themselves, where they are exported.
    pub points: Arc<ExportStats>,
    /// What became of lines of the access log that were to be exported.
    pub logs: Arc<ExportStats>,
    /// What connections were found to speak.
    pub detection: DetectionStats,
    workers: Workers,
    room: Room,
    unmatched: Arc<RequestStats>,
    register: Mutex<Register>,
}

#[derive(Debug)]
struct Register {
    requests: Sets<Labels, RequestStats>,
    tcp: Sets<Labels, TcpStats>,
    clusters: Sets<Arc<str>, ClusterGauges>,
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
    /// Requests a rate limit has refused.
    pub rate_limited: Counter,
    /// Requests delayed because the policy wants that.
    pub faults_delayed: Counter,
    /// Requests answered with a failure because the policy wants that.
    pub faults_aborted: Counter,
    /// Lines of the access log that were lost.
    pub access_log_dropped: Counter,
    /// Failed and slow requests of which no story was kept, and stories that those who tap have missed.
    pub journal_dropped: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let overflow = Arc::new(RequestStats::free(Labels::overflow()));
        Self {
            xds: XdsStats::default(),
            proxy: ProxyStats::default(),
            tls: TlsStats::default(),
            identity: IdentityStats::default(),
            access: AccessStats::default(),
            spans: Arc::default(),
            points: Arc::default(),
            logs: Arc::default(),
            detection: DetectionStats::default(),
            workers: Workers::default(),
            unmatched: Arc::new(RequestStats::free(Labels::unknown(Reporter::Source))),
            register: Mutex::new(Register {
                requests: Sets::new(Arc::clone(&overflow)),
                tcp: Sets::new(Arc::new(TcpStats::free(Labels::overflow()))),
                clusters: Sets::new(Arc::new(ClusterGauges::free("overflow".into()))),
            }),
            room: Room { budget: Budget::new(MAX_SERIES - RESERVED), overflow },
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
        let make = || Some(RequestStats::within(self.room.clone(), labels.clone()));
        self.register().requests.get(labels, make)
    }

    /// The figures of requests that belong to no destination.
    pub fn unmatched(&self) -> Arc<RequestStats> {
        Arc::clone(&self.unmatched)
    }

    /// The figures of opaque connections with those labels, shared by all who ask for them.
    pub fn tcp_stats(&self, labels: &Labels) -> Arc<TcpStats> {
        self.register().tcp.get(labels, || TcpStats::within(&self.room.budget, labels.clone()))
    }

    /// The figures of a cluster, shared by all who ask for them.
    pub fn cluster(&self, cluster: &Arc<str>) -> Arc<ClusterGauges> {
        let make = || ClusterGauges::within(&self.room.budget, Arc::clone(cluster));
        self.register().clusters.get(cluster, make)
    }

    /// The figures of the data thread that calls.
    pub fn worker(&self) -> Arc<WorkerStats> {
        self.workers.join()
    }

    /// Everything as a text of that form.
    pub fn render(&self, drain: &Drain, format: Format) -> String {
        let mut text = Text::new(format);
        self.tell(drain, &mut text);
        text.finish()
    }

    /// Tells of every family there is.
    pub(super) fn tell(&self, drain: &Drain, out: &mut impl Audience) {
        // Living sets are taken out of the register, so that it is not locked while they are told.
        let (mut requests, tcp, clusters) = {
            let register = self.register();
            (register.requests.living(), register.tcp.living(), register.clusters.living())
        };
        requests.push(self.unmatched());
        requests::write(out, &requests);
        requests::write_tcp(out, &tcp);
        upstreams::write(out, &clusters);
        self.xds.write(out);
        self.proxy.write(out, drain);
        self.tls.write(out);
        self.identity.write(out);
        self.access.write(out);
        self.detection.write(out);
        self.spans.write(out, SPANS);
        self.points.write(out, POINTS);
        self.logs.write(out, LOGS);
        self.workers.write(out);
        process::write(out);
    }

    /// The figures of requests and clusters that somebody uses.
    pub(super) fn living(&self) -> (Vec<Arc<RequestStats>>, Vec<Arc<ClusterGauges>>) {
        let register = self.register();
        let mut requests = register.requests.living();
        requests.push(self.unmatched());
        (requests, register.clusters.living())
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProxyStats {
    fn write(&self, out: &mut impl Audience, drain: &Drain) {
        let phase = u64::from(drain.phase() as u8);
        out.single("pillion_drain_phase", Kind::Gauge, "0 running, 1 draining, 2 closed, 3 forced.", phase);
        let name = "pillion_build_info";
        out.family(name, Kind::Gauge, "The version that runs.");
        out.sample(name, &[("version", env!("CARGO_PKG_VERSION"))], 1_u64);
        for (name, help, value) in [
            ("pillion_downstream_connections", "Connections from clients.", &self.downstream_connections),
            ("pillion_holds_active", "Requests that wait for an unknown destination.", &self.holds_active),
        ] {
            out.single(name, Kind::Gauge, help, value.get());
        }
        let panics = task::panics();
        out.single("pillion_panics_total", Kind::Counter, "Panics caught; each is a bug.", panics);
        for (name, help, value) in [
            ("pillion_accept_errors_total", "Connections that could not be accepted.", &self.accept_errors),
            ("pillion_handed_over_total", "Connections given to a less busy worker.", &self.handed_over),
            ("pillion_holds_total", "Requests that waited for an unknown destination.", &self.holds),
            ("pillion_holds_timed_out_total", "Requests that waited in vain.", &self.holds_timed_out),
            ("pillion_rate_limited_total", "Requests a rate limit has refused.", &self.rate_limited),
            ("pillion_faults_delayed_total", "Requests delayed by policy.", &self.faults_delayed),
            ("pillion_faults_aborted_total", "Requests failed by policy.", &self.faults_aborted),
            ("pillion_access_log_dropped_total", "Access log lines lost.", &self.access_log_dropped),
            ("pillion_journal_dropped_total", "Failed or slow requests not kept.", &self.journal_dropped),
        ] {
            out.single(name, Kind::Counter, help, value.get());
        }
    }
}

#[cfg(test)]
mod tests;
