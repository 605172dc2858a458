//! Figures of one cluster's connections, queue and requests: what to look at when a limit bites.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{
    exposition::{Audience, Kind},
    series::{Budget, Share},
};

/// The figures of one cluster. Those of what is under way also carry the limits: who adds to them asks first.
#[derive(Debug)]
pub struct ClusterGauges {
    pub(super) cluster: Arc<str>,
    /// Connections open now.
    pub connections_active: AtomicU64,
    /// Connections made.
    pub connections_opened: AtomicU64,
    /// Connections that ended.
    pub connections_closed: AtomicU64,
    /// Connections that could not be made.
    pub connect_failures: AtomicU64,
    /// Connections not made because of `maxConnections`.
    pub connection_overflow: AtomicU64,
    /// Requests that wait for a connection.
    pub pending_active: AtomicU64,
    /// Requests that had to wait for a connection.
    pub pending: AtomicU64,
    /// Microseconds requests have waited for a connection.
    pub pending_wait_us: AtomicU64,
    /// Requests refused because of `http1MaxPendingRequests`.
    pub pending_overflow: AtomicU64,
    /// Requests under way.
    pub requests_active: AtomicU64,
    /// Requests refused because of `http2MaxRequests`.
    pub request_overflow: AtomicU64,
    /// Requests sent again.
    pub retries: AtomicU64,
    /// Requests that succeeded because they were sent again.
    pub retry_successes: AtomicU64,
    /// Requests that failed although they were sent again as often as allowed.
    pub retries_exhausted: AtomicU64,
    /// Repetitions the retry budget denied.
    pub retries_denied: AtomicU64,
    /// 0 closed, 1 half-open, 2 open.
    pub breaker_state: AtomicU64,
    /// How often the breaker has opened.
    pub breaker_opened: AtomicU64,
    /// How often the breaker has become half-open.
    pub breaker_half_opened: AtomicU64,
    /// How often the breaker has closed again.
    pub breaker_closed: AtomicU64,
    /// Requests the breaker has refused.
    pub breaker_rejected: AtomicU64,
    /// Endpoints ejected now.
    pub ejections_active: AtomicU64,
    /// Endpoints found to be outliers, ejected or not.
    pub ejections_detected: AtomicU64,
    /// Endpoints ejected.
    pub ejections_enforced: AtomicU64,
    /// Endpoints not ejected because too many were.
    pub ejections_overflow: AtomicU64,
    /// Requests waiting for their turn.
    pub queued_active: AtomicU64,
    /// Requests that had to wait for their turn.
    pub queued: AtomicU64,
    /// Microseconds requests have waited for their turn.
    pub queue_wait_us: AtomicU64,
    /// Requests the bulkhead has refused.
    pub bulkhead_rejected: AtomicU64,
    _share: Option<Share>,
}

/// What one figure of a cluster is called, is for, and how it is read.
struct Column {
    name: &'static str,
    help: &'static str,
    read: fn(&ClusterGauges) -> &AtomicU64,
}

