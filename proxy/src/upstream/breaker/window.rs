//! A rolling window of requests and failures in equal buckets, of which the oldest is forgotten as a whole.
//!
//! It covers the time of the newest bucket so far and of all others in full. Time that seems to run back, as it can
//! between threads, counts as that of the newest bucket.

use std::time::Duration;

use pillion_policy::resilience::{ErrorRate, MAX_BUCKETS};
use tokio::time::Instant;

/// Requests and how many of them failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
}

/// The tallies of the recent past.
#[derive(Debug)]
pub(super) struct Window {
    epoch: Instant,
    /// Length of a bucket in nanoseconds.
    width: u64,
    buckets: Box<[Tally]>,
    /// How many buckets have begun since the epoch, less one: the newest is `newest % buckets.len()`.
    newest: u64,
    total: Tally,
}

impl Window {
    pub(super) fn new(policy: &ErrorRate, now: Instant) -> Self {
        let buckets = policy.buckets.clamp(1, MAX_BUCKETS);
        let width = nanos(policy.window / buckets).max(1);
        let buckets = vec![Tally::default(); buckets as usize].into_boxed_slice();
        Self { epoch: now, width, buckets, newest: 0, total: Tally::default() }
    }

    /// What the window holds.
    pub(super) fn total(&self) -> Tally {
        self.total
    }

    /// When the newest bucket ends.
    pub(super) fn newest_ends(&self) -> Instant {
        let end = (self.newest + 1).saturating_mul(self.width);
        self.epoch.checked_add(Duration::from_nanos(end)).unwrap_or(self.epoch)
    }

    /// Adds to the newest bucket.
    pub(super) fn add(&mut self, tally: Tally) {
        let at = slot(self.newest, &self.buckets);
        if let Some(bucket) = self.buckets.get_mut(at) {
            bucket.requests += tally.requests;
            bucket.failures += tally.failures;
            self.total.requests += tally.requests;
            self.total.failures += tally.failures;
        }
    }

    /// Begins the bucket of `now` and forgets those it replaces.
    pub(super) fn advance(&mut self, now: Instant) {
        let newest = nanos(now.saturating_duration_since(self.epoch)) / self.width;
        if newest.saturating_sub(self.newest) >= self.buckets.len() as u64 {
            self.newest = newest;
            self.buckets.fill(Tally::default());
            self.total = Tally::default();
        }
        while self.newest < newest {
            self.newest += 1;
            let at = slot(self.newest, &self.buckets);
            if let Some(bucket) = self.buckets.get_mut(at) {
                let forgotten = std::mem::take(bucket);
                self.total.requests -= forgotten.requests;
                self.total.failures -= forgotten.failures;
            }
        }
    }

    /// Forgets everything and begins at `now`.
    pub(super) fn clear(&mut self, now: Instant) {
        self.epoch = now;
        self.newest = 0;
        self.buckets.fill(Tally::default());
        self.total = Tally::default();
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is below MAX_BUCKETS")]
fn slot(bucket: u64, buckets: &[Tally]) -> usize {
    (bucket % buckets.len() as u64) as usize
}

/// Nanoseconds; the longest time that can be counted is 584 years.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
