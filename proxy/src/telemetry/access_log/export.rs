//! Lines of the access log on their way to a collector, as OTLP log records.
//!
//! A record's body is the line as text; its attributes are the fields of the line in JSON, by the same names. It carries the
//! ids of the request's trace, so that a collector finds one by the other.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::UNIX_EPOCH,
};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, SeverityNumber},
};
use pillion_policy::telemetry::LogSink;
use tokio::sync::watch;

use super::{AccessLog, Record, Shared, format};
use crate::telemetry::{
    otlp::{
        Signal, Wanted,
        attribute::{LONGEST, fraction, size, text},
        bundle::Bundle,
        exporter::{Encoder, Exporter, Flusher},
        outbox::Batch,
        resource::{Place, resource},
        settings::Environment,
    },
    trace::SpanContext,
};

/// Makes requests of records.
#[derive(Debug)]
pub struct Lines {
    shared: Arc<Shared>,
    bundle: Bundle,
}

/// What exports the lines of a log where policy wants that, and what has it do so at once; `None` for a disabled log.
pub fn new(
    log: &AccessLog,
    place: &Place,
    environment: &Arc<Environment>,
    wanted: watch::Receiver<Wanted>,
    rng: fastrand::Rng,
) -> Option<(Exporter<Lines>, Flusher)> {
    let shared = Arc::clone(log.0.as_ref()?);
    let feed = Arc::clone(&shared.feed);
    let encoder = Lines { shared, bundle: Bundle::new(&resource(place, environment)) };
    Some(Exporter::new(encoder, feed, Arc::clone(environment), wanted, rng))
}

impl Encoder for Lines {
    type Item = Arc<Record>;
    const SIGNAL: Signal = Signal::Logs;

    fn follow(&mut self, wanted: &Wanted, collector: bool) -> bool {
        let sinks = wanted.telemetry.access_log.as_ref().map(|log| log.sinks.as_slice()).unwrap_or_default();
        let is_wanted = sinks.contains(&LogSink::Otlp);
        if is_wanted && !collector {
            tracing::warn!("policy wants the access log exported, but there is no collector to send it to");
        }
        let is_active = is_wanted && collector;
        self.shared.is_exported.store(is_active, Relaxed);
        is_active
    }

    fn add(&mut self, record: &Arc<Record>) {
        self.bundle.add(&tell(record));
    }

    fn size(&self) -> (usize, usize) {
        self.bundle.size()
    }

    fn finish(&mut self) -> Option<Batch> {
        self.bundle.finish()
    }
}

/// The log record of a request.
fn tell(record: &Record) -> LogRecord {
    let since = record.start.duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let severity = match record.outcome.status {
        500.. => SeverityNumber::Error,
        400..500 => SeverityNumber::Warn,
        _ => SeverityNumber::Info,
    };
    let own = record.trace.filter(SpanContext::is_own);
    let mut line = Vec::new();
    format::text(record, &mut line);
    let line = String::from_utf8_lossy(&line);
    let body = line.get(..line.floor_char_boundary(8 * LONGEST)).unwrap_or_default().to_owned();
    LogRecord {
        time_unix_nano: nanos(since),
        observed_time_unix_nano: nanos(since.saturating_add(record.outcome.duration)),
        severity_number: severity.into(),
        severity_text: severity.as_str_name().trim_start_matches("SEVERITY_NUMBER_").to_owned(),
        body: Some(AnyValue { value: Some(Value::StringValue(body)) }),
        attributes: attributes(format::fields(record)),
        trace_id: record.trace.map(|trace| trace.trace_id.to_vec()).unwrap_or_default(),
        span_id: own.map(|own| own.span_id.to_vec()).unwrap_or_default(),
        flags: record.trace.map_or(0, |trace| u32::from(trace.sampled)),
        ..LogRecord::default()
    }
}

/// The fields of a line in JSON as attributes; lists as text.
fn attributes(fields: serde_json::Value) -> Vec<KeyValue> {
    let serde_json::Value::Object(fields) = fields else { return Vec::new() };
    let attribute = |(name, value): (String, serde_json::Value)| match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(value) => Some(text(&name, &value)),
        serde_json::Value::Number(number) => Some(match number.as_u64() {
            Some(whole) => size(&name, whole),
            None => fraction(&name, number.as_f64().unwrap_or_default()),
        }),
        other => Some(text(&name, &other.to_string())),
    };
    fields.into_iter().filter_map(attribute).collect()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::{collector::logs::v1::ExportLogsServiceRequest, resource::v1::Resource};
    use prost::Message;

    use super::*;
    use crate::{
        config::AccessLogFormat,
        telemetry::{Metrics, access_log::Settings},
    };

    #[test]
    fn a_log_record_has_the_fields_of_the_line() {
        let mut record = Record { cause: Some("cannot connect".into()), ..Record::default() };
        record.trace = Some(SpanContext { trace_id: [7; 16], span_id: [1; 8], parent: None, sampled: true });
        record.outcome.status = 503;
        record.first_byte = Some(std::time::Duration::from_micros(1500));
        let told = tell(&record);
        let attribute = |name: &str| {
            let found = told.attributes.iter().find(|attribute| attribute.key == name);
            found.and_then(|attribute| attribute.value.clone()?.value)
        };
        assert_eq!(attribute("status"), Some(Value::IntValue(503)));
        assert_eq!(attribute("cause"), Some(Value::StringValue("cannot connect".to_owned())));
        assert_eq!(attribute("first_byte_ms"), Some(Value::DoubleValue(1.5)));
        assert_eq!(attribute("route"), None);
        assert_eq!((told.trace_id, told.span_id, told.flags), (vec![7; 16], vec![1; 8], 1));
        assert_eq!(told.severity_text, "ERROR");
    }

    #[test]
    fn lines_are_exported_where_policy_and_a_collector_want_them() {
        let settings = Settings { target: None, format: AccessLogFormat::Text, filter: None };
        let log = AccessLog::new(settings, Metrics::new()).unwrap();
        let shared = Arc::clone(log.0.as_ref().unwrap());
        let mut lines = Lines { shared: Arc::clone(&shared), bundle: Bundle::new(&Resource::default()) };
        let mut wanted = Wanted::default();
        assert!(!lines.follow(&wanted, true) && !log.wants(&Record::default()));
        wanted.telemetry.access_log =
            Some(pillion_policy::telemetry::AccessLogging { sinks: vec![LogSink::Otlp], filter: None });
        log.apply(wanted.telemetry.access_log.as_ref());
        assert!(!lines.follow(&wanted, false) && !log.wants(&Record::default()));
        assert!(lines.follow(&wanted, true) && log.wants(&Record::default()));
        log.export(Arc::new(Record::default()));
        lines.add(&shared.feed.pop().unwrap());
        let batch = lines.finish().unwrap();
        assert_eq!(batch.items, 1);
        let request = ExportLogsServiceRequest::decode(batch.body).unwrap();
        assert_eq!(request.resource_logs[0].scope_logs[0].log_records.len(), 1);
        assert!(lines.finish().is_none());
    }
}
