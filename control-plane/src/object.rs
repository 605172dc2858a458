//! Objects as the index holds them: read, checked, and ready to be compiled.
//!
//! An object that exists here has no error in itself; whether what it refers to exists is a question to the index.

mod security;
mod telemetry;

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc, time::Duration};

use pillion_policy::{
    cluster::{Balancing, ClusterTls, ConnectionPool, Labels, Protocol},
    header::{Edits, Field},
    matching::RouteMatch,
    name::{Hostname, Label},
    ratio::Fraction,
    resilience::{Bulkhead, CircuitBreaker, Fallback, Fault, OutlierDetection, RateLimit},
    retry::{Retry, RetryBudget},
    route::{Cors, DirectResponse, PathRewrite, Redirect},
};

pub(crate) use self::{
    security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication, Scope},
    telemetry::{LogSettings, LogWanted, Silenced, Telemetry, TracingSettings},
};
use crate::{
    api::PortRef,
    naming::{Exported, HostPattern},
    problem::{Path, Problem, Severity},
    yaml::Node,
};

/// The kinds the mesh reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Service,
    EndpointSlice,
    Pod,
    VirtualService,
    DestinationRule,
    ResiliencePolicy,
    PeerAuthentication,
    RequestAuthentication,
    AuthorizationPolicy,
    Telemetry,
}

impl Kind {
    /// All kinds.
    pub(crate) const ALL: [Self; 10] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::VirtualService,
        Self::DestinationRule,
        Self::ResiliencePolicy,
        Self::PeerAuthentication,
        Self::RequestAuthentication,
        Self::AuthorizationPolicy,
        Self::Telemetry,
    ];

    /// The word users write.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::ResiliencePolicy => "ResiliencePolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::Telemetry => "Telemetry",
        }
    }

    /// Whether objects of the kind say what the mesh shall do, and not what there is.
    pub(crate) fn is_policy(self) -> bool {
        match self {
            Self::Service | Self::EndpointSlice | Self::Pod => false,
            Self::VirtualService
            | Self::DestinationRule
            | Self::ResiliencePolicy
            | Self::PeerAuthentication
            | Self::RequestAuthentication
            | Self::AuthorizationPolicy
            | Self::Telemetry => true,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What identifies an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) namespace: Label,
    pub(crate) name: Label,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Where an object stands.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// Its file.
    pub(crate) file: Arc<str>,
    /// Its text, kept where problems that show only beside other objects need lines.
    pub(crate) document: Option<Arc<Node>>,
    /// The line it starts on.
    pub(crate) line: u32,
}

/// An object, where it comes from and what is to be said about it.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) key: Key,
    pub(crate) origin: Origin,
    /// `metadata.creationTimestamp`; orders rules for the same host.
    pub(crate) created: Option<String>,
    pub(crate) labels: Labels,
    pub(crate) object: Object,
    /// What was found when it was read: warnings, never errors.
    pub(crate) notes: Vec<Problem>,
}

impl Stored {
    /// Rules for the same host go by age, then by name.
    pub(crate) fn age(&self) -> impl Ord + '_ {
        (self.created.is_none(), self.created.as_deref(), &self.key.namespace, &self.key.name)
    }

    /// A problem of this object that its origin can place.
    pub(crate) fn problem(&self, severity: Severity, path: &Path, reason: String) -> Problem {
        let line = self.origin.document.as_ref().map_or(self.origin.line, |document| path.line_in(document));
        Problem {
            severity,
            object: self.key.to_string(),
            file: self.origin.file.to_string(),
            line,
            path: path.to_string(),
            reason,
        }
    }
}

/// What an object says.
#[derive(Debug)]
pub(crate) enum Object {
    Service(Service),
    EndpointSlice(SliceOfService),
    Pod(PodFacts),
    VirtualService(VirtualService),
    DestinationRule(Box<DestinationRule>),
    ResiliencePolicy(Box<ResiliencePolicy>),
    PeerAuthentication(PeerAuthentication),
    RequestAuthentication(RequestAuthentication),
    AuthorizationPolicy(Box<AuthorizationPolicy>),
    Telemetry(Box<Telemetry>),
}

impl Object {
    /// Which workloads it is for, if it picks them by their labels.
    pub(crate) fn scope(&self) -> Option<&Scope> {
        match self {
            Self::PeerAuthentication(policy) => Some(&policy.scope),
            Self::RequestAuthentication(policy) => Some(&policy.scope),
            Self::AuthorizationPolicy(policy) => Some(&policy.scope),
            Self::Telemetry(telemetry) => Some(&telemetry.scope),
            _ => None,
        }
    }
}

/// An EndpointSlice and the service it belongs to.
#[derive(Debug)]
pub(crate) struct SliceOfService {
    pub(crate) service: Option<Label>,
    /// Ports by the name the service port has.
    pub(crate) ports: Vec<(String, u16)>,
    pub(crate) members: Vec<Member>,
}

