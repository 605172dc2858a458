//! Whether a request is sent again, and when.
//!
//! The order of the questions is the order in which their answers explain themselves: what the rule says, what the
//! server says, whether a repetition could do harm or is impossible, and last whether time and budget are left. Every
//! no has a reason, which stands in the access log.

use std::time::Duration;

use http::{HeaderMap, HeaderName, Method};
use pillion_policy::retry::{Backoff, Jitter, Retry};

use super::classify::{Hint, Trouble};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What is to be done about a try that failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<B> {
    /// Send it again after `wait`; the budget's place is held until that try is over.
    Again {
        /// How long to wait first.
        wait: Duration,
        /// The place the budget has given.
        budget: B,
    },
    /// Answer with what there is.
    Stop(Stop),
}

/// Why a request is not sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The rule does not ask for it.
    NotAsked,
    /// Every repetition the rule allows has been made.
    Exhausted,
    /// The request may have been carried out, and twice would be too often.
    NotIdempotent,
    /// The body is longer than what is kept.
    BodyTooLong,
    /// The response came before the request was complete.
    BodyUnfinished,
    /// The server forbids it.
    Forbidden,
    /// The server is over a limit.
    Overloaded,
    /// Someone nearer to the failure has repeated it, or the caller is doing so.
    Elsewhere,
    /// The deadline comes before the next try.
    Deadline,
    /// The budget is used up.
    Budget,
}

impl Stop {
    /// The reason as the log has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAsked => "not-asked",
            Self::Exhausted => "attempts-exhausted",
            Self::NotIdempotent => "not-idempotent",
            Self::BodyTooLong => "body-too-long",
            Self::BodyUnfinished => "body-unfinished",
            Self::Forbidden => "forbidden-by-server",
            Self::Overloaded => "server-overloaded",
            Self::Elsewhere => "retried-elsewhere",
            Self::Deadline => "deadline",
            Self::Budget => "budget",
        }
    }

    /// Whether this hop has done what it could: then no caller need do it again.
    pub fn is_spent(self) -> bool {
        matches!(self, Self::Exhausted | Self::Budget | Self::Elsewhere | Self::Overloaded | Self::Forbidden)
    }
}

/// What is known of the request.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Whether carrying it out twice does no harm.
    pub idempotent: bool,
    /// Whether it can be made again.
    pub repeatable: bool,
    /// Whether all of it had been read before the response came.
    pub complete: bool,
    /// Repetitions made so far.
    pub repeated: u32,
    /// Whether the caller is repeating the request this one belongs to.
    pub caller_repeats: bool,
    /// Time left until the deadline.
    pub left: Option<Duration>,
}

/// Whether a request may be carried out twice: by its method (RFC 9110 §9.2.2), or because it carries a key by which
/// the server recognizes it.
pub fn is_idempotent(method: &Method, headers: &HeaderMap) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    ) || headers.contains_key(IDEMPOTENCY_KEY)
}

/// Decides about a repetition. `budget` is asked last, and only if everything else speaks for one.
pub fn decide<B>(
    policy: &Retry,
    trouble: &Trouble,
    facts: &Facts,
    budget: impl FnOnce() -> Option<B>,
    rng: &mut fastrand::Rng,
) -> Verdict<B> {
    let wait = match judge(policy, trouble, facts, rng) {
        Ok(wait) => wait,
        Err(stop) => return Verdict::Stop(stop),
    };
    match budget() {
        Some(budget) => Verdict::Again { wait, budget },
        None => Verdict::Stop(Stop::Budget),
    }
}

fn judge(
    policy: &Retry,
    trouble: &Trouble,
    facts: &Facts,
    rng: &mut fastrand::Rng,
) -> Result<Duration, Stop> {
    if policy.attempts == 0 || !policy.on.meets(trouble.is) {
        return Err(Stop::NotAsked);
    }
    match trouble.hint {
        Hint::Never => return Err(Stop::Forbidden),
        Hint::Overloaded => return Err(Stop::Overloaded),
        Hint::Repeated => return Err(Stop::Elsewhere),
        Hint::None | Hint::After(_) => {}
    }
    if facts.caller_repeats && !trouble.unsent {
        return Err(Stop::Elsewhere);
    }
    if facts.repeated >= policy.attempts {
        return Err(Stop::Exhausted);
    }
    if !trouble.unsent && !facts.idempotent && !policy.non_idempotent {
        return Err(Stop::NotIdempotent);
    }
    if !facts.repeatable {
        return Err(Stop::BodyTooLong);
    }
    if !facts.complete && !trouble.unsent {
        return Err(Stop::BodyUnfinished);
    }
    let number = facts.repeated + 1;
    let wait = match trouble.hint {
        Hint::After(asked) => asked.max(backoff(&policy.backoff, number, rng)),
        // Somewhere else it can be tried at once, unless the rule itself asks for patience.
        _ if trouble.unsent && number == 1 && policy.backoff == Backoff::ENVOY => Duration::ZERO,
        _ => backoff(&policy.backoff, number, rng),
    };
    if facts.left.is_some_and(|left| wait >= left) {
        return Err(Stop::Deadline);
    }
    Ok(wait)
}

/// The wait before repetition `number`, counted from 1.
pub fn backoff(policy: &Backoff, number: u32, rng: &mut fastrand::Rng) -> Duration {
    let max = policy.max.max(policy.base);
    let nominal = || {
        let growth = (f64::from(policy.multiplier_thousandths) / 1000.0)
            .powi(i32::try_from(number).unwrap_or(i32::MAX) - 1);
        scaled(policy.base, growth, max)
    };
    match policy.jitter {
        Jitter::Full => {
            let steps = 2_f64.powi(i32::try_from(number.min(32)).unwrap_or(32)) - 1.0;
            scaled(policy.base, steps, max).mul_f64(rng.f64())
        }
        Jitter::Half => nominal().mul_f64(0.5 + rng.f64() / 2.0),
        Jitter::Above => nominal().mul_f64(1.0 + rng.f64() / 2.0),
    }
}

/// `base · factor`, at most `max`; factors beyond all measure give `max`.
fn scaled(base: Duration, factor: f64, max: Duration) -> Duration {
    let seconds = base.as_secs_f64() * factor.max(0.0);
    Duration::try_from_secs_f64(seconds).map_or(max, |wait| wait.min(max))
}

#[cfg(test)]
mod tests;