/// All figures of a cluster; a counter's name ends in `_total`, and what is told in seconds is kept in microseconds.
const COLUMNS: [Column; 28] = [
    column("pillion_upstream_connections_active", "Connections open now.", |c| &c.connections_active),
    column("pillion_upstream_connections_opened_total", "Connections made.", |c| &c.connections_opened),
    column("pillion_upstream_connections_closed_total", "Connections that ended.", |c| &c.connections_closed),
    column("pillion_upstream_connect_failures_total", "Connections that could not be made.", |c| {
        &c.connect_failures
    }),
    column("pillion_upstream_connection_overflow_total", "Connections not made: maxConnections.", |c| {
        &c.connection_overflow
    }),
    column("pillion_upstream_pending_active", "Requests that wait for a connection.", |c| &c.pending_active),
    column("pillion_upstream_pending_total", "Requests that have waited for a connection.", |c| &c.pending),
    column(
        "pillion_upstream_pending_wait_seconds_total",
        "How long requests have waited for a connection, together.",
        |c| &c.pending_wait_us,
    ),
    column("pillion_upstream_pending_overflow_total", "Requests refused: http1MaxPendingRequests.", |c| {
        &c.pending_overflow
    }),
    column("pillion_upstream_requests_active", "Requests under way.", |c| &c.requests_active),
    column("pillion_upstream_request_overflow_total", "Requests refused: http2MaxRequests.", |c| {
        &c.request_overflow
    }),
    column("pillion_upstream_retries_total", "Requests sent again after a failure.", |c| &c.retries),
    column(
        "pillion_upstream_retry_successes_total",
        "Requests that succeeded because they were sent again.",
        |c| &c.retry_successes,
    ),
    column("pillion_upstream_retries_exhausted_total", "Requests that failed in every try.", |c| {
        &c.retries_exhausted
    }),
    column("pillion_upstream_retry_budget_denied_total", "Repetitions the retry budget has denied.", |c| {
        &c.retries_denied
    }),
    column("pillion_breaker_state", "0 closed, 1 half-open, 2 open.", |c| &c.breaker_state),
    column("pillion_breaker_opened_total", "How often the breaker has opened.", |c| &c.breaker_opened),
    column("pillion_breaker_half_opened_total", "How often the breaker has tried again.", |c| {
        &c.breaker_half_opened
    }),
    column("pillion_breaker_closed_total", "How often the breaker has closed again.", |c| &c.breaker_closed),
    column("pillion_breaker_rejected_total", "Requests the breaker has refused.", |c| &c.breaker_rejected),
    column("pillion_outlier_ejections_active", "Endpoints ejected now.", |c| &c.ejections_active),
    column(
        "pillion_outlier_ejections_detected_total",
        "Endpoints found to be outliers, ejected or not.",
        |c| &c.ejections_detected,
    ),
    column("pillion_outlier_ejections_enforced_total", "Ejections.", |c| &c.ejections_enforced),
    column("pillion_outlier_ejections_overflow_total", "Outliers not ejected: too many were already.", |c| {
        &c.ejections_overflow
    }),
    column("pillion_bulkhead_queued_active", "Requests that wait in the bulkhead.", |c| &c.queued_active),
    column("pillion_bulkhead_queued_total", "Requests that have waited in the bulkhead.", |c| &c.queued),
    column(
        "pillion_bulkhead_wait_seconds_total",
        "How long requests have waited in the bulkhead, together.",
        |c| &c.queue_wait_us,
    ),
    column("pillion_bulkhead_rejected_total", "Requests the bulkhead has refused.", |c| &c.bulkhead_rejected),
];

const fn column(name: &'static str, help: &'static str, read: fn(&ClusterGauges) -> &AtomicU64) -> Column {
    Column { name, help, read }
}

impl Column {
    fn value(&self, cluster: &ClusterGauges) -> f64 {
        let parts = if self.name.contains("_seconds") { 1e6 } else { 1.0 };
        #[expect(clippy::cast_precision_loss, reason = "from 2^53 on, the last digits do not matter")]
        let value = (self.read)(cluster).load(Relaxed) as f64;
        value / parts
    }
}

/// Writes the figures of all clusters.
pub(super) fn write(out: &mut impl Audience, all: &[Arc<ClusterGauges>]) {
    for column in &COLUMNS {
        let kind = if column.name.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
        out.family(column.name, kind, column.help);
        for cluster in all {
            out.sample(column.name, &[("cluster", &*cluster.cluster)], column.value(cluster));
        }
    }
}

impl ClusterGauges {
    pub(super) const SERIES: usize = COLUMNS.len();

    pub(super) fn within(budget: &Arc<Budget>, cluster: Arc<str>) -> Option<Self> {
        let share = Share::take(budget, Self::SERIES)?;
        Some(Self { _share: Some(share), ..Self::free(cluster) })
    }

    pub(super) fn free(cluster: Arc<str>) -> Self {
        Self {
            cluster,
            connections_active: AtomicU64::default(),
            connections_opened: AtomicU64::default(),
            connections_closed: AtomicU64::default(),
            connect_failures: AtomicU64::default(),
            connection_overflow: AtomicU64::default(),
            pending_active: AtomicU64::default(),
            pending: AtomicU64::default(),
            pending_wait_us: AtomicU64::default(),
            pending_overflow: AtomicU64::default(),
            requests_active: AtomicU64::default(),
            request_overflow: AtomicU64::default(),
            retries: AtomicU64::default(),
            retry_successes: AtomicU64::default(),
            retries_exhausted: AtomicU64::default(),
            retries_denied: AtomicU64::default(),
            breaker_state: AtomicU64::default(),
            breaker_opened: AtomicU64::default(),
            breaker_half_opened: AtomicU64::default(),
            breaker_closed: AtomicU64::default(),
            breaker_rejected: AtomicU64::default(),
            ejections_active: AtomicU64::default(),
            ejections_detected: AtomicU64::default(),
            ejections_enforced: AtomicU64::default(),
            ejections_overflow: AtomicU64::default(),
            queued_active: AtomicU64::default(),
            queued: AtomicU64::default(),
            queue_wait_us: AtomicU64::default(),
            bulkhead_rejected: AtomicU64::default(),
            _share: None,
        }
    }
}
