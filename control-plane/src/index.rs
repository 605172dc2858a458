//! All objects in force, and the ways to find them.
//!
//! Nothing here is derived policy: an object is stored under its key and under its facets, which are read off the
//! object itself, so that taking it out undoes exactly what putting it in did. One task owns the index; there is no
//! lock and no order in which objects must arrive.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use pillion_policy::{
    cluster::Labels,
    name::{Hostname, Label},
};
use rustc_hash::FxHashMap;

use crate::{
    naming::{HostPattern, Naming, ROOT_NAMESPACES},
    object::{
        DestinationRule, Event, Key, Kind, Object, PodFacts, ResiliencePolicy, Scope, Service, ServicePort,
        SliceOfService, Stored, VirtualService,
    },
};

/// A property by which objects are looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Facet {
    /// Services with this cluster IP.
    ClusterIp(IpAddr),
    /// Services whose selector asks, first of all, for this label.
    Selects(Label, Arc<str>, Arc<str>),
    /// Slices of the service of this namespace and name.
    SliceOf(Label, Label),
    /// Pods of this namespace with this label.
    PodLabel(Label, Arc<str>, Arc<str>),
    /// Pods with this address.
    PodIp(IpAddr),
    /// Pods that are instances of this workload.
    Workload(Label, Label),
    /// Rules of this kind for this very host.
    Host(Kind, Hostname),
    /// Rules of this kind for hosts by suffix.
    Wildcard(Kind),
    /// Policies for the object of this kind, namespace and name.
    PolicyFor(Kind, Label, Label),
    /// Policies of this kind and namespace for workloads: those for all of them, or those whose selector asks, first of
    /// all, for this label.
    Governs(Kind, Label, Option<(Arc<str>, Arc<str>)>),
}

/// Every object in force.
#[derive(Debug)]
pub(crate) struct Index {
    naming: Naming,
    objects: FxHashMap<Key, Arc<Stored>>,
    facets: FxHashMap<Facet, BTreeSet<Key>>,
    /// Services by their fully qualified names, by which they are looked up all the time.
    services: FxHashMap<Hostname, Key>,
    /// The namespaces whose policies are for everybody.
    roots: Vec<Label>,
}

/// A service and its names.
#[derive(Debug, Clone)]
pub(crate) struct Found<'a> {
    pub(crate) namespace: &'a Label,
    pub(crate) name: &'a Label,
    /// Fully qualified.
    pub(crate) host: Hostname,
    pub(crate) service: &'a Service,
}

impl<'a> Found<'a> {
    /// The port of that number.
    pub(crate) fn port(&self, number: u16) -> Option<&'a ServicePort> {
        self.service.ports.iter().find(|port| port.port == number)
    }

    /// The names by which rules may call the service.
    pub(crate) fn names(&self) -> Vec<Hostname> {
        let short = Hostname::new(&format!("{}.{}", self.name, self.namespace));
        [self.host.clone()].into_iter().chain(short.ok()).collect()
    }
}

impl Index {
    pub(crate) fn new(naming: Naming) -> Self {
        Self {
            naming,
            objects: FxHashMap::default(),
            facets: FxHashMap::default(),
            services: FxHashMap::default(),
            roots: ROOT_NAMESPACES.iter().filter_map(|name| Label::new(name).ok()).collect(),
        }
    }

