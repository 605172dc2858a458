//! The figures of one rule: how many requests fell under it, how they ended and how long they took.
//!
//! They are no series: rules are many, and what Prometheus is told has its own labels. Whoever asks for them reads
//! them where the rule lives, and they go with it: a policy that changes begins to count anew.

use pillion_xds::figures::{Counted, is_failure};

use super::{
    counter::Counter,
    histogram::{Histogram, MILLISECONDS},
    requests::Outcome,
};
use crate::error::Flag;

/// The figures of one rule.
#[derive(Debug)]
pub struct RouteStats {
    durations: Histogram<15>,
    failures: Counter,
    retries: Counter,
}

impl Default for RouteStats {
    fn default() -> Self {
        Self {
            durations: Histogram::new(&MILLISECONDS),
            failures: Counter::default(),
            retries: Counter::default(),
        }
    }
}

impl RouteStats {
    /// Takes the end of a request in, which was sent again so many times.
    #[inline]
    pub fn record(&self, outcome: &Outcome, repeated: u32) {
        self.durations.record(outcome.duration);
        if is_failure(outcome.status, outcome.grpc_status, outcome.flag == Flag::Dc) {
            self.failures.inc();
        }
        if repeated > 0 {
            self.retries.add(repeated.into());
        }
    }

    /// Its requests so far.
    pub fn counted(&self) -> Counted {
        self.durations.counted(self.failures.get())
    }

    /// How often one of them was sent again.
    pub fn retries(&self) -> u64 {
        self.retries.get()
    }
}
