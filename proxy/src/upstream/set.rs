//! The endpoints a cluster can send to right now, ready for picking.
//!
//! A set is immutable. The control task builds the next one from discovery and swaps it in; requests only read.
//! Endpoints that stay keep their [`LiveEndpoint`]. Draining endpoints take part only when nothing else is left.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use pillion_policy::{
    cluster::Cluster,
    endpoint::{Endpoint, EndpointSet, Health},
};
use tokio::time::Instant;

use super::{
    endpoint::{LiveEndpoint, Probe},
    lb::{Ask, Balancer, Picked},
    transport::Transport,
};

/// An endpoint with its weight in a set.
#[derive(Debug)]
pub struct Member {
    /// Its living state.
    pub live: Arc<LiveEndpoint>,
    /// What discovery says of it.
    pub endpoint: Endpoint,
}

/// The endpoints of a cluster.
#[derive(Debug)]
pub struct LiveSet {
    members: Box<[Member]>,
    known: bool,
    balancer: Balancer,
    /// Shut gates of the endpoints of the cluster, some of which may have left the set.
    impaired: Arc<AtomicU32>,
}

impl LiveSet {
    /// The set of a cluster whose endpoints have not been learned yet.
    pub fn unknown(cluster: &Cluster) -> Self {
        Self {
            members: Box::default(),
            known: false,
            balancer: Balancer::new(&cluster.balancing, &[]),
            impaired: Arc::default(),
        }
    }

    /// The next set: the members of the cluster's subset among `endpoints`, reusing what `previous` has.
    pub fn next(cluster: &Cluster, endpoints: &EndpointSet, previous: &Self, now: Instant) -> Self {
        let mut kept: HashMap<SocketAddr, &Arc<LiveEndpoint>> =
            previous.members.iter().map(|member| (member.live.address(), &member.live)).collect();
        let in_subset = || endpoints.endpoints.iter().filter(|endpoint| endpoint.carries(&cluster.labels));
        let usable = if in_subset().any(|endpoint| endpoint.health == Health::Ready) {
            Health::Ready
        } else {
            Health::Draining
        };
        let joined = (!previous.members.is_empty()).then_some(now);
        let members: Box<[Member]> = in_subset()
            .filter(|endpoint| endpoint.health == usable)
            .map(|endpoint| {
                let transport = Transport::of(&cluster.tls, endpoint);
                // Connections that were secured otherwise are those of somebody else.
                let is_same = kept.get(&endpoint.address).is_some_and(|live| *live.transport() == transport);
                let same = if is_same { kept.remove(&endpoint.address) } else { None };
                let live = same.cloned().unwrap_or_else(|| {
                    let live = LiveEndpoint::new(endpoint.address, joined, &previous.impaired);
                    Arc::new(live.over(transport))
                });
                Member { live, endpoint: endpoint.clone() }
            })
            .collect();
        for live in kept.into_values() {
            live.retire();
        }
        let impaired = Arc::clone(&previous.impaired);
        Self { balancer: Balancer::new(&cluster.balancing, &members), members, known: true, impaired }
    }

    /// A set of exactly one address.
    pub fn single(cluster: &Cluster, address: SocketAddr) -> Self {
        let impaired = Arc::default();
        let live = Arc::new(LiveEndpoint::new(address, None, &impaired));
        let members: Box<[Member]> = Box::new([Member { live, endpoint: Endpoint::at(address) }]);
        Self { balancer: Balancer::new(&cluster.balancing, &members), members, known: true, impaired }
    }

    /// Whether discovery has answered; an unknown set is not an empty one.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// All members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Picks an endpoint; `None` when there is none, or all are ejected.
    pub(super) fn pick(&self, ask: &Ask<'_>, rng: &mut fastrand::Rng) -> Option<Picked<'_>> {
        if ask.tried.ids.is_empty() && self.impaired.load(Ordering::Relaxed) == 0 {
            let member = self.balancer.pick(&self.members, ask.hash, ask.now, rng)?;
            return Some(Picked { member, probe: Probe::default() });
        }
        self.balancer.pick_impaired(&self.members, ask, rng)
    }
}
