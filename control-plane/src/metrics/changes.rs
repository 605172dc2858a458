//! How fast an edit becomes what proxies do.
//!
//! A change is timed from the moment the source notices it: reading its files, compiling what is in demand, and what it takes
//! until each proxy that it concerns has acknowledged it. Changes that no proxy asked about have no push.

use std::time::{Duration, SystemTime};

use prometheus_client::{
    metrics::{
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::clock::unix_seconds;

/// Upper bounds of the buckets: from half a millisecond, doubled, to 16 seconds.
const BUCKETS: (f64, f64, u16) = (0.0005, 2.0, 16);

/// How long the steps of a change take, and which change is in force.
#[derive(Debug, Clone)]
pub(crate) struct Changes {
    load: Histogram,
    compile: Histogram,
    push: Histogram,
    version: Gauge,
    changed: Gauge,
}

impl Changes {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let histogram = || {
            let (first, factor, count) = BUCKETS;
            Histogram::new(exponential_buckets(first, factor, count))
        };
        let changes = Self {
            load: histogram(),
            compile: histogram(),
            push: histogram(),
            version: Gauge::default(),
            changed: Gauge::default(),
        };
        for (name, help, histogram) in [
            (
                "pillion_load_duration_seconds",
                "From the notice of a change until its files had been read",
                &changes.load,
            ),
            (
                "pillion_compile_duration_seconds",
                "For what is in demand to be compiled again after a change",
                &changes.compile,
            ),
            (
                "pillion_push_duration_seconds",
                "From the notice of a change until a proxy that it concerns had acknowledged it",
                &changes.push,
            ),
        ] {
            registry.register(name, help, histogram.clone());
        }
        registry.register(
            "pillion_config_version",
            "Changes of objects since the start: what is in force",
            changes.version.clone(),
        );
        registry.register(
            "pillion_config_changed_timestamp_seconds",
            "When objects changed last, in seconds since 1970",
            changes.changed.clone(),
        );
        changes
    }

    /// Notes that a change has been read.
    pub(crate) fn loaded(&self, took: Duration, now: SystemTime) {
        self.load.observe(took.as_secs_f64());
        self.version.inc();
        self.changed.set(i64::try_from(unix_seconds(now)).unwrap_or(i64::MAX));
    }

    /// Notes that what is in demand has been compiled.
    pub(crate) fn compiled(&self, took: Duration) {
        self.compile.observe(took.as_secs_f64());
    }

    /// Notes that a proxy has acknowledged what was noticed so long ago.
    pub(crate) fn pushed(&self, took: Duration) {
        self.push.observe(took.as_secs_f64());
    }
}
