//! A line as a template says.
//!
//! What there is not is printed as `-`. Whatever a client sends, a line stays one line: control characters, quotes and
//! backslashes of values are escaped.

use http::{HeaderName, HeaderValue};

use super::{Record, append, tries::summary};
use crate::{
    config::{Field, Operator, Part, Piece, Template},
    rt::clock::Rfc3339,
};

/// Appends the line of a record.
pub(super) fn line(template: &Template, record: &Record, line: &mut Vec<u8>) {
    for piece in &template.pieces {
        match piece {
            Piece::Literal(text) => line.extend_from_slice(text.as_bytes()),
            Piece::Value(operator, most) => {
                let start = line.len();
                value(operator, record, line);
                settle(start, *most, line);
            }
        }
    }
}

/// Makes of the bytes from `start` on what may stand in a line: `-` for none, no more characters than wanted, escaped.
fn settle(start: usize, most: Option<usize>, line: &mut Vec<u8>) {
    let value = line.get(start..).unwrap_or_default();
    if value.is_empty() {
        line.push(b'-');
    } else if most.is_some_and(|most| most < value.len()) || !append::are_harmless(value) {
        let value = String::from_utf8_lossy(value);
        let end = most.and_then(|most| value.char_indices().nth(most)).map_or(value.len(), |(at, _)| at);
        let value = value.get(..end).unwrap_or_default().to_owned();
        line.truncate(start);
        append::escaped(&value, line);
    }
}

fn value(operator: &Operator, record: &Record, line: &mut Vec<u8>) {
    let bytes = match operator {
        Operator::Field(field) => return of_field(*field, record, line),
        Operator::Request(parts) => parts.iter().find_map(|part| match part {
            Part::Method => Some(record.method.as_str().as_bytes()),
            Part::Path => record.path().map(str::as_bytes),
            Part::Authority => record.authority().map(str::as_bytes),
            Part::RequestId => record.request_id.as_ref().map(HeaderValue::as_bytes),
            Part::Header(name) => header(name, &record.request_headers),
        }),
        Operator::Response(names) => names.iter().find_map(|name| header(name, &record.response_headers)),
    };
    line.extend_from_slice(bytes.unwrap_or_default());
}

fn header<'a>(name: &HeaderName, noted: &'a [(HeaderName, HeaderValue)]) -> Option<&'a [u8]> {
    noted.iter().find(|(noted, _)| noted == name).map(|(_, value)| value.as_bytes())
}

/// Appends a value, or nothing where there is none.
fn of_field(field: Field, record: &Record, line: &mut Vec<u8>) {
    let (outcome, waits) = (&record.outcome, record.waits());
    let owned;
    let text = match field {
        Field::StartTime => {
            line.extend_from_slice(&Rfc3339(record.start).text());
            None
        }
        Field::Protocol => Some(append::version(record.version)),
        Field::ResponseCode => given(Some(outcome.status), append::number, line),
        Field::ResponseCodeDetails => record.cause.as_deref(),
        Field::ResponseFlags => Some(outcome.flag.as_str()),
        Field::GrpcStatus => given(outcome.grpc_status, append::number, line),
        Field::Duration => given(Some(outcome.duration.as_millis()), append::number, line),
        Field::ResponseDuration => {
            given(record.first_byte.map(|time| time.as_millis()), append::number, line)
        }
        Field::BytesReceived => given(Some(outcome.request_bytes), append::number, line),
        Field::BytesSent => given(Some(outcome.response_bytes), append::number, line),
        Field::UpstreamHost => given(record.upstream, append::address, line),
        Field::UpstreamCluster => record.cluster.as_deref(),
        Field::UpstreamRequestAttemptCount => given(Some(record.attempts.len()), append::number, line),
        Field::UpstreamTransportFailureReason => {
            let last = record.attempts.last().and_then(|attempt| attempt.error.as_ref());
            owned = last.map(ToString::to_string);
            owned.as_deref()
        }
        Field::RouteName => record.route.as_deref(),
        Field::DownstreamRemoteAddress => given(record.downstream_peer, append::address, line),
        Field::DownstreamRemoteAddressWithoutPort => {
            given(record.downstream_peer.map(|peer| peer.ip()), append::ip, line)
        }
        Field::DownstreamPeerUriSan => record.source.as_ref().map(|identity| identity.uri()),
        Field::UpstreamPeerUriSan => record.destination.as_ref().map(|identity| identity.uri()),
        Field::TraceId => {
            given(record.trace, |trace, line| line.extend_from_slice(&trace.trace_id_text()), line)
        }
        Field::Direction => Some(record.direction.as_str()),
        Field::Attempts => {
            owned = Some(summary(&record.attempts));
            owned.as_deref()
        }
        Field::NotRetried => record.not_retried,
        Field::QueueDuration => given(waits.queued, append::millis, line),
        Field::ConnectDuration => given(waits.connecting, append::millis, line),
        Field::TlsDuration => given(waits.securing, append::millis, line),
        Field::Audit => record.audit.as_deref(),
    };
    line.extend_from_slice(text.unwrap_or_default().as_bytes());
}

/// Appends what there is, as it is; there is no text left to append.
fn given<T>(
    value: Option<T>,
    append: impl FnOnce(T, &mut Vec<u8>),
    line: &mut Vec<u8>,
) -> Option<&'static str> {
    if let Some(value) = value {
        append(value, line);
    }
    None
}
