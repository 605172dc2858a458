//! The three-state breaker before a cluster or a rule, shared by all workers.
//!
//! [`Machine`] decides; [`Breaker`] makes it cheap to share. While CLOSED, letting a request through is one atomic load
//! and a success after a success takes two loads, with an error rate one addition more; refusing while OPEN takes two
//! loads. Only failures, the first success after them, the turn of a bucket and everything in HALF_OPEN take a lock,
//! for as long as a few comparisons last. Results that arrive while the breaker opens count on either side of that
//! moment, never on both.
//!
//! A [`Permit`] is a guard: dropped without a report it is a cancelled request, which says nothing about the
//! destination and frees the place of a probe. Refusals of the breaker are no results: who is refused reports nothing.

mod machine;
mod window;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use pillion_policy::resilience::CircuitBreaker;
use tokio::time::Instant;

use self::window::nanos;
pub use self::{
    machine::{Machine, Reason, State, Ticket, Verdict},
    window::Tally,
};
use super::outcome::Outcome;
use crate::{error::ProxyError, telemetry::ClusterGauges};

/// A breaker of the process.
#[derive(Debug)]
pub struct Breaker {
    name: Arc<str>,
    policy: CircuitBreaker,
    /// What the times below are counted from, in nanoseconds.
    epoch: Instant,
    /// Generation and state, see [`gate`].
    gate: AtomicU64,
    /// Whether there has been a failure since the last success.
    is_failing: AtomicBool,
    /// Successes the machine has not been told of; only counted where there is a window.
    successes: AtomicU64,
    /// When the newest bucket of the window ends; never without a window.
    bucket_ends: AtomicU64,
    /// When OPEN ends.
    open_until: AtomicU64,
    rejected: AtomicU64,
    machine: Mutex<Machine>,
    gauges: Option<Arc<ClusterGauges>>,
}

/// Leave for one request. Dropping it says that the request was cancelled.
#[derive(Debug)]
pub struct Permit {
    breaker: Arc<Breaker>,
    ticket: Option<Ticket>,
}

/// What is to be told of a breaker that is not closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Its name.
    pub name: Arc<str>,
    /// OPEN or HALF_OPEN.
    pub state: State,
    /// When it entered that state.
    pub since: Instant,
    /// Why it has opened.
    pub reason: Option<Reason>,
}

/// What one event has changed.
struct Transition {
    from: State,
    to: State,
    opened: u64,
    closed: u64,
    reason: Option<Reason>,
}

impl Breaker {
    /// A closed breaker that names itself `name` to those it refuses.
    pub fn new(policy: &CircuitBreaker, name: Arc<str>) -> Self {
        Self::starting(policy, name, Instant::now())
    }

    fn starting(policy: &CircuitBreaker, name: Arc<str>, now: Instant) -> Self {
        let machine = Machine::new(policy.clone(), now);
        let breaker = Self {
            name,
            policy: policy.clone(),
            epoch: now,
            gate: AtomicU64::new(0),
            is_failing: AtomicBool::new(false),
            successes: AtomicU64::new(0),
            bucket_ends: AtomicU64::new(u64::MAX),
            open_until: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            machine: Mutex::new(machine),
            gauges: None,
        };
        breaker.publish(&breaker.lock());
        breaker
    }

    /// Has its state and events counted in `gauges`, too, until it is dropped.
    #[must_use]
    pub fn counted_in(mut self, gauges: Arc<ClusterGauges>) -> Self {
        self.gauges = Some(gauges);
        self
    }

    /// Whether it does what `policy` says, so that its state may be kept.
    pub fn is_for(&self, policy: &CircuitBreaker) -> bool {
        self.policy == *policy
    }

