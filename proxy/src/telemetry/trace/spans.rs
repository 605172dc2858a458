//! The spans of a request: one for the exchange, below it one for each try, with what was decided as events.
//!
//! Names and attributes follow OpenTelemetry's semantic conventions for HTTP and RPC
//! (<https://opentelemetry.io/docs/specs/semconv/>); what is Pillion's own begins with `pillion.`. Outbound the exchange is
//! a client span and its tries are the client spans the callee hangs below; inbound it is a server span, which the
//! application hangs below, and tries are told only where there is more to say than that there was one. Queries are never
//! told: there may be secrets in them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Method, Version};
use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    trace::v1::{
        Span, Status,
        span::{Event, SpanKind},
        status::StatusCode,
    },
};

use super::{SpanContext, tracer::is_error};
use crate::telemetry::{
    otlp::attribute::{fraction, number, size, text},
    record::{Attempt, Decision, Direction, Record, Verdict},
};

/// A span's parent is known to be remote, or known not to be (OTLP `SpanFlags`).
const KNOWN_PARENT: u32 = 0x100;
const REMOTE_PARENT: u32 = 0x200;

/// Appends the spans of a record, if it has a place in a trace.
pub(super) fn tell(record: &Record, tags: &[KeyValue], spans: &mut Vec<Span>) {
    let Some(context) = record.trace.filter(SpanContext::is_own) else { return };
    spans.push(exchange(record, &context, tags));
    if is_plain(record) {
        return;
    }
    for (index, one) in record.attempts.iter().enumerate() {
        spans.push(attempt(record, &context, (index, one), tags));
    }
}

/// Whether an inbound request went to the application once and was answered: the exchange says all there is to say.
fn is_plain(record: &Record) -> bool {
    match (record.direction, record.attempts.as_slice()) {
        (Direction::Inbound, [only]) => only.verdict != Verdict::Abandoned && only.error.is_none(),
        _ => false,
    }
}

fn exchange(record: &Record, context: &SpanContext, tags: &[KeyValue]) -> Span {
    let outcome = &record.outcome;
    let parent = if context.parent.is_some() { REMOTE_PARENT } else { 0 };
    let is_server = record.direction == Direction::Inbound;
    let start = nanos(record.start);
    let mut attributes = tags.to_vec();
    for (name, value) in &record.tags {
        attributes.push(text(name, &String::from_utf8_lossy(value.as_bytes())));
    }
    asked(record, is_server, &mut attributes);
    answered(record, &mut attributes);
    known(record, &mut attributes);
    let failure = failure(record, is_server);
    if let Some(kind) = &failure {
        attributes.push(text("error.type", kind));
    }
    Span {
        trace_id: context.trace_id.to_vec(),
        span_id: context.span_id.to_vec(),
        parent_span_id: context.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
        flags: u32::from(context.sampled) | KNOWN_PARENT | parent,
        name: match &record.route {
            Some(route) => format!("{} {route}", method(&record.method)),
            None => method(&record.method).to_owned(),
        },
        kind: if is_server { SpanKind::Server } else { SpanKind::Client }.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: after(start, outcome.duration),
        attributes,
        events: record.events.iter().map(|event| decision(start, event.at, &event.what)).collect(),
        status: failure.map(|_| failed(record.cause.as_deref())),
        ..Span::default()
    }
}

/// What was asked for.
fn asked(record: &Record, is_server: bool, attributes: &mut Vec<KeyValue>) {
    let name = method(&record.method);
    attributes.push(text("http.request.method", name));
    if name == OTHER {
        attributes.push(text("http.request.method_original", record.method.as_str()));
    }
    let path = record.path().map(|path| path.split('?').next().unwrap_or_default());
    if let Some(path) = path {
        attributes.push(text("url.path", path));
    }
    attributes.push(text("url.scheme", "http"));
    if let Some(authority) = record.authority() {
        let (host, port) = host_and_port(authority);
        attributes.push(text("server.address", host));
        attributes.extend(port.map(|port| number("server.port", port)));
    }
    attributes.push(text("network.protocol.name", "http"));
    if let Some(version) = version(record.version) {
        attributes.push(text("network.protocol.version", version));
    }
    if let Some(peer) = record.downstream_peer {
        attributes
            .push(text(if is_server { "client.address" } else { "source.address" }, &peer.ip().to_string()));
    }
    if record.outcome.grpc {
        attributes.push(text("rpc.system", "grpc"));
        // The path of a call is `/service/method`.
        if let Some((service, method)) = path.and_then(|path| path.strip_prefix('/')?.rsplit_once('/')) {
            attributes.extend([text("rpc.service", service), text("rpc.method", method)]);
        }
    }
}

