//! What a proxy tells of its traffic, from protobuf to policy.
//!
//! Nothing of it changes what becomes of a request, so nothing of it may cost a proxy the rest of its policy: what a newer
//! control plane says and this reader does not know is left out. Rather too much is logged than too little: a filter with
//! an unknown part lets everything through, and unknown sinks alone stand for the one of the command line.

use pillion_policy::{
    Invalid,
    ratio::Fraction,
    telemetry::{
        AccessLogging, Collector, Comparison, LogFilter, LogSink, OtlpProtocol, Tag, TagValue, Telemetry,
        Tracing,
    },
};

use super::fraction;
use crate::pillion as wire;

/// None where the protocol is not known.
pub(super) fn collector(collector: wire::Collector) -> Option<Collector> {
    let protocol = match wire::OtlpProtocol::try_from(collector.protocol).ok()? {
        wire::OtlpProtocol::Grpc => OtlpProtocol::Grpc,
        wire::OtlpProtocol::HttpProtobuf => OtlpProtocol::HttpProtobuf,
    };
    Some(Collector { endpoint: collector.endpoint, protocol })
}

pub(super) fn telemetry(telemetry: wire::Telemetry) -> Result<Telemetry, Invalid> {
    let tracing = tracing(telemetry.tracing.unwrap_or_default());
    Ok(Telemetry {
        tracing: tracing.map_err(|invalid| invalid.within("tracing"))?,
        access_log: telemetry.access_log.map(access_logging),
    })
}

fn tracing(tracing: wire::Tracing) -> Result<Tracing, Invalid> {
    let default = Tracing::default();
    let sampling = tracing.sampling.map(|parts| fraction("sampling", parts)).transpose()?;
    Ok(Tracing {
        sampling: sampling.unwrap_or(default.sampling),
        reporting: tracing.reporting.unwrap_or(default.reporting),
        errors: tracing.errors.unwrap_or(default.errors),
        tags: tracing.tags.into_iter().filter_map(tag).collect(),
    })
}

fn tag(tag: wire::Tag) -> Option<Tag> {
    use wire::tag::Value;
    let value = match tag.value? {
        Value::Literal(text) => TagValue::Literal(text),
        Value::Header(source) => TagValue::Header { name: source.name, default: source.fallback },
        Value::Environment(source) => TagValue::Environment { name: source.name, default: source.fallback },
    };
    Some(Tag { name: tag.name, value })
}

fn access_logging(logging: wire::AccessLogging) -> AccessLogging {
    let sink = |sink: i32| {
        Some(match wire::LogSink::try_from(sink).ok()? {
            wire::LogSink::Configured => LogSink::Configured,
            wire::LogSink::Text => LogSink::Text,
            wire::LogSink::Json => LogSink::Json,
            wire::LogSink::Otlp => LogSink::Otlp,
        })
    };
    let silent = logging.sinks.is_empty();
    let mut sinks: Vec<_> = logging.sinks.into_iter().filter_map(sink).collect();
    if sinks.is_empty() && !silent {
        sinks.push(LogSink::Configured);
    }
    AccessLogging { sinks, filter: logging.filter.and_then(filter) }
}

/// None where any part of it is not known: half a filter would mean something else.
fn filter(filter: wire::LogFilter) -> Option<LogFilter> {
    use wire::log_filter::Filter;
    let all =
        |filters: wire::LogFilters| filters.filters.into_iter().map(self::filter).collect::<Option<_>>();
    Some(match filter.filter? {
        Filter::All(filters) => LogFilter::All(all(filters)?),
        Filter::Any(filters) => LogFilter::Any(all(filters)?),
        Filter::Not(inner) => LogFilter::Not(Box::new(self::filter(*inner)?)),
        Filter::Status(test) => LogFilter::Status(comparison(&test)?, test.value.try_into().ok()?),
        Filter::GrpcStatus(test) => LogFilter::GrpcStatus(comparison(&test)?, test.value.try_into().ok()?),
        Filter::DurationMillis(test) => LogFilter::DurationMillis(comparison(&test)?, test.value),
        Filter::Has(having) => match wire::LogTrait::try_from(having).ok()? {
            wire::LogTrait::Flagged => LogFilter::Flagged,
            wire::LogTrait::Secured => LogFilter::Secured,
            wire::LogTrait::Outbound => LogFilter::Outbound,
            wire::LogTrait::Inbound => LogFilter::Inbound,
        },
        Filter::Method(method) => LogFilter::Method(method),
        Filter::PathIs(path) => LogFilter::PathIs(path),
        Filter::PathStartsWith(prefix) => LogFilter::PathStartsWith(prefix),
        Filter::PathContains(text) => LogFilter::PathContains(text),
        Filter::HostIs(host) => LogFilter::HostIs(host),
        Filter::Sampled(parts) => LogFilter::Sampled(Fraction::from_parts_per_million(parts).ok()?),
    })
}

fn comparison(test: &wire::NumberTest) -> Option<Comparison> {
    Some(match wire::Comparison::try_from(test.comparison).ok()? {
        wire::Comparison::Equal => Comparison::Equal,
        wire::Comparison::NotEqual => Comparison::NotEqual,
        wire::Comparison::Less => Comparison::Less,
        wire::Comparison::AtMost => Comparison::AtMost,
        wire::Comparison::Greater => Comparison::Greater,
        wire::Comparison::AtLeast => Comparison::AtLeast,
    })
}

#[cfg(test)]
mod tests;
