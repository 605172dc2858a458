//! Which endpoints of a cluster are ejected, and until when: the part of outlier detection without clock or lock.
//!
//! However causes, probes and changes of membership follow each other, no more endpoints are ejected than policy
//! allows, and the last one that is not is ejected only where policy says 100 %. Times grow with each ejection and
//! shrink with each interval spent healthy, as Envoy's do. An ejected endpoint stays out until a probe succeeds.

use std::{fmt, time::Duration};

use pillion_policy::resilience::{FailurePercentage, OutlierDetection};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

/// Share that may be ejected when policy does not say, in percent (Envoy's and Istio's default).
const DEFAULT_PERCENT: u8 = 10;

/// What stands for longer times, which a clock might not be able to hold.
pub(super) const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why an endpoint is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// 5xx in a row.
    ServerErrors(u32),
    /// 502, 503 and 504 in a row.
    GatewayErrors(u32),
    /// Failures of the connection in a row.
    LocalFailures(u32),
    /// Too many failures in an interval.
    Share { failures: u32, requests: u32 },
}

/// What has become of a wish to eject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ruling {
    /// It is ejected until then.
    Ejected(Instant),
    /// Too many are ejected already.
    Overflow,
    /// It is ejected already, or no member any more.
    Moot,
}

/// What has become of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probed {
    /// The endpoint is back.
    Returned,
    /// It is ejected again, until then.
    Again(Instant),
    /// It was back already, or is no member any more.
    Moot,
}

/// An ejection under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ejection {
    /// Why.
    pub(super) cause: Cause,
    /// When it was ejected; probes that fail do not change it.
    pub(super) since: Instant,
    /// When a probe may try.
    pub(super) until: Instant,
    /// Probes that have failed.
    pub(super) failed_probes: u32,
}

/// What is known of a member.
#[derive(Debug, Default)]
struct Record {
    ejection: Option<Ejection>,
    multiplier: u32,
    /// When it was last seen to return.
    returned: Option<Instant>,
    times: u32,
}

/// The members of a cluster.
#[derive(Debug)]
pub(super) struct Detector {
    policy: OutlierDetection,
    records: FxHashMap<u64, Record>,
}

impl Detector {
    /// A detector of members none of which is ejected.
    pub(super) fn new(policy: OutlierDetection, ids: impl Iterator<Item = u64>) -> Self {
        Self { policy, records: ids.map(|id| (id, Record::default())).collect() }
    }

    /// How many of `members` may be ejected at a time.
    pub(super) fn allowed(policy: &OutlierDetection, members: usize) -> usize {
        let share = |percent: u8| members * usize::from(percent.min(100)) / 100;
        match policy.max_ejection_percent {
            Some(percent) if percent >= 100 => members,
            Some(percent) => share(percent).min(members.saturating_sub(1)),
            None => share(DEFAULT_PERCENT).max(1).min(members.saturating_sub(1)),
        }
    }

    /// How many are ejected.
    pub(super) fn ejected(&self) -> usize {
        self.records.values().filter(|record| record.ejection.is_some()).count()
    }

    /// How many members there are.
    pub(super) fn members(&self) -> usize {
        self.records.len()
    }

    /// Takes the members of the moment. Those who leave are forgotten; those returned come back because fewer may be
    /// ejected now, the longest ejected first.
    pub(super) fn set_members(&mut self, ids: impl Iterator<Item = u64>, now: Instant) -> Vec<u64> {
        let mut known = std::mem::take(&mut self.records);
        self.records = ids.map(|id| (id, known.remove(&id).unwrap_or_default())).collect();
        let allowed = Self::allowed(&self.policy, self.records.len());
        let since = |record: &Record| record.ejection.map(|ejection| ejection.since);
        let mut ejected: Vec<_> =
            self.records.iter().filter_map(|(id, record)| Some((since(record)?, *id))).collect();
        ejected.sort_unstable();
        let surplus = ejected.len().saturating_sub(allowed);
        let back: Vec<u64> = ejected.into_iter().take(surplus).map(|(_, id)| id).collect();
        for id in &back {
            if let Some(record) = self.records.get_mut(id) {
                record.readmit(now);
            }
        }
        back
    }

