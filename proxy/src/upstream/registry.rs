//! The living clusters by name: what stays named keeps its state.

use std::{collections::hash_map::Entry, sync::Arc};

use pillion_policy::{Snapshot, cluster::Cluster, name::ClusterName};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::cluster::Upstream;

/// Every cluster that current policy names. Owned by the control task; requests hold what they use.
#[derive(Debug, Default)]
pub struct Registry {
    upstreams: FxHashMap<ClusterName, Arc<Upstream>>,
}

impl Registry {
    /// Brings the clusters in line with a snapshot: new ones are made, changed ones keep their state, the rest goes.
    pub fn reconcile(
        &mut self,
        snapshot: &Snapshot,
        now: Instant,
        mut make: impl FnMut(&Cluster) -> Upstream,
    ) {
        let mut named: FxHashMap<ClusterName, Arc<Upstream>> = FxHashMap::default();
        for cluster in snapshot.services().flat_map(|service| service.clusters()) {
            let Entry::Vacant(entry) = named.entry(cluster.name.clone()) else { continue };
            let (upstream, is_changed) = match self.upstreams.get(&cluster.name) {
                Some(upstream) if upstream.cluster() == cluster => (Arc::clone(upstream), false),
                Some(upstream) => (Arc::new(upstream.with_policy(cluster.clone())), true),
                None => (Arc::new(make(cluster)), true),
            };
            if let Some(endpoints) = snapshot.endpoints(&cluster.name.endpoints)
                && (is_changed || !upstream.has_discovered(endpoints))
            {
                upstream.discover(endpoints, now);
            }
            entry.insert(upstream);
        }
        self.upstreams = named;
    }

    /// The cluster of that name.
    pub fn get(&self, name: &ClusterName) -> Option<&Arc<Upstream>> {
        self.upstreams.get(name)
    }

    /// All clusters, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }
}
