//! The policy of one destination as one client sees it: its rules and the clusters they lead to.

use serde::{Deserialize, Serialize};

use crate::{
    Invalid,
    cluster::{Cluster, Protocol},
    name::{ClusterName, DestinationName, Hostname, Label},
    route::{Action, Route, Target},
};

/// Everything a proxy needs to handle requests for one host and port.
///
/// It is complete in itself: every cluster a rule names is defined in it, so one resource is enough to route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "Unchecked")]
pub struct ServicePolicy {
    name: DestinationName,
    service: Option<ServiceRef>,
    protocol: Protocol,
    routes: Vec<Route>,
    clusters: Vec<Cluster>,
}

/// The Kubernetes service behind a destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceRef {
    /// Fully qualified host.
    pub host: Hostname,
    /// Its name.
    pub name: Label,
    /// Its namespace.
    pub namespace: Label,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Unchecked {
    name: DestinationName,
    service: Option<ServiceRef>,
    protocol: Protocol,
    routes: Vec<Route>,
    clusters: Vec<Cluster>,
}

impl ServicePolicy {
    /// Refuses rules that lead to a cluster which is not defined here, duplicate clusters, and answers that cannot be
    /// sent.
    pub fn new(
        name: DestinationName,
        service: Option<ServiceRef>,
        protocol: Protocol,
        routes: Vec<Route>,
        clusters: Vec<Cluster>,
    ) -> Result<Self, Invalid> {
        for (index, cluster) in clusters.iter().enumerate() {
            if clusters.iter().take(index).any(|other| other.name == cluster.name) {
                return Err(Invalid::new(format!("cluster {} is defined twice", cluster.name))
                    .at_index(index)
                    .within("clusters"));
            }
            let checked = cluster.resilience.check();
            checked.map_err(|invalid| invalid.within("resilience").at_index(index).within("clusters"))?;
        }
        let defined = |target: &Target| match target {
            Target::Cluster(name) if !clusters.iter().any(|cluster| cluster.name == *name) => {
                Err(Invalid::new(format!("cluster {name} is not defined")))
            }
            Target::Cluster(_) | Target::Missing(_) => Ok(()),
        };
        let check = |route: &Route| {
            route.resilience.check().map_err(|invalid| invalid.within("resilience"))?;
            match &route.action {
                Action::Forward(forward) => {
                    forward.backends.all().iter().try_for_each(|b| defined(&b.target))?
                }
                Action::Redirect(redirect) => redirect.check()?,
                Action::Respond(response) => response.check()?,
            }
            route.mirrors.iter().try_for_each(|mirror| defined(&mirror.target))
        };
        for (index, route) in routes.iter().enumerate() {
            check(route).map_err(|invalid| invalid.at_index(index).within("routes"))?;
        }
        Ok(Self { name, service, protocol, routes, clusters })
    }

    /// The host and port it is for, as the client names them.
    pub fn name(&self) -> &DestinationName {
        &self.name
    }

    /// The service behind it, when there is one.
    pub fn service(&self) -> Option<&ServiceRef> {
        self.service.as_ref()
    }

    /// What clients speak on this port.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Its rules; the first that matches wins, and without a match the answer is 404.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The clusters its rules lead to.
    pub fn clusters(&self) -> &[Cluster] {
        &self.clusters
    }

    /// The cluster of that name.
    pub fn cluster(&self, name: &ClusterName) -> Option<&Cluster> {
        self.clusters.iter().find(|cluster| cluster.name == *name)
    }
}

impl TryFrom<Unchecked> for ServicePolicy {
    type Error = Invalid;

    fn try_from(raw: Unchecked) -> Result<Self, Invalid> {
        Self::new(raw.name, raw.service, raw.protocol, raw.routes, raw.clusters)
    }
}
