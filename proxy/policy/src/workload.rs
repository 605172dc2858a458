//! The policy of a workload: what its own proxy does with requests that come in.

use serde::{Deserialize, Serialize};

use crate::{
    cluster::Protocol,
    name::{Label, WorkloadName},
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
}
