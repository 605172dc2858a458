//! What is said about what proxies tell of their traffic.
//!
//! One object's entries are one statement for each direction here; what several objects say is laid over each other where
//! the policy of a workload is compiled.

use pillion_policy::{
    ratio::Fraction,
    telemetry::{LogFilter, LogSink, Tag},
};

use super::Scope;

/// A Telemetry.
#[derive(Debug)]
pub(crate) struct Telemetry {
    pub(crate) scope: Scope,
    /// What is absent is left to the next wider one.
    pub(crate) tracing: TracingSettings,
    /// About the traffic its workloads send, and about the traffic that comes to them.
    pub(crate) logging: [LogSettings; 2],
}

/// What is said about traces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TracingSettings {
    pub(crate) sampling: Option<Fraction>,
    pub(crate) reporting: Option<bool>,
    /// Nothing where there are none: then those of the next wider one count.
    pub(crate) tags: Vec<Tag>,
}

/// What is said about the access log of traffic that goes one way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LogSettings {
    /// What is to be logged; absent where nothing is said about that.
    pub(crate) wanted: Option<LogWanted>,
    /// Where nothing more is to be logged.
    pub(crate) silenced: Silenced,
}

/// What is to be logged, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogWanted {
    /// Those of the next wider policy when empty.
    pub(crate) sinks: Vec<LogSink>,
    /// Everything when absent.
    pub(crate) filter: Option<LogFilter>,
}

/// Which sinks get nothing any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Silenced {
    /// None.
    #[default]
    Nothing,
    /// These.
    Sinks(Vec<LogSink>),
    /// Whichever there are.
    All,
}
