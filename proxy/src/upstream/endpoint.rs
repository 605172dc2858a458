//! One instance as it lives: identity, load, age and health.
//!
//! A `LiveEndpoint` outlives changes of its labels or weight, so that its load and its pooled connections do; it ends
//! when discovery drops its address, and an address that comes back later starts clean.
//!
//! Two gates stand before it. One is shut by outlier detection, as policy says; the other by connections that cannot
//! be made, whatever policy says, for a time that doubles up to ten seconds. A shut gate lets one request through when
//! its time is over; who picks endpoints keeps to that (see `lb`).

mod gate;
mod latency;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    num::NonZeroU64,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use self::{
    gate::{Gate, Standing},
    latency::Latency,
};
use super::{outlier::Monitor, transport::Transport};

pub(super) use self::gate::Epoch;

/// How long an endpoint is left alone after the first connection that could not be made. A process that restarts
/// listens again within about as much.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// Longest time for which it is left alone.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// Part of a back-off by which it may be longer or shorter, in percent: proxies must not come back all at once.
const JITTER_PERCENT: u64 = 20;

/// The living state of an endpoint, shared by all workers.
#[derive(Debug)]
pub struct LiveEndpoint {
    id: u64,
    address: SocketAddr,
    transport: Transport,
    /// When it joined a set that was already serving.
    joined: Option<Instant>,
    /// When it last came back from ejection.
    returned: AtomicU64,
    active: AtomicU32,
    retired: AtomicBool,
    epoch: Epoch,
    latency: Latency,
    monitor: Monitor,
    /// Shut by outlier detection.
    ejection: Gate,
    /// Shut by failed connects.
    reach: Gate,
    unreached: Mutex<Unreached>,
}

/// Connects that failed in a row.
#[derive(Debug, Default)]
struct Unreached {
    times: u32,
    since: Option<Instant>,
    reason: Arc<str>,
}

/// What a request finds out about an endpoint that was left alone, mostly nothing. It says so, or gives its place
/// back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Probe {
    /// The ejection that would end.
    pub(super) ejection: Option<NonZeroU64>,
    /// The back-off that would end.
    pub(super) reach: Option<NonZeroU64>,
}

/// What a pick must know of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Availability {
    /// Outlier detection leaves it alone.
    pub(super) ejected: bool,
    /// Connections can be made, as far as is known.
    pub(super) reachable: bool,
    /// It is left alone, but one request may try.
    pub(super) due: bool,
}

/// The health of an endpoint, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It takes requests.
    Healthy,
    /// Outlier detection leaves it alone.
    Ejected,
    /// It is left alone, and a request is finding out whether it has recovered.
    Probing,
    /// No connection could be made.
    Unreachable {
        /// When it is tried again.
        retry_in: Duration,
        /// Why the last connect failed.
        reason: Arc<str>,
        /// How often in a row.
        times: u32,
    },
}

