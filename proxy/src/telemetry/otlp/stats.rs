//! What became of telemetry that was to be exported.

use crate::telemetry::{
    counter::Counter,
    exposition::{Audience, Kind},
};

/// Figures of one signal.
#[derive(Debug, Default)]
pub struct ExportStats {
    /// Items the collector has taken.
    pub exported: Counter,
    /// Items that were lost because too many waited.
    pub dropped: Counter,
    /// Items that were lost because the collector did not take them.
    pub failed: Counter,
}

/// The names of the metrics of one signal: exported, dropped, failed.
pub(in crate::telemetry) type Names = [&'static str; 3];

/// Those of spans.
pub(in crate::telemetry) const SPANS: Names = [
    "pillion_otlp_spans_exported_total",
    "pillion_otlp_spans_dropped_total",
    "pillion_otlp_spans_failed_total",
];

/// Those of points of metrics.
pub(in crate::telemetry) const POINTS: Names = [
    "pillion_otlp_points_exported_total",
    "pillion_otlp_points_dropped_total",
    "pillion_otlp_points_failed_total",
];

/// Those of lines of the access log.
pub(in crate::telemetry) const LOGS: Names =
    ["pillion_otlp_logs_exported_total", "pillion_otlp_logs_dropped_total", "pillion_otlp_logs_failed_total"];

impl ExportStats {
    pub(in crate::telemetry) fn write(&self, out: &mut impl Audience, names: Names) {
        let [exported, dropped, failed] = names;
        for (name, help, count) in [
            (exported, "Telemetry the collector has taken.", &self.exported),
            (dropped, "Telemetry lost because too much of it waited.", &self.dropped),
            (failed, "Telemetry the collector has not taken.", &self.failed),
        ] {
            out.single(name, Kind::Counter, help, count.get());
        }
    }
}
