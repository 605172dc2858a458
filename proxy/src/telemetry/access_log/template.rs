//! A line as a template says.
//!
//! What there is not is printed as `-`. Whatever a client sends, a line stays one line: control characters, quotes and
//! backslashes of values are escaped.

use std::{fmt::Write as _, time::Duration};

use http::{HeaderName, HeaderValue};

use super::{
    Record,
    tries::{millis, summary},
};
use crate::{
    config::{Field, Operator, Part, Piece, Template},
    rt::clock::Rfc3339,
};

/// The line of a record.
pub(super) fn line(template: &Template, record: &Record) -> String {
    let mut line = String::new();
    for piece in &template.pieces {
        match piece {
            Piece::Literal(text) => line.push_str(text),
            Piece::Value(operator, most) => {
                let value = value(operator, record);
                let value = value.as_deref().filter(|value| !value.is_empty()).unwrap_or("-");
                let end =
                    most.and_then(|most| value.char_indices().nth(most)).map_or(value.len(), |(at, _)| at);
                // Writing to a string cannot fail.
                let _infallible = write!(line, "{}", value.get(..end).unwrap_or_default().escape_debug());
            }
        }
    }
    line
}

fn value(operator: &Operator, record: &Record) -> Option<String> {
    match operator {
        Operator::Field(field) => of_field(*field, record),
        Operator::Request(parts) => parts.iter().find_map(|part| match part {
            Part::Method => Some(record.method.to_string()),
            Part::Path => record.path().map(str::to_owned),
            Part::Authority => record.authority().map(str::to_owned),
            Part::RequestId => record.request_id.as_ref().map(text),
            Part::Header(name) => header(name, &record.request_headers),
        }),
        Operator::Response(names) => names.iter().find_map(|name| header(name, &record.response_headers)),
    }
}

fn header(name: &HeaderName, noted: &[(HeaderName, HeaderValue)]) -> Option<String> {
    noted.iter().find(|(noted, _)| noted == name).map(|(_, value)| text(value))
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn of_field(field: Field, record: &Record) -> Option<String> {
    let (outcome, waits) = (&record.outcome, record.waits());
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let whole = |time: Duration| Some(time.as_millis().to_string());
    let part = |time: Option<Duration>| time.map(|time| millis(time).to_string());
    match field {
        Field::StartTime => Some(Rfc3339(record.start).to_string()),
        Field::Protocol => Some(format!("{:?}", record.version)),
        Field::ResponseCode => Some(outcome.status.to_string()),
        Field::ResponseCodeDetails => owned(record.cause.as_deref()),
        Field::ResponseFlags => owned(Some(outcome.flag.as_str())),
        Field::GrpcStatus => outcome.grpc_status.map(|status| status.to_string()),
        Field::Duration => whole(outcome.duration),
        Field::ResponseDuration => record.first_byte.and_then(whole),
        Field::BytesReceived => Some(outcome.request_bytes.to_string()),
        Field::BytesSent => Some(outcome.response_bytes.to_string()),
        Field::UpstreamHost => record.upstream.map(|upstream| upstream.to_string()),
        Field::UpstreamCluster => owned(record.cluster.as_deref()),
        Field::UpstreamRequestAttemptCount => Some(record.attempts.len().to_string()),
        Field::UpstreamTransportFailureReason => {
            let last = record.attempts.last().and_then(|attempt| attempt.error.as_ref());
            last.map(ToString::to_string)
        }
        Field::RouteName => owned(record.route.as_deref()),
        Field::DownstreamRemoteAddress => record.downstream_peer.map(|peer| peer.to_string()),
        Field::DownstreamRemoteAddressWithoutPort => record.downstream_peer.map(|peer| peer.ip().to_string()),
        Field::DownstreamPeerUriSan => owned(record.source.as_ref().map(|identity| identity.uri())),
        Field::UpstreamPeerUriSan => owned(record.destination.as_ref().map(|identity| identity.uri())),
        Field::TraceId => record.trace_id(),
        Field::Direction => owned(Some(record.direction.as_str())),
        Field::Attempts => Some(summary(&record.attempts)),
        Field::NotRetried => owned(record.not_retried),
        Field::QueueDuration => part(waits.queued),
        Field::ConnectDuration => part(waits.connecting),
        Field::TlsDuration => part(waits.securing),
        Field::Audit => owned(record.audit.as_deref()),
    }
}
