//! What a proxy tells of its traffic, from policy to protobuf.

use pillion_policy::telemetry::{
    AccessLogging, Collector, Comparison, LogFilter, LogSink, OtlpProtocol, Tag, TagValue, Telemetry, Tracing,
};

use super::unless;
use crate::pillion as wire;

pub(super) fn collector(collector: &Collector) -> wire::Collector {
    let protocol = match collector.protocol {
        OtlpProtocol::Grpc => wire::OtlpProtocol::Grpc,
        OtlpProtocol::HttpProtobuf => wire::OtlpProtocol::HttpProtobuf,
    };
    wire::Collector { endpoint: collector.endpoint.clone(), protocol: protocol.into() }
}

/// Nothing where all is as it is without a word.
pub(super) fn telemetry(telemetry: &Telemetry) -> Option<wire::Telemetry> {
    let Telemetry { tracing, access_log } = telemetry;
    let telemetry = wire::Telemetry {
        tracing: Some(self::tracing(tracing)).filter(|tracing| *tracing != wire::Tracing::default()),
        access_log: access_log.as_ref().map(access_logging),
    };
    unless(telemetry, wire::Telemetry::default())
}

fn tracing(tracing: &Tracing) -> wire::Tracing {
    let default = Tracing::default();
    wire::Tracing {
        sampling: unless(tracing.sampling, default.sampling).map(Into::into),
        reporting: unless(tracing.reporting, default.reporting),
        errors: unless(tracing.errors, default.errors),
        tags: tracing.tags.iter().map(tag).collect(),
    }
}

fn tag(tag: &Tag) -> wire::Tag {
    use wire::tag::Value;
    let source = |name: &String, default: &Option<String>| wire::TagSource {
        name: name.clone(),
        fallback: default.clone(),
    };
    let value = match &tag.value {
        TagValue::Literal(text) => Value::Literal(text.clone()),
        TagValue::Header { name, default } => Value::Header(source(name, default)),
        TagValue::Environment { name, default } => Value::Environment(source(name, default)),
    };
    wire::Tag { name: tag.name.clone(), value: Some(value) }
}

fn access_logging(logging: &AccessLogging) -> wire::AccessLogging {
    let sink = |sink: &LogSink| match sink {
        LogSink::Configured => wire::LogSink::Configured,
        LogSink::Text => wire::LogSink::Text,
        LogSink::Json => wire::LogSink::Json,
        LogSink::Otlp => wire::LogSink::Otlp,
    };
    wire::AccessLogging {
        sinks: logging.sinks.iter().map(|entry| sink(entry).into()).collect(),
        filter: logging.filter.as_ref().map(filter),
    }
}

fn filter(filter: &LogFilter) -> wire::LogFilter {
    use wire::log_filter::Filter;
    let filters =
        |filters: &[LogFilter]| wire::LogFilters { filters: filters.iter().map(self::filter).collect() };
    let has = |having: wire::LogTrait| Filter::Has(having.into());
    let filter = match filter {
        LogFilter::All(all) => Filter::All(filters(all)),
        LogFilter::Any(any) => Filter::Any(filters(any)),
        LogFilter::Not(inner) => Filter::Not(Box::new(self::filter(inner))),
        LogFilter::Status(comparison, status) => Filter::Status(test(*comparison, (*status).into())),
        LogFilter::GrpcStatus(comparison, status) => Filter::GrpcStatus(test(*comparison, (*status).into())),
        LogFilter::DurationMillis(comparison, millis) => Filter::DurationMillis(test(*comparison, *millis)),
        LogFilter::Flagged => has(wire::LogTrait::Flagged),
        LogFilter::Secured => has(wire::LogTrait::Secured),
        LogFilter::Outbound => has(wire::LogTrait::Outbound),
        LogFilter::Inbound => has(wire::LogTrait::Inbound),
        LogFilter::Method(method) => Filter::Method(method.clone()),
        LogFilter::PathIs(path) => Filter::PathIs(path.clone()),
        LogFilter::PathStartsWith(prefix) => Filter::PathStartsWith(prefix.clone()),
        LogFilter::PathContains(text) => Filter::PathContains(text.clone()),
        LogFilter::HostIs(host) => Filter::HostIs(host.clone()),
        LogFilter::Sampled(share) => Filter::Sampled(share.parts_per_million()),
    };
    wire::LogFilter { filter: Some(filter) }
}

fn test(comparison: Comparison, value: u64) -> wire::NumberTest {
    let comparison = match comparison {
        Comparison::Equal => wire::Comparison::Equal,
        Comparison::NotEqual => wire::Comparison::NotEqual,
        Comparison::Less => wire::Comparison::Less,
        Comparison::AtMost => wire::Comparison::AtMost,
        Comparison::Greater => wire::Comparison::Greater,
        Comparison::AtLeast => wire::Comparison::AtLeast,
    };
    wire::NumberTest { comparison: comparison.into(), value }
}
