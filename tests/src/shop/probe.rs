//! What a sample service saw: counters and records that tests assert on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use tokio::time::Instant;

use super::line::Unread;

/// The header whose requests are recorded one by one, by its value.
pub const ID: &str = "x-id";

/// Counters of one service since it started.
#[derive(Debug, Default)]
pub struct Stats {
    requests: AtomicU64,
    in_flight: AtomicU64,
    in_flight_peak: AtomicU64,
    connections: AtomicU64,
    open_connections: AtomicU64,
    open_connections_peak: AtomicU64,
    seen: Mutex<Vec<Seen>>,
    unread: Unread,
}

/// One request with the header [`ID`], as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The value of [`ID`].
    pub id: String,
    /// `x-pillion-attempt`, empty if absent.
    pub attempt: String,
    /// `x-envoy-attempt-count`, empty if absent.
    pub envoy_attempt: String,
    /// `grpc-timeout`, empty if absent.
    pub grpc_timeout: String,
    /// When its head was there.
    pub at: Instant,
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

    /// The requests with the header [`ID`], in the order they came.
    pub fn seen(&self) -> Vec<Seen> {
        self.record().clone()
    }

    /// The requests of one id, in the order they came.
    pub fn seen_of(&self, id: &str) -> Vec<Seen> {
        self.record().iter().filter(|seen| seen.id == id).cloned().collect()
    }

    /// How often each id came.
    pub fn executions(&self) -> HashMap<String, u64> {
        let mut times = HashMap::new();
        for seen in self.record().iter() {
            *times.entry(seen.id.clone()).or_default() += 1;
        }
        times
    }

    /// What had arrived on connections that were reset before it was read.
    pub fn unread(&self) -> Unread {
        self.unread.clone()
    }

    pub(super) fn request(&self, headers: &HeaderMap) -> Guard<'_> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let text =
            |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
        if headers.contains_key(ID) {
            let seen = Seen {
                id: text(ID),
                attempt: text("x-pillion-attempt"),
                envoy_attempt: text("x-envoy-attempt-count"),
                grpc_timeout: text("grpc-timeout"),
                at: Instant::now(),
            };
            self.record().push(seen);
        }
        Guard::enter(&self.in_flight, &self.in_flight_peak)
    }

    pub(super) fn connection(&self) -> Guard<'_> {
        self.connections.fetch_add(1, Ordering::SeqCst);
        Guard::enter(&self.open_connections, &self.open_connections_peak)
    }

    fn record(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
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
