//! What a proxy is told of the workload it stands beside.

use std::collections::BTreeMap;

use pillion_policy::{
    cluster::Labels,
    name::WorkloadName,
    service::ServiceRef,
    workload::{WorkloadPolicy, WorkloadPort},
};

use super::{
    Settings,
    endpoints::{identity, target_port},
    layers::{limit, of_target},
    security::Workload,
};
use crate::{
    index::Index,
    object::{PodFacts, Stored},
};

/// The labels of a workload's pods; of the first by name, since pods of one workload are alike.
pub(crate) fn labels<'a>(index: &'a Index, name: &WorkloadName) -> Option<&'a Labels> {
    let pods = index.pods_in(&name.namespace, &name.name).map(|(stored, _)| stored);
    let pod = pods.min_by(|a, b| a.key.cmp(&b.key));
    let pod = pod.or_else(|| index.pod(&name.namespace, &name.name).map(|(stored, _)| stored))?;
    Some(&pod.labels)
}

/// The policy of a workload, found by its name or the name of one of its pods. One without pods has a policy too: it
/// may be starting.
pub(crate) fn workload_policy(index: &Index, settings: &Settings, name: &WorkloadName) -> WorkloadPolicy {
    let mut pods: Vec<(&Stored, &PodFacts)> =
        index.pods_in(&name.namespace, &name.name).map(|(stored, pod)| (&**stored, pod)).collect();
    if pods.is_empty() {
        pods.extend(index.pod(&name.namespace, &name.name).map(|(stored, pod)| (&**stored, pod)));
    }
    let mut ports = BTreeMap::new();
    for (stored, pod) in &pods {
        for service in index.services_selecting(stored) {
            for declared in &service.service.ports {
                let Some(port) = target_port(declared, pod) else { continue };
                let known = ports.entry(port).or_insert_with(|| WorkloadPort {
                    port,
                    protocol: declared.protocol,
                    service: ServiceRef {
                        host: service.host.clone(),
                        name: service.name.clone(),
                        namespace: service.namespace.clone(),
                    },
                    rate_limit: None,
                });
                if known.rate_limit.is_none() {
                    known.rate_limit = limit(&of_target(index, &service, declared)).cloned();
                }
            }
        }
    }
    let labels = pods.iter().map(|(stored, _)| &stored.labels).collect();
    let workload = Workload { namespace: &name.namespace, labels };
    let (peer_tls, port_tls) = workload.peer_tls(index);
    WorkloadPolicy {
        name: name.clone(),
        identity: pods.first().map(|(stored, pod)| identity(&settings.mesh.trust_domain, stored, pod)),
        ports: ports.into_values().collect(),
        peer_tls,
        port_tls,
        authorization: workload.authorization(index),
        authentication: workload.authentication(index),
        telemetry: workload.telemetry(index, settings.telemetry.clone()),
    }
}
