//! From the index to what proxies are told: pure functions of the whole index, one per kind of resource.
//!
//! A resource is made when somebody asks for it by name, from nothing but the index, so it cannot be stale and the
//! order in which objects arrived cannot show. Whether it has changed is decided by comparing, not by tracking.

mod destination;
mod endpoints;
mod layers;
mod security;
mod service;
mod telemetry;
mod workload;

use std::sync::Arc;

use pillion_policy::{
    mesh::MeshConfig,
    name::WorkloadName,
    resource::{MESH, Resource, ResourceKind},
    telemetry::Telemetry,
};

pub(crate) use self::{
    destination::{Missing, Rules, place, resolve},
    endpoints::target_port,
    layers::{Layer, is_port, of_cluster, of_route, of_target},
    security::{Level, Workload},
    service::governing,
};
use crate::index::Index;

/// What the command line says, which holds for every workload.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// What is told to every proxy.
    pub(crate) mesh: Arc<MeshConfig>,
    /// What proxies tell of their traffic where no object says anything.
    pub(crate) telemetry: Telemetry,
}

/// The resource of that kind and name, or nothing when the index knows no such thing. Rules can be for clients with
/// certain labels, so the policy of a destination depends on which workload asks.
pub(crate) fn resource(
    index: &Index,
    settings: &Settings,
    kind: ResourceKind,
    name: &str,
    client: Option<&WorkloadName>,
) -> Option<Resource> {
    let mesh = &settings.mesh;
    match kind {
        ResourceKind::Mesh => (name == MESH).then(|| Resource::Mesh(mesh.clone())),
        ResourceKind::Endpoints => endpoints::endpoint_set(index, &mesh.trust_domain, &name.parse().ok()?)
            .map(Arc::new)
            .map(Resource::Endpoints),
        ResourceKind::Service => {
            let labels = client.and_then(|client| workload::labels(index, client));
            service::service_policy(index, &name.parse().ok()?, labels).map(Arc::new).map(Resource::Service)
        }
        ResourceKind::Workload => {
            let name = name.parse().ok()?;
            let policy = workload::workload_policy(index, settings, &name);
            Some(Resource::Workload(Arc::new(policy)))
        }
    }
}

#[cfg(test)]
mod tests;