/// What came of it.
fn answered(record: &Record, attributes: &mut Vec<KeyValue>) {
    let outcome = &record.outcome;
    if outcome.status != 0 {
        attributes.push(number("http.response.status_code", outcome.status));
    }
    if let Some(status) = outcome.grpc_status {
        attributes.push(number("rpc.grpc.status_code", status));
    }
    attributes.push(size("http.request.body.size", outcome.request_bytes));
    attributes.push(size("http.response.body.size", outcome.response_bytes));
    if outcome.flag != crate::error::Flag::None {
        attributes.push(text("pillion.flag", outcome.flag.as_str()));
    }
    for (name, value) in [
        ("pillion.cause", record.cause.as_deref()),
        ("pillion.not_retried", record.not_retried),
        ("pillion.audit", record.audit.as_deref()),
    ] {
        attributes.extend(value.map(|value| text(name, value)));
    }
    if record.repeated > 0 {
        attributes.push(number("pillion.retries", record.repeated));
    }
}

/// What the proxy knows about it.
fn known(record: &Record, attributes: &mut Vec<KeyValue>) {
    let id = record.request_id();
    for (name, value) in [
        ("pillion.direction", Some(record.direction.as_str())),
        ("pillion.request_id", id.as_deref()),
        ("pillion.route", record.route.as_deref()),
        ("pillion.cluster", record.cluster.as_deref()),
        ("pillion.source.principal", record.source.as_ref().map(|identity| identity.uri())),
        ("pillion.destination.principal", record.destination.as_ref().map(|identity| identity.uri())),
    ] {
        attributes.extend(value.map(|value| text(name, value)));
    }
    attributes.push(size("pillion.policy_revision", record.policy_revision));
}

fn attempt(
    record: &Record,
    context: &SpanContext,
    (index, attempt): (usize, &Attempt),
    tags: &[KeyValue],
) -> Span {
    let start = after(nanos(record.start), attempt.began);
    // The response of the last try goes on after its head.
    let length = match attempt.verdict {
        Verdict::Final if attempt.error.is_none() => record.outcome.duration.saturating_sub(attempt.began),
        _ => attempt.took,
    };
    let mut attributes = tags.to_vec();
    attributes.extend([
        text("http.request.method", method(&record.method)),
        text("network.peer.address", &attempt.endpoint.ip().to_string()),
        number("network.peer.port", attempt.endpoint.port()),
        size("pillion.attempt", u64::try_from(index).unwrap_or(u64::MAX).saturating_add(1)),
    ]);
    if index > 0 {
        attributes.push(size("http.request.resend_count", u64::try_from(index).unwrap_or(u64::MAX)));
    }
    if attempt.status != 0 {
        attributes.push(number("http.response.status_code", attempt.status));
        attributes.push(fraction("pillion.first_byte_ms", millis(attempt.took)));
    }
    if let Some(status) = attempt.grpc_status {
        attributes.push(number("rpc.grpc.status_code", status));
    }
    attributes.extend(record.cluster.as_deref().map(|cluster| text("pillion.cluster", cluster)));
    let waits = &attempt.waits;
    for (name, wait) in [
        ("pillion.queue_ms", waits.queued),
        ("pillion.connect_ms", waits.connecting),
        ("pillion.tls_ms", waits.securing),
    ] {
        attributes.extend(wait.map(|wait| fraction(name, millis(wait))));
    }
    attributes.push(text("pillion.verdict", verdict(attempt.verdict)));
    match attempt.verdict {
        Verdict::Retried => attributes.push(fraction("pillion.backoff_ms", millis(attempt.backoff))),
        Verdict::Stopped(reason) => attributes.push(text("pillion.not_retried", reason)),
        Verdict::Abandoned | Verdict::Final => {}
    }
    let cause = attempt.error.as_ref().map(crate::error::ProxyError::in_full);
    let failure = match &attempt.error {
        Some(error) => Some(error.flag().as_str().to_owned()),
        None => bad_status(attempt.status, attempt.grpc_status, false),
    };
    attributes.extend(failure.as_ref().map(|kind| text("error.type", kind)));
    attributes.extend(cause.as_ref().map(|cause| text("pillion.cause", cause)));
    let is_server = record.direction == Direction::Inbound;
    Span {
        trace_id: context.trace_id.to_vec(),
        span_id: attempt.span_id.to_vec(),
        parent_span_id: context.span_id.to_vec(),
        flags: u32::from(context.sampled) | KNOWN_PARENT,
        name: "attempt".to_owned(),
        kind: if is_server { SpanKind::Internal } else { SpanKind::Client }.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: after(start, length),
        attributes,
        status: failure.map(|_| failed(cause.as_deref())),
        ..Span::default()
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Abandoned => "abandoned",
        Verdict::Final => "final",
        Verdict::Retried => "retried",
        Verdict::Stopped(_) => "not retried",
    }
}

