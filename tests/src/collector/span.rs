//! A span as tests and the demo look at it.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{self as wire, status::StatusCode},
};

/// One span with its resource.
#[derive(Debug, Clone, Default)]
pub struct Span {
    /// `service.name` of its resource.
    pub service: String,
    /// The attributes of its resource.
    pub resource: BTreeMap<String, String>,
    /// The trace, in hexadecimal.
    pub trace_id: String,
    /// The span, in hexadecimal.
    pub span_id: String,
    /// Its parent; empty for the root.
    pub parent: String,
    /// `tracestate` as it came.
    pub trace_state: String,
    /// Its name.
    pub name: String,
    /// `client`, `server`, `internal` and so on.
    pub kind: &'static str,
    /// When it began, in nanoseconds since 1970.
    pub start: u64,
    /// How long it took.
    pub duration: Duration,
    /// Its attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// Its events: name and attributes.
    pub events: Vec<(String, BTreeMap<String, String>)>,
    /// Whether its status is an error.
    pub is_error: bool,
}

impl Span {
    pub(super) fn read(span: &wire::Span, resource: &BTreeMap<String, String>) -> Self {
        let kind = match span.kind() {
            wire::span::SpanKind::Unspecified => "unspecified",
            wire::span::SpanKind::Internal => "internal",
            wire::span::SpanKind::Server => "server",
            wire::span::SpanKind::Client => "client",
            wire::span::SpanKind::Producer => "producer",
            wire::span::SpanKind::Consumer => "consumer",
        };
        Self {
            service: resource.get("service.name").cloned().unwrap_or_default(),
            resource: resource.clone(),
            trace_id: hex(&span.trace_id),
            span_id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            trace_state: span.trace_state.clone(),
            name: span.name.clone(),
            kind,
            start: span.start_time_unix_nano,
            duration: Duration::from_nanos(span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano)),
            attributes: attributes(&span.attributes),
            events: span
                .events
                .iter()
                .map(|event| (event.name.clone(), attributes(&event.attributes)))
                .collect(),
            is_error: span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error),
        }
    }

    /// An attribute, empty if there is none.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    /// Whether it has an event of that name.
    pub fn has_event(&self, name: &str) -> bool {
        self.events.iter().any(|(event, _)| event == name)
    }
}

/// Attributes as text.
pub(super) fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let value = |attribute: &KeyValue| attribute.value.as_ref().map(text).unwrap_or_default();
    attributes.iter().map(|attribute| (attribute.key.clone(), value(attribute))).collect()
}

/// A value as text.
pub(super) fn text(value: &AnyValue) -> String {
    match &value.value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BytesValue(bytes)) => hex(bytes),
        Some(Value::ArrayValue(list)) => list.values.iter().map(text).collect::<Vec<_>>().join(","),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

/// An id as people write it.
pub(super) fn hex(id: &[u8]) -> String {
    id.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
