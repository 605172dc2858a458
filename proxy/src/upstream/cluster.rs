//! A cluster's policy joined with its living state.
//!
//! The state outlives changes of policy: limits keep counting what is under way, endpoints keep their load, and what
//! outlier detection has learned stays while its own policy does. A permit is a guard; dropping it gives the place
//! back, so a client that vanishes costs nothing.

mod describe;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use pillion_policy::{
    cluster::{Cluster, ClusterTls, LoadBalancer, Protocol},
    endpoint::EndpointSet,
};
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

pub use self::describe::LeftAlone;
use super::{
    breaker::Breaker,
    budget::Budget,
    bulkhead::Bulkhead,
    endpoint::{LiveEndpoint, Probe},
    lb::{Ask, Tried},
    outcome::Outcome,
    outlier::Outliers,
    protection::Protection,
    set::LiveSet,
};
use crate::{
    error::{Limit, ProxyError},
    telemetry::{ClusterGauges, RequestStats},
    tls::origination::{Kept, Originator},
};

/// What requests to a cluster need: its policy and its state.
#[derive(Debug)]
pub struct Upstream {
    cluster: Cluster,
    state: Arc<State>,
    protection: Protection,
    /// What connections are secured with, where policy names more than the mesh's own identities.
    originator: Option<Arc<Kept>>,
    /// One for all policies the cluster has had.
    serving: Arc<Serving>,
}

/// Retires the endpoints when no policy of a cluster is left, so that no connection to them is kept.
#[derive(Debug)]
struct Serving(Arc<State>);

/// What is counted and learned about a cluster, whatever its policy says.
#[derive(Debug)]
pub struct State {
    name: Arc<str>,
    /// Where connections are made from, where redirection rules must recognize them.
    source: Option<IpAddr>,
    set: ArcSwap<LiveSet>,
    /// What the set was made from.
    discovered: ArcSwapOption<EndpointSet>,
    /// Outlier detection, where policy asks for it.
    outliers: ArcSwapOption<Outliers>,
    gauges: Arc<ClusterGauges>,
    requests: Arc<RequestStats>,
    /// What the limits compare with. Gauges may be shared by clusters that found no room among the metrics.
    under_way: AtomicU32,
    waiting: AtomicU32,
    connected: AtomicU32,
    /// Wakes those who wait for a connection to be given up.
    freed: Notify,
    /// How many wait for that, over all workers.
    starving: AtomicU32,
}

/// A request under way. Dropped without a report it says nothing about the endpoint.
#[derive(Debug)]
pub struct InFlight {
    state: Arc<State>,
    live: Arc<LiveEndpoint>,
    /// What it finds out about the endpoint.
    probe: Probe,
    /// Whether balancing wants to know how long it takes.
    is_timed: bool,
    is_reported: bool,
}

/// A request waiting for a connection.
#[derive(Debug)]
pub struct Pending {
    state: Arc<State>,
    since: Instant,
}

/// An open connection, or one being opened.
#[derive(Debug)]
pub struct Connected(Arc<State>);

/// Someone waiting for a connection to be given up.
#[derive(Debug)]
pub(super) struct Starving(Arc<State>);

/// Takes a place if fewer than `max` are taken. Places and those who starve for one are sequentially consistent: a
/// place given up and a wish declared at the same time must not miss each other.
fn take(counter: &AtomicU32, gauge: &AtomicU64, max: u32) -> bool {
    let below = |count: u32| (count < max).then_some(count + 1);
    let is_taken = if max == u32::MAX {
        counter.fetch_add(1, Ordering::SeqCst);
        true
    } else {
        counter.fetch_update(Ordering::SeqCst, Ordering::Relaxed, below).is_ok()
    };
    if is_taken {
        gauge.fetch_add(1, Ordering::Relaxed);
    }
    is_taken
}

