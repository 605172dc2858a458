//! Strategies for what a workload's proxy tells of its traffic.

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{fraction, header_name};
use crate::telemetry::{
    AccessLogging, Collector, Comparison, LogFilter, LogSink, OtlpProtocol, Tag, TagValue, Telemetry, Tracing,
};

/// Any settings of a workload; those that were left alone among them.
pub fn telemetry() -> impl Strategy<Value = Telemetry> {
    let tracing = prop_oneof![Just(Tracing::default()), tracing()];
    (tracing, option::of(access_logging()))
        .prop_map(|(tracing, access_log)| Telemetry { tracing, access_log })
        .boxed()
}

pub(super) fn collector() -> impl Strategy<Value = Collector> {
    let protocol = select(vec![OtlpProtocol::Grpc, OtlpProtocol::HttpProtobuf]);
    ("https?://[a-z]{1,8}:[1-9][0-9]{0,3}", protocol)
        .prop_map(|(endpoint, protocol)| Collector { endpoint, protocol })
}

fn tracing() -> impl Strategy<Value = Tracing> {
    (fraction(), any::<bool>(), any::<bool>(), vec(tag(), 0..=2))
        .prop_map(|(sampling, reporting, errors, tags)| Tracing { sampling, reporting, errors, tags })
}

fn tag() -> impl Strategy<Value = Tag> {
    let fallback = || option::of(".{0,6}");
    let value = prop_oneof![
        ".{0,6}".prop_map(TagValue::Literal),
        (header_name(), fallback())
            .prop_map(|(name, default)| TagValue::Header { name: name.as_str().to_owned(), default }),
        ("[A-Z_]{1,6}", fallback()).prop_map(|(name, default)| TagValue::Environment { name, default }),
    ];
    ("[a-z.]{1,8}", value).prop_map(|(name, value)| Tag { name, value })
}

fn access_logging() -> impl Strategy<Value = AccessLogging> {
    let sink = select(vec![LogSink::Configured, LogSink::Text, LogSink::Json, LogSink::Otlp]);
    (vec(sink, 0..=2), option::of(filter())).prop_map(|(sinks, filter)| AccessLogging { sinks, filter })
}

/// Any filter of the access log.
pub fn filter() -> impl Strategy<Value = LogFilter> {
    let leaf = prop_oneof![
        (comparison(), any::<u16>()).prop_map(|(comparison, value)| LogFilter::Status(comparison, value)),
        (comparison(), any::<u16>()).prop_map(|(comparison, value)| LogFilter::GrpcStatus(comparison, value)),
        (comparison(), any::<u64>())
            .prop_map(|(comparison, value)| LogFilter::DurationMillis(comparison, value)),
        select(vec![LogFilter::Flagged, LogFilter::Secured, LogFilter::Outbound, LogFilter::Inbound]),
        "[A-Z]{0,6}".prop_map(LogFilter::Method),
        ".{0,6}".prop_map(LogFilter::PathIs),
        ".{0,6}".prop_map(LogFilter::PathStartsWith),
        ".{0,6}".prop_map(LogFilter::PathContains),
        ".{0,6}".prop_map(LogFilter::HostIs),
        fraction().prop_map(LogFilter::Sampled),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..=3).prop_map(LogFilter::All),
            vec(inner.clone(), 0..=3).prop_map(LogFilter::Any),
            inner.prop_map(|filter| LogFilter::Not(Box::new(filter))),
        ]
    })
}

fn comparison() -> impl Strategy<Value = Comparison> {
    select(vec![
        Comparison::Equal,
        Comparison::NotEqual,
        Comparison::Less,
        Comparison::AtMost,
        Comparison::Greater,
        Comparison::AtLeast,
    ])
}
