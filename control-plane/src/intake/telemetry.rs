//! What proxies tell of their traffic: what a Telemetry says, in terms of the policy model.
//!
//! The list of entries of one object is made one statement per direction here. What the model cannot say apart (two filters
//! for two sinks of one direction) becomes the wider of both and is reported: rather too much is logged than too little.

mod filter;

use std::collections::BTreeMap;

use pillion_policy::{
    header,
    ratio::Fraction,
    telemetry::{LogFilter, LogSink, Tag, TagValue},
};

use super::authentication::targeted;
use crate::{
    api::{self, WorkloadMode},
    naming::is_root,
    object::{Key, LogSettings, LogWanted, Scope, Silenced, Telemetry, TracingSettings},
    problem::{Report, unknown},
};

/// The names by which logs can be sent somewhere. `envoy` is the one that every mesh of Istio has.
const LOG_PROVIDERS: [(&str, LogSink); 5] = [
    ("envoy", LogSink::Configured),
    ("text", LogSink::Text),
    ("json", LogSink::Json),
    ("otel", LogSink::Otlp),
    ("otlp", LogSink::Otlp),
];
/// The names of the one place to which spans are sent: the collector.
const TRACE_PROVIDERS: [&str; 2] = ["otel", "otlp"];
/// Most tags of one object: each is on every span.
const MAX_TAGS: usize = 32;

/// Reads a Telemetry.
pub(super) fn read(spec: &api::Telemetry, key: &Key, report: &mut Report) -> Telemetry {
    let mut scope = targeted(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs, report);
    if is_root(&key.namespace) && matches!(scope, Scope::Labels(_)) {
        report.field("selector", |report| {
            report.warn(format!("not used: {} has settings for the whole mesh only", key.namespace));
        });
        scope = Scope::Nobody;
    }
    if spec.tracing.is_empty() && spec.access_logging.is_empty() {
        report.info("it says nothing about traces or access logs: those of the next wider one count");
    }
    let tracing = report.field("tracing", |report| tracing(&spec.tracing, report));
    let logging = report.field("accessLogging", |report| {
        for (index, entry) in spec.access_logging.iter().enumerate() {
            report.item(index, |report| sinks(&entry.providers, report));
        }
        let filters = filters(&spec.access_logging, report);
        let [sent, received] = [WorkloadMode::Client, WorkloadMode::Server]
            .map(|side| log_settings(&spec.access_logging, &filters, side, report));
        if let (Some(sent), Some(received)) = (&sent.wanted, &received.wanted)
            && sent.sinks != received.sinks
        {
            report.warn(
                "accepted, not enforced yet: other providers for CLIENT than for SERVER (both log to all)",
            );
        }
        [sent, received]
    });
    Telemetry { scope, tracing, logging }
}

/// Whether an entry is for traffic that goes this way.
fn is_for(selector: Option<api::TelemetryMatch>, side: WorkloadMode) -> bool {
    let mode = selector.unwrap_or_default().mode;
    mode == WorkloadMode::ClientAndServer || mode == side
}

/// Later entries of one object add to earlier ones, as in Istio.
fn tracing(given: &[api::Tracing], report: &mut Report) -> TracingSettings {
    let mut settings = TracingSettings::default();
    for (index, entry) in given.iter().enumerate() {
        report.item(index, |report| {
            if !is_for(entry.selector, WorkloadMode::Client) || !is_for(entry.selector, WorkloadMode::Server)
            {
                report.field("match", |report| {
                    report.warn("accepted, not enforced yet: the entry is for requests of both directions");
                });
            }
            report.field("providers", |report| {
                if entry.providers.len() > 1 {
                    report.error("only one provider can be given");
                }
                for (index, provider) in entry.providers.iter().enumerate() {
                    if !TRACE_PROVIDERS.contains(&provider.name.as_str()) {
                        report
                            .item(index, |report| unknown_provider(&provider.name, &TRACE_PROVIDERS, report));
                    }
                }
            });
            if let Some(percent) = entry.random_sampling_percentage {
                let share = report.field("randomSamplingPercentage", |report| {
                    report.accept(Fraction::from_percent(percent))
                });
                settings.sampling = share.or(settings.sampling);
            }
            if let Some(disabled) = entry.disable_span_reporting {
                settings.reporting = Some(!disabled);
            }
            let tags = report.field("customTags", |report| tags(&entry.custom_tags, report));
            if !tags.is_empty() {
                settings.tags = tags;
            }
        });
    }
    settings
}

fn unknown_provider(name: &str, known: &[&str], report: &mut Report) {
    let reason = unknown("provider", name, known.iter().copied());
    let known = known.join(", ");
    let reason =
        format!("{reason}; known: {known} (where they send to is the control plane's --otlp-endpoint)");
    report.field("name", |report| report.error(reason));
}

