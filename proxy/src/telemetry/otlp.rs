//! Export of telemetry by OTLP (<https://opentelemetry.io/docs/specs/otlp/>), over gRPC or HTTP.
//!
//! [`settings`] says where each signal goes: the variables of OpenTelemetry that the process was started with, else what
//! the mesh wants. An [`exporter::Exporter`] takes items out of a [`feed::Feed`], encodes them in batches, keeps those that
//! wait in an [`outbox::Outbox`] bounded in items and bytes, and hands them to a [`transport::Transport`]. It is one task of
//! the control thread, asleep while there is nothing to export and doing nothing while there is no collector.
//!
//! What the items are is left to the signals: a [`exporter::Encoder`] makes bytes of them, a [`bundle::Bundle`] requests of those.

pub mod attribute;
pub mod bundle;
pub mod exporter;
pub mod feed;
pub mod outbox;
pub mod resource;
pub mod settings;
pub mod stats;
pub mod transport;

use pillion_policy::telemetry::{Collector, Telemetry};

/// What is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Log records.
    Logs,
    /// Metrics.
    Metrics,
}

impl Signal {
    /// As variables of the environment are named.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Logs => "LOGS",
            Self::Metrics => "METRICS",
        }
    }

    /// Where it is posted below the address of a collector.
    fn http_path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Logs => "/v1/logs",
            Self::Metrics => "/v1/metrics",
        }
    }

    /// The gRPC method that takes it.
    fn grpc_method(self) -> &'static str {
        match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        }
    }
}

/// What policy wants told, and whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Where the mesh's telemetry is sent.
    pub collector: Option<Collector>,
    /// What is in force for the own workload.
    pub telemetry: Telemetry,
}