impl LiveEndpoint {
    /// A new endpoint. `joined` is when it joined a set that was already serving; it bounds the warm-up window.
    /// `impaired` is where the shut gates of its cluster are counted.
    pub fn new(address: SocketAddr, joined: Option<Instant>, impaired: &Arc<AtomicU32>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            address,
            transport: Transport::Plain,
            joined,
            returned: AtomicU64::new(0),
            active: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            epoch: Epoch::default(),
            latency: Latency::default(),
            monitor: Monitor::default(),
            ejection: Gate::new(impaired),
            reach: Gate::new(impaired),
            unreached: Mutex::default(),
        }
    }

    /// The same, secured as `transport` says.
    #[must_use]
    pub fn over(self, transport: Transport) -> Self {
        Self { transport, ..self }
    }

    /// How connections to it are secured.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Unique for the life of the process; the key of its pools.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// When it joined, if it joined a serving set, or came back from ejection.
    pub fn since(&self) -> Option<Instant> {
        self.epoch.instant(self.returned.load(Ordering::Relaxed)).or(self.joined)
    }

    /// Requests under way.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Counts a request in; [`LiveEndpoint::leave`] must follow.
    pub(super) fn enter(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request out.
    pub(super) fn leave(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// Discovery has dropped it: its idle connections are closed and none is kept.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether discovery has dropped it.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Whether outlier detection leaves it alone.
    pub fn is_ejected(&self) -> bool {
        !self.ejection.is_open()
    }

    /// Results in a row and over the interval.
    pub(super) fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// Leaves it alone until `until`; only outlier detection does.
    pub(super) fn eject(&self, until: Instant, now: Instant) {
        self.epoch.stamp(now);
        self.monitor.reset();
        self.ejection.shut(self.epoch.stamp(until));
    }

    /// Ends the ejection. With `now` the endpoint warms up again.
    pub(super) fn readmit(&self, now: Option<Instant>) {
        self.monitor.reset();
        if let Some(now) = now {
            self.returned.store(self.epoch.stamp(now), Ordering::Relaxed);
        }
        self.ejection.open();
    }

    /// A connection could not be made: requests go elsewhere for a while. Connects that were under way when the first
    /// of them failed say nothing new.
    pub fn unreachable(&self, reason: &Arc<str>, now: Instant) {
        let mut unreached = self.unreached();
        let stamp = self.epoch.stamp(now);
        if self.reach.until() > stamp {
            return;
        }
        unreached.times = unreached.times.saturating_add(1);
        unreached.since.get_or_insert(now);
        unreached.reason = Arc::clone(reason);
        let doublings = (unreached.times - 1).min(16);
        let backoff = FIRST_BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF);
        let micros = u64::try_from(backoff.as_micros()).unwrap_or(u64::MAX);
        self.reach.shut(stamp + jittered(micros, self.id ^ stamp));
    }

    /// A connection was made, or a request answered.
    pub fn reachable(&self) {
        if self.reach.is_open() {
            return;
        }
        let mut unreached = self.unreached();
        self.reach.open();
        *unreached = Unreached::default();
    }

    /// A probe ended without a connection, by a limit shorter than the one of connecting.
    pub(super) fn still_unreachable(&self, now: Instant) {
        let reason = Arc::clone(&self.unreached().reason);
        if !self.reach.is_open() {
            self.unreachable(&reason, now);
        }
    }

    /// Takes the latency of a response.
    pub(super) fn observe(&self, latency: Duration, now: Instant) {
        self.latency.observe(latency.as_secs_f64() * 1e6, self.epoch.stamp(now));
    }

    /// What one more request is up against: its latency times the requests under way.
    pub(super) fn load(&self, now: Instant) -> f64 {
        self.latency.load(self.active(), self.epoch.stamp(now))
    }

    /// The average of the latencies observed, if any was.
    pub fn latency(&self, now: Instant) -> Option<Duration> {
        let micros = self.latency.cost(self.epoch.stamp(now))?;
        Duration::try_from_secs_f64(micros / 1e6).ok()
    }

    /// Whether it may be picked.
    pub(super) fn availability(&self, now: Instant) -> Availability {
        if self.ejection.is_open() && self.reach.is_open() {
            return Availability { ejected: false, reachable: true, due: false };
        }
        let stamp = self.epoch.stamp(now);
        let (ejection, reach) = (self.ejection.standing(stamp), self.reach.standing(stamp));
        Availability {
            ejected: ejection != Standing::Open,
            reachable: reach == Standing::Open,
            due: match (ejection, reach) {
                (Standing::Shut, _) | (_, Standing::Shut) | (Standing::Open, Standing::Open) => false,
                (Standing::Due, _) | (_, Standing::Due) => true,
            },
        }
    }

    /// Makes a request the probe of an endpoint that is due; `None` when another one is.
    pub(super) fn probe(&self, now: Instant) -> Option<Probe> {
        let stamp = self.epoch.stamp(now);
        let claim = |gate: &Gate| {
            if gate.is_open() { Some(None) } else { gate.claim(stamp).map(Some) }
        };
        let ejection = claim(&self.ejection)?;
        let Some(reach) = claim(&self.reach) else {
            self.release(Probe { ejection, reach: None });
            return None;
        };
        (ejection.is_some() || reach.is_some()).then_some(Probe { ejection, reach })
    }

    /// Gives the place of a probe back.
    pub(super) fn release(&self, probe: Probe) {
        if let Some(claimed) = probe.ejection {
            self.ejection.release(claimed);
        }
        if let Some(claimed) = probe.reach {
            self.reach.release(claimed);
        }
    }

    /// Its health, for people.
    pub fn health(&self, now: Instant) -> Health {
        if self.ejection.is_probed() || self.reach.is_probed() {
            return Health::Probing;
        }
        if self.is_ejected() {
            return Health::Ejected;
        }
        let unreached = self.unreached();
        match self.epoch.instant(self.reach.until()) {
            None => Health::Healthy,
            Some(until) => Health::Unreachable {
                retry_in: until.saturating_duration_since(now),
                reason: Arc::clone(&unreached.reason),
                times: unreached.times,
            },
        }
    }

    /// Since when, and why lately, no connection could be made; `None` when one can, which costs one atomic load.
    pub(super) fn unreachable_since(&self) -> Option<(Instant, Arc<str>)> {
        if self.reach.is_open() {
            return None;
        }
        let unreached = self.unreached();
        Some((unreached.since?, Arc::clone(&unreached.reason)))
    }

    fn unreached(&self) -> MutexGuard<'_, Unreached> {
        self.unreached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A back-off that differs between proxies, endpoints and times.
fn jittered(micros: u64, salt: u64) -> u64 {
    let span = micros.saturating_mul(2 * JITTER_PERCENT) / 100;
    let dice = xxhash_rust::xxh3::xxh3_64(&salt.to_le_bytes());
    micros - span / 2 + dice % span.max(1)
}