fn tags(given: &BTreeMap<String, api::CustomTag>, report: &mut Report) -> Vec<Tag> {
    if given.len() > MAX_TAGS {
        report.error(format!("{} tags are too many, the most is {MAX_TAGS}", given.len()));
    }
    let tags = given.iter().filter_map(|(name, tag)| {
        report.field(name, |report| {
            if name.is_empty() {
                report.error("a tag needs a name");
            }
            Some(Tag { name: name.clone(), value: tag_value(tag, report)? })
        })
    });
    tags.collect()
}

fn tag_value(given: &api::CustomTag, report: &mut Report) -> Option<TagValue> {
    let default = |origin: &api::TagOrigin| origin.default_value.clone().filter(|text| !text.is_empty());
    match (&given.literal, &given.header, &given.environment) {
        (Some(literal), None, None) => Some(TagValue::Literal(literal.value.clone())),
        (None, Some(origin), None) => {
            let name = report.field("header", |report| {
                report.field("name", |report| report.accept(header::name(&origin.name)))
            });
            name.map(|name| TagValue::Header { name: name.as_str().to_owned(), default: default(origin) })
        }
        (None, None, Some(origin)) => {
            if origin.name.is_empty() || origin.name.contains(['=', '\0']) {
                let reason = format!("{:?} is not the name of a variable", origin.name);
                report.field("environment", |report| report.field("name", |report| report.error(reason)));
            }
            Some(TagValue::Environment { name: origin.name.clone(), default: default(origin) })
        }
        (None, None, None) => {
            report.warn("it has no value: one of literal, header and environment");
            None
        }
        _ => {
            report.error("only one of literal, header and environment can be given");
            None
        }
    }
}

/// The sinks that the names of providers stand for.
fn sinks(providers: &[api::ProviderRef], report: &mut Report) -> Vec<LogSink> {
    let known = LOG_PROVIDERS.map(|(name, _)| name);
    report.field("providers", |report| {
        let mut sinks = Vec::new();
        for (index, provider) in providers.iter().enumerate() {
            match sink(provider) {
                Some(sink) if sinks.contains(&sink) => {}
                Some(sink) => sinks.push(sink),
                None => report.item(index, |report| unknown_provider(&provider.name, &known, report)),
            }
        }
        sinks
    })
}

fn sink(provider: &api::ProviderRef) -> Option<LogSink> {
    LOG_PROVIDERS.iter().find(|(name, _)| *name == provider.name).map(|(_, sink)| *sink)
}

/// The filter of every entry, in their order.
fn filters(given: &[api::AccessLogging], report: &mut Report) -> Vec<Option<LogFilter>> {
    let filters = given.iter().enumerate().map(|(index, entry)| {
        report.item(index, |report| {
            let filter = entry.filter.as_ref()?;
            report.field("filter", |report| {
                if entry.disabled {
                    report.warn("not used: nothing is logged");
                }
                report.field("expression", |report| report.accept(filter::parse(&filter.expression)))
            })
        })
    });
    filters.collect()
}

/// What the entries say about traffic that goes one way.
fn log_settings(
    given: &[api::AccessLogging],
    filters: &[Option<LogFilter>],
    side: WorkloadMode,
    report: &mut Report,
) -> LogSettings {
    let mut settings = LogSettings::default();
    for (index, (entry, filter)) in given.iter().zip(filters).enumerate() {
        if !is_for(entry.selector, side) {
            continue;
        }
        let own: Vec<LogSink> = entry.providers.iter().filter_map(sink).collect();
        if entry.disabled {
            settings.silenced = match settings.silenced {
                _ if own.is_empty() => Silenced::All,
                Silenced::All => Silenced::All,
                Silenced::Sinks(sinks) => Silenced::Sinks(sinks.into_iter().chain(own).collect()),
                Silenced::Nothing => Silenced::Sinks(own),
            };
            continue;
        }
        match &mut settings.wanted {
            None => settings.wanted = Some(LogWanted { sinks: own, filter: filter.clone() }),
            Some(wanted) => {
                if wanted.filter != *filter {
                    report.item(index, |report| {
                        report.warn(
                            "accepted, not enforced yet: a filter of its own (what passes any entry's filter is logged \
                             to the providers of all)",
                        );
                    });
                }
                wanted.filter = wanted.filter.take().zip(filter.clone()).map(|(a, b)| either(a, b));
                wanted.sinks.extend(own);
            }
        }
    }
    if let Some(wanted) = &mut settings.wanted {
        let mut seen = Vec::new();
        wanted.sinks.retain(|sink| {
            !seen.contains(sink) && {
                seen.push(*sink);
                true
            }
        });
    }
    settings
}

fn either(one: LogFilter, other: LogFilter) -> LogFilter {
    match one {
        one if one == other => one,
        LogFilter::Any(mut any) => {
            any.push(other);
            LogFilter::Any(any)
        }
        one => LogFilter::Any(vec![one, other]),
    }
}

#[cfg(test)]
mod tests;