/// What kind of failure a request is, if it is one: the proxy's own by their flag, the application's by their status.
fn failure(record: &Record, is_server: bool) -> Option<String> {
    let outcome = &record.outcome;
    if is_error(outcome.flag) {
        return Some(outcome.flag.as_str().to_owned());
    }
    bad_status(outcome.status, outcome.grpc_status, is_server)
}

/// By the conventions, clients fail by any error, servers by their own.
fn bad_status(status: u16, grpc_status: Option<u8>, is_server: bool) -> Option<String> {
    /// Unknown, deadline exceeded, unimplemented, internal, unavailable, data loss.
    const OF_SERVER: [u8; 6] = [2, 4, 12, 13, 14, 15];
    let bad_grpc = grpc_status.filter(|status| *status != 0 && (!is_server || OF_SERVER.contains(status)));
    let bad = (status >= if is_server { 500 } else { 400 }).then_some(status);
    bad_grpc.map(|status| status.to_string()).or_else(|| bad.map(|status| status.to_string()))
}

fn failed(cause: Option<&str>) -> Status {
    Status { code: StatusCode::Error.into(), message: cause.unwrap_or_default().to_owned() }
}

fn decision(start: u64, at: Duration, what: &Decision) -> Event {
    let (name, attributes) = match what {
        Decision::Held(wait) => ("held", vec![fraction("pillion.wait_ms", millis(*wait))]),
        Decision::RateLimited => ("rate_limited", vec![]),
        Decision::FaultDelay(delay) => ("fault_delay", vec![fraction("pillion.wait_ms", millis(*delay))]),
        Decision::FaultAbort => ("fault_abort", vec![]),
        Decision::Denied(Some(policy)) => ("denied", vec![text("pillion.policy", policy)]),
        Decision::Denied(None) => ("denied", vec![]),
        Decision::BadToken => ("bad_token", vec![]),
        Decision::BreakerOpen(breaker) => ("breaker_open", vec![text("pillion.breaker", breaker)]),
        Decision::Queued(wait) => ("queued", vec![fraction("pillion.wait_ms", millis(*wait))]),
        Decision::Ejected(endpoint) => ("ejected", vec![text("pillion.endpoint", &endpoint.to_string())]),
        Decision::BudgetSpent => ("budget_spent", vec![]),
        Decision::Fallback => ("fallback", vec![]),
    };
    Event {
        time_unix_nano: after(start, at),
        name: format!("pillion.{name}"),
        attributes,
        ..Event::default()
    }
}

/// What stands for a method nobody knows: names of spans must not be what clients make up.
const OTHER: &str = "_OTHER";

fn method(method: &Method) -> &str {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::DELETE
        | Method::CONNECT
        | Method::OPTIONS
        | Method::TRACE
        | Method::PATCH => method.as_str(),
        _ => OTHER,
    }
}

fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        _ => None,
    }
}

/// Brackets of an IPv6 address are no part of it.
fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn nanos(time: SystemTime) -> u64 {
    after(0, time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn after(start: u64, time: Duration) -> u64 {
    start.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
