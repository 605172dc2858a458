//! The policy of a workload: what its own proxy does with requests that come in.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{
    authentication::{JwtRule, PeerTls},
    authorization::AuthorizationPolicy,
    cluster::Protocol,
    identity::Identity,
    name::WorkloadName,
    resilience::RateLimit,
    service::ServiceRef,
    telemetry::Telemetry,
};

/// Everything a proxy needs to know of the workload it stands beside.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadPolicy {
    /// The workload.
    pub name: WorkloadName,
    /// The identity it proves, when known.
    pub identity: Option<Identity>,
    /// Ports of it that a service names.
    pub ports: Vec<WorkloadPort>,
    /// What ports accept that `port_tls` does not name.
    #[serde(default)]
    pub peer_tls: PeerTls,
    /// What single ports accept.
    #[serde(default)]
    pub port_tls: BTreeMap<u16, PeerTls>,
    /// Who may call it. All that select it, in no order that matters.
    #[serde(default)]
    pub authorization: Vec<AuthorizationPolicy>,
    /// Whose tokens it believes.
    #[serde(default)]
    pub authentication: Vec<JwtRule>,
    /// What its proxy tells of traffic, both ways.
    #[serde(default)]
    pub telemetry: Telemetry,
}

/// One port of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadPort {
    /// The port of the pod.
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// The service that names it; the first by namespace and name when several do.
    pub service: ServiceRef,
    /// A limit of the requests that come in, whoever sends them; the first that one of its services has.
    #[serde(default, deserialize_with = "limit")]
    pub rate_limit: Option<RateLimit>,
}

impl WorkloadPolicy {
    /// What a port accepts.
    pub fn peer_tls(&self, port: u16) -> PeerTls {
        self.port_tls.get(&port).copied().unwrap_or(self.peer_tls)
    }
}

/// Refuses a limit that would let nothing through.
fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RateLimit>, D::Error> {
    let limit = Option::<RateLimit>::deserialize(deserializer)?;
    limit.as_ref().map_or(Ok(()), RateLimit::check).map_err(D::Error::custom)?;
    Ok(limit)
}
