//! Breakers and rate limits of rules: shared by all destinations whose rules come from the same policy.
//!
//! A service has several names, and each name a client uses is a destination of its own. What guards a rule counts for
//! all of them, and it outlives changes of everything but its own policy. It goes with the last rule that uses it.

use std::sync::{Arc, Weak};

use pillion_policy::resilience::{CircuitBreaker, RateLimit};
use rustc_hash::FxHashMap;

use super::breaker::Breaker;
use crate::limit::Limiter;

/// The guards in use. Owned by the control task; rules hold what they need.
#[derive(Debug, Default)]
pub struct Guards {
    breakers: FxHashMap<Arc<str>, Weak<Breaker>>,
    limiters: FxHashMap<Arc<str>, Weak<Limiter>>,
}

impl Guards {
    /// The breaker before the rule of that name: the one there is if its policy is the same, else a closed one.
    pub fn breaker(&mut self, rule: &Arc<str>, policy: &CircuitBreaker) -> Arc<Breaker> {
        let known = self.breakers.get(rule).and_then(Weak::upgrade);
        match known.filter(|breaker| breaker.is_for(policy)) {
            Some(breaker) => breaker,
            None => {
                let breaker = Arc::new(Breaker::new(policy, Arc::clone(rule)));
                self.breakers.insert(Arc::clone(rule), Arc::downgrade(&breaker));
                breaker
            }
        }
    }

    /// The limit of that policy: the one there is if it is unchanged, else one that nobody has used.
    pub fn limiter(&mut self, policy: &RateLimit) -> Arc<Limiter> {
        let known = self.limiters.get(&policy.name).and_then(Weak::upgrade);
        match known.filter(|limiter| limiter.policy() == policy) {
            Some(limiter) => limiter,
            None => {
                let limiter = Arc::new(Limiter::new(policy));
                self.limiters.insert(Arc::clone(&policy.name), Arc::downgrade(&limiter));
                limiter
            }
        }
    }

    /// Forgets what no rule uses any more.
    pub fn sweep(&mut self) {
        self.breakers.retain(|_, breaker| breaker.strong_count() > 0);
        self.limiters.retain(|_, limiter| limiter.strong_count() > 0);
    }

    /// The breakers before rules, in no order.
    pub fn breakers(&self) -> impl Iterator<Item = Arc<Breaker>> {
        self.breakers.values().filter_map(Weak::upgrade)
    }
}
