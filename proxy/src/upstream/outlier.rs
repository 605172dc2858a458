//! Outlier detection: endpoints that fail are left alone for a while (Envoy's algorithm, with differences).
//!
//! Each endpoint counts its results without a lock ([`Monitor`]); only a threshold, a probe, the end of an interval or
//! a change of policy or members takes the lock of the cluster and asks the [`Detector`], which keeps to the largest
//! share that may be ejected. Where this differs from Envoy: small clusters may lose one endpoint, the last healthy
//! one stays, and an endpoint comes back through one probe in place of full traffic. There are no timers: times are
//! looked at when requests come.

mod detector;
mod monitor;
#[cfg(test)]
mod tests;

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use pillion_policy::resilience::OutlierDetection;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use self::{
    detector::{Cause, Detector, Probed, Ruling},
    monitor::Verdict,
};
use super::{
    endpoint::{Epoch, LiveEndpoint},
    outcome::Outcome,
    set::Member,
};
use crate::telemetry::ClusterGauges;

pub(super) use self::monitor::Monitor;

/// Outlier detection of one cluster under one policy.
#[derive(Debug)]
pub(super) struct Outliers {
    policy: OutlierDetection,
    cluster: Arc<str>,
    gauges: Arc<ClusterGauges>,
    epoch: Epoch,
    /// When shares are looked at next; 0 before the first result.
    next_look: AtomicU64,
    bench: Mutex<Bench>,
}

/// Who is ejected. The gates of endpoints are moved only under its lock.
#[derive(Debug)]
struct Bench {
    detector: Detector,
    members: FxHashMap<u64, Arc<LiveEndpoint>>,
}

impl Outliers {
    /// Detection among `members`, none of which is ejected.
    pub(super) fn new(
        policy: OutlierDetection,
        members: &[Member],
        cluster: &Arc<str>,
        gauges: &Arc<ClusterGauges>,
    ) -> Self {
        for member in members {
            member.live.monitor().reset();
        }
        let detector = Detector::new(policy, members.iter().map(|member| member.live.id()));
        Self {
            policy,
            cluster: Arc::clone(cluster),
            gauges: Arc::clone(gauges),
            epoch: Epoch::default(),
            next_look: AtomicU64::new(0),
            bench: Mutex::new(Bench { detector, members: by_id(members) }),
        }
    }

    /// What it was made for.
    pub(super) fn policy(&self) -> &OutlierDetection {
        &self.policy
    }

    /// Takes the members of the moment. Where fewer may be ejected now, the longest ejected come back.
    pub(super) fn set_members(&self, members: &[Member], now: Instant) {
        let mut bench = self.bench();
        let before = bench.detector.ejected();
        bench.members = by_id(members);
        let back = bench.detector.set_members(members.iter().map(|member| member.live.id()), now);
        for live in back.iter().filter_map(|id| bench.members.get(id)) {
            live.readmit(Some(now));
            tracing::info!(
                cluster = &*self.cluster, endpoint = %live.address(),
                "endpoint returned: too few are left to do without it"
            );
        }
        let gone = before.saturating_sub(bench.detector.ejected());
        self.gauges.ejections_active.fetch_sub(gone as u64, Ordering::Relaxed);
    }

    /// Takes the end of a request; `is_probe` is whether it was let through to find out about the endpoint.
    pub(super) fn report(&self, live: &LiveEndpoint, outcome: Outcome, is_probe: bool, now: Instant) {
        let Some(verdict) = Verdict::of(outcome, self.policy.split_local_origin) else { return };
        if is_probe {
            return self.probed(live, verdict, now);
        }
        if self.policy.failure_percentage.is_some() {
            self.look(now);
            live.monitor().count(verdict);
        }
        if let Some(cause) = live.monitor().note(verdict, &self.policy) {
            self.eject(&mut self.bench(), live, cause, now);
        }
    }

    /// Ends all ejections for good: without members, whatever is still reported is moot.
    pub(super) fn close(&self) {
        let mut bench = self.bench();
        let ejected = bench.members.values().filter(|live| live.is_ejected());
        let count = ejected.map(|live| live.readmit(None)).count();
        bench.members.clear();
        bench.detector = Detector::new(self.policy, std::iter::empty());
        self.gauges.ejections_active.fetch_sub(count as u64, Ordering::Relaxed);
    }

