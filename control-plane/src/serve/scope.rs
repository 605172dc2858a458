//! What a proxy may read: what its identity may see.
//!
//! A proxy speaks for a workload of its identity's namespace that, as far as its pods are known, runs as its service
//! account. It reads the policy of that workload alone, and services as clients in its namespace see them. Where
//! endpoints are and what holds for the mesh everybody may know.

use pillion_policy::{ResourceKind, identity::Identity, name::WorkloadName};

use crate::index::Index;

/// Whether the identity may speak for the workload. An error says what is in the way.
pub(super) fn may_speak_for(
    index: &Index,
    identity: &Identity,
    workload: &WorkloadName,
) -> Result<(), String> {
    if identity.namespace() != workload.namespace.as_str() {
        return Err(format!("workload {workload} is not in the namespace of {identity}"));
    }
    let mut pods: Vec<_> =
        index.pods_in(&workload.namespace, &workload.name).map(|(_, pod)| &pod.service_account).collect();
    if pods.is_empty() {
        pods.extend(index.pod(&workload.namespace, &workload.name).map(|(_, pod)| &pod.service_account));
    }
    let runs = pods.is_empty() || pods.iter().any(|account| account.as_str() == identity.service_account());
    if runs { Ok(()) } else { Err(format!("workload {workload} does not run as {identity}")) }
}

/// Whether a proxy of the workload may read the resource.
pub(super) fn may_read(workload: &WorkloadName, kind: ResourceKind, name: &str) -> bool {
    match kind {
        ResourceKind::Mesh | ResourceKind::Endpoints => true,
        ResourceKind::Service => {
            name.split_once('/').is_some_and(|(namespace, _)| namespace == workload.namespace.as_str())
        }
        ResourceKind::Workload => name.parse().is_ok_and(|asked: WorkloadName| asked == *workload),
    }
}
