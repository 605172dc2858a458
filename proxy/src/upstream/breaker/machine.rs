//! The breaker as a pure state machine: every event carries its time, nothing waits and nothing is shared.
//!
//! ```text
//!            too many failures                  openDuration over, next request
//!  ┌────────┐ ─────────────────────► ┌──────┐ ─────────────────────────► ┌───────────┐
//!  │ CLOSED │                        │ OPEN │                            │ HALF_OPEN │
//!  └────────┘ ◄──┐                   └──────┘ ◄───────────────────────── └───────────┘
//!                │                        any probe failed or outlived openDuration │
//!                └──────────────────────────────────────────────────────────────────┘
//!                          successThreshold probes succeeded
//! ```
//!
//! Each entry of a state has a new generation, and what belongs to an older one changes nothing. In HALF_OPEN there
//! are never more than `successThreshold` probes under way. There is no timer: what time has brought about is caught up
//! with at the next event, as of the moment it was due.

use std::{fmt, time::Duration};

use pillion_policy::resilience::CircuitBreaker;
use tokio::time::Instant;

use super::window::{Tally, Window};
use crate::upstream::outcome::Outcome;

/// What requests are subject to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// All pass.
    Closed = 0,
    /// A few pass, to find out whether the destination has recovered.
    HalfOpen = 1,
    /// None passes.
    Open = 2,
}

/// Admission of one request, to be given back with its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    pub(super) generation: u64,
    pub(super) probe: Option<u64>,
}

/// What a result means to the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The destination works.
    Success,
    /// It does not.
    Failure(Outcome),
    /// Nothing is known about it.
    Cancelled,
}

/// Why a breaker has opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// So many failures in a row.
    Consecutive(u32, Outcome),
    /// So large a share of the requests in the window.
    Rate(Tally, Outcome),
    /// A probe has failed.
    Probe(Outcome),
    /// A probe took longer than the breaker stays open.
    Overdue(Duration),
}

/// The state machine.
#[derive(Debug)]
pub struct Machine {
    policy: CircuitBreaker,
    state: State,
    generation: u64,
    /// When the state was entered.
    since: Instant,
    /// Failures in a row; only counted while CLOSED.
    streak: u32,
    window: Option<Window>,
    /// Probes under way, in the order of their start; empty unless HALF_OPEN.
    probes: Vec<Probe>,
    next_probe: u64,
    /// Probes that have succeeded since HALF_OPEN was entered.
    successes: u32,
    reason: Option<Reason>,
    opened: u64,
    closed: u64,
}

#[derive(Debug)]
struct Probe {
    number: u64,
    started: Instant,
}

impl Machine {
    /// A closed breaker.
    pub fn new(policy: CircuitBreaker, now: Instant) -> Self {
        Self {
            state: State::Closed,
            generation: 0,
            since: now,
            streak: 0,
            window: policy.error_rate.as_ref().map(|rate| Window::new(rate, now)),
            probes: Vec::new(),
            next_probe: 0,
            successes: 0,
            reason: None,
            opened: 0,
            closed: 0,
            policy,
        }
    }

    /// Lets a request through, or says how long to wait before the next is worth a try.
    pub fn admit(&mut self, now: Instant) -> Result<Ticket, Duration> {
        self.catch_up(now);
        if self.state == State::Open {
            let left = self.left(self.since, now);
            if !left.is_zero() {
                return Err(left);
            }
            self.enter(State::HalfOpen, now);
        }
        if self.state == State::Closed {
            return Ok(Ticket { generation: self.generation, probe: None });
        }
        if self.probes.len() >= self.policy.success_threshold.max(1) as usize {
            return Err(self.retry_after(now));
        }
        let number = self.next_probe;
        self.next_probe += 1;
        self.probes.push(Probe { number, started: now });
        Ok(Ticket { generation: self.generation, probe: Some(number) })
    }

    /// Takes the result of a request that was let through.
    pub fn report(&mut self, ticket: Ticket, verdict: Verdict, now: Instant) {
        self.catch_up(now);
        if ticket.generation != self.generation {
            return;
        }
        match ticket.probe {
            Some(number) => self.probe_ended(number, verdict, now),
            None => self.request_ended(verdict, now),
        }
    }

    /// Takes successes of the current generation that were counted elsewhere while there was no failure; they belong
    /// to the newest bucket of the window.
    pub(super) fn add_successes(&mut self, requests: u64) {
        if let Some(window) = &mut self.window {
            window.add(Tally { requests, failures: 0 });
        }
    }

    /// Does what time alone demands: the window moves on, and a probe that has outlived `openDuration` opens the
    /// breaker as of the moment it did.
    pub(super) fn catch_up(&mut self, now: Instant) {
        if let (State::Closed, Some(window)) = (self.state, &mut self.window) {
            window.advance(now);
        }
        let Some(oldest) = self.probes.first().map(|probe| probe.started) else { return };
        if self.left(oldest, now).is_zero() {
            let limit = self.policy.open_duration;
            self.open(Reason::Overdue(limit), oldest.checked_add(limit).unwrap_or(now));
        }
    }

