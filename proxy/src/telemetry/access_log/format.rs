//! The forms of an access log line: text for people, JSON for machines, and what a template says.
//!
//! Whatever a client sends, a line stays one line: control characters, quotes and backslashes are escaped in both.

use std::{io::Write, net::SocketAddr, str};

use serde::Serialize;

use super::{
    Record, append, template,
    tries::{Try, millis, summary},
};
use crate::{config::AccessLogFormat, rt::clock::Rfc3339, telemetry::record::Attempt};

#[derive(Serialize)]
struct Json<'a> {
    start_time: &'a str,
    duration_ms: f64,
    direction: &'static str,
    method: &'a str,
    authority: Option<&'a str>,
    path: Option<&'a str>,
    protocol: &'static str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u8>,
    flags: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<&'a str>,
    attempts: usize,
    /// Where there is more than one to tell of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tries: Vec<Try>,
    #[serde(skip_serializing_if = "is_zero")]
    retries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_retried: Option<&'static str>,
    route: Option<&'a str>,
    cluster: Option<&'a str>,
    upstream: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_principal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_principal: Option<&'a str>,
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    request_bytes: u64,
    response_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_byte_ms: Option<f64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Appends the line of a record.
pub(super) fn write(format: &AccessLogFormat, record: &Record, lines: &mut Vec<u8>) {
    match format {
        AccessLogFormat::Text => text(record, lines),
        AccessLogFormat::Json => json(record, lines),
        AccessLogFormat::Template(template) => template::line(template, record, lines),
    }
    lines.push(b'\n');
}

fn json(record: &Record, lines: &mut Vec<u8>) {
    if let Err(error) = told(record, |line| serde_json::to_writer(lines.by_ref(), line)) {
        tracing::debug!(%error, "an access log line could not be made");
    }
}

/// The fields of the line in JSON; of a record that cannot be told there are none.
pub(super) fn fields(record: &Record) -> serde_json::Value {
    told(record, |line| serde_json::to_value(line)).unwrap_or_default()
}

/// Hands the fields of a line to whoever writes them.
fn told<T>(record: &Record, write: impl FnOnce(&Json<'_>) -> T) -> T {
    let request_id = record.request_id();
    let (outcome, waits, start) = (&record.outcome, record.waits(), Rfc3339(record.start).text());
    write(&Json {
        start_time: str::from_utf8(&start).unwrap_or_default(),
        duration_ms: millis(outcome.duration),
        direction: record.direction.as_str(),
        method: record.method.as_str(),
        authority: record.authority(),
        path: record.path(),
        protocol: append::version(record.version),
        status: outcome.status,
        grpc_status: outcome.grpc_status,
        flags: outcome.flag.as_str(),
        attempts: record.attempts.len(),
        tries: several(record).iter().map(Try::of).collect(),
        retries: record.repeated,
        not_retried: record.not_retried,
        cause: record.cause.as_deref(),
        audit: record.audit.as_deref(),
        route: record.route.as_deref(),
        cluster: record.cluster.as_deref(),
        upstream: record.upstream,
        peer: record.downstream_peer,
        source_principal: record.source.as_ref().map(|identity| identity.uri()),
        destination_principal: record.destination.as_ref().map(|identity| identity.uri()),
        request_id: request_id.as_deref(),
        trace_id: record.trace_id(),
        request_bytes: outcome.request_bytes,
        response_bytes: outcome.response_bytes,
        queue_ms: waits.queued.map(millis),
        connect_ms: waits.connecting.map(millis),
        tls_ms: waits.securing.map(millis),
        first_byte_ms: record.first_byte.map(millis),
    })
}

/// Appends the line as text.
pub(super) fn text(record: &Record, line: &mut Vec<u8>) {
    let outcome = &record.outcome;
    line.push(b'[');
    line.extend_from_slice(&Rfc3339(record.start).text());
    line.extend_from_slice(b"] \"");
    line.extend_from_slice(record.method.as_str().as_bytes());
    line.push(b' ');
    append::escaped(record.path().unwrap_or("-"), line);
    line.push(b' ');
    line.extend_from_slice(append::version(record.version).as_bytes());
    line.extend_from_slice(b"\" ");
    append::number(outcome.status, line);
    line.push(b' ');
    line.extend_from_slice(outcome.flag.as_str().as_bytes());
    for bytes in [outcome.request_bytes, outcome.response_bytes] {
        line.push(b' ');
        append::number(bytes, line);
    }
    line.push(b' ');
    append::millis(outcome.duration, line);
    field(" direction=", Some(record.direction.as_str()), line);
    field(" authority=", record.authority(), line);
    field(" route=", record.route.as_deref(), line);
    field(" cluster=", record.cluster.as_deref(), line);
    value(" attempts=", Some(record.attempts.len()), append::number, line);
    field(" tries=", Some(several(record)).filter(|tries| !tries.is_empty()).map(summary).as_deref(), line);
    value(" retries=", Some(record.repeated).filter(|retries| *retries > 0), append::number, line);
    field(" not_retried=", record.not_retried, line);
    value(" upstream=", record.upstream, append::address, line);
    value(" peer=", record.downstream_peer, append::address, line);
    field(" source_principal=", record.source.as_ref().map(|identity| identity.uri()), line);
    field(" destination_principal=", record.destination.as_ref().map(|identity| identity.uri()), line);
    field(" id=", record.request_id().as_deref(), line);
    value(" trace=", record.trace, |trace, line| line.extend_from_slice(&trace.trace_id_text()), line);
    value(" grpc_status=", outcome.grpc_status, append::number, line);
    let waits = record.waits();
    for (name, wait) in [
        (" queue_ms=", waits.queued),
        (" connect_ms=", waits.connecting),
        (" tls_ms=", waits.securing),
        (" first_byte_ms=", record.first_byte),
    ] {
        value(name, wait, append::millis, line);
    }
    field(" audit=", record.audit.as_deref(), line);
    field(" cause=", record.cause.as_deref(), line);
}

/// Appends a text behind its name, with quotes where it takes them, if there is one.
fn field(name: &str, text: Option<&str>, line: &mut Vec<u8>) {
    value(name, text, quoted, line);
}

/// Appends a value behind its name, if there is one.
fn value<T>(name: &str, value: Option<T>, append: impl FnOnce(T, &mut Vec<u8>), line: &mut Vec<u8>) {
    let Some(value) = value else { return };
    line.extend_from_slice(name.as_bytes());
    append(value, line);
}

fn quoted(text: &str, line: &mut Vec<u8>) {
    if append::are_plain(text.as_bytes()) {
        line.extend_from_slice(text.as_bytes());
        return;
    }
    line.push(b'"');
    append::escaped(text, line);
    line.push(b'"');
}

/// The tries of a request that had several; of a single one the line itself tells everything.
fn several(record: &Record) -> &[Attempt] {
    if record.attempts.len() > 1 { &record.attempts } else { &[] }
}