    /// Lets a request through or refuses it with [`ProxyError::BreakerOpen`].
    pub fn admit(self: &Arc<Self>, now: Instant) -> Result<Permit, ProxyError> {
        let gate = self.gate.load(Acquire);
        let ticket = if gate & STATE == State::Closed as u64 {
            Ok(Ticket { generation: gate >> GENERATION, probe: None })
        } else {
            let left = self.open_until.load(Relaxed).saturating_sub(self.nanos(now));
            if gate & STATE == State::Open as u64 && left > 0 {
                Err(Duration::from_nanos(left))
            } else {
                self.settle(|machine| machine.admit(now))
            }
        };
        match ticket {
            Ok(ticket) => Ok(Permit { breaker: Arc::clone(self), ticket: Some(ticket) }),
            Err(retry_after) => {
                self.rejected.fetch_add(1, Relaxed);
                if let Some(gauges) = &self.gauges {
                    gauges.breaker_rejected.fetch_add(1, Relaxed);
                }
                Err(ProxyError::BreakerOpen { breaker: Arc::clone(&self.name), retry_after })
            }
        }
    }

    fn report(&self, ticket: Ticket, verdict: Verdict, now: Instant) {
        if ticket.probe.is_none() {
            let is_stale = self.gate.load(Acquire) != gate(ticket.generation, State::Closed);
            if is_stale || verdict == Verdict::Cancelled {
                return;
            }
            if verdict == Verdict::Success && !self.is_failing.load(Relaxed) {
                let has_window = self.policy.error_rate.is_some();
                if !has_window {
                    return;
                }
                if self.nanos(now) < self.bucket_ends.load(Relaxed) {
                    self.successes.fetch_add(1, Relaxed);
                    return;
                }
            }
        }
        self.settle(|machine| machine.report(ticket, verdict, now));
    }

    /// Lets the machine act, publishes what it has become, and announces a change of state.
    fn settle<R>(&self, act: impl FnOnce(&mut Machine) -> R) -> R {
        let mut machine = self.lock();
        let (from, generation) = (machine.state(), machine.generation());
        let (opened, closed) = (machine.opened(), machine.closed());
        let successes = self.successes.swap(0, Relaxed);
        if from == State::Closed {
            machine.add_successes(successes);
        }
        let result = act(&mut machine);
        self.publish(&machine);
        let transition = (machine.generation() != generation).then(|| Transition {
            from,
            to: machine.state(),
            opened: machine.opened() - opened,
            closed: machine.closed() - closed,
            reason: machine.reason(),
        });
        drop(machine);
        if let Some(transition) = transition {
            self.announce(&transition);
        }
        result
    }

    fn publish(&self, machine: &Machine) {
        self.is_failing.store(machine.streak() > 0, Relaxed);
        let bucket_ends = machine.bucket_ends().map_or(u64::MAX, |end| self.nanos(end));
        self.bucket_ends.store(bucket_ends, Relaxed);
        let open_until = self.nanos(machine.since()).saturating_add(nanos(self.policy.open_duration));
        self.open_until.store(open_until, Relaxed);
        self.gate.store(gate(machine.generation(), machine.state()), Release);
    }

    fn announce(&self, transition: &Transition) {
        let Transition { from, to, opened, closed, reason } = transition;
        if let Some(gauges) = &self.gauges {
            // The figure is a sum that wraps, so that events of several threads may be added in any order.
            gauges.breaker_state.fetch_add((*to as u64).wrapping_sub(*from as u64), Relaxed);
            gauges.breaker_opened.fetch_add(*opened, Relaxed);
            gauges.breaker_closed.fetch_add(*closed, Relaxed);
            gauges.breaker_half_opened.fetch_add(u64::from(*to == State::HalfOpen), Relaxed);
        }
        let breaker = &self.name;
        match (to, reason) {
            (State::Open, Some(reason)) => tracing::warn!(%breaker, %reason, "circuit breaker opened"),
            (State::Open, None) => tracing::warn!(%breaker, "circuit breaker opened"),
            (State::HalfOpen, _) => tracing::info!(%breaker, "circuit breaker tries again"),
            (State::Closed, _) => tracing::info!(%breaker, "circuit breaker closed"),
        }
    }