    fn request_ended(&mut self, verdict: Verdict, now: Instant) {
        let failures = match verdict {
            Verdict::Cancelled => return,
            Verdict::Success => 0,
            Verdict::Failure(_) => 1,
        };
        if let Some(window) = &mut self.window {
            window.add(Tally { requests: 1, failures });
        }
        let Verdict::Failure(outcome) = verdict else {
            self.streak = 0;
            return;
        };
        self.streak = self.streak.saturating_add(1);
        if let Some(reason) = self.too_many(outcome) {
            self.open(reason, now);
        }
    }

    /// Whether a failure was one too many. Only failures are asked about, so no success opens a breaker.
    fn too_many(&self, outcome: Outcome) -> Option<Reason> {
        if self.policy.consecutive_failures.is_some_and(|limit| self.streak >= limit) {
            return Some(Reason::Consecutive(self.streak, outcome));
        }
        let rate = self.policy.error_rate.as_ref()?;
        let tally = self.tally()?;
        let allowed = u128::from(tally.requests) * u128::from(rate.threshold.parts_per_million());
        let too_many = u128::from(tally.failures) * 1_000_000 > allowed;
        (tally.requests >= u64::from(rate.minimum_requests) && too_many)
            .then_some(Reason::Rate(tally, outcome))
    }

    fn probe_ended(&mut self, number: u64, verdict: Verdict, now: Instant) {
        let Some(at) = self.probes.iter().position(|probe| probe.number == number) else { return };
        self.probes.remove(at);
        match verdict {
            Verdict::Cancelled => {}
            Verdict::Failure(outcome) => self.open(Reason::Probe(outcome), now),
            Verdict::Success => {
                self.successes += 1;
                if self.successes >= self.policy.success_threshold {
                    self.closed += 1;
                    self.enter(State::Closed, now);
                }
            }
        }
    }

    fn open(&mut self, reason: Reason, now: Instant) {
        self.reason = Some(reason);
        self.opened += 1;
        self.enter(State::Open, now);
    }

    fn enter(&mut self, state: State, now: Instant) {
        self.state = state;
        self.generation += 1;
        self.since = now;
        self.streak = 0;
        self.successes = 0;
        self.probes.clear();
        if let Some(window) = &mut self.window {
            window.clear(now);
        }
    }

    /// How much of `openDuration` is left of a time that began at `start`.
    fn left(&self, start: Instant, now: Instant) -> Duration {
        self.policy.open_duration.saturating_sub(now.saturating_duration_since(start))
    }

    /// The state. OPEN lasts until a request is let through, even when its time is over.
    pub fn state(&self) -> State {
        self.state
    }

    /// How often a state was entered.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// When the state was entered.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// How long a refused request had better wait: until OPEN is over, or until the oldest probe must have ended.
    pub fn retry_after(&self, now: Instant) -> Duration {
        match self.state {
            State::Closed => Duration::ZERO,
            State::Open => self.left(self.since, now),
            State::HalfOpen => {
                self.probes.first().map_or(Duration::ZERO, |oldest| self.left(oldest.started, now))
            }
        }
    }

    /// Failures in a row.
    pub fn streak(&self) -> u32 {
        self.streak
    }

    /// What the window holds, for a breaker that has one.
    pub fn tally(&self) -> Option<Tally> {
        self.window.as_ref().map(Window::total)
    }

    /// When the newest bucket of the window ends.
    pub(super) fn bucket_ends(&self) -> Option<Instant> {
        self.window.as_ref().map(Window::newest_ends)
    }

    /// Probes under way.
    pub fn probes(&self) -> usize {
        self.probes.len()
    }

    /// Probes that have succeeded since HALF_OPEN was entered.
    pub fn successes(&self) -> u32 {
        self.successes
    }

    /// Why it has opened the last time.
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// How often it has opened.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// How often it has closed again.
    pub fn closed(&self) -> u64 {
        self.closed
    }
}

impl State {
    /// The name users know.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Consecutive(failures, last) => {
                write!(f, "{failures} consecutive failures, the last: {}", InWords(last))
            }
            Self::Rate(Tally { requests, failures }, last) => {
                write!(f, "{failures} of the last {requests} requests failed, the last: {}", InWords(last))
            }
            Self::Probe(outcome) => write!(f, "a probe failed: {}", InWords(outcome)),
            Self::Overdue(limit) => write!(f, "a probe did not end within {limit:?}"),
        }
    }
}

/// A failure for people.
struct InWords<'a>(&'a Outcome);

impl fmt::Display for InWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Outcome::Answered { grpc_status: Some(code), status: ..500 } => write!(f, "gRPC status {code}"),
            Outcome::Answered { status, .. } => write!(f, "{status}"),
            Outcome::Unconnected => f.write_str("no connection"),
            Outcome::Broken => f.write_str("the connection broke"),
            Outcome::TimedOut => f.write_str("timed out"),
            Outcome::Cancelled => f.write_str("cancelled"),
        }
    }
}
