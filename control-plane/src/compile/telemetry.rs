//! What the proxy of a workload tells of its traffic: the mesh's settings, its namespace's and its own, in this order.
//!
//! Of each width the oldest Telemetry counts. A narrower one says anew what it says at all: sampling, reporting, the tags as a
//! whole; of access logs, for each direction, what is logged and where. One that names no provider keeps those of the next
//! wider one, one that wants nothing logged takes away the providers it names, or all.

use pillion_policy::telemetry::{AccessLogging, LogFilter, LogSink, Telemetry};

use super::security::{Level, Workload};
use crate::{
    index::Index,
    object::{self, Kind, LogSettings, Object, Silenced, Stored, TracingSettings},
};

impl Workload<'_> {
    /// What its proxy tells. `telemetry` is what it would tell if no object said anything.
    pub(super) fn telemetry(&self, index: &Index, mut telemetry: Telemetry) -> Telemetry {
        let found = self.policies(index, Kind::Telemetry).into_values();
        let found = found.filter_map(|stored| match &stored.object {
            Object::Telemetry(settings) => Some((stored, &**settings)),
            _ => None,
        });
        let found: Vec<(&Stored, &object::Telemetry)> = found.collect();
        let oldest = |level: Level| {
            let of_level = found.iter().filter(|(stored, own)| Level::of(stored, &own.scope) == level);
            of_level.min_by(|(a, _), (b, _)| a.age().cmp(&b.age())).map(|(_, own)| *own)
        };
        let mut logs = Logs::of(telemetry.access_log.as_ref());
        for settings in [Level::Mesh, Level::Namespace, Level::Workload].into_iter().filter_map(oldest) {
            let TracingSettings { sampling, reporting, tags } = &settings.tracing;
            telemetry.tracing.sampling = sampling.unwrap_or(telemetry.tracing.sampling);
            telemetry.tracing.reporting = reporting.unwrap_or(telemetry.tracing.reporting);
            if !tags.is_empty() {
                telemetry.tracing.tags.clone_from(tags);
            }
            logs.follow(&settings.logging);
        }
        if logs.settled {
            telemetry.access_log = Some(logs.merged());
        }
        telemetry
    }
}

/// What is logged of the traffic a workload sends, and of that which comes to it.
struct Logs {
    sides: [AccessLogging; 2],
    /// Whether anybody has said anything about it.
    settled: bool,
}

impl Logs {
    fn of(given: Option<&AccessLogging>) -> Self {
        let unsaid = || AccessLogging { sinks: vec![LogSink::Configured], filter: None };
        let side = given.cloned().unwrap_or_else(unsaid);
        Self { sides: [side.clone(), side], settled: given.is_some() }
    }

    /// Lets narrower settings have the word.
    fn follow(&mut self, settings: &[LogSettings; 2]) {
        for (side, own) in self.sides.iter_mut().zip(settings) {
            if *own == LogSettings::default() {
                continue;
            }
            self.settled = true;
            if let Some(wanted) = &own.wanted {
                side.filter.clone_from(&wanted.filter);
                if !wanted.sinks.is_empty() {
                    side.sinks.clone_from(&wanted.sinks);
                } else if side.sinks.is_empty() {
                    side.sinks.push(LogSink::Configured);
                }
            }
            match &own.silenced {
                Silenced::Nothing => {}
                Silenced::Sinks(sinks) => side.sinks.retain(|sink| !sinks.contains(sink)),
                Silenced::All => side.sinks.clear(),
            }
        }
    }

    /// Both directions in one. Where their sinks differ, each logs to all of them.
    fn merged(self) -> AccessLogging {
        let [mut sent, received] = self.sides;
        let filter = match (sent.sinks.is_empty(), received.sinks.is_empty()) {
            (true, true) => None,
            (false, true) => Some(both(LogFilter::Outbound, sent.filter)),
            (true, false) => Some(both(LogFilter::Inbound, received.filter)),
            (false, false) if sent.filter == received.filter => sent.filter,
            (false, false) => Some(LogFilter::Any(vec![
                both(LogFilter::Outbound, sent.filter),
                both(LogFilter::Inbound, received.filter),
            ])),
        };
        let further = received.sinks.into_iter().filter(|sink| !sent.sinks.contains(sink));
        let further: Vec<LogSink> = further.collect();
        sent.sinks.extend(further);
        AccessLogging { sinks: sent.sinks, filter }
    }
}

fn both(direction: LogFilter, filter: Option<LogFilter>) -> LogFilter {
    match filter {
        None => direction,
        Some(filter) => LogFilter::All(vec![direction, filter]),
    }
}

#[cfg(test)]
mod tests;
