//! From a destination's names to the cluster they mean for a client, with the policy of its DestinationRules.

use std::fmt;

use pillion_policy::{
    cluster::{Cluster, Labels, Protocol},
    name::{ClusterName, EndpointSetName, Hostname, Label},
};

use crate::{
    index::{Found, Index},
    object::{Destination, DestinationRule, ServicePort, Settings, Stored, Subset, Traffic},
};

/// The namespace whose DestinationRules are for everybody.
const ROOT_NAMESPACE: &str = "istio-system";

/// Why a destination leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// No service has the host.
    Host(Hostname),
    /// It has one whose endpoints are somewhere else.
    External(Hostname),
    /// The service has no such port.
    Port(Hostname, u16, Vec<u16>),
    /// No rule the client sees defines the subset.
    Subset(Hostname, Label, Vec<Label>),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
        match self {
            Self::Host(host) => write!(f, "there is no Service {host}"),
            Self::External(host) => write!(f, "Service {host} is an ExternalName, which is not resolved"),
            Self::Port(host, port, known) => {
                let known = list(known.iter().map(u16::to_string).collect());
                write!(f, "Service {host} has no port {port}, its ports: {known}")
            }
            Self::Subset(host, subset, known) => {
                let known = list(known.iter().map(Label::to_string).collect());
                write!(f, "no DestinationRule defines subset {subset} of {host}, its subsets: {known}")
            }
        }
    }
}

/// The cluster a destination means for clients in `namespace` that came for `port`.
pub(crate) fn resolve(
    index: &Index,
    namespace: &Label,
    destination: &Destination,
    port: u16,
) -> Result<Cluster, Missing> {
    let missing = || Missing::Host(destination.host.clone());
    let service = index.service(&destination.host, namespace.as_str()).ok_or_else(missing)?;
    let port = match (destination.port, service.service.ports.as_slice()) {
        (Some(port), _) => port,
        (None, [only]) => only.port,
        (None, _) => port,
    };
    cluster(index, namespace, &service, port, destination.subset.as_ref())
}

/// The cluster for a port, and subset, of a service.
pub(super) fn cluster(
    index: &Index,
    namespace: &Label,
    service: &Found<'_>,
    port: u16,
    subset: Option<&Label>,
) -> Result<Cluster, Missing> {
    if service.service.external {
        return Err(Missing::External(service.host.clone()));
    }
    let Some(declared) = service.service.ports.iter().find(|declared| declared.port == port) else {
        let known = service.service.ports.iter().map(|port| port.port).collect();
        return Err(Missing::Port(service.host.clone(), port, known));
    };
    let rule = Rules::find(index, namespace, service);
    let subset = match subset {
        None => None,
        Some(name) => Some(
            rule.subset(name)
                .ok_or_else(|| Missing::Subset(service.host.clone(), name.clone(), rule.subset_names()))?,
        ),
    };
    Ok(build(service, declared, &rule, subset))
}

fn build(service: &Found<'_>, port: &ServicePort, rules: &Rules<'_>, subset: Option<&Subset>) -> Cluster {
    let endpoints = EndpointSetName { service: service.host.clone(), port: port.port };
    let name = ClusterName { endpoints, subset: subset.map(|subset| subset.name.clone()) };
    let mut cluster = Cluster::plain(name, port.protocol);
    cluster.labels = subset.map_or_else(Labels::new, |subset| subset.labels.clone());
    let settings = effective(rules.policy(), subset.and_then(|subset| subset.policy.as_ref()), port.port);
    cluster.balancing = settings.balancing.unwrap_or_default();
    let pool = settings.pool.unwrap_or_default();
    cluster.pool = pool.limits;
    cluster.protocol = match (port.protocol, pool.protocol) {
        // Opaque bytes have no version.
        (Protocol::Tcp, _) | (_, None) => port.protocol,
        (_, Some(asked)) => asked,
    };
    cluster
}

/// The settings for a port. A block for the port replaces the one for all ports; what a subset says for all ports
/// overrides, field by field, what its host says for this one, and what it says for this port replaces everything.
fn effective(host: Option<&Traffic>, subset: Option<&Traffic>, port: u16) -> Settings {
    let for_port = |traffic: &Traffic| traffic.ports.get(&port).cloned();
    if let Some(settings) = subset.and_then(for_port) {
        return settings;
    }
    let host =
        host.map(|traffic| for_port(traffic).unwrap_or_else(|| traffic.all.clone())).unwrap_or_default();
    let subset = subset.map(|traffic| traffic.all.clone()).unwrap_or_default();
    Settings { balancing: subset.balancing.or(host.balancing), pool: subset.pool.or(host.pool) }
}

/// The DestinationRules in force for a service and clients of one namespace: those for the same host in the first
/// namespace that has any, oldest first.
pub(super) struct Rules<'a>(Vec<&'a DestinationRule>);

impl<'a> Rules<'a> {
    pub(super) fn find(index: &'a Index, client: &Label, service: &Found<'_>) -> Self {
        let mut rules = index.destination_rules(&names(&service.host, service));
        rules.sort_by(|(_, a, _), (_, b, _)| a.age().cmp(&b.age()));
        let visible = |(_, stored, rule): &(usize, &Stored, &DestinationRule)| {
            stored.key.namespace == *client || rule.exported.reaches(client.as_str())
        };
        for namespace in [client.as_str(), service.namespace.as_str(), ROOT_NAMESPACE] {
            let here = rules.iter().map(|(closeness, stored, rule)| (*closeness, &***stored, *rule));
            let here: Vec<_> =
                here.filter(|rule| rule.1.key.namespace.as_str() == namespace && visible(rule)).collect();
            let Some(best) = here.iter().map(|(closeness, ..)| *closeness).max() else { continue };
            return Self(here.iter().filter(|rule| rule.0 == best).map(|rule| rule.2).collect());
        }
        Self(Vec::new())
    }

    fn policy(&self) -> Option<&'a Traffic> {
        self.0.iter().find_map(|rule| rule.policy.as_ref())
    }

    fn subset(&self, name: &Label) -> Option<&'a Subset> {
        self.0.iter().flat_map(|rule| &rule.subsets).find(|subset| subset.name == *name)
    }

    fn subset_names(&self) -> Vec<Label> {
        self.0.iter().flat_map(|rule| &rule.subsets).map(|subset| subset.name.clone()).collect()
    }
}

/// The names by which rules may call a service.
pub(super) fn names(host: &Hostname, service: &Found<'_>) -> Vec<Hostname> {
    let short = Hostname::new(&format!("{}.{}", service.name, service.namespace));
    [host.clone()].into_iter().chain(short.ok()).collect()
}