    /// The policy and its effect as JSON, for people.
    pub(super) fn describe(&self) -> serde_json::Value {
        let bench = self.bench();
        serde_json::json!({
            "policy": self.policy,
            "ejected": bench.detector.ejected(),
            "mayBeEjected": Detector::allowed(&self.policy, bench.detector.members()),
        })
    }

    /// Since when an endpoint is ejected, until when, and why.
    pub(super) fn ejection(&self, live: &LiveEndpoint) -> Option<(Range<Instant>, String)> {
        let (ejection, _) = self.bench().detector.ejection(live.id())?;
        Some((ejection.since..ejection.until, ejection.cause.to_string()))
    }

    /// The ejection of an endpoint as JSON, for people.
    pub(super) fn describe_ejection(&self, live: &LiveEndpoint, now: Instant) -> Option<serde_json::Value> {
        let (ejection, times) = self.bench().detector.ejection(live.id())?;
        let millis = |until: Instant| until.saturating_duration_since(now).as_millis();
        Some(serde_json::json!({
            "why": ejection.cause.to_string(),
            "sinceMs": now.saturating_duration_since(ejection.since).as_millis(),
            "forMs": millis(ejection.until),
            "failedProbes": ejection.failed_probes,
            "times": times,
        }))
    }

    fn eject(&self, bench: &mut Bench, live: &LiveEndpoint, cause: Cause, now: Instant) {
        match bench.detector.eject(live.id(), cause, now) {
            Ruling::Moot => {}
            Ruling::Overflow => {
                self.gauges.ejections_detected.fetch_add(1, Ordering::Relaxed);
                self.gauges.ejections_overflow.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(
                    cluster = &*self.cluster, endpoint = %live.address(), why = %cause,
                    "outlier kept: no more endpoints may be ejected"
                );
            }
            Ruling::Ejected(until) => {
                live.eject(until, now);
                self.gauges.ejections_detected.fetch_add(1, Ordering::Relaxed);
                self.gauges.ejections_active.fetch_add(1, Ordering::Relaxed);
                self.gauges.ejections_enforced.fetch_add(1, Ordering::Relaxed);
                let period = until.saturating_duration_since(now);
                tracing::info!(
                    cluster = &*self.cluster, endpoint = %live.address(), why = %cause, ?period,
                    "endpoint ejected"
                );
            }
        }
    }

    fn probed(&self, live: &LiveEndpoint, verdict: Verdict, now: Instant) {
        let mut bench = self.bench();
        match bench.detector.probed(live.id(), !verdict.is_failure(&self.policy), now) {
            Probed::Moot => {}
            Probed::Returned => {
                live.readmit(Some(now));
                self.gauges.ejections_active.fetch_sub(1, Ordering::Relaxed);
                tracing::info!(
                    cluster = &*self.cluster, endpoint = %live.address(),
                    "endpoint returned: a probe has succeeded"
                );
            }
            Probed::Again(until) => {
                live.eject(until, now);
                self.gauges.ejections_enforced.fetch_add(1, Ordering::Relaxed);
                let period = until.saturating_duration_since(now);
                tracing::info!(
                    cluster = &*self.cluster, endpoint = %live.address(), why = "a probe has failed", ?period,
                    "endpoint ejected again"
                );
            }
        }
    }

    /// Looks at the shares of failures when an interval has ended, at the first result after it.
    fn look(&self, now: Instant) {
        let stamp = self.epoch.stamp(now);
        let due = self.next_look.load(Ordering::Relaxed);
        if stamp < due {
            return;
        }
        let next = self.epoch.stamp(now + self.policy.interval.min(detector::FOREVER));
        if self.next_look.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let Some(limits) = self.policy.failure_percentage.filter(|_| due > 0) else { return };
        let mut bench = self.bench();
        let share = |(id, live): (&u64, &Arc<LiveEndpoint>)| {
            let (requests, failures) = live.monitor().take_share();
            (*id, requests, failures)
        };
        let shares: Vec<_> = bench.members.iter().map(share).collect();
        for (id, cause) in bench.detector.outliers(&shares, &limits) {
            if let Some(live) = bench.members.get(&id).cloned() {
                self.eject(&mut bench, &live, cause, now);
            }
        }
    }

    fn bench(&self) -> MutexGuard<'_, Bench> {
        self.bench.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outliers {
    fn drop(&mut self) {
        self.close();
    }
}

fn by_id(members: &[Member]) -> FxHashMap<u64, Arc<LiveEndpoint>> {
    members.iter().map(|member| (member.live.id(), Arc::clone(&member.live))).collect()
}
