//! One instance as it lives: identity, load and age.
//!
//! A `LiveEndpoint` outlives changes of its labels or weight, so that its load and its pooled connections do; it ends
//! when discovery drops its address, and an address that comes back later starts clean.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use tokio::time::Instant;

/// The living state of an endpoint, shared by all workers.
#[derive(Debug)]
pub struct LiveEndpoint {
    id: u64,
    address: SocketAddr,
    since: Option<Instant>,
    active: AtomicU32,
    retired: AtomicBool,
}

impl LiveEndpoint {
    /// A new endpoint. `since` is when it joined a set that was already serving; it bounds the warm-up window.
    pub fn new(address: SocketAddr, since: Option<Instant>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            address,
            since,
            active: AtomicU32::new(0),
            retired: AtomicBool::new(false),
        }
    }

    /// Unique for the life of the process; the key of its pools.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// When it joined, if it joined a serving set.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Requests under way.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Counts a request in; [`LiveEndpoint::leave`] must follow.
    pub(super) fn enter(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request out.
    pub(super) fn leave(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// Discovery has dropped it: its idle connections are closed and none is kept.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether discovery has dropped it.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }
}
