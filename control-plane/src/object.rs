//! Objects as the index holds them: read, checked, and ready to be compiled.
//!
//! An object that exists here has no error in itself; whether what it refers to exists is a question to the index.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc, time::Duration};

use pillion_policy::{
    cluster::{Balancing, ConnectionPool, Labels, Protocol},
    header::{Edits, Field},
    matching::RouteMatch,
    name::{Hostname, Label},
    ratio::Fraction,
    route::{Cors, DirectResponse, PathRewrite, Redirect},
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
}

impl Kind {
    /// All kinds.
    pub(crate) const ALL: [Self; 5] =
        [Self::Service, Self::EndpointSlice, Self::Pod, Self::VirtualService, Self::DestinationRule];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
        })
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
    pub(crate) service_account: Option<Label>,
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
    pub(crate) matches: Vec<Match>,
    pub(crate) action: Action,
    pub(crate) request_headers: Edits,
    pub(crate) response_headers: Edits,
    pub(crate) timeout: Option<Duration>,
    pub(crate) mirrors: Vec<Mirror>,
    pub(crate) cors: Option<Cors>,
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

/// The settings a traffic policy gives; absent ones are left to the next wider policy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub(crate) balancing: Option<Balancing>,
    pub(crate) pool: Option<Pool>,
}

/// A `connectionPool`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pool {
    pub(crate) limits: ConnectionPool,
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
