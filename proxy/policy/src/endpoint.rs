//! Where the instances of a service are.

use std::{net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    cluster::Labels,
    identity::Identity,
    name::{EndpointSetName, WorkloadName},
};

/// The instances behind one port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSet {
    /// The service port.
    pub name: EndpointSetName,
    /// Its instances, each address once.
    pub endpoints: Vec<Endpoint>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Address and port it listens on.
    pub address: SocketAddr,
    /// Share of the traffic relative to its siblings, at least 1.
    pub weight: u32,
    /// Whether it should be given traffic.
    pub health: Health,
    /// Labels of its pod, which decide the subsets it belongs to.
    pub labels: Labels,
    /// The workload it is an instance of, when known.
    pub workload: Option<WorkloadName>,
    /// The identity it must prove, when known.
    pub identity: Option<Identity>,
    /// Where it runs.
    pub locality: Locality,
    /// Whether a sidecar of this mesh stands in front of it, so that it takes mutual TLS.
    pub sidecar: bool,
}

/// Whether an endpoint should be given traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Health {
    /// Takes new requests.
    #[default]
    Ready,
    /// Terminating but still serving: used only when no endpoint of the set is ready.
    Draining,
}

/// Where an endpoint runs; empty parts are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Locality {
    /// Region.
    pub region: Arc<str>,
    /// Zone in the region.
    pub zone: Arc<str>,
}

impl Endpoint {
    /// An endpoint of which nothing but the address is known.
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            weight: 1,
            health: Health::Ready,
            labels: Labels::new(),
            workload: None,
            identity: None,
            locality: Locality::default(),
            sidecar: false,
        }
    }

    /// Whether it carries all the labels a subset asks for.
    pub fn carries(&self, labels: &Labels) -> bool {
        labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}