/// One endpoint of a slice.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    /// The pod it is, when the slice says so.
    pub(crate) pod: Option<Label>,
    pub(crate) zone: Arc<str>,
}

/// A Service.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) selector: Labels,
    pub(crate) cluster_ips: Vec<IpAddr>,
    pub(crate) external: bool,
    pub(crate) publish_not_ready: bool,
}

/// A port of a service.
#[derive(Debug)]
pub(crate) struct ServicePort {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) target: PortRef,
    pub(crate) protocol: Protocol,
}

/// What endpoints are made of.
#[derive(Debug)]
pub(crate) struct PodFacts {
    pub(crate) address: Option<IpAddr>,
    pub(crate) ready: bool,
    /// It has been asked to stop.
    pub(crate) terminating: bool,
    /// It has stopped: it can serve nobody.
    pub(crate) gone: bool,
    /// A proxy of the mesh stands in front of it.
    pub(crate) sidecar: bool,
    /// The one Kubernetes gives a pod that names none, where it names none.
    pub(crate) service_account: Label,
    /// What it is an instance of.
    pub(crate) workload: Label,
    /// The names its containers give to ports.
    pub(crate) ports: BTreeMap<String, u16>,
}

/// Rules for hosts.
#[derive(Debug)]
pub(crate) struct VirtualService {
    pub(crate) hosts: Vec<HostPattern>,
    pub(crate) exported: Exported,
    /// Whether it is for sidecars at all, and not only for gateways.
    pub(crate) mesh: bool,
    pub(crate) rules: Vec<Rule>,
}

impl VirtualService {
    /// Whether it decides about requests of clients in `namespace`.
    pub(crate) fn governs(&self, namespace: &str) -> bool {
        self.mesh && !self.rules.is_empty() && self.exported.reaches(namespace)
    }
}

/// One rule. `matches` is empty when it is for every request.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: Arc<str>,
    /// The name users gave it, by which policies call it; empty when they did not.
    pub(crate) section: Box<str>,
    pub(crate) matches: Vec<Match>,
    pub(crate) action: Action,
    pub(crate) request_headers: Edits,
    pub(crate) response_headers: Edits,
    pub(crate) limits: RouteSettings,
    pub(crate) mirrors: Vec<Mirror>,
    pub(crate) cors: Option<Cors>,
}

impl Rule {
    /// Where most of its policy is looked for: the first of its destinations.
    pub(crate) fn first_destination(&self) -> Option<&Destination> {
        match &self.action {
            Action::Forward { backends, .. } => backends.first().map(|backend| &backend.destination),
            Action::Redirect(_) | Action::Respond(_) => None,
        }
    }
}

/// An alternative of a rule: which clients it is for, and which requests.
#[derive(Debug)]
pub(crate) struct Match {
    /// Only for this port of the host.
    pub(crate) port: Option<u16>,
    /// Only for clients in this namespace.
    pub(crate) namespace: Option<Label>,
    /// Only for clients that carry these labels.
    pub(crate) labels: Labels,
    /// Whether it is for anybody; not so when it is only for gateways or asks what is not known of clients.
    pub(crate) applies: bool,
    pub(crate) request: RouteMatch,
}

/// What a rule does.
#[derive(Debug)]
pub(crate) enum Action {
    Forward { backends: Vec<Backend>, path: Option<PathRewrite>, authority: Option<Field> },
    Redirect(Redirect),
    Respond(DirectResponse),
}

/// A share of a rule's traffic.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) destination: Destination,
    pub(crate) weight: u32,
    pub(crate) request_headers: Edits,
    pub(crate) response_headers: Edits,
    /// A new `Host`/`:authority` for this destination alone.
    pub(crate) authority: Option<Field>,
}

/// Where traffic goes, by name.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    /// Qualified in the rule's namespace.
    pub(crate) host: Hostname,
    pub(crate) port: Option<u16>,
    pub(crate) subset: Option<Label>,
    /// Where in the object it is named.
    pub(crate) path: Path,
}

/// A copy of a rule's traffic.
#[derive(Debug)]
pub(crate) struct Mirror {
    pub(crate) destination: Destination,
    pub(crate) fraction: Fraction,
}

/// How hosts are reached.
#[derive(Debug)]
pub(crate) struct DestinationRule {
    pub(crate) host: HostPattern,
    pub(crate) exported: Exported,
    pub(crate) policy: Option<Traffic>,
    pub(crate) subsets: Vec<Subset>,
}

/// Some of a host's endpoints.
#[derive(Debug, Clone)]
pub(crate) struct Subset {
    pub(crate) name: Label,
    pub(crate) labels: Labels,
    pub(crate) policy: Option<Traffic>,
}

/// A traffic policy: settings for all ports, and for single ports in their place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traffic {
    pub(crate) all: Settings,
    pub(crate) ports: BTreeMap<u16, Settings>,
}

