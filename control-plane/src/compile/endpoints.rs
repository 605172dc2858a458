//! The endpoints of a service port: from its EndpointSlices, else from the pods it selects.
//!
//! An endpoint has an identity where it can prove one: not behind a port that takes no mutual TLS (PeerAuthentication
//! `DISABLE`), so that callers speak plain text to it.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use pillion_policy::{
    authentication::PeerTls,
    endpoint::{Endpoint, EndpointSet, Health, Locality},
    identity::{Identity, TrustDomain},
    name::{EndpointSetName, WorkloadName},
};

use super::security::Workload;
use crate::{
    api::PortRef,
    index::{Found, Index},
    object::{Member, PodFacts, ServicePort, SliceOfService, Stored},
};

/// The instances behind a port, or nothing when there is no such service or port.
pub(crate) fn endpoint_set(
    index: &Index,
    trust_domain: &TrustDomain,
    name: &EndpointSetName,
) -> Option<EndpointSet> {
    let service = index.service(&name.service, "").filter(|found| found.host == name.service)?;
    let port = service.service.ports.iter().find(|port| port.port == name.port)?;
    let mut found = BTreeMap::new();
    let mut slices = index.slices(&service).peekable();
    if slices.peek().is_some() {
        for slice in slices {
            from_slice((index, trust_domain), &service, port, slice, &mut found);
        }
    } else {
        for (stored, pod) in index.pods_of(&service) {
            from_pod((index, trust_domain), &service, port, (stored, pod), &mut found);
        }
    }
    Some(EndpointSet { name: name.clone(), endpoints: found.into_values().collect() })
}

/// The port a pod listens on for a service port.
pub(crate) fn target_port(port: &ServicePort, pod: &PodFacts) -> Option<u16> {
    match &port.target {
        PortRef::Number(number) => Some(*number),
        PortRef::Name(name) => pod.ports.get(name).copied(),
    }
}

fn from_slice(
    (index, trust_domain): (&Index, &TrustDomain),
    service: &Found<'_>,
    port: &ServicePort,
    slice: &SliceOfService,
    found: &mut BTreeMap<SocketAddr, Endpoint>,
) {
    let by_name = slice.ports.iter().find(|(name, _)| *name == port.name);
    let only = match (slice.ports.as_slice(), service.service.ports.as_slice()) {
        ([only], [_]) => Some(only),
        _ => None,
    };
    let Some((_, number)) = by_name.or(only) else { return };
    for member in &slice.members {
        let Some(health) = member_health(member, service.service.publish_not_ready) else { continue };
        for ip in &member.addresses {
            let named = member.pod.as_ref().and_then(|name| index.pod(service.namespace, name));
            let pod = named.or_else(|| index.pod_at(service.namespace, *ip));
            let mut endpoint = describe((index, trust_domain), SocketAddr::new(*ip, *number), pod);
            endpoint.health = health;
            endpoint.locality = Locality { region: "".into(), zone: member.zone.clone() };
            add(endpoint, found);
        }
    }
}

fn from_pod(
    mesh: (&Index, &TrustDomain),
    service: &Found<'_>,
    port: &ServicePort,
    (stored, pod): (&Arc<Stored>, &PodFacts),
    found: &mut BTreeMap<SocketAddr, Endpoint>,
) {
    let health = health(pod.ready, pod.ready, pod.terminating, service.service.publish_not_ready);
    if let (false, Some(ip), Some(number), Some(health)) =
        (pod.gone, pod.address, target_port(port, pod), health)
    {
        let mut endpoint = describe(mesh, SocketAddr::new(ip, number), Some((stored, pod)));
        endpoint.health = health;
        add(endpoint, found);
    }
}

fn member_health(member: &Member, publish_not_ready: bool) -> Option<Health> {
    health(member.ready, member.serving, member.terminating, publish_not_ready)
}

/// Ready ones take traffic, terminating ones that still serve stand by, others are left out.
fn health(ready: bool, serving: bool, terminating: bool, publish_not_ready: bool) -> Option<Health> {
    if publish_not_ready || (ready && !terminating) {
        Some(Health::Ready)
    } else if serving && terminating {
        Some(Health::Draining)
    } else {
        None
    }
}

fn describe(
    (index, trust_domain): (&Index, &TrustDomain),
    address: SocketAddr,
    pod: Option<(&Arc<Stored>, &PodFacts)>,
) -> Endpoint {
    let mut endpoint = Endpoint::at(address);
    if let Some((stored, pod)) = pod {
        endpoint.labels = stored.labels.clone();
        endpoint.workload =
            Some(WorkloadName { namespace: stored.key.namespace.clone(), name: pod.workload.clone() });
        let workload = Workload { namespace: &stored.key.namespace, labels: vec![&stored.labels] };
        let (mode, ports) = workload.peer_tls(index);
        let takes_tls = *ports.get(&address.port()).unwrap_or(&mode) != PeerTls::Disable;
        endpoint.identity = takes_tls.then(|| identity(trust_domain, stored, pod));
        endpoint.sidecar = pod.sidecar;
    }
    endpoint
}

/// Who a pod is.
pub(super) fn identity(trust_domain: &TrustDomain, stored: &Stored, pod: &PodFacts) -> Identity {
    Identity::new(trust_domain, &stored.key.namespace, &pod.service_account)
}

/// An address stands once; where slices disagree, the one that calls it ready is believed.
fn add(endpoint: Endpoint, found: &mut BTreeMap<SocketAddr, Endpoint>) {
    let known = found.get(&endpoint.address);
    if known.is_none_or(|known| known.health == Health::Draining && endpoint.health == Health::Ready) {
        found.insert(endpoint.address, endpoint);
    }
}
