//! How often a caller may have a certificate signed: a token bucket for each.
//!
//! A caller that has waited long enough to be back at a full bucket is forgotten, so what is remembered is bounded by the
//! number of those who ask within the time that takes; beyond a fixed number of them, newcomers are refused.

use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::time::Instant;

/// Certificates a caller may have at once.
const BURST: u32 = 10;

/// How long it takes until it may have one more.
const INTERVAL: Duration = Duration::from_secs(10);

/// Most callers remembered.
const MAX_CALLERS: usize = 100_000;

/// The buckets of all callers.
#[derive(Debug)]
pub(crate) struct Pace<K> {
    /// When a caller's bucket will be full again. One that is not listed has a full one.
    full_at: FxHashMap<K, Instant>,
}

impl<K> Default for Pace<K> {
    fn default() -> Self {
        Self { full_at: FxHashMap::default() }
    }
}

impl<K: Eq + std::hash::Hash> Pace<K> {
    /// Whether the caller may have one now. A no costs it nothing.
    pub(crate) fn allow(&mut self, caller: K, now: Instant) -> bool {
        if self.full_at.len() >= MAX_CALLERS {
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        let is_known = self.full_at.contains_key(&caller);
        if !is_known && self.full_at.len() >= MAX_CALLERS {
            return false;
        }
        let full_at = self.full_at.entry(caller).or_insert(now);
        let next = (*full_at).max(now) + INTERVAL;
        let allowed = next <= now + INTERVAL * BURST;
        if allowed {
            *full_at = next;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_at_each_interval() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let mut count = |at: Duration| (0..100).filter(|_| pace.allow("a", start + at)).count();
        assert_eq!(count(Duration::ZERO), 10);
        assert_eq!(count(Duration::from_secs(9)), 0);
        assert_eq!(count(Duration::from_secs(10)), 1);
        assert_eq!(count(Duration::from_secs(39)), 2);
        assert_eq!(count(Duration::from_secs(3600)), 10);
    }

    #[test]
    fn callers_do_not_share() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..20 {
            pace.allow("a", now);
        }
        assert!(!pace.allow("a", now));
        assert!(pace.allow("b", now));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for caller in 0..MAX_CALLERS {
            assert!(pace.allow(caller, now));
        }
        assert!(!pace.allow(MAX_CALLERS, now));
        assert!(pace.allow(0, now), "who is known goes on");
        let later = now + INTERVAL;
        assert!(pace.allow(MAX_CALLERS, later));
        assert_eq!(pace.full_at.len(), 2);
    }
}
