//! The forms of an access log line: text for people, JSON for machines, and what a template says.
//!
//! Whatever a client sends, a line stays one line: control characters, quotes and backslashes are escaped in both.

use std::{fmt::Write as _, io::Write, net::SocketAddr};

use serde::Serialize;

use super::{
    Record, template,
    tries::{Try, millis, summary},
};
use crate::{config::AccessLogFormat, rt::clock::Rfc3339, telemetry::record::Attempt};

#[derive(Serialize)]
struct Json<'a> {
    start_time: String,
    duration_ms: f64,
    direction: &'static str,
    method: &'a str,
    authority: Option<&'a str>,
    path: Option<&'a str>,
    protocol: String,
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
        AccessLogFormat::Text => lines.extend_from_slice(text(record).as_bytes()),
        AccessLogFormat::Json => json(record, lines),
        AccessLogFormat::Template(template) => {
            lines.extend_from_slice(template::line(template, record).as_bytes());
        }
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
    let request_id = record.request_id.as_ref().map(|id| String::from_utf8_lossy(id.as_bytes()));
    let (outcome, waits) = (&record.outcome, record.waits());
    write(&Json {
        start_time: Rfc3339(record.start).to_string(),
        duration_ms: millis(outcome.duration),
        direction: record.direction.as_str(),
        method: record.method.as_str(),
        authority: record.authority(),
        path: record.path(),
        protocol: format!("{:?}", record.version),
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

/// The line as text.
pub(super) fn text(record: &Record) -> String {
    let outcome = &record.outcome;
    let mut line = format!(
        "[{}] \"{} {} {:?}\" {} {} {} {} {}",
        Rfc3339(record.start),
        record.method,
        record.path().unwrap_or("-").escape_debug(),
        record.version,
        outcome.status,
        outcome.flag.as_str(),
        outcome.request_bytes,
        outcome.response_bytes,
        millis(outcome.duration),
    );
    let request_id = record.request_id.as_ref().map(|id| String::from_utf8_lossy(id.as_bytes()));
    let mut field = |name: &str, value: Option<&str>| {
        // Writing to a string cannot fail.
        let _infallible = match value {
            None => Ok(()),
            Some(value) if plain(value) => write!(line, " {name}={value}"),
            Some(value) => write!(line, " {name}=\"{}\"", value.escape_debug()),
        };
    };
    field("direction", Some(record.direction.as_str()));
    field("authority", record.authority());
    field("route", record.route.as_deref());
    field("cluster", record.cluster.as_deref());
    field("attempts", Some(&record.attempts.len().to_string()));
    field("tries", Some(several(record)).filter(|tries| !tries.is_empty()).map(summary).as_deref());
    field("retries", (record.repeated > 0).then(|| record.repeated.to_string()).as_deref());
    field("not_retried", record.not_retried);
    field("upstream", record.upstream.map(|upstream| upstream.to_string()).as_deref());
    field("peer", record.downstream_peer.map(|peer| peer.to_string()).as_deref());
    field("source_principal", record.source.as_ref().map(|identity| identity.uri()));
    field("destination_principal", record.destination.as_ref().map(|identity| identity.uri()));
    field("id", request_id.as_deref());
    field("trace", record.trace_id().as_deref());
    field("grpc_status", outcome.grpc_status.map(|status| status.to_string()).as_deref());
    let waits = record.waits();
    for (name, wait) in [
        ("queue_ms", waits.queued),
        ("connect_ms", waits.connecting),
        ("tls_ms", waits.securing),
        ("first_byte_ms", record.first_byte),
    ] {
        field(name, wait.map(|wait| millis(wait).to_string()).as_deref());
    }
    field("audit", record.audit.as_deref());
    field("cause", record.cause.as_deref());
    line
}

/// The tries of a request that had several; of a single one the line itself tells everything.
fn several(record: &Record) -> &[Attempt] {
    if record.attempts.len() > 1 { &record.attempts } else { &[] }
}

/// Whether a value can stand without quotes.
fn plain(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}
