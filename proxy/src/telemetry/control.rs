//! Figures of what comes from the control plane: configuration, and the own identity.
//!
//! Ages are told beside the times they are counted from: an alert on an age needs no clock but the proxy's.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::SystemTime,
};

use super::{
    counter::{Counter, Gauge},
    exposition::{Audience, Kind},
    histogram::{Histogram, SECONDS},
};
use crate::rt::clock;

/// Figures of the stream to the control plane.
#[derive(Debug)]
pub struct XdsStats {
    /// 1 while connected.
    pub connected: Gauge,
    /// Connections made.
    pub connections: Counter,
    /// Resources taken in.
    pub updates: Counter,
    /// Resources refused.
    pub rejected: Counter,
    /// Resources subscribed to.
    pub subscriptions: Gauge,
    /// Destinations the control plane has described.
    pub known: Gauge,
    /// Destinations the control plane does not have.
    pub absent: Gauge,
    /// How often the configuration in force has changed.
    pub revision: Gauge,
    /// From the receipt of an update to its being in force.
    pub push: Histogram<12>,
    updated: Moment,
    lost: Moment,
}

/// A time that may not have come yet: bits of the seconds since 1970, 0 for never.
#[derive(Debug, Default)]
struct Moment(AtomicU64);

impl Moment {
    fn set(&self, seconds: f64) {
        self.0.store(seconds.to_bits(), Relaxed);
    }

    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }

    /// Seconds since then; 0 when it has not come.
    fn age(&self, now: f64) -> f64 {
        let then = self.get();
        if then > 0.0 { (now - then).max(0.0) } else { 0.0 }
    }
}

impl Default for XdsStats {
    fn default() -> Self {
        Self {
            connected: Gauge::default(),
            connections: Counter::default(),
            updates: Counter::default(),
            rejected: Counter::default(),
            subscriptions: Gauge::default(),
            known: Gauge::default(),
            absent: Gauge::default(),
            revision: Gauge::default(),
            push: Histogram::new(&SECONDS),
            updated: Moment::default(),
            lost: Moment::default(),
        }
    }
}

impl XdsStats {
    /// Notes that an update came in now.
    pub fn touch(&self) {
        self.updated.set(clock::unix_seconds(clock::now()));
    }

    /// Notes that the control plane is there.
    pub fn connect(&self) {
        self.connected.set(1);
        self.connections.inc();
        self.lost.set(0.0);
    }

    /// Notes that the control plane is wanted and not there, unless that is known.
    pub fn disconnect(&self) {
        self.connected.set(0);
        if self.lost.get() == 0.0 {
            self.lost.set(clock::unix_seconds(clock::now()));
        }
    }

    pub(super) fn write(&self, out: &mut impl Audience) {
        for (name, help, value) in [
            ("pillion_xds_connected", "Whether the control plane is connected.", &self.connected),
            ("pillion_xds_subscriptions", "Resources subscribed to.", &self.subscriptions),
            ("pillion_xds_known_destinations", "Destinations that are described.", &self.known),
            ("pillion_xds_absent_destinations", "Destinations asked for that do not exist.", &self.absent),
            ("pillion_xds_config_revision", "How often the configuration has changed.", &self.revision),
        ] {
            out.single(name, Kind::Gauge, help, value.get());
        }
        for (name, help, value) in [
            ("pillion_xds_connections_total", "Connections made to the control plane.", &self.connections),
            ("pillion_xds_updates_total", "Messages with resources taken in.", &self.updates),
            ("pillion_xds_rejected_total", "Resources refused.", &self.rejected),
        ] {
            out.single(name, Kind::Counter, help, value.get());
        }
        let now = clock::unix_seconds(clock::now());
        for (name, help, value) in [
            (
                "pillion_xds_last_update_timestamp_seconds",
                "When the last update came, in seconds since 1970; 0 is never.",
                self.updated.get(),
            ),
            (
                "pillion_xds_config_age_seconds",
                "How long ago the configuration has changed; 0 when there is none.",
                self.updated.age(now),
            ),
            (
                "pillion_xds_disconnected_seconds",
                "How long the control plane has not been connected; 0 while it is, or when there is none.",
                self.lost.age(now),
            ),
        ] {
            out.single(name, Kind::Gauge, help, value);
        }
        let name = "pillion_xds_push_seconds";
        out.family(name, Kind::Histogram, "From the receipt of an update to its being in force.");
        out.histogram(name, &[], &self.push.read());
    }
}

/// Figures of the own identity.
#[derive(Debug, Default)]
pub struct IdentityStats {
    /// Certificates taken into use.
    pub renewed: Counter,
    /// Attempts to get one that failed.
    pub failed: Counter,
    expires: Moment,
}

impl IdentityStats {
    /// Notes when the certificate in use expires.
    pub fn expires(&self, at: SystemTime) {
        self.expires.set(clock::unix_seconds(at));
    }

    pub(super) fn write(&self, out: &mut impl Audience) {
        let help = "When the own certificate expires, in seconds since 1970; 0 is none.";
        let name = "pillion_certificate_expiry_timestamp_seconds";
        out.single(name, Kind::Gauge, help, self.expires.get());
        let name = "pillion_certificate_renewals_total";
        out.family(name, Kind::Counter, "Attempts to get a certificate, by how they ended.");
        for (result, count) in [("ok", &self.renewed), ("failed", &self.failed)] {
            out.sample(name, &[("result", result)], count.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::exposition::Text, *};

    fn value(stats: &XdsStats, name: &str) -> f64 {
        let mut text = Text::default();
        stats.write(&mut text);
        let text = text.finish();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
        line.parse().unwrap()
    }

    #[test]
    fn time_without_the_control_plane_is_counted_from_its_loss() {
        let name = "pillion_xds_disconnected_seconds";
        let stats = XdsStats::default();
        assert_eq!(value(&stats, name), 0.0, "who wants no control plane misses none");
        stats.disconnect();
        let hour_ago = stats.lost.get() - 3600.0;
        stats.lost.set(hour_ago);
        stats.disconnect();
        assert!(value(&stats, name) >= 3600.0, "a further attempt that fails is no new loss");
        stats.connect();
        assert_eq!((value(&stats, name), value(&stats, "pillion_xds_connected")), (0.0, 1.0));
    }

    #[test]
    fn configuration_ages() {
        let stats = XdsStats::default();
        assert_eq!(value(&stats, "pillion_xds_config_age_seconds"), 0.0);
        stats.touch();
        stats.updated.set(stats.updated.get() - 60.0);
        assert!(value(&stats, "pillion_xds_config_age_seconds") >= 60.0);
        stats.push.record(Duration::from_millis(20));
        assert_eq!(value(&stats, "pillion_xds_push_seconds_count"), 1.0);
        assert_eq!(value(&stats, "pillion_xds_push_seconds_bucket{le=\"0.025\"}"), 1.0);
    }
}