fn give_back(counter: &AtomicU32, gauge: &AtomicU64) {
    counter.fetch_sub(1, Ordering::SeqCst);
    gauge.fetch_sub(1, Ordering::Relaxed);
}

impl Upstream {
    /// A cluster that has just been named; its endpoints are still to come.
    pub fn new(cluster: Cluster, gauges: Arc<ClusterGauges>, requests: Arc<RequestStats>) -> Self {
        let set = LiveSet::unknown(&cluster);
        Self::with_set(cluster, set, None, gauges, requests)
    }

    fn with_set(
        cluster: Cluster,
        set: LiveSet,
        source: Option<IpAddr>,
        gauges: Arc<ClusterGauges>,
        requests: Arc<RequestStats>,
    ) -> Self {
        let state = State {
            name: cluster.name.to_string().into(),
            source,
            set: ArcSwap::from_pointee(set),
            discovered: ArcSwapOption::empty(),
            outliers: ArcSwapOption::empty(),
            gauges,
            requests,
            under_way: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            connected: AtomicU32::new(0),
            freed: Notify::new(),
            starving: AtomicU32::new(0),
        };
        let protection = Protection::new(&cluster.resilience, None, &state.name, &state.gauges);
        state.watch(&cluster);
        let state = Arc::new(state);
        let originator = originator(&cluster);
        Self { cluster, protection, originator, serving: Arc::new(Serving(Arc::clone(&state))), state }
    }

    /// A cluster of exactly one address: the application beside the proxy, or an original destination. `source` is
    /// where connections to it are made from, when that matters.
    pub fn single(
        cluster: Cluster,
        address: SocketAddr,
        source: Option<IpAddr>,
        gauges: Arc<ClusterGauges>,
        requests: Arc<RequestStats>,
    ) -> Self {
        let set = LiveSet::single(&cluster, address);
        Self::with_set(cluster, set, source, gauges, requests)
    }

    /// The same state under a new policy. The endpoints are sorted anew when balancing or subset have changed; all
    /// that are ejected return when outlier detection has changed.
    #[must_use]
    pub fn with_policy(&self, cluster: Cluster) -> Self {
        let state = &self.state;
        let protection =
            Protection::new(&cluster.resilience, Some(&self.protection), &state.name, &state.gauges);
        state.watch(&cluster);
        let originator = match &self.originator {
            Some(same) if self.cluster.tls == cluster.tls => Some(Arc::clone(same)),
            Some(_) | None => originator(&cluster),
        };
        let (state, serving) = (Arc::clone(state), Arc::clone(&self.serving));
        Self { cluster, protection, originator, state, serving }
    }

    /// Takes what discovery says; only the control task calls this.
    pub fn discover(&self, endpoints: &Arc<EndpointSet>, now: Instant) {
        let next = Arc::new(LiveSet::next(&self.cluster, endpoints, &self.state.set.load(), now));
        self.state.set.store(Arc::clone(&next));
        if let Some(outliers) = &*self.state.outliers.load() {
            outliers.set_members(next.members(), now);
        }
        self.state.discovered.store(Some(Arc::clone(endpoints)));
    }

    /// Whether its endpoints are made from exactly this.
    pub fn has_discovered(&self, endpoints: &Arc<EndpointSet>) -> bool {
        self.state.discovered.load().as_ref().is_some_and(|discovered| Arc::ptr_eq(discovered, endpoints))
    }

    /// Its policy.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Its name as text.
    pub fn name(&self) -> &Arc<str> {
        &self.state.name
    }

    /// The endpoints of the moment.
    pub fn endpoints(&self) -> Arc<LiveSet> {
        self.state.set.load_full()
    }

    /// Where finished requests are counted.
    pub fn requests(&self) -> &Arc<RequestStats> {
        &self.state.requests
    }

    /// Its gauges.
    pub fn gauges(&self) -> &ClusterGauges {
        &self.state.gauges
    }

    /// The breaker before it.
    pub fn breaker(&self) -> Option<&Arc<Breaker>> {
        self.protection.breaker.as_ref()
    }

