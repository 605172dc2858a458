//! What a sample service saw: counters that tests assert on.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one service since it started.
#[derive(Debug, Default)]
pub struct Stats {
    requests: AtomicU64,
    in_flight: AtomicU64,
    in_flight_peak: AtomicU64,
    connections: AtomicU64,
    open_connections: AtomicU64,
    open_connections_peak: AtomicU64,
}

impl Stats {
    /// Requests received.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// Requests being served now.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// The most requests served at one time.
    pub fn in_flight_peak(&self) -> u64 {
        self.in_flight_peak.load(Ordering::SeqCst)
    }

    /// Connections accepted.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open_connections(&self) -> u64 {
        self.open_connections.load(Ordering::SeqCst)
    }

    /// The most connections open at one time.
    pub fn open_connections_peak(&self) -> u64 {
        self.open_connections_peak.load(Ordering::SeqCst)
    }

    pub(super) fn request(&self) -> Guard<'_> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        Guard::enter(&self.in_flight, &self.in_flight_peak)
    }

    pub(super) fn connection(&self) -> Guard<'_> {
        self.connections.fetch_add(1, Ordering::SeqCst);
        Guard::enter(&self.open_connections, &self.open_connections_peak)
    }
}

/// Counts something as present until dropped.
#[derive(Debug)]
pub(super) struct Guard<'a>(&'a AtomicU64);

impl<'a> Guard<'a> {
    fn enter(now: &'a AtomicU64, peak: &AtomicU64) -> Self {
        let present = now.fetch_add(1, Ordering::SeqCst) + 1;
        peak.fetch_max(present, Ordering::SeqCst);
        Self(now)
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
