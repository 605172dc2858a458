//! What the control plane counts, as texts that scrapers read.

mod changes;
#[cfg(target_os = "linux")]
mod process;
mod text;

use std::{collections::BTreeMap, fmt::Error, sync::Arc, time::SystemTime};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    clock::unix_seconds,
    object::Kind,
    problem::{Problem, Severity},
};

pub(crate) use self::{changes::Changes, text::Format};

/// Handles to every metric; cloning shares them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    objects: Family<OfKind, Gauge>,
    problems: Family<OfSeverity, Gauge>,
    /// Connected proxies.
    pub(crate) proxies: Gauge,
    /// Messages by which proxies refused resources.
    pub(crate) nacks: Counter,
    resources: Counter,
    removals: Counter,
    /// Changes taken in from the source.
    pub(crate) updates: Counter,
    /// How long changes take.
    pub(crate) changes: Changes,
    open_breakers: Gauge,
    ejected_endpoints: Gauge,
    unreachable_endpoints: Gauge,
    issued: Counter,
    not_issued: Family<OfReason, Counter>,
    unauthenticated: Family<OfReason, Counter>,
    expiry: Family<OfCertificate, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCertificate {
    kind: String,
    fingerprint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSeverity {
    severity: String,
}

/// What the reports of all proxies add up to; what several see counts several times.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Breakers that are not closed.
    pub(crate) breakers: u64,
    /// Endpoints that outlier detection leaves alone.
    pub(crate) ejected: u64,
    /// Endpoints to which no connection can be made.
    pub(crate) unreachable: u64,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let mut metrics = Self {
            registry: Arc::default(),
            objects: Family::default(),
            problems: Family::default(),
            proxies: Gauge::default(),
            nacks: Counter::default(),
            resources: Counter::default(),
            removals: Counter::default(),
            updates: Counter::default(),
            changes: Changes::register(&mut registry),
            open_breakers: Gauge::default(),
            ejected_endpoints: Gauge::default(),
            unreachable_endpoints: Gauge::default(),
            issued: Counter::default(),
            not_issued: Family::default(),
            unauthenticated: Family::default(),
            expiry: Family::default(),
        };
        #[cfg(target_os = "linux")]
        registry.register_collector(Box::new(process::ProcessMetrics));
        registry.register("pillion_objects", "Objects in force", metrics.objects.clone());
        registry.register("pillion_problems", "Problems of objects and files", metrics.problems.clone());
        registry.register("pillion_proxies", "Connected proxies", metrics.proxies.clone());
        registry.register(
            "pillion_nacks",
            "Messages by which proxies refused resources",
            metrics.nacks.clone(),
        );
        registry.register("pillion_resources_sent", "Resources sent to proxies", metrics.resources.clone());
        registry.register("pillion_removals_sent", "Removals sent to proxies", metrics.removals.clone());
        registry.register("pillion_updates", "Changes taken in from the source", metrics.updates.clone());
        for (name, help, gauge) in [
            (
                "pillion_reported_open_breakers",
                "Breakers that are not closed, over all proxies",
                &metrics.open_breakers,
            ),
            (
                "pillion_reported_ejected_endpoints",
                "Endpoints left alone by outlier detection, over all proxies",
                &metrics.ejected_endpoints,
            ),
            (
                "pillion_reported_unreachable_endpoints",
                "Endpoints to which no connection can be made, over all proxies",
                &metrics.unreachable_endpoints,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        metrics.register_authority(&mut registry);
        // Families without a sample are not told: there is one before anything is refused.
        drop(metrics.not_issued.get_or_create(&OfReason { reason: "rate" }));
        metrics.registry = Arc::new(registry);
        metrics
    }

    fn register_authority(&self, registry: &mut Registry) {
        registry.register("pillion_certificates_issued", "Certificates signed", self.issued.clone());
        registry.register(
            "pillion_certificates_refused",
            "Certificates that were asked for and not signed",
            self.not_issued.clone(),
        );
        registry.register(
            "pillion_callers_unauthenticated",
            "Calls of those who have not proved who they are",
            self.unauthenticated.clone(),
        );
        registry.register(
            "pillion_certificate_expiry_timestamp_seconds",
            "When a certificate of the control plane expires, in seconds since 1970",
            self.expiry.clone(),
        );
    }

    /// Counts a certificate.
    pub(crate) fn issued(&self) {
        self.issued.inc();
    }

    /// Counts a certificate that somebody did not get.
    pub(crate) fn not_issued(&self, reason: &'static str) {
        self.not_issued.get_or_create(&OfReason { reason }).inc();
    }

    /// Counts a caller who has not proved who it is.
    pub(crate) fn unauthenticated(&self, reason: &'static str) {
        self.unauthenticated.get_or_create(&OfReason { reason }).inc();
    }

    /// Notes kind, fingerprint and end of every certificate the control plane has; others are forgotten.
    pub(crate) fn certificates(&self, all: impl Iterator<Item = (String, String, SystemTime)>) {
        self.expiry.clear();
        for (kind, fingerprint, not_after) in all {
            let seconds = i64::try_from(unix_seconds(not_after)).unwrap_or(i64::MAX);
            self.expiry.get_or_create(&OfCertificate { kind, fingerprint }).set(seconds);
        }
    }

    /// Notes what is in force and what is wrong with it.
    pub(crate) fn loaded(&self, kinds: impl Iterator<Item = Kind>, problems: &[Problem]) {
        let mut objects: BTreeMap<Kind, i64> = Kind::ALL.into_iter().map(|kind| (kind, 0)).collect();
        for kind in kinds {
            *objects.entry(kind).or_default() += 1;
        }
        for (kind, count) in objects {
            self.objects.get_or_create(&OfKind { kind: kind.to_string() }).set(count);
        }
        for severity in [Severity::Error, Severity::Warning, Severity::Info] {
            let count = problems.iter().filter(|problem| problem.severity == severity).count();
            let gauge = self.problems.get_or_create(&OfSeverity { severity: severity.to_string() });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Counts the content of a response.
    pub(crate) fn sent(&self, resources: usize, removals: usize) {
        self.resources.inc_by(resources as u64);
        self.removals.inc_by(removals as u64);
    }

    /// Notes what proxies report at the moment.
    pub(crate) fn reported(&self, totals: Totals) {
        for (gauge, total) in [
            (&self.open_breakers, totals.breakers),
            (&self.ejected_endpoints, totals.ejected),
            (&self.unreachable_endpoints, totals.unreachable),
        ] {
            gauge.set(i64::try_from(total).unwrap_or(i64::MAX));
        }
    }

    /// Everything, as a text of that form.
    pub(crate) fn text(&self, format: Format) -> Result<String, Error> {
        let mut open = String::new();
        encode(&mut open, &self.registry)?;
        Ok(match format {
            Format::Classic => text::classic(&open),
            Format::OpenMetrics => open,
        })
    }
}