    /// Ejects a member, if that is allowed.
    pub(super) fn eject(&mut self, id: u64, cause: Cause, now: Instant) -> Ruling {
        let allowed = Self::allowed(&self.policy, self.records.len());
        let ejected = self.ejected();
        let Some(record) = self.records.get_mut(&id).filter(|record| record.ejection.is_none()) else {
            return Ruling::Moot;
        };
        if ejected >= allowed {
            return Ruling::Overflow;
        }
        record.shrink(&self.policy, now);
        let until = record.grow(&self.policy, now);
        record.ejection = Some(Ejection { cause, since: now, until, failed_probes: 0 });
        Ruling::Ejected(until)
    }

    /// Takes the result of a probe.
    pub(super) fn probed(&mut self, id: u64, success: bool, now: Instant) -> Probed {
        let Some(record) = self.records.get_mut(&id) else { return Probed::Moot };
        let Some(mut ejection) = record.ejection else { return Probed::Moot };
        if success {
            record.readmit(now);
            return Probed::Returned;
        }
        ejection.until = record.grow(&self.policy, now);
        ejection.failed_probes = ejection.failed_probes.saturating_add(1);
        record.ejection = Some(ejection);
        Probed::Again(ejection.until)
    }

    /// Who has failed too often, among the requests and failures of one interval by member. Those ejected do not
    /// take part.
    pub(super) fn outliers(
        &self,
        shares: &[(u64, u32, u32)],
        limits: &FailurePercentage,
    ) -> Vec<(u64, Cause)> {
        let busy = |(id, requests, _): &&(u64, u32, u32)| {
            *requests > 0
                && *requests >= limits.request_volume
                && self.records.get(id).is_some_and(|record| record.ejection.is_none())
        };
        if shares.iter().filter(busy).count() < limits.minimum_hosts as usize {
            return Vec::new();
        }
        let fails = |(_, requests, failures): &&(u64, u32, u32)| {
            u64::from(*failures) * 100 >= u64::from(limits.threshold) * u64::from(*requests) && *failures > 0
        };
        let cause = |(id, requests, failures): &(u64, u32, u32)| {
            (*id, Cause::Share { failures: *failures, requests: *requests })
        };
        shares.iter().filter(busy).filter(fails).map(cause).collect()
    }

    /// The ejection of a member, and how often it has been ejected.
    pub(super) fn ejection(&self, id: u64) -> Option<(Ejection, u32)> {
        let record = self.records.get(&id)?;
        Some((record.ejection?, record.times))
    }
}

impl Record {
    fn readmit(&mut self, now: Instant) {
        self.ejection = None;
        self.returned = Some(now);
    }

    /// Makes the next ejection shorter by one step for each interval since the return.
    fn shrink(&mut self, policy: &OutlierDetection, now: Instant) {
        let Some(returned) = self.returned.take() else { return };
        let healthy = now.saturating_duration_since(returned);
        let intervals = healthy.as_micros().checked_div(policy.interval.as_micros()).unwrap_or(u128::MAX);
        self.multiplier = self.multiplier.saturating_sub(u32::try_from(intervals).unwrap_or(u32::MAX));
    }

    /// The end of an ejection that begins now; the next one is longer, until the longest is reached.
    fn grow(&mut self, policy: &OutlierDetection, now: Instant) -> Instant {
        let (base, max) =
            (policy.base_ejection_time, policy.max_ejection_time.max(policy.base_ejection_time));
        if base.saturating_mul(self.multiplier) < max.saturating_add(base) {
            self.multiplier = self.multiplier.saturating_add(1);
        }
        self.times = self.times.saturating_add(1);
        now + base.saturating_mul(self.multiplier).min(max).min(FOREVER)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServerErrors(count) => write!(f, "{count} server errors in a row"),
            Self::GatewayErrors(count) => write!(f, "{count} gateway errors in a row"),
            Self::LocalFailures(count) => write!(f, "{count} failed connections in a row"),
            Self::Share { failures, requests } => {
                write!(f, "{failures} of {requests} requests in one interval have failed")
            }
        }
    }
}
