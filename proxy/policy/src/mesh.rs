//! What holds for every proxy of the mesh.

use serde::{Deserialize, Serialize};

use crate::{identity::TrustDomain, name::Hostname, telemetry::Collector};

/// Settings of the mesh as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshConfig {
    /// DNS suffix of services, `cluster.local` by default.
    pub cluster_domain: Hostname,
    /// Trust domain of identities, `cluster.local` by default.
    pub trust_domain: TrustDomain,
    /// Other names of the trust domain: identities in them are taken for those of this one.
    #[serde(default)]
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Whom proxies believe; absent where the mesh has no certificate authority.
    #[serde(default)]
    pub trust: Option<Trust>,
    /// What happens to traffic for hosts nobody has described.
    pub outbound: OutboundMode,
    /// Where proxies send telemetry whose environment does not say; nowhere when absent.
    #[serde(default)]
    pub collector: Option<Collector>,
}

/// The certificates proxies believe, and the one that signs theirs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trust {
    /// Root certificates in PEM, each by itself. During a rotation there are several.
    pub roots: Vec<String>,
    /// SHA-256 of the root (DER, in lower-case hexadecimal) that certificates chain to from now on: a proxy whose own one
    /// does not asks for another.
    pub signer: String,
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
