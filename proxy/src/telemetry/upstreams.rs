//! Figures of one cluster's connections, queue and requests: what to look at when a limit bites.

use std::sync::Arc;

use super::{
    counter::{Counter, Gauge},
    series::{Budget, Share},
};

/// The figures of one cluster.
#[derive(Debug)]
pub struct ClusterGauges {
    pub(super) cluster: Arc<str>,
    /// Connections open now.
    pub connections_active: Gauge,
    /// Connections made.
    pub connections_opened: Counter,
    /// Connections that ended.
    pub connections_closed: Counter,
    /// Connections that could not be made.
    pub connect_failures: Counter,
    /// Connections not made because of `maxConnections`.
    pub connection_overflow: Counter,
    /// Requests that wait for a connection.
    pub pending_active: Gauge,
    /// Requests refused because of `http1MaxPendingRequests`.
    pub pending_overflow: Counter,
    /// Requests under way.
    pub requests_active: Gauge,
    /// Requests refused because of `http2MaxRequests`.
    pub request_overflow: Counter,
    _share: Option<Share>,
}

/// What one figure of a cluster is called, is for, and how it is read.
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) read: Read,
}

/// How a figure is read.
pub(super) enum Read {
    Counter(fn(&ClusterGauges) -> &Counter),
    Gauge(fn(&ClusterGauges) -> &Gauge),
}

/// All figures of a cluster.
pub(super) const COLUMNS: [Column; 9] = [
    gauge("pillion_upstream_connections_active", "Connections open now.", |c| &c.connections_active),
    counter("pillion_upstream_connections_opened_total", "Connections made.", |c| &c.connections_opened),
    counter("pillion_upstream_connections_closed_total", "Connections that ended.", |c| {
        &c.connections_closed
    }),
    counter("pillion_upstream_connect_failures_total", "Connections that could not be made.", |c| {
        &c.connect_failures
    }),
    counter("pillion_upstream_connection_overflow_total", "Connections not made: maxConnections.", |c| {
        &c.connection_overflow
    }),
    gauge("pillion_upstream_pending_active", "Requests that wait for a connection.", |c| &c.pending_active),
    counter("pillion_upstream_pending_overflow_total", "Requests refused: http1MaxPendingRequests.", |c| {
        &c.pending_overflow
    }),
    gauge("pillion_upstream_requests_active", "Requests under way.", |c| &c.requests_active),
    counter("pillion_upstream_request_overflow_total", "Requests refused: http2MaxRequests.", |c| {
        &c.request_overflow
    }),
];

const fn counter(name: &'static str, help: &'static str, read: fn(&ClusterGauges) -> &Counter) -> Column {
    Column { name, help, read: Read::Counter(read) }
}

const fn gauge(name: &'static str, help: &'static str, read: fn(&ClusterGauges) -> &Gauge) -> Column {
    Column { name, help, read: Read::Gauge(read) }
}

impl ClusterGauges {
    pub(super) fn within(budget: &Arc<Budget>, cluster: Arc<str>) -> Option<Self> {
        let share = Share::take(budget, COLUMNS.len())?;
        Some(Self { _share: Some(share), ..Self::free(cluster) })
    }

    pub(super) fn free(cluster: Arc<str>) -> Self {
        Self {
            cluster,
            connections_active: Gauge::default(),
            connections_opened: Counter::default(),
            connections_closed: Counter::default(),
            connect_failures: Counter::default(),
            connection_overflow: Counter::default(),
            pending_active: Gauge::default(),
            pending_overflow: Counter::default(),
            requests_active: Gauge::default(),
            request_overflow: Counter::default(),
            _share: None,
        }
    }
}