    /// Makes one change.
    pub(crate) fn apply(&mut self, event: Event) {
        match event {
            Event::Apply(stored) => {
                self.remove(&stored.key.clone());
                for facet in facets(&stored) {
                    self.facets.entry(facet).or_default().insert(stored.key.clone());
                }
                if let Some(host) = self.host(&stored.key) {
                    self.services.insert(host, stored.key.clone());
                }
                self.objects.insert(stored.key.clone(), stored);
            }
            Event::Delete(key) => self.remove(&key),
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(stored) = self.objects.remove(key) else { return };
        if let Some(host) = self.host(key) {
            self.services.remove(&host);
        }
        for facet in facets(&stored) {
            if let Some(keys) = self.facets.get_mut(&facet) {
                keys.remove(key);
                if keys.is_empty() {
                    self.facets.remove(&facet);
                }
            }
        }
    }

    /// The name of a service.
    fn host(&self, key: &Key) -> Option<Hostname> {
        let name = || self.naming.service(key.namespace.as_str(), key.name.as_str());
        (key.kind == Kind::Service).then(name)?.ok()
    }

    /// How hosts are named here.
    pub(crate) fn naming(&self) -> &Naming {
        &self.naming
    }

    /// Every object, in no order.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.objects.values()
    }

    /// How many objects there are.
    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is no trace of any object.
    #[cfg(test)]
    pub(crate) fn is_bare(&self) -> bool {
        self.objects.is_empty() && self.facets.is_empty() && self.services.is_empty()
    }

