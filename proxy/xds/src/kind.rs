//! The type URLs of the resource kinds, and one value for each kind.

use pillion_policy::ResourceKind;

/// Type URL of the details of a refusal.
pub(crate) const REJECTION: &str = "type.googleapis.com/pillion.v1.Rejection";

/// The type URL under which resources of that kind travel.
pub fn type_url(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::Mesh => "type.googleapis.com/pillion.v1.Mesh",
        ResourceKind::Endpoints => "type.googleapis.com/pillion.v1.Endpoints",
        ResourceKind::Service => "type.googleapis.com/pillion.v1.Service",
        ResourceKind::Workload => "type.googleapis.com/pillion.v1.Workload",
    }
}

/// The kind that travels under that type URL.
pub fn from_type_url(url: &str) -> Option<ResourceKind> {
    ResourceKind::ALL.into_iter().find(|kind| type_url(*kind) == url)
}

/// One value for each kind of resource.
#[derive(Debug, Default)]
pub(crate) struct PerKind<T> {
    mesh: T,
    endpoints: T,
    service: T,
    workload: T,
}

impl<T> PerKind<T> {
    pub(crate) fn get(&self, kind: ResourceKind) -> &T {
        match kind {
            ResourceKind::Mesh => &self.mesh,
            ResourceKind::Endpoints => &self.endpoints,
            ResourceKind::Service => &self.service,
            ResourceKind::Workload => &self.workload,
        }
    }

    pub(crate) fn get_mut(&mut self, kind: ResourceKind) -> &mut T {
        match kind {
            ResourceKind::Mesh => &mut self.mesh,
            ResourceKind::Endpoints => &mut self.endpoints,
            ResourceKind::Service => &mut self.service,
            ResourceKind::Workload => &mut self.workload,
        }
    }
}
