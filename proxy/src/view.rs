//! What a request sees: the policy of the moment joined with the living clusters it names, published as one.
//!
//! The control task builds a [`View`] off the request path and swaps it in whole; a request loads it once and never
//! sees half of a change. Destinations that did not change keep their `Arc`.

use std::{
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwap, Guard};
use hashbrown::Equivalent;
use pillion_policy::{
    authorization::Authorization,
    identity::TrustDomain,
    mesh::MeshConfig,
    name::Hostname,
    route::{Action, Route, Target},
    service::ServicePolicy,
    workload::WorkloadPolicy,
};
use rustc_hash::FxBuildHasher;
use tokio::{sync::watch, time::Instant};

use crate::{
    jwt::Issuers,
    limit::Limiter,
    telemetry::{RouteStats, requests::RequestStats},
    upstream::{Guards, Registry, Upstream, breaker::Breaker},
};

/// Everything requests are decided by.
#[derive(Debug, Default)]
pub struct View {
    /// Counts the published views.
    pub revision: u64,
    /// Settings of the mesh, once known.
    pub mesh: Option<Arc<MeshConfig>>,
    /// Policy of the own workload, once known.
    pub workload: Option<Arc<LiveWorkload>>,
    /// What is known of the hosts that have been asked for.
    hosts: hashbrown::HashMap<Key, Entry, FxBuildHasher>,
}

/// A host and port that have been asked for.
#[derive(Debug, PartialEq, Eq)]
struct Key(Hostname, u16);

/// The same, borrowed from a request.
struct Asked<'a>(&'a str, u16);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Asked(self.0.as_str(), self.1).hash(state);
    }
}

impl Hash for Asked<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
        self.1.hash(state);
    }
}

impl Equivalent<Key> for Asked<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.0 == key.0.as_str() && self.1 == key.1
    }
}

/// What is known of a host and port.
#[derive(Debug, Clone)]
pub enum Entry {
    /// It is described.
    Known(Arc<Destination>),
    /// Nobody has described it; the reason, for the client.
    Absent(Arc<str>),
}

/// A destination as it lives.
#[derive(Debug)]
pub struct Destination {
    policy: Arc<ServicePolicy>,
    routes: Box<[LiveRoute]>,
    /// Where answers are counted that no cluster was chosen for.
    requests: Arc<RequestStats>,
    usage: Arc<Usage>,
}

/// The clusters of a rule, in the order of its backends and mirrors; `None` where the policy names a missing one.
#[derive(Debug)]
pub struct LiveRoute {
    /// One for each backend.
    pub backends: Box<[Option<Arc<Upstream>>]>,
    /// One for each mirror.
    pub mirrors: Box<[Option<Arc<Upstream>>]>,
    /// The breaker before the rule.
    pub breaker: Option<Arc<Breaker>>,
    /// The rate limit of the rule.
    pub limiter: Option<Arc<Limiter>>,
    /// Where its requests are counted.
    pub stats: Arc<RouteStats>,
}

/// The own workload as it lives.
#[derive(Debug)]
pub struct LiveWorkload {
    policy: Arc<WorkloadPolicy>,
    /// The limits of its ports that have one.
    limiters: Box<[(u16, Arc<Limiter>)]>,
    domains: Vec<TrustDomain>,
    authorization: Authorization,
    issuers: Option<Arc<Issuers>>,
}

/// When a destination was last asked for, in seconds of the proxy's life. Kept over changes of its policy.
#[derive(Debug, Default)]
pub struct Usage(AtomicU64);

/// The current view and the news of a next one.
#[derive(Debug)]
pub struct Views {
    current: ArcSwap<View>,
    revision: AtomicU64,
    news: watch::Sender<u64>,
    start: Instant,
}

impl View {
    /// A view of no hosts.
    pub fn new(revision: u64, mesh: Option<Arc<MeshConfig>>, workload: Option<Arc<LiveWorkload>>) -> Self {
        Self { revision, mesh, workload, hosts: hashbrown::HashMap::default() }
    }

    /// What is known of a host (in lower case) and port.
    pub fn entry(&self, host: &str, port: u16) -> Option<&Entry> {
        self.hosts.get(&Asked(host, port))
    }

    /// The destinations that are described.
    pub fn destinations(&self) -> impl Iterator<Item = &Arc<Destination>> {
        self.hosts.values().filter_map(|entry| match entry {
            Entry::Known(destination) => Some(destination),
            Entry::Absent(_) => None,
        })
    }

    /// Puts in what is known of a host and port.
    pub fn insert(&mut self, host: &Hostname, port: u16, entry: Entry) {
        self.hosts.insert(Key(host.clone(), port), entry);
    }
}

impl Destination {
    /// Joins a policy with the clusters it names.
    pub fn new(
        policy: Arc<ServicePolicy>,
        (registry, guards): (&Registry, &mut Guards),
        requests: Arc<RequestStats>,
        usage: Arc<Usage>,
    ) -> Self {
        let routes = policy.routes().iter().map(|route| LiveRoute::new(route, registry, guards)).collect();
        Self { policy, routes, requests, usage }
    }

