//! How many repetitions a destination is asked to bear, over all workers.
//!
//! The *rate* form follows the Gateway API's retry constraint: over the last interval, repetitions are at most a share
//! of the first tries, or a number per second if that is more. That number is saved up for [`SAVED`] and no longer: with
//! 10 a second over 10 s, a destination that had no traffic gets 30 repetitions at once, not 100.
//! So a destination never gets more than 1 + share times the first tries and the number per second on top. The
//! *concurrency* form is Envoy's: repetitions under way, in relation to requests under way.
//!
//! Time is counted in buckets, and in doubt against the repetition: those of a bucket too many, first tries of one too
//! few, which costs at most a tenth of the share. A first try costs one addition; asking for a repetition takes a lock
//! for the time of a few additions, since that is no more frequent than failure.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use pillion_policy::{ratio::Fraction, retry::RetryBudget};
use tokio::time::Instant;

#[cfg(test)]
mod tests;

/// Buckets of an interval; each one more makes the share more exact and the question dearer.
const BUCKETS: u32 = 20;
/// The shortest interval of the rate form.
const SECOND: Duration = Duration::from_secs(1);
/// For how long its number per second is saved up: enough for the first seconds of a failure, before there is traffic
/// of which a share could be taken.
const SAVED: u32 = 3;

/// The budget of one destination.
#[derive(Debug)]
pub struct Budget {
    policy: RetryBudget,
    max_retries: Option<u32>,
    /// First tries; absent where they do not matter.
    requests: Option<Rolling>,
    /// Repetitions; only the rate form looks back on them. Locked, because asking and counting are one step.
    retries: Option<Mutex<Retries>>,
    under_way: AtomicU32,
}

#[derive(Debug)]
struct Retries {
    /// The latest time asked about: threads may come with slightly earlier ones.
    latest: Instant,
    in_interval: Rolling,
    lately: Rolling,
}

/// A repetition under way.
#[derive(Debug)]
pub struct Retrying(Arc<Budget>);

impl Budget {
    /// A budget that has seen nothing yet, with `http.maxRetries` on top where it is set.
    pub fn new(policy: &RetryBudget, max_retries: Option<u32>) -> Self {
        Self::starting(policy, max_retries, Instant::now())
    }

    fn starting(policy: &RetryBudget, max_retries: Option<u32>, now: Instant) -> Self {
        let (requests, retries) = match *policy {
            RetryBudget::Rate { interval, .. } => {
                let interval = interval.max(SECOND);
                // One bucket more than the time to be covered, because the newest has only begun.
                let in_interval = Rolling::new(interval, BUCKETS + 1, now);
                let lately = Rolling::new(SECOND * SAVED, BUCKETS + 1, now);
                let retries = Mutex::new(Retries { latest: now, in_interval, lately });
                (Some(Rolling::new(interval, BUCKETS, now)), Some(retries))
            }
            RetryBudget::Concurrency { interval, .. } if interval.is_zero() => (None, None),
            RetryBudget::Concurrency { interval, .. } => (Some(Rolling::new(interval, BUCKETS, now)), None),
        };
        Self { policy: *policy, max_retries, requests, retries, under_way: AtomicU32::new(0) }
    }

    /// Whether it does what the policy says, so that its state may be kept.
    pub fn is_for(&self, policy: &RetryBudget, max_retries: Option<u32>) -> bool {
        (self.policy, self.max_retries) == (*policy, max_retries)
    }

    /// Counts the first try of a request.
    pub fn note_request(&self, now: Instant) {
        if let Some(requests) = &self.requests {
            requests.add(now);
        }
    }

    /// Repetitions under way.
    pub fn under_way(&self) -> u32 {
        self.under_way.load(Relaxed)
    }

    /// Allows one more repetition or denies it; `active_requests` are under way to the destination.
    pub fn try_retry(self: &Arc<Self>, now: Instant, active_requests: u32) -> Option<Retrying> {
        let places = self.places(now, active_requests).min(self.max_retries.unwrap_or(u32::MAX));
        let below = |count: u32| (count < places).then(|| count + 1);
        self.under_way.fetch_update(Acquire, Relaxed, below).ok()?;
        let retrying = Retrying(Arc::clone(self));
        self.spend(now).then_some(retrying)
    }