    /// The service a host names in `namespace`: by its name, short or long, or by its cluster IP.
    pub(crate) fn service(&self, host: &Hostname, namespace: &str) -> Option<Found<'_>> {
        if let Some((host, key)) = self.services.get_key_value(host) {
            return self.named(key, host.clone());
        }
        if let Ok(ip) = host.as_str().parse() {
            return self.keys(&Facet::ClusterIp(ip)).next().and_then(|key| self.found(key));
        }
        let host = self.naming.qualify(host.as_str(), namespace).ok()?;
        let (namespace, name) = self.naming.service_of(host.as_str())?;
        let key =
            Key { kind: Kind::Service, namespace: Label::new(namespace).ok()?, name: Label::new(name).ok()? };
        self.objects.get_key_value(&key).and_then(|(key, _)| self.found(key))
    }

    fn found<'a>(&'a self, key: &'a Key) -> Option<Found<'a>> {
        self.named(key, self.host(key)?)
    }

    fn named<'a>(&'a self, key: &'a Key, host: Hostname) -> Option<Found<'a>> {
        match &self.objects.get(key)?.object {
            Object::Service(service) => {
                Some(Found { namespace: &key.namespace, name: &key.name, host, service })
            }
            _ => None,
        }
    }

    /// The EndpointSlices of a service.
    pub(crate) fn slices(&self, service: &Found<'_>) -> impl Iterator<Item = &SliceOfService> {
        let facet = Facet::SliceOf(service.namespace.clone(), service.name.clone());
        self.stored(&facet).filter_map(|stored| match &stored.object {
            Object::EndpointSlice(slice) => Some(slice),
            _ => None,
        })
    }

    /// The pods a service selects.
    pub(crate) fn pods_of<'a>(
        &'a self,
        service: &Found<'a>,
    ) -> impl Iterator<Item = (&'a Arc<Stored>, &'a PodFacts)> + use<'a> {
        self.pods_with(service.namespace, &service.service.selector)
    }

    /// The pods of a namespace that carry all of some labels; none when there is no label to carry.
    pub(crate) fn pods_with<'a>(
        &'a self,
        namespace: &Label,
        selector: &'a Labels,
    ) -> impl Iterator<Item = (&'a Arc<Stored>, &'a PodFacts)> + use<'a> {
        let facets = selector
            .iter()
            .map(|(key, value)| Facet::PodLabel(namespace.clone(), key.clone(), value.clone()));
        // The rarest label leaves the fewest pods to compare.
        let rarest = facets.min_by_key(|facet| self.facets.get(facet).map_or(0, BTreeSet::len));
        let pods = rarest.into_iter().flat_map(|facet| self.stored(&facet).collect::<Vec<_>>());
        pods.filter(|pod| selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value)))
            .filter_map(pod)
    }

    /// The pod of that name.
    pub(crate) fn pod(&self, namespace: &Label, name: &Label) -> Option<(&Arc<Stored>, &PodFacts)> {
        let key = Key { kind: Kind::Pod, namespace: namespace.clone(), name: name.clone() };
        self.objects.get(&key).and_then(pod)
    }

    /// A pod of the namespace that has the address.
    pub(crate) fn pod_at(&self, namespace: &Label, ip: IpAddr) -> Option<(&Arc<Stored>, &PodFacts)> {
        self.stored(&Facet::PodIp(ip)).find(|stored| stored.key.namespace == *namespace).and_then(pod)
    }

    /// The pods that are instances of a workload.
    pub(crate) fn pods_in(
        &self,
        namespace: &Label,
        workload: &Label,
    ) -> impl Iterator<Item = (&Arc<Stored>, &PodFacts)> {
        let facet = Facet::Workload(namespace.clone(), workload.clone());
        self.stored(&facet).filter_map(pod).collect::<Vec<_>>().into_iter()
    }

    /// The services whose selector picks a pod.
    pub(crate) fn services_selecting(&self, pod: &Stored) -> Vec<Found<'_>> {
        let facets = pod
            .labels
            .iter()
            .map(|(key, value)| Facet::Selects(pod.key.namespace.clone(), key.clone(), value.clone()));
        let keys: BTreeSet<&Key> = facets.flat_map(|facet| self.keys(&facet).collect::<Vec<_>>()).collect();
        let services = keys.into_iter().filter_map(|key| self.found(key));
        services
            .filter(|found| {
                found.service.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
            })
            .collect()
    }

    /// The VirtualServices for a host that goes by these names, with how closely each describes it.
    pub(crate) fn virtual_services(&self, names: &[Hostname]) -> Vec<(usize, &Arc<Stored>, &VirtualService)> {
        self.rules(Kind::VirtualService, names)
            .filter_map(|stored| match &stored.object {
                Object::VirtualService(rules) => Some((closest(rules.hosts.iter(), names)?, stored, rules)),
                _ => None,
            })
            .collect()
    }

    /// The DestinationRules for a host that goes by these names, with how closely each describes it.
    pub(crate) fn destination_rules(
        &self,
        names: &[Hostname],
    ) -> Vec<(usize, &Arc<Stored>, &DestinationRule)> {
        self.rules(Kind::DestinationRule, names)
            .filter_map(|stored| match &stored.object {
                Object::DestinationRule(rule) => Some((closest([&rule.host], names)?, stored, &**rule)),
                _ => None,
            })
            .collect()
    }

    /// The policies for an object or for parts of it, oldest first.
    pub(crate) fn policies(
        &self,
        kind: Kind,
        namespace: &Label,
        name: &Label,
    ) -> Vec<(&Stored, &ResiliencePolicy)> {
        let found = self.stored(&Facet::PolicyFor(kind, namespace.clone(), name.clone()));
        let mut policies: Vec<_> = found.filter_map(|stored| policy(stored)).collect();
        policies.sort_by(|(a, _), (b, _)| a.age().cmp(&b.age()));
        policies
    }

    /// The policies of a kind that are for a workload: those of its namespace and of the root ones
    /// that pick its labels.
    pub(crate) fn governing<'a>(
        &'a self,
        kind: Kind,
        namespace: &Label,
        labels: &Labels,
    ) -> Vec<&'a Arc<Stored>> {
        let namespaces = self.roots.iter().filter(|root| *root != namespace).chain([namespace]);
        let facets = namespaces.flat_map(|namespace| {
            let labels = labels.iter().map(|(key, value)| Some((key.clone(), value.clone())));
            labels.chain([None]).map(|label| Facet::Governs(kind, namespace.clone(), label))
        });
        let found = facets.flat_map(|facet| self.stored(&facet));
        found.filter(|stored| stored.object.scope().is_some_and(|scope| scope.holds(labels))).collect()
    }

    /// The VirtualService of that name.
    pub(crate) fn virtual_service(
        &self,
        namespace: &Label,
        name: &Label,
    ) -> Option<(&Stored, &VirtualService)> {
        let key = Key { kind: Kind::VirtualService, namespace: namespace.clone(), name: name.clone() };
        let stored = self.objects.get(&key)?;
        match &stored.object {
            Object::VirtualService(rules) => Some((stored, rules)),
            _ => None,
        }
    }

    fn rules(&self, kind: Kind, names: &[Hostname]) -> impl Iterator<Item = &Arc<Stored>> {
        let hosts = names.iter().map(|name| Facet::Host(kind, name.clone()));
        let keys: BTreeSet<&Key> = hosts
            .chain([Facet::Wildcard(kind)])
            .flat_map(|facet| self.keys(&facet).collect::<Vec<_>>())
            .collect();
        keys.into_iter().filter_map(|key| self.objects.get(key))
    }

    fn keys<'a>(&'a self, facet: &Facet) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.facets.get(facet).into_iter().flatten()
    }

    fn stored<'a>(&'a self, facet: &Facet) -> impl Iterator<Item = &'a Arc<Stored>> + use<'a> {
        self.keys(facet).filter_map(|key| self.objects.get(key))
    }
}

