//! From a destination's names to the cluster they mean for a client, with the policy of its DestinationRules.

use std::fmt;

use pillion_policy::{
    cluster::{Cluster, Labels, Protocol},
    name::{ClusterName, EndpointSetName, Hostname, Label},
    resilience::ClusterResilience,
};

use super::layers;
use crate::{
    index::{Found, Index},
    naming::ROOT_NAMESPACES,
    object::{Destination, DestinationRule, Key, ServicePort, Settings, Stored, Subset, Traffic},
};

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
    let (service, port) =
        place(index, namespace, destination, port).ok_or_else(|| Missing::Host(destination.host.clone()))?;
    cluster(index, namespace, &service, port, destination.subset.as_ref())
}

/// The service and port a destination means, which may not have such a port.
pub(crate) fn place<'a>(
    index: &'a Index,
    namespace: &Label,
    destination: &Destination,
    port: u16,
) -> Option<(Found<'a>, u16)> {
    let service = index.service(&destination.host, namespace.as_str())?;
    let port = match (destination.port, service.service.ports.as_slice()) {
        (Some(port), _) => port,
        (None, [only]) => only.port,
        (None, _) => port,
    };
    Some((service, port))
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
    let Some(declared) = service.port(port) else {
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
    let layers = layers::of_cluster(index, service, declared, &rule, subset);
    let settings = layers.iter().fold(Settings::default(), |settings, layer| settings.or(&layer.says));
    Ok(build(service, declared, settings, subset.map(|(_, subset)| subset)))
}

fn build(service: &Found<'_>, port: &ServicePort, settings: Settings, subset: Option<&Subset>) -> Cluster {
    let endpoints = EndpointSetName { service: service.host.clone(), port: port.port };
    let name = ClusterName { endpoints, subset: subset.map(|subset| subset.name.clone()) };
    let mut cluster = Cluster::plain(name, port.protocol);
    cluster.labels = subset.map_or_else(Labels::new, |subset| subset.labels.clone());
    let connect_timeout = settings.connect_timeout();
    cluster.balancing = settings.balancing.unwrap_or_default();
    let pool = settings.pool.unwrap_or_default();
    cluster.pool = pool.limits;
    cluster.tls = settings.tls.unwrap_or_default();
    cluster.pool.connect_timeout = connect_timeout.unwrap_or(cluster.pool.connect_timeout);
    let (breaker, fallback) = settings.breaker.map(|breaker| (breaker.circuit, breaker.fallback)).unzip();
    cluster.resilience = ClusterResilience {
        breaker,
        fallback: fallback.flatten(),
        bulkhead: settings.bulkhead,
        outlier: settings.outlier,
        budget: settings.budget.unwrap_or_default(),
        max_retries: pool.max_retries,
    };
    cluster.protocol = match (port.protocol, pool.protocol) {
        // Opaque bytes have no version.
        (Protocol::Tcp, _) | (_, None) => port.protocol,
        (_, Some(asked)) => asked,
    };
    cluster
}

/// The DestinationRules in force for a service and clients of one namespace: those for the same host in the first
/// namespace that has any, oldest first.
pub(crate) struct Rules<'a>(Vec<(&'a Key, &'a DestinationRule)>);

impl<'a> Rules<'a> {
    pub(crate) fn find(index: &'a Index, client: &Label, service: &Found<'_>) -> Self {
        let mut rules = index.destination_rules(&service.names());
        rules.sort_by(|(_, a, _), (_, b, _)| a.age().cmp(&b.age()));
        let visible = |(_, stored, rule): &(usize, &Stored, &DestinationRule)| {
            stored.key.namespace == *client || rule.exported.reaches(client.as_str())
        };
        for namespace in [client.as_str(), service.namespace.as_str()].into_iter().chain(ROOT_NAMESPACES) {
            let here = rules.iter().map(|(closeness, stored, rule)| (*closeness, &***stored, *rule));
            let here: Vec<_> =
                here.filter(|rule| rule.1.key.namespace.as_str() == namespace && visible(rule)).collect();
            let Some(best) = here.iter().map(|(closeness, ..)| *closeness).max() else { continue };
            let best = here.into_iter().filter(|rule| rule.0 == best);
            return Self(best.map(|(_, stored, rule)| (&stored.key, rule)).collect());
        }
        Self(Vec::new())
    }

    /// The traffic policy in force.
    pub(super) fn policy(&self) -> Option<(&'a Key, &'a Traffic)> {
        self.0.iter().find_map(|(key, rule)| Some((*key, rule.policy.as_ref()?)))
    }

    /// The subsets of all of them; the first of a name counts.
    pub(crate) fn subsets(&self) -> impl Iterator<Item = (&'a Key, &'a Subset)> {
        self.0.iter().flat_map(|(key, rule)| rule.subsets.iter().map(|subset| (*key, subset)))
    }

    fn subset(&self, name: &Label) -> Option<(&'a Key, &'a Subset)> {
        self.subsets().find(|(_, subset)| subset.name == *name)
    }

    fn subset_names(&self) -> Vec<Label> {
        self.subsets().map(|(_, subset)| subset.name.clone()).collect()
    }
}
