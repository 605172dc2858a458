//! Everything a proxy knows from the control plane at one moment: immutable, and cheap to derive the next one from.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::{
    endpoint::EndpointSet,
    mesh::MeshConfig,
    name::{DestinationName, EndpointSetName},
    resource::{MESH, Resource, ResourceKind},
    service::ServicePolicy,
    workload::WorkloadPolicy,
};

/// The known resources by name.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    mesh: Option<Arc<MeshConfig>>,
    workload: Option<Arc<WorkloadPolicy>>,
    services: FxHashMap<DestinationName, Arc<ServicePolicy>>,
    endpoints: FxHashMap<EndpointSetName, Arc<EndpointSet>>,
}

/// One step from a snapshot to the next.
#[derive(Debug, Clone)]
pub enum Change {
    /// The resource is new or differs from the one of its name.
    Upsert(Resource),
    /// The resource of that kind and name is gone.
    Remove(ResourceKind, String),
}

impl Snapshot {
    /// The next snapshot; what a change does not name keeps its `Arc`.
    #[must_use]
    pub fn apply(&self, changes: impl IntoIterator<Item = Change>) -> Self {
        let mut next = self.clone();
        for change in changes {
            match change {
                Change::Upsert(resource) => next.upsert(resource),
                Change::Remove(kind, name) => next.remove(kind, &name),
            }
        }
        next
    }

    fn upsert(&mut self, resource: Resource) {
        match resource {
            Resource::Mesh(mesh) => self.mesh = Some(mesh),
            Resource::Workload(workload) => self.workload = Some(workload),
            Resource::Service(policy) => {
                self.services.insert(policy.name().clone(), policy);
            }
            Resource::Endpoints(set) => {
                self.endpoints.insert(set.name.clone(), set);
            }
        }
    }

    /// A name that does not parse was never inserted.
    fn remove(&mut self, kind: ResourceKind, name: &str) {
        match kind {
            ResourceKind::Mesh if name == MESH => self.mesh = None,
            ResourceKind::Mesh => {}
            ResourceKind::Workload => {
                self.workload.take_if(|workload| workload.name.to_string() == name);
            }
            ResourceKind::Service => {
                if let Ok(name) = name.parse() {
                    self.services.remove::<DestinationName>(&name);
                }
            }
            ResourceKind::Endpoints => {
                if let Ok(name) = name.parse() {
                    self.endpoints.remove::<EndpointSetName>(&name);
                }
            }
        }
    }

    /// Settings of the mesh, once known.
    pub fn mesh(&self) -> Option<&Arc<MeshConfig>> {
        self.mesh.as_ref()
    }

    /// Policy of the proxy's own workload, once known.
    pub fn workload(&self) -> Option<&Arc<WorkloadPolicy>> {
        self.workload.as_ref()
    }

    /// Policy of a destination.
    pub fn service(&self, name: &DestinationName) -> Option<&Arc<ServicePolicy>> {
        self.services.get(name)
    }

    /// All destinations, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServicePolicy>> {
        self.services.values()
    }

    /// Instances of a service port.
    pub fn endpoints(&self, name: &EndpointSetName) -> Option<&Arc<EndpointSet>> {
        self.endpoints.get(name)
    }

    /// All instances, in no order of sets.
    pub fn endpoint_sets(&self) -> impl Iterator<Item = &Arc<EndpointSet>> {
        self.endpoints.values()
    }

    /// Every resource, in the order of application.
    pub fn resources(&self) -> impl Iterator<Item = Resource> {
        let mesh = self.mesh.iter().cloned().map(Resource::Mesh);
        let endpoints = self.endpoints.values().cloned().map(Resource::Endpoints);
        let services = self.services.values().cloned().map(Resource::Service);
        let workload = self.workload.iter().cloned().map(Resource::Workload);
        mesh.chain(endpoints).chain(services).chain(workload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(port: u16) -> Arc<EndpointSet> {
        Arc::new(EndpointSet { name: format!("a.b:{port}").parse().unwrap(), endpoints: vec![] })
    }

    #[test]
    fn what_does_not_change_keeps_its_arc() {
        let kept = set(80);
        let first = Snapshot::default().apply([
            Change::Upsert(Resource::Endpoints(kept.clone())),
            Change::Upsert(Resource::Endpoints(set(81))),
        ]);
        let next = first.apply([Change::Remove(ResourceKind::Endpoints, "a.b:81".into())]);
        assert!(Arc::ptr_eq(next.endpoints(&kept.name).unwrap(), &kept));
        assert_eq!((first.resources().count(), next.resources().count()), (2, 1));
    }
}