    /// What limits the requests under way.
    pub fn bulkhead(&self) -> Option<&Arc<Bulkhead>> {
        self.protection.bulkhead.as_ref()
    }

    /// What limits repetitions.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.protection.budget
    }

    /// Requests under way.
    pub fn under_way(&self) -> u32 {
        self.state.under_way.load(Ordering::Relaxed)
    }

    /// What connections are secured with where policy has settings for that; `None` when they cannot be used.
    pub(super) fn originator(&self) -> Option<Arc<Originator>> {
        self.originator.as_ref()?.load()
    }

    /// Takes up what has changed in the files that policy names for that; only the control task calls this.
    pub fn look_at_files(&self) {
        match self.originator.as_ref().map(|kept| kept.look()) {
            Some(Ok(true)) => {
                tracing::info!(cluster = %self.cluster.name, "TLS settings read again: files have changed")
            }
            Some(Err(error)) => {
                tracing::warn!(cluster = %self.cluster.name, %error, "changed files not used; the TLS settings before stay");
            }
            Some(Ok(false)) | None => {}
        }
    }

    pub(super) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Picks an endpoint and counts the request in, or says which limit or lack forbids it. `avoid` has the ids of
    /// the endpoints the request has tried before.
    pub fn admit(
        &self,
        hash: Option<u64>,
        tried: Tried<'_>,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Result<InFlight, ProxyError> {
        let outlier = self.cluster.resilience.outlier.as_ref();
        let min_health_percent = outlier.map_or(0, |outlier| outlier.min_health_percent);
        let set = self.state.set.load();
        let Some(picked) = set.pick(&Ask { hash, tried, min_health_percent, now }, rng) else {
            return Err(ProxyError::NoHealthyEndpoint { cluster: Arc::clone(&self.state.name) });
        };
        let live = &picked.member.live;
        let gauges = &self.state.gauges;
        if !take(&self.state.under_way, &gauges.requests_active, self.cluster.pool.max_requests) {
            live.release(picked.probe);
            gauges.request_overflow.fetch_add(1, Ordering::Relaxed);
            return Err(self.overflow(Limit::MaxRequests));
        }
        live.enter();
        Ok(InFlight {
            state: Arc::clone(&self.state),
            live: Arc::clone(live),
            probe: picked.probe,
            is_timed: self.cluster.balancing.policy == LoadBalancer::PeakEwma,
            is_reported: false,
        })
    }

    /// Takes a place among the requests waiting for a connection.
    pub(super) fn wait_in_line(&self) -> Result<Pending, ProxyError> {
        let gauges = &self.state.gauges;
        if take(&self.state.waiting, &gauges.pending_active, self.cluster.pool.max_pending) {
            gauges.pending.fetch_add(1, Ordering::Relaxed);
            return Ok(Pending { state: Arc::clone(&self.state), since: Instant::now() });
        }
        gauges.pending_overflow.fetch_add(1, Ordering::Relaxed);
        Err(self.overflow(Limit::MaxPendingRequests))
    }

    /// Takes a place among the open connections, if there is one.
    pub(super) fn open_connection(&self) -> Option<Connected> {
        let gauges = &self.state.gauges;
        let max = self.cluster.pool.max_connections;
        take(&self.state.connected, &gauges.connections_active, max).then(|| {
            gauges.connections_opened.fetch_add(1, Ordering::Relaxed);
            Connected(Arc::clone(&self.state))
        })
    }

    /// Declares that a connection is wanted and none may be opened.
    pub(super) fn starve(&self) -> Starving {
        self.state.gauges.connection_overflow.fetch_add(1, Ordering::Relaxed);
        self.state.starving.fetch_add(1, Ordering::SeqCst);
        Starving(Arc::clone(&self.state))
    }

    /// The answer to a request that met `limit`.
    pub fn overflow(&self, limit: Limit) -> ProxyError {
        ProxyError::Overflow { cluster: Arc::clone(&self.state.name), limit }
    }

    /// Whether the protocol of the cluster asks for HTTP/2, given what the client speaks and whether it is gRPC.
    pub fn wants_http2(&self, downstream_http2: bool, grpc: bool) -> bool {
        match self.cluster.protocol {
            Protocol::Auto => downstream_http2,
            Protocol::Http1 | Protocol::Tcp => grpc && downstream_http2,
            Protocol::Http2 => true,
        }
    }
}

