//! What proxies have reported of destinations in trouble: the latest of each connection.
//!
//! A report speaks for the proxy whose stream is on the same connection, and goes with that stream. It also goes when
//! it has not been repeated for a while, so nothing is shown that nobody stands for. Reports never influence what is
//! served: they are for people.

#[cfg(test)]
mod tests;

use std::{collections::hash_map::Entry, net::SocketAddr, time::Duration};

use pillion_xds::report::{BreakerState, EndpointState, HealthReport};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::status::{Unhealthy, UnhealthyBreaker, UnhealthyEndpoint};
use crate::metrics::Totals;

/// For how long a report stands. Proxies repeat theirs three times as often.
const LIFETIME: Duration = Duration::from_secs(90);

/// Most breakers, and most endpoints, taken from one report.
const MAX_LISTED: usize = 256;

/// The reports of all connections that carry a stream.
#[derive(Debug, Default)]
pub(super) struct Reports {
    connections: FxHashMap<SocketAddr, Option<Received>>,
    /// When the first of them may be over.
    expiry: Option<Instant>,
}

/// A report and when it came.
#[derive(Debug)]
struct Received {
    at: Instant,
    report: HealthReport,
}

impl Reports {
    /// A connection carries a stream now.
    pub(super) fn open(&mut self, peer: SocketAddr) {
        self.connections.insert(peer, None);
    }

    /// It does not any more.
    pub(super) fn close(&mut self, peer: SocketAddr) {
        self.connections.remove(&peer);
    }

    /// Takes a report; says whether the connection carries a stream.
    pub(super) fn receive(&mut self, peer: SocketAddr, mut report: HealthReport, now: Instant) -> bool {
        let Entry::Occupied(mut entry) = self.connections.entry(peer) else { return false };
        report.breakers.truncate(MAX_LISTED);
        report.endpoints.truncate(MAX_LISTED);
        let is_empty = report.breakers.is_empty() && report.endpoints.is_empty();
        entry.insert((!is_empty).then_some(Received { at: now, report }));
        if !is_empty {
            self.expiry.get_or_insert(now + LIFETIME);
        }
        true
    }

    /// When [`Reports::expire`] should be called.
    pub(super) fn expiry(&self) -> Option<Instant> {
        self.expiry
    }

    /// Forgets what has not been repeated for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        for received in self.connections.values_mut() {
            received.take_if(|received| received.at + LIFETIME <= now);
        }
        self.expiry = self.received().map(|received| received.at + LIFETIME).min();
    }

    fn received(&self) -> impl Iterator<Item = &Received> {
        self.connections.values().flatten()
    }

    /// What the reports add up to.
    pub(super) fn totals(&self) -> Totals {
        self.received().fold(Totals::default(), |sum, Received { report, .. }| Totals {
            breakers: sum.breakers + u64::from(report.breakers_total),
            ejected: sum.ejected + u64::from(report.ejected_total),
            unreachable: sum.unreachable + u64::from(report.unreachable_total),
        })
    }

    /// What the proxy on that connection has reported, if all is not well.
    pub(super) fn of(&self, peer: SocketAddr, proxy: String, now: Instant) -> Option<Unhealthy> {
        let Received { at, report } = self.connections.get(&peer)?.as_ref()?;
        let ago = now.saturating_duration_since(*at);
        let age = |millis: u64| Duration::from_millis(millis).saturating_add(ago).as_secs();
        let left = |millis: u64| Duration::from_millis(millis).saturating_sub(ago).as_secs();
        let breakers = report.breakers.iter().filter_map(|breaker| {
            Some(UnhealthyBreaker {
                name: breaker.name.clone(),
                state: BreakerState::try_from(breaker.state).ok()?.into(),
                for_seconds: age(breaker.age_ms),
                reason: breaker.reason.clone(),
            })
        });
        let endpoints = report.endpoints.iter().filter_map(|endpoint| {
            Some(UnhealthyEndpoint {
                cluster: endpoint.cluster.clone(),
                address: endpoint.address.clone(),
                state: EndpointState::try_from(endpoint.state).ok()?.into(),
                for_seconds: age(endpoint.age_ms),
                retry_in_seconds: endpoint.retry_in_ms.map(left),
                reason: endpoint.reason.clone(),
            })
        });
        let (breakers, endpoints): (Vec<_>, Vec<_>) = (breakers.collect(), endpoints.collect());
        let counted = u64::from(report.ejected_total) + u64::from(report.unreachable_total);
        Some(Unhealthy {
            proxy,
            more_breakers: u64::from(report.breakers_total).saturating_sub(breakers.len() as u64),
            more_endpoints: counted.saturating_sub(endpoints.len() as u64),
            breakers,
            endpoints,
        })
    }
}