    /// Whether joining again would give the same.
    pub fn is_current(&self, policy: &Arc<ServicePolicy>, registry: &Registry) -> bool {
        let same = |old: &Option<Arc<Upstream>>| {
            old.as_ref()
                .is_none_or(|old| registry.get(&old.cluster().name).is_some_and(|new| Arc::ptr_eq(old, new)))
        };
        Arc::ptr_eq(&self.policy, policy)
            && self.routes.iter().all(|route| route.backends.iter().chain(&route.mirrors).all(same))
    }

    /// Its policy.
    pub fn policy(&self) -> &Arc<ServicePolicy> {
        &self.policy
    }

    /// The living clusters of its rules, in the order of the rules.
    pub fn routes(&self) -> &[LiveRoute] {
        &self.routes
    }

    /// Where answers are counted that no cluster was chosen for.
    pub fn requests(&self) -> &Arc<RequestStats> {
        &self.requests
    }

    /// When it was last asked for.
    pub fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }
}

impl LiveRoute {
    fn new(route: &Route, registry: &Registry, shared: &mut Guards) -> Self {
        let live = |target: &Target| match target {
            Target::Cluster(name) => registry.get(name).cloned(),
            Target::Missing(_) => None,
        };
        let backends = match &route.action {
            Action::Forward(forward) => {
                forward.backends.all().iter().map(|backend| live(&backend.target)).collect()
            }
            Action::Redirect(_) | Action::Respond(_) => Box::default(),
        };
        let resilience = &route.resilience;
        let breaker = resilience.breaker.as_ref();
        Self {
            backends,
            mirrors: route.mirrors.iter().map(|mirror| live(&mirror.target)).collect(),
            breaker: breaker.map(|policy| shared.breaker(&route.name, policy)),
            limiter: resilience.rate_limit.as_ref().map(|policy| shared.limiter(policy)),
            stats: Arc::default(),
        }
    }
}

impl LiveWorkload {
    /// Joins a policy with the limits of what comes in. These must not be those of rules: what the workload asks of
    /// itself would be counted twice.
    pub fn new(policy: Arc<WorkloadPolicy>, inbound: &mut Guards) -> Self {
        Self::following(None, policy, None, inbound)
    }

    /// The same in place of `previous`, of which the keys of issuers are kept, and as part of a mesh whose trust domain
    /// policies may name in several ways.
    pub fn following(
        previous: Option<&Self>,
        policy: Arc<WorkloadPolicy>,
        mesh: Option<&MeshConfig>,
        inbound: &mut Guards,
    ) -> Self {
        let limited = policy.ports.iter().filter_map(|port| Some((port.port, port.rate_limit.as_ref()?)));
        let limiters = limited.map(|(port, limit)| (port, inbound.limiter(limit))).collect();
        let domains = domains(mesh);
        let authorization = Authorization::new(&policy.authorization, &domains);
        let known = previous.and_then(|previous| previous.issuers.as_ref());
        let issuers = match known.filter(|known| known.are(&policy.authentication)) {
            Some(known) => Some(Arc::clone(known)),
            None => Issuers::new(&policy.authentication, known.map(|known| &**known)),
        };
        Self { policy, limiters, domains, authorization, issuers }
    }

    /// Whether making it again would give the same.
    pub fn is_current(&self, policy: &Arc<WorkloadPolicy>, mesh: Option<&MeshConfig>) -> bool {
        self.policy == *policy && self.domains == domains(mesh)
    }

    /// Who may call it.
    pub fn authorization(&self) -> &Authorization {
        &self.authorization
    }

    /// Whose tokens it believes; `None` when nobody's are asked for.
    pub fn issuers(&self) -> Option<&Arc<Issuers>> {
        self.issuers.as_ref()
    }

    /// Its policy.
    pub fn policy(&self) -> &Arc<WorkloadPolicy> {
        &self.policy
    }

    /// The limit of what comes in at a port of the pod.
    pub fn limiter(&self, port: u16) -> Option<&Arc<Limiter>> {
        self.limiters.iter().find(|(limited, _)| *limited == port).map(|(_, limiter)| limiter)
    }
}

/// All names of the mesh's trust domain.
fn domains(mesh: Option<&MeshConfig>) -> Vec<TrustDomain> {
    let own = mesh.map(|mesh| &mesh.trust_domain);
    own.into_iter().chain(mesh.iter().flat_map(|mesh| &mesh.trust_domain_aliases)).cloned().collect()
}

impl Usage {
    /// Notes that the destination was asked for; writes at most once a second.
    pub fn touch(&self, second: u64) {
        if self.0.load(Ordering::Relaxed) != second {
            self.0.store(second, Ordering::Relaxed);
        }
    }

    /// The second in which it was last asked for.
    pub fn last(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Views {
    /// An empty view, published at `start`.
    pub fn new(start: Instant) -> Self {
        Self { current: ArcSwap::default(), revision: AtomicU64::new(0), news: watch::Sender::new(0), start }
    }

    /// The view of the moment. Not to be kept across an await.
    pub fn load(&self) -> Guard<Arc<View>> {
        self.current.load()
    }

    /// The revision of the view of the moment.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// Swaps in the next view and wakes whoever waits for one.
    pub fn publish(&self, view: View) {
        let revision = view.revision;
        self.current.store(Arc::new(view));
        self.revision.store(revision, Ordering::Relaxed);
        self.news.send_replace(revision);
    }

    /// Tells of every view published from now on.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Whole seconds since the proxy started.
    pub fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs()
    }
}
