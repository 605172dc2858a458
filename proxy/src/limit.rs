//! Limits of requests over time, in this proxy: GCRA, with a fixed amount of memory for those limited by themselves.
//!
//! A [`Limiter`] stands for one policy and is shared by all workers; nothing in it locks, and whatever keys peers may
//! invent, it never grows. A key that is new takes the place of one that has its full budget back, else of the one of
//! eight that has used least, so that no flood of new keys gives an exhausted one a new budget. What a key loses
//! by being displaced is the memory of the little it had used.
//!
//! A key that stays is counted exactly. Around the moment in which one displaces another, a request of either may be
//! counted against the other, and a newcomer may start with what the displaced had used: at most one request of each
//! worker goes uncounted then.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use pillion_policy::resilience::RateLimit;
use tokio::time::Instant;

pub use self::gcra::{Decision, Gcra};
use crate::error::ProxyError;

mod gcra;
#[cfg(test)]
mod tests;

/// Keys a limiter remembers: 256 KiB of them.
const SLOTS: usize = 1 << 14;
/// Places a key may have; as many as two cache lines hold.
const WAYS: usize = 8;

/// One rate limit of this proxy.
#[derive(Debug)]
pub struct Limiter {
    policy: RateLimit,
    gcra: Gcra,
    /// What its times are counted from, in nanoseconds.
    epoch: Instant,
    /// Makes hashes that nobody outside can foresee.
    seed: RandomState,
    /// The budget of requests without a key.
    common: AtomicU64,
    /// The budgets of keys, where the policy has them.
    sets: Box<[[Slot; WAYS]]>,
}

/// The budget of one key.
#[derive(Debug, Default)]
struct Slot {
    /// The hash of the key; 0 is nobody.
    tag: AtomicU64,
    /// Its theoretical arrival time.
    arrival: AtomicU64,
}

impl Limiter {
    /// A limiter with all budgets full.
    pub fn new(policy: &RateLimit) -> Self {
        Self::starting(policy, Instant::now())
    }

    fn starting(policy: &RateLimit, now: Instant) -> Self {
        let sets = if policy.key.is_some() { SLOTS / WAYS } else { 0 };
        Self {
            policy: policy.clone(),
            gcra: Gcra::new(policy.requests, policy.per),
            epoch: now,
            seed: RandomState::new(),
            common: AtomicU64::new(0),
            sets: (0..sets).map(|_| <[Slot; WAYS]>::default()).collect(),
        }
    }

    /// What it enforces.
    pub fn policy(&self) -> &RateLimit {
        &self.policy
    }

    /// Whether it does what `policy` says, so that its state may be kept.
    pub fn is_for(&self, policy: &RateLimit) -> bool {
        self.policy == *policy
    }

    /// The number by which [`check`](Self::check) knows a key.
    pub fn hash(&self, key: impl Hash) -> u64 {
        self.seed.hash_one(key)
    }

    /// Takes one request from the budget of a key, or from the common one of all that have none.
    pub fn check(&self, key: Option<u64>, now: Instant) -> Decision {
        let now = nanos(now.saturating_duration_since(self.epoch));
        match key.and_then(|key| self.slot(key.max(1), now)) {
            Some(slot) => self.take(&slot.arrival, now),
            None => self.take(&self.common, now),
        }
    }

    /// The answer to a request that was limited.
    pub fn refusal(&self, retry_after: Duration, reset: Duration) -> ProxyError {
        let RateLimit { name, requests, per, .. } = &self.policy;
        ProxyError::RateLimited {
            limit: Arc::clone(name),
            requests: *requests,
            per: *per,
            retry_after,
            reset,
        }
    }

    fn take(&self, arrival: &AtomicU64, now: u64) -> Decision {
        let mut seen = arrival.load(Relaxed);
        loop {
            let (decision, next) = self.gcra.decide(seen, now);
            let Some(next) = next else { return decision };
            match arrival.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
                Ok(_) => return decision,
                Err(other) => seen = other,
            }
        }
    }

    /// The place of a key, which it is given if it has none; `None` where no keys are told apart.
    fn slot(&self, tag: u64, now: u64) -> Option<&Slot> {
        let set = self.sets.get(set_of(tag))?;
        loop {
            // Also in each further round: who has given his place up must find the one that the key has kept.
            if let Some(slot) = set.iter().find(|slot| slot.tag.load(SeqCst) == tag) {
                return Some(slot);
            }
            let slot = set.iter().min_by_key(|slot| slot.arrival.load(Relaxed).max(now))?;
            let is_claimed = slot.claim(tag, now);
            let mut places = set.iter().filter(|slot| slot.tag.load(SeqCst) == tag);
            match (places.next(), places.next()) {
                // Two workers have met the key at once: who sees that gives his place up.
                (Some(_), Some(_)) if is_claimed => slot.give_up(tag),
                (Some(place), _) => return Some(place),
                (None, _) => {}
            }
        }
    }
}

impl Slot {
    /// Gives the place to a key, with a full budget, unless someone else is faster. Claims are sequentially consistent:
    /// of two that claim different places for one key, at least one sees the other.
    fn claim(&self, tag: u64, now: u64) -> bool {
        let (displaced, arrival) = (self.tag.load(SeqCst), self.arrival.load(Relaxed));
        let is_claimed =
            displaced != tag && self.tag.compare_exchange(displaced, tag, SeqCst, SeqCst).is_ok();
        if is_claimed && arrival > now {
            // Where someone has counted in the meantime, that stands.
            let _ = self.arrival.compare_exchange(arrival, now, Relaxed, Relaxed);
        }
        is_claimed
    }

    fn give_up(&self, tag: u64) {
        // Where it has been displaced in the meantime, that stands.
        let _ = self.tag.compare_exchange(tag, 0, SeqCst, SeqCst);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is below SLOTS")]
fn set_of(tag: u64) -> usize {
    (tag % (SLOTS / WAYS) as u64) as usize
}

/// Nanoseconds; the longest time that can be counted is 584 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