/// Reads what a policy names for securing connections.
fn originator(cluster: &Cluster) -> Option<Arc<Kept>> {
    let ClusterTls::Originate(policy) = &cluster.tls else { return None };
    let (kept, error) = Kept::new(policy, cluster.name.endpoints.service.as_str());
    if let Some(error) = error {
        tracing::warn!(cluster = %cluster.name, %error, "TLS settings cannot be used: no connection is made");
    }
    Some(Arc::new(kept))
}

impl State {
    /// Begins outlier detection as a policy asks for it. One with the same policy goes on.
    fn watch(&self, cluster: &Cluster) {
        let wanted = cluster.resilience.outlier;
        let watching = self.outliers.load();
        if watching.as_ref().map(|outliers| *outliers.policy()) == wanted {
            return;
        }
        if let Some(outliers) = &*watching {
            outliers.close();
        }
        self.outliers.store(wanted.map(|policy| {
            Arc::new(Outliers::new(policy, self.set.load().members(), &self.name, &self.gauges))
        }));
    }

    /// Whether someone waits for a connection of this cluster to be given up.
    pub(super) fn is_starving(&self) -> bool {
        self.starving.load(Ordering::SeqCst) > 0
    }

    /// Resolves when a connection has been given up.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    pub(super) fn gauges(&self) -> &ClusterGauges {
        &self.gauges
    }

    /// Where connections are made from, when that matters.
    pub(super) fn source(&self) -> Option<IpAddr> {
        self.source
    }
}

impl InFlight {
    /// The endpoint that was picked.
    pub fn live(&self) -> &Arc<LiveEndpoint> {
        &self.live
    }

    /// Says how it ended, once: later reports change nothing.
    pub fn report(&mut self, outcome: Outcome, now: Instant) {
        if std::mem::replace(&mut self.is_reported, true) || outcome == Outcome::Cancelled {
            return;
        }
        match outcome {
            Outcome::Answered { .. } => self.live.reachable(),
            Outcome::Unconnected | Outcome::TimedOut if self.probe.reach.is_some() => {
                self.live.still_unreachable(now);
            }
            Outcome::Unconnected | Outcome::TimedOut | Outcome::Broken | Outcome::Cancelled => {}
        }
        if let Some(outliers) = &*self.state.outliers.load() {
            outliers.report(&self.live, outcome, self.probe.ejection.is_some(), now);
        }
    }

    /// Says how long the endpoint took to answer, for balancing by latency.
    pub fn observe(&self, latency: Duration, now: Instant) {
        if self.is_timed {
            self.live.observe(latency, now);
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        for member in self.0.set.load().members() {
            member.live.retire();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.live.release(self.probe);
        self.live.leave();
        give_back(&self.state.under_way, &self.state.gauges.requests_active);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let gauges = &self.state.gauges;
        give_back(&self.state.waiting, &gauges.pending_active);
        let waited = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        gauges.pending_wait_us.fetch_add(waited, Ordering::Relaxed);
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        give_back(&self.0.connected, &self.0.gauges.connections_active);
        self.0.gauges.connections_closed.fetch_add(1, Ordering::Relaxed);
        if self.0.is_starving() {
            self.0.freed.notify_waiters();
        }
    }
}

impl Drop for Starving {
    fn drop(&mut self) {
        self.0.starving.fetch_sub(1, Ordering::SeqCst);
    }
}