/// What is said about a cluster; what is absent is left to the next wider policy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub(crate) balancing: Option<Balancing>,
    pub(crate) pool: Option<Pool>,
    pub(crate) tls: Option<ClusterTls>,
    pub(crate) outlier: Option<OutlierDetection>,
    pub(crate) budget: Option<RetryBudget>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) breaker: Option<Breaker>,
    pub(crate) bulkhead: Option<Bulkhead>,
}

/// What is said about the requests of a rule; what is absent is left to the next wider policy.
#[derive(Debug, Clone, Default)]
pub(crate) struct RouteSettings {
    /// Zero is no limit.
    pub(crate) timeout: Option<Duration>,
    pub(crate) retry: Option<Retry>,
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) fault: Option<Fault>,
    pub(crate) breaker: Option<Breaker>,
}

/// A breaker, and what is answered while it is open.
#[derive(Debug, Clone)]
pub(crate) struct Breaker {
    pub(crate) circuit: CircuitBreaker,
    pub(crate) fallback: Option<Fallback>,
}

/// A field of a policy, and whether it is given.
pub(crate) type Given<T> = (&'static str, fn(&T) -> bool);

impl Settings {
    /// The fields of a ResiliencePolicy that a cluster follows.
    pub(crate) const FIELDS: [Given<Self>; 7] = [
        ("connectTimeout", |settings| settings.connect_timeout().is_some()),
        ("retry.budget", |settings| settings.budget.is_some()),
        ("circuitBreaker", |settings| settings.breaker.is_some()),
        ("bulkhead", |settings| settings.bulkhead.is_some()),
        ("outlierDetection", |settings| settings.outlier.is_some()),
        ("loadBalancer", |settings| settings.balancing.is_some()),
        ("connectionPool", |settings| settings.pool.is_some()),
    ];

    /// Takes from a wider policy what is not said here. The connect timeout of a pool counts where the pool does.
    #[must_use]
    pub(crate) fn or(self, wider: &Self) -> Self {
        Self {
            connect_timeout: self.connect_timeout().or(wider.connect_timeout),
            balancing: self.balancing.or_else(|| wider.balancing.clone()),
            pool: self.pool.or_else(|| wider.pool.clone()),
            tls: self.tls.or_else(|| wider.tls.clone()),
            outlier: self.outlier.or(wider.outlier),
            budget: self.budget.or(wider.budget),
            breaker: self.breaker.or_else(|| wider.breaker.clone()),
            bulkhead: self.bulkhead.or(wider.bulkhead),
        }
    }

    /// The connect timeout, given as such or with the pool.
    pub(crate) fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout.or_else(|| self.pool.as_ref().and_then(|pool| pool.connect_timeout))
    }
}

impl RouteSettings {
    /// The field that the proxy of a destination follows, too.
    pub(crate) const RATE_LIMIT: Given<Self> = ("rateLimit", |settings| settings.rate_limit.is_some());

    /// The fields of a ResiliencePolicy that a rule follows.
    pub(crate) const FIELDS: [Given<Self>; 5] = [
        ("timeout", |settings| settings.timeout.is_some()),
        ("retry", |settings| settings.retry.is_some()),
        Self::RATE_LIMIT,
        ("fault", |settings| settings.fault.is_some()),
        ("circuitBreaker", |settings| settings.breaker.is_some()),
    ];

    /// Takes from a wider policy what is not said here.
    #[must_use]
    pub(crate) fn or(self, wider: &Self) -> Self {
        Self {
            timeout: self.timeout.or(wider.timeout),
            retry: self.retry.or_else(|| wider.retry.clone()),
            rate_limit: self.rate_limit.or_else(|| wider.rate_limit.clone()),
            fault: self.fault.or(wider.fault),
            breaker: self.breaker.or_else(|| wider.breaker.clone()),
        }
    }
}

/// What is done about failure of what it is for.
#[derive(Debug)]
pub(crate) struct ResiliencePolicy {
    pub(crate) targets: Vec<PolicyTarget>,
    pub(crate) cluster: Settings,
    pub(crate) route: RouteSettings,
}

/// What a policy is for, in its own namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PolicyTarget {
    /// Service or VirtualService.
    pub(crate) kind: Kind,
    pub(crate) name: Label,
    /// A port of the service, or a rule; all of them when absent.
    pub(crate) section: Option<String>,
}

/// A `connectionPool`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pool {
    pub(crate) limits: ConnectionPool,
    /// The connect timeout it gives, which `limits` has, too.
    pub(crate) connect_timeout: Option<Duration>,
    /// `http.maxRetries`.
    pub(crate) max_retries: Option<u32>,
    /// What is spoken upstream, where that is not left to the port.
    pub(crate) protocol: Option<Protocol>,
}

/// What a source has to say about an object.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// It is new or has changed.
    Apply(Arc<Stored>),
    /// It is gone.
    Delete(Key),
}