fn pod(stored: &Arc<Stored>) -> Option<(&Arc<Stored>, &PodFacts)> {
    match &stored.object {
        Object::Pod(facts) => Some((stored, facts)),
        _ => None,
    }
}

fn policy(stored: &Stored) -> Option<(&Stored, &ResiliencePolicy)> {
    match &stored.object {
        Object::ResiliencePolicy(policy) => Some((stored, policy)),
        _ => None,
    }
}

fn closest<'a>(patterns: impl IntoIterator<Item = &'a HostPattern>, names: &[Hostname]) -> Option<usize> {
    let closeness =
        |pattern: &HostPattern| names.iter().filter_map(|name| pattern.closeness(name.as_str())).max();
    patterns.into_iter().filter_map(closeness).max()
}

fn facets(stored: &Stored) -> Vec<Facet> {
    let namespace = &stored.key.namespace;
    let of_host = |host: &HostPattern| match host {
        HostPattern::Exact(host) => Facet::Host(stored.key.kind, host.clone()),
        HostPattern::Suffix(_) => Facet::Wildcard(stored.key.kind),
    };
    match &stored.object {
        Object::Service(service) => {
            let ips = service.cluster_ips.iter().map(|ip| Facet::ClusterIp(*ip));
            let first = service.selector.iter().next();
            let selects =
                first.map(|(key, value)| Facet::Selects(namespace.clone(), key.clone(), value.clone()));
            ips.chain(selects).collect()
        }
        Object::EndpointSlice(slice) => {
            slice.service.iter().map(|service| Facet::SliceOf(namespace.clone(), service.clone())).collect()
        }
        Object::Pod(pod) => {
            let labels = stored.labels.iter();
            let labels =
                labels.map(|(key, value)| Facet::PodLabel(namespace.clone(), key.clone(), value.clone()));
            let workload = Facet::Workload(namespace.clone(), pod.workload.clone());
            labels.chain(pod.address.map(Facet::PodIp)).chain([workload]).collect()
        }
        Object::VirtualService(rules) => rules.hosts.iter().map(of_host).collect(),
        Object::DestinationRule(rule) => vec![of_host(&rule.host)],
        Object::ResiliencePolicy(policy) => {
            let targets = policy.targets.iter();
            targets
                .map(|target| Facet::PolicyFor(target.kind, namespace.clone(), target.name.clone()))
                .collect()
        }
        Object::PeerAuthentication(_)
        | Object::RequestAuthentication(_)
        | Object::AuthorizationPolicy(_)
        | Object::Telemetry(_) => {
            let label = match stored.object.scope() {
                Some(Scope::All) => None,
                Some(Scope::Labels(labels)) => {
                    labels.iter().next().map(|(key, value)| (key.clone(), value.clone()))
                }
                Some(Scope::Nobody) | None => return Vec::new(),
            };
            vec![Facet::Governs(stored.key.kind, namespace.clone(), label)]
        }
    }
}
