//! Figures of one cluster's connections, queue and requests: what to look at when a limit bites.

use std::sync::{Arc, atomic::AtomicU64};

use super::series::{Budget, Share};

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
    /// Requests refused because of `http1MaxPendingRequests`.
    pub pending_overflow: AtomicU64,
    /// Requests under way.
    pub requests_active: AtomicU64,
    /// Requests refused because of `http2MaxRequests`.
    pub request_overflow: AtomicU64,
    _share: Option<Share>,
}

/// What one figure of a cluster is called, is for, and how it is read.
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) read: fn(&ClusterGauges) -> &AtomicU64,
}

/// All figures of a cluster; a counter's name ends in `_total`.
pub(super) const COLUMNS: [Column; 9] = [
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
    column("pillion_upstream_pending_overflow_total", "Requests refused: http1MaxPendingRequests.", |c| {
        &c.pending_overflow
    }),
    column("pillion_upstream_requests_active", "Requests under way.", |c| &c.requests_active),
    column("pillion_upstream_request_overflow_total", "Requests refused: http2MaxRequests.", |c| {
        &c.request_overflow
    }),
];

const fn column(name: &'static str, help: &'static str, read: fn(&ClusterGauges) -> &AtomicU64) -> Column {
    Column { name, help, read }
}

impl ClusterGauges {
    pub(super) fn within(budget: &Arc<Budget>, cluster: Arc<str>) -> Option<Self> {
        let share = Share::take(budget, COLUMNS.len())?;
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
            pending_overflow: AtomicU64::default(),
            requests_active: AtomicU64::default(),
            request_overflow: AtomicU64::default(),
            _share: None,
        }
    }
}