    /// How many repetitions may be under way.
    fn places(&self, now: Instant, active_requests: u32) -> u32 {
        let RetryBudget::Concurrency { share: of, min_concurrency, .. } = self.policy else {
            return u32::MAX;
        };
        let begun = self.requests.as_ref().map_or(0, |requests| requests.sum(now));
        let places = share(of, begun.saturating_add(active_requests.into()));
        u32::try_from(places).unwrap_or(u32::MAX).max(min_concurrency)
    }

    /// Takes one repetition from what the rate allows.
    fn spend(&self, now: Instant) -> bool {
        let RetryBudget::Rate { share: of, min_per_second, interval } = self.policy else { return true };
        let (Some(retries), Some(requests)) = (&self.retries, &self.requests) else { return true };
        let mut retries = retries.lock().unwrap_or_else(PoisonError::into_inner);
        let now = retries.latest.max(now);
        retries.latest = now;
        let spent = retries.in_interval.sum(now);
        let millis = u64::try_from(interval.max(SECOND).as_millis()).unwrap_or(u64::MAX);
        let floor = u64::from(min_per_second).saturating_mul(millis) / 1000;
        let saved = u64::from(min_per_second) * u64::from(SAVED);
        let is_within_floor = || spent < floor && retries.lately.sum(now) < saved;
        let allowed = spent < share(of, requests.sum(now)) || is_within_floor();
        if allowed {
            retries.in_interval.add(now);
            retries.lately.add(now);
        }
        allowed
    }
}

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Release);
    }
}

/// So many of `count`, rounded down.
fn share(share: Fraction, count: u64) -> u64 {
    count.saturating_mul(share.parts_per_million().into()) / u64::from(Fraction::ALL.parts_per_million())
}

/// A count of events in the recent past that several threads add to.
///
/// A bucket is one word, the number of its stretch of time above its count, so that neither is ever seen without the
/// other. An event that comes in the moment its bucket is taken over by a later stretch counts in the later one.
#[derive(Debug)]
struct Rolling {
    epoch: Instant,
    /// Length of a stretch in nanoseconds.
    width: u64,
    buckets: Box<[AtomicU64]>,
}

const COUNT_BITS: u32 = 32;

impl Rolling {
    /// Stretches of which [`BUCKETS`] make up `span`; `buckets` of them are remembered.
    fn new(span: Duration, buckets: u32, now: Instant) -> Self {
        let width = nanos(span / BUCKETS).max(1);
        Self { epoch: now, width, buckets: (0..buckets).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The number of the stretch that `now` is in; the shortest have numbers for 6 years.
    fn stretch(&self, now: Instant) -> u32 {
        let since = nanos(now.saturating_duration_since(self.epoch));
        u32::try_from(since / self.width).unwrap_or(u32::MAX)
    }

    /// Counts an event, unless it is so old that its bucket serves a later stretch.
    fn add(&self, now: Instant) {
        let stretch = self.stretch(now);
        let Some(bucket) = self.buckets.get(stretch as usize % self.buckets.len()) else { return };
        let mut seen = bucket.load(Relaxed);
        while stretch_of(seen) < stretch {
            let first = u64::from(stretch) << COUNT_BITS | 1;
            match bucket.compare_exchange_weak(seen, first, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
        if stretch_of(seen) == stretch {
            bucket.fetch_add(1, Relaxed);
        }
    }

    /// How many events there were in the stretch of `now` and in those remembered before it.
    fn sum(&self, now: Instant) -> u64 {
        let newest = self.stretch(now) as usize;
        let is_recent = |word: &u64| stretch_of(*word) as usize + self.buckets.len() > newest;
        let words = self.buckets.iter().map(|bucket| bucket.load(Relaxed));
        words.filter(is_recent).map(|word| word & ((1 << COUNT_BITS) - 1)).sum()
    }
}

fn stretch_of(word: u64) -> u32 {
    (word >> COUNT_BITS) as u32
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
