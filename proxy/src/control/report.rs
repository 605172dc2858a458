//! What the control plane is told of destinations in trouble, and when.
//!
//! A [`Report`] lists what is not well, bounded, in an order that does not depend on chance, so that two can be
//! compared. A [`Reporter`] decides for one connection: a change is told within a second, what stays is told again
//! every half a minute, so that the control plane may forget those who have fallen silent. Telling is best effort:
//! nothing waits for it, and a control plane that does not know how to listen is left alone.

mod call;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use pillion_xds::report::{BreakerHealth, BreakerState, EndpointHealth, EndpointState, HealthReport};
use tokio::time::Instant;
use tonic::{Code, Status};

pub(super) use self::call::Calls;
use crate::upstream::{breaker, cluster::LeftAlone};

/// Shortest time between two looks, and so between two reports.
const PAUSE: Duration = Duration::from_secs(1);

/// How often what stays is told again. The control plane forgets what it has not heard of for three times as long.
const REPEAT: Duration = Duration::from_secs(30);

/// Most breakers, and most endpoints, that a report lists; the others are only counted.
const MAX_LISTED: usize = 256;

/// Everything that is not well; nothing when all is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    breakers: Vec<Breaker>,
    endpoints: Vec<Endpoint>,
    breakers_total: u32,
    ejected_total: u32,
    unreachable_total: u32,
}

/// A breaker that is not closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// What it calls itself.
    pub name: Arc<str>,
    /// Open or half open.
    pub state: BreakerState,
    /// When it entered that state.
    pub since: Instant,
    /// Why it has opened.
    pub reason: String,
}

/// An endpoint that is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The cluster in which it is; it may be well in another.
    pub cluster: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Ejected or unreachable.
    pub state: EndpointState,
    /// Why.
    pub reason: String,
    /// When that began.
    pub since: Instant,
    /// When it may be tried again, where that is worth telling.
    pub retry_at: Option<Instant>,
}

/// When to tell what, on one connection.
#[derive(Debug)]
pub(super) struct Reporter {
    /// What the control plane has been told; nothing when that is not certain.
    told: Option<Report>,
    told_at: Option<Instant>,
    looked_at: Option<Instant>,
    /// The control plane does not take reports.
    is_off: bool,
}

impl Breaker {
    /// What a breaker says of itself; nothing when it is closed.
    pub fn of(trouble: breaker::Trouble) -> Option<Self> {
        let state = match trouble.state {
            breaker::State::Closed => return None,
            breaker::State::HalfOpen => BreakerState::HalfOpen,
            breaker::State::Open => BreakerState::Open,
        };
        let reason = trouble.reason.map(|reason| reason.to_string()).unwrap_or_default();
        Some(Self { name: trouble.name, state, since: trouble.since, reason })
    }
}

impl Endpoint {
    /// An endpoint of a cluster. One that cannot be reached is tried again within seconds, which is not worth telling.
    pub fn of(cluster: &Arc<str>, left: LeftAlone) -> Self {
        let is_ejected = left.ejected_until.is_some();
        Self {
            cluster: Arc::clone(cluster),
            address: left.address,
            state: if is_ejected { EndpointState::Ejected } else { EndpointState::Unreachable },
            reason: left.reason,
            since: left.since,
            retry_at: left.ejected_until,
        }
    }
}

impl Report {
    /// A report of these, in any order.
    pub fn new(mut breakers: Vec<Breaker>, mut endpoints: Vec<Endpoint>) -> Self {
        let count = |state| endpoints.iter().filter(|endpoint| endpoint.state == state).count();
        let (ejected, unreachable) = (count(EndpointState::Ejected), count(EndpointState::Unreachable));
        let total = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let breakers_total = total(breakers.len());
        breakers.sort_unstable_by(|a, b| (a.state, &a.name).cmp(&(b.state, &b.name)));
        breakers.truncate(MAX_LISTED);
        endpoints
            .sort_unstable_by(|a, b| (a.state, &a.cluster, a.address).cmp(&(b.state, &b.cluster, b.address)));
        endpoints.truncate(MAX_LISTED);
        Self {
            breakers,
            endpoints,
            breakers_total,
            ejected_total: total(ejected),
            unreachable_total: total(unreachable),
        }
    }

    /// Whether all is well.
    pub fn is_empty(&self) -> bool {
        self.breakers.is_empty() && self.endpoints.is_empty()
    }

    /// The report as it travels: times become ages, as of `now`.
    pub fn encode(&self, now: Instant) -> HealthReport {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let age = |since: Instant| millis(now.saturating_duration_since(since));
        let breakers = self.breakers.iter().map(|breaker| BreakerHealth {
            name: breaker.name.to_string(),
            state: breaker.state.into(),
            age_ms: age(breaker.since),
            reason: breaker.reason.clone(),
        });
        let endpoints = self.endpoints.iter().map(|endpoint| EndpointHealth {
            cluster: endpoint.cluster.to_string(),
            address: endpoint.address.to_string(),
            state: endpoint.state.into(),
            reason: endpoint.reason.clone(),
            age_ms: age(endpoint.since),
            retry_in_ms: endpoint.retry_at.map(|at| millis(at.saturating_duration_since(now))),
        });
        HealthReport {
            breakers: breakers.collect(),
            endpoints: endpoints.collect(),
            breakers_total: self.breakers_total,
            ejected_total: self.ejected_total,
            unreachable_total: self.unreachable_total,
        }
    }
}

impl Reporter {
    /// A reporter to a control plane that has been told nothing, which means to it that all is well.
    pub(super) fn new() -> Self {
        Self { told: Some(Report::default()), told_at: None, looked_at: None, is_off: false }
    }

    /// What is to be told now, if anything; it counts as told until [`Reporter::answered`] says otherwise. `look` is
    /// called once a second at most.
    pub(super) fn next(&mut self, now: Instant, look: impl FnOnce() -> Report) -> Option<&Report> {
        let has_passed = |since: Option<Instant>, time| {
            since.is_none_or(|since| now.saturating_duration_since(since) >= time)
        };
        if self.is_off || !has_passed(self.looked_at, PAUSE) {
            return None;
        }
        self.looked_at = Some(now);
        let current = look();
        let is_news = self.told.as_ref() != Some(&current);
        let is_due = !current.is_empty() && has_passed(self.told_at, REPEAT);
        if !is_news && !is_due {
            return None;
        }
        self.told_at = Some(now);
        Some(self.told.insert(current))
    }

    /// Takes the answer to the latest report. After a failure the next one is due whatever it says.
    pub(super) fn answered(&mut self, answer: Result<(), Status>) {
        let Err(status) = answer else { return };
        self.told = None;
        if status.code() == Code::Unimplemented {
            self.is_off = true;
        }
        tracing::debug!(%status, "report of breakers and endpoints not taken");
    }
}
