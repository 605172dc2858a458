//! The things that travel from the control plane to a proxy: few kinds, mirroring what users edit.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    Invalid, endpoint::EndpointSet, mesh::MeshConfig, service::ServicePolicy, workload::WorkloadPolicy,
};

/// The name under which the one [`MeshConfig`] travels.
pub const MESH: &str = "mesh";

/// The kinds of resources, in the order in which they should be applied: endpoints before the rules that use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ResourceKind {
    /// [`MeshConfig`]
    Mesh,
    /// [`EndpointSet`]
    Endpoints,
    /// [`ServicePolicy`]
    Service,
    /// [`WorkloadPolicy`]
    Workload,
}

/// One named thing that travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Resource {
    /// Settings of the mesh.
    Mesh(Arc<MeshConfig>),
    /// Instances of a service port.
    Endpoints(Arc<EndpointSet>),
    /// Policy of a destination.
    Service(Arc<ServicePolicy>),
    /// Policy of a workload.
    Workload(Arc<WorkloadPolicy>),
}

impl ResourceKind {
    /// All kinds, in the order of application.
    pub const ALL: [Self; 4] = [Self::Mesh, Self::Endpoints, Self::Service, Self::Workload];

    /// The kind as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Endpoints => "endpoints",
            Self::Service => "service",
            Self::Workload => "workload",
        }
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ResourceKind {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| Invalid::new(format!("{text:?} is no kind of resource")))
    }
}

impl Resource {
    /// Its kind.
    pub fn kind(&self) -> ResourceKind {
        match self {
            Self::Mesh(_) => ResourceKind::Mesh,
            Self::Endpoints(_) => ResourceKind::Endpoints,
            Self::Service(_) => ResourceKind::Service,
            Self::Workload(_) => ResourceKind::Workload,
        }
    }

    /// The name under which it travels, unique within its kind.
    pub fn name(&self) -> String {
        match self {
            Self::Mesh(_) => MESH.to_owned(),
            Self::Endpoints(set) => set.name.to_string(),
            Self::Service(policy) => policy.name().to_string(),
            Self::Workload(policy) => policy.name.to_string(),
        }
    }
}
