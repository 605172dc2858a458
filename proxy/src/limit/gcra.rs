//! The generic cell rate algorithm as arithmetic on one number per budget.
//!
//! That number is the theoretical arrival time: the moment at which the whole budget will be earned back. A request
//! puts it off by the time in which one request is earned, counted from now if it has passed, and is limited where it
//! would lie further ahead than the whole budget takes. So exactly `requests` may come at once, then one in each
//! `per / requests`, and over any time `t` never more than `requests + t · requests / per`.

use std::time::Duration;

use super::nanos;

/// The rate and the burst of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gcra {
    /// Nanoseconds in which one request is earned, rounded up.
    interval: u64,
    /// Nanoseconds in which so many are earned as may come at once.
    budget: u64,
    /// The same without the rounding, for people.
    per: Duration,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It passes.
    Allowed {
        /// How many more may come at once.
        remaining: u32,
        /// How long until the whole budget is earned back.
        reset: Duration,
    },
    /// It does not.
    Limited {
        /// How long until one may pass.
        retry_after: Duration,
        /// How long until the whole budget is earned back.
        reset: Duration,
    },
}

/// The longest time a budget may take, 100 years: sums of times then stay within 64 bits.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

impl Gcra {
    /// A budget of `requests`, earned back in `per`.
    pub fn new(requests: u32, per: Duration) -> Self {
        let requests = u64::from(requests.max(1));
        let per = per.min(LONGEST);
        let interval = nanos(per).div_ceil(requests).max(1);
        Self { interval, budget: interval.saturating_mul(requests), per }
    }

    /// Decides about a request at `now` on a budget whose arrival time is `arrival`, both in nanoseconds; an allowed
    /// one comes with the next arrival time.
    pub fn decide(self, arrival: u64, now: u64) -> (Decision, Option<u64>) {
        let ahead = arrival.saturating_sub(now);
        let next = ahead.saturating_add(self.interval);
        if next > self.budget {
            let retry_after = Duration::from_nanos(next - self.budget);
            return (
                Decision::Limited { retry_after, reset: Duration::from_nanos(ahead).min(self.per) },
                None,
            );
        }
        let remaining = u32::try_from((self.budget - next) / self.interval).unwrap_or(u32::MAX);
        let reset = Duration::from_nanos(next).min(self.per);
        (Decision::Allowed { remaining, reset }, Some(now.saturating_add(next)))
    }
}
