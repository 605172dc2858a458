//! What holds for every proxy of the mesh.

use serde::{Deserialize, Serialize};

use crate::name::Hostname;

/// Settings of the mesh as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshConfig {
    /// DNS suffix of services, `cluster.local` by default.
    pub cluster_domain: Hostname,
    /// Trust domain of identities, `cluster.local` by default.
    pub trust_domain: Hostname,
    /// What happens to traffic for hosts nobody has described.
    pub outbound: OutboundMode,
}

/// What happens to traffic for hosts nobody has described.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum OutboundMode {
    /// It passes to the address it was meant for.
    #[default]
    AllowAny,
    /// It is refused.
    RegistryOnly,
}
