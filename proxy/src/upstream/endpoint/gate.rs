//! A gate before an endpoint: shut until a moment, then it lets one request through at a time.
//!
//! All of it is atomics, for every pick of a cluster with a shut gate reads it. A shut gate is known by the moment it
//! is shut until, and so is the probe that goes through: whatever an earlier probe still does concerns nobody. Gates
//! that are shut are counted, so that a cluster without any need not look at them.

use std::{
    num::NonZeroU64,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Moments as numbers that fit an atomic: microseconds since the first moment it was asked for, from 1. 0 is never.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Epoch(OnceLock<Instant>);

/// How a gate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Every request may pass.
    Open,
    /// The time is over: one request may try.
    Due,
    /// No request may pass; its time is not over, or a probe is on its way.
    Shut,
}

/// A gate.
#[derive(Debug)]
pub(super) struct Gate {
    /// 0 is open.
    until: AtomicU64,
    /// The `until` that a probe is on its way for.
    probed: AtomicU64,
    /// Shut gates of the cluster.
    shut: Arc<AtomicU32>,
}

impl Epoch {
    /// The number of a moment.
    pub(in crate::upstream) fn stamp(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(*self.0.get_or_init(|| at));
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// The moment of a number, `None` for never.
    pub(in crate::upstream) fn instant(&self, stamp: u64) -> Option<Instant> {
        self.0.get()?.checked_add(Duration::from_micros(stamp.checked_sub(1)?))
    }
}

impl Gate {
    /// An open gate. `shut` counts it while it is shut.
    pub(super) fn new(shut: &Arc<AtomicU32>) -> Self {
        Self { until: AtomicU64::new(0), probed: AtomicU64::new(0), shut: Arc::clone(shut) }
    }

    /// Shuts it until a moment, which is never 0.
    pub(super) fn shut(&self, until: u64) {
        if self.until.swap(until, Ordering::Relaxed) == 0 {
            self.shut.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Opens it; whether it was shut.
    pub(super) fn open(&self) -> bool {
        let was_shut = self.until.swap(0, Ordering::Relaxed) != 0;
        if was_shut {
            self.shut.fetch_sub(1, Ordering::Relaxed);
        }
        was_shut
    }

    /// Whether it is open.
    pub(super) fn is_open(&self) -> bool {
        self.until() == 0
    }

    /// Until when it is shut; 0 is open.
    pub(super) fn until(&self) -> u64 {
        self.until.load(Ordering::Relaxed)
    }

    /// How it stands.
    pub(super) fn standing(&self, now: u64) -> Standing {
        match self.until() {
            0 => Standing::Open,
            until if until > now || self.probed.load(Ordering::Relaxed) == until => Standing::Shut,
            _ => Standing::Due,
        }
    }

    /// Whether a probe is on its way.
    pub(super) fn is_probed(&self) -> bool {
        let until = self.until();
        until != 0 && self.probed.load(Ordering::Relaxed) == until
    }

    /// Takes the one place of a probe, if the gate is due and nobody has; what was taken.
    pub(super) fn claim(&self, now: u64) -> Option<NonZeroU64> {
        let until = NonZeroU64::new(self.until()).filter(|until| until.get() <= now)?;
        let next = |probed| (probed != until.get()).then_some(until.get());
        self.probed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok().then_some(until)
    }

    /// Gives the place of a probe back; a later probe is not touched.
    pub(super) fn release(&self, claimed: NonZeroU64) {
        let _ = self.probed.compare_exchange(claimed.get(), 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}