    /// The state of the moment. OPEN lasts until a request is let through, even when its time is over.
    pub fn state(&self, now: Instant) -> State {
        self.settle(|machine| {
            machine.catch_up(now);
            machine.state()
        })
    }

    /// Its state and why, unless it is CLOSED; that costs one atomic load.
    pub fn trouble(&self, now: Instant) -> Option<Trouble> {
        if self.gate.load(Acquire) & STATE == State::Closed as u64 {
            return None;
        }
        let (state, since, reason) = self.settle(|machine| {
            machine.catch_up(now);
            (machine.state(), machine.since(), machine.reason())
        });
        let name = Arc::clone(&self.name);
        (state != State::Closed).then_some(Trouble { name, state, since, reason })
    }

    /// Its state and the reasons for it as JSON, for people.
    pub fn describe(&self, now: Instant) -> serde_json::Value {
        self.settle(|machine| {
            machine.catch_up(now);
            let millis = |time: Duration| nanos(time).div_ceil(1_000_000);
            let window = machine.tally();
            serde_json::json!({
                "name": &*self.name,
                "state": machine.state().as_str(),
                "forMs": millis(now.saturating_duration_since(machine.since())),
                "consecutiveFailures": machine.streak(),
                "window": window.map(|Tally { requests, failures }| {
                    serde_json::json!({ "requests": requests, "failures": failures })
                }),
                "probesInFlight": machine.probes(),
                "retryAfterMs": millis(machine.retry_after(now)),
                "opened": machine.opened(),
                "closed": machine.closed(),
                "rejected": self.rejected.load(Relaxed),
                "why": machine.reason().map(|reason| reason.to_string()),
            })
        })
    }

    fn nanos(&self, time: Instant) -> u64 {
        nanos(time.saturating_duration_since(self.epoch))
    }

    /// No step of the machine can leave it half done, so a panic elsewhere is no reason to give it up.
    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Says how the request has ended.
    pub fn report(mut self, outcome: Outcome, now: Instant) {
        if let Some(ticket) = self.ticket.take() {
            self.breaker.report(ticket, judge(&self.breaker.policy, outcome), now);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Only probes hold something.
        if let Some(ticket) = self.ticket.take_if(|ticket| ticket.probe.is_some()) {
            self.breaker.report(ticket, Verdict::Cancelled, Instant::now());
        }
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        if let Some(gauges) = &self.gauges {
            gauges.breaker_state.fetch_sub(self.lock().state() as u64, Relaxed);
        }
    }
}

const GENERATION: u32 = 2;
const STATE: u64 = (1 << GENERATION) - 1;

/// Generation and state in one word.
fn gate(generation: u64, state: State) -> u64 {
    generation << GENERATION | state as u64
}

/// What an outcome says about the destination. What the client has caused (4xx) shows that it works.
fn judge(policy: &CircuitBreaker, outcome: Outcome) -> Verdict {
    let is_failure = match outcome {
        Outcome::Cancelled => return Verdict::Cancelled,
        Outcome::Unconnected | Outcome::Broken | Outcome::TimedOut => true,
        Outcome::Answered { status: 500..=599, .. } => true,
        Outcome::Answered { status: 429, .. } if policy.count_rate_limited => true,
        Outcome::Answered { grpc_status: Some(UNKNOWN), .. } => policy.count_unknown,
        Outcome::Answered { grpc_status, .. } => {
            matches!(grpc_status, Some(DEADLINE_EXCEEDED | INTERNAL | UNAVAILABLE | DATA_LOSS))
        }
    };
    if is_failure { Verdict::Failure(outcome) } else { Verdict::Success }
}

// `google.rpc.Code`
const UNKNOWN: u8 = 2;
const DEADLINE_EXCEEDED: u8 = 4;
const INTERNAL: u8 = 13;
const UNAVAILABLE: u8 = 14;
const DATA_LOSS: u8 = 15;
