//! The policy of a workload: what its own proxy does with requests that come in.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{
    cluster::Protocol,
    name::{Label, WorkloadName},
    resilience::RateLimit,
    service::ServiceRef,
};

/// Everything a proxy needs to know of the workload it stands beside.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadPolicy {
    /// The workload.
    pub name: WorkloadName,
    /// The service account it runs as, when known.
    pub service_account: Option<Label>,
    /// Ports of it that a service names.
    pub ports: Vec<WorkloadPort>,
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

/// Refuses a limit that would let nothing through.
fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RateLimit>, D::Error> {
    let limit = Option::<RateLimit>::deserialize(deserializer)?;
    limit.as_ref().map_or(Ok(()), RateLimit::check).map_err(D::Error::custom)?;
    Ok(limit)
}
