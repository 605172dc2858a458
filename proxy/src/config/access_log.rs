//! How the command line says what is logged of requests: where to, in which form, and which.
//!
//! A form is `text`, `json`, or a template in the notation of Envoy's access logs, of which everything is understood that
//! the proxy can tell; what it cannot is refused here, by name. Values of header fields that hold secrets are never logged.

use std::{path::PathBuf, str::FromStr, sync::Arc};

use http::{HeaderName, header};
use pillion_policy::{
    ratio::Fraction,
    telemetry::{Comparison, LogFilter},
};

use super::duration;

/// Most characters of a template, and most pieces it may have.
const MAX_TEMPLATE: usize = 4096;

/// Header fields whose values are secrets.
const SECRETS: [HeaderName; 4] =
    [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE, header::SET_COOKIE];

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Standard output.
    Stdout,
    /// The end of a file.
    File(PathBuf),
}

/// The form of access log lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// Envoy's first fields, then `name=value`.
    Text,
    /// One JSON object per line.
    Json,
    /// As a template says.
    Template(Arc<Template>),
}

/// A line with places for values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// What it is made of, in order.
    pub pieces: Vec<Piece>,
}

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// This text.
    Literal(Box<str>),
    /// A value, cut to so many characters if it is longer.
    Value(Operator, Option<usize>),
}

/// A value a template can ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// One of a fixed set.
    Field(Field),
    /// The first of these request fields that there is.
    Request(Vec<Part>),
    /// The first of these response fields that there is.
    Response(Vec<HeaderName>),
}

/// What a template calls a field of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// `:METHOD`
    Method,
    /// `:PATH`, with the query
    Path,
    /// `:AUTHORITY`, also as `HOST`
    Authority,
    /// `X-REQUEST-ID`
    RequestId,
    /// Another header field.
    Header(HeaderName),
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What a template can name beside header fields.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Field {
            $($(#[$doc])* $name,)*
        }

        impl Field {
            const ALL: &[(&str, Self)] = &[$(($text, Self::$name),)*];
        }
    };
}

fields! {
    /// When its head was read.
    StartTime = "START_TIME",
    /// The version the client spoke.
    Protocol = "PROTOCOL",
    /// The status, 0 for none.
    ResponseCode = "RESPONSE_CODE",
    /// The cause in words, where there is one.
    ResponseCodeDetails = "RESPONSE_CODE_DETAILS",
    /// The flag.
    ResponseFlags = "RESPONSE_FLAGS",
    /// The gRPC status.
    GrpcStatus = "GRPC_STATUS",
    /// Milliseconds from head to end.
    Duration = "DURATION",
    /// Milliseconds from the head of the request to that of the response.
    ResponseDuration = "RESPONSE_DURATION",
    /// Bytes of the request's body.
    BytesReceived = "BYTES_RECEIVED",
    /// Bytes of the response's body.
    BytesSent = "BYTES_SENT",
    /// The endpoint.
    UpstreamHost = "UPSTREAM_HOST",
    /// The cluster.
    UpstreamCluster = "UPSTREAM_CLUSTER",
    /// How many tries there were.
    UpstreamRequestAttemptCount = "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    /// Why the last try brought no response.
    UpstreamTransportFailureReason = "UPSTREAM_TRANSPORT_FAILURE_REASON",
    /// The rule that matched.
    RouteName = "ROUTE_NAME",
    /// The client's address with its port.
    DownstreamRemoteAddress = "DOWNSTREAM_REMOTE_ADDRESS",
    /// The same without the port.
    DownstreamRemoteAddressWithoutPort = "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    /// Who sent it, where that is proved.
    DownstreamPeerUriSan = "DOWNSTREAM_PEER_URI_SAN",
    /// Whom it was sent to, where that is proved.
    UpstreamPeerUriSan = "UPSTREAM_PEER_URI_SAN",
    /// Its trace.
    TraceId = "TRACE_ID",
    /// `outbound` or `inbound`.
    Direction = "DIRECTION",
    /// Every try in short.
    Attempts = "ATTEMPTS",
    /// Why it was not sent again.
    NotRetried = "NOT_RETRIED",
    /// Milliseconds in line for a connection.
    QueueDuration = "QUEUE_DURATION",
    /// Milliseconds to make one.
    ConnectDuration = "CONNECT_DURATION",
    /// Milliseconds to secure it.
    TlsDuration = "TLS_DURATION",
    /// The AUDIT policies that match.
    Audit = "AUDIT",
}

impl Template {
    /// The request fields its lines need beyond what is always known.
    pub fn request_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.operators()
            .flat_map(|operator| match operator {
                Operator::Request(parts) => parts.as_slice(),
                Operator::Field(_) | Operator::Response(_) => &[],
            })
            .filter_map(|part| match part {
                Part::Header(name) => Some(name),
                Part::Method | Part::Path | Part::Authority | Part::RequestId => None,
            })
    }

    /// The response fields its lines need.
    pub fn response_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.operators().flat_map(|operator| match operator {
            Operator::Response(names) => names.as_slice(),
            Operator::Field(_) | Operator::Request(_) => &[],
        })
    }

    fn operators(&self) -> impl Iterator<Item = &Operator> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Value(operator, _) => Some(operator),
            Piece::Literal(_) => None,
        })
    }
}

impl FromStr for AccessLogTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("give a path, or - for standard output".to_owned()),
            "-" => Ok(Self::Stdout),
            path => Ok(Self::File(path.into())),
        }
    }
}

impl FromStr for AccessLogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            template if template.contains('%') => Ok(Self::Template(Arc::new(template.parse()?))),
            _ => Err("write text, json, or a template such as '%START_TIME% %RESPONSE_CODE%'".to_owned()),
        }
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > MAX_TEMPLATE {
            return Err(format!("a template has at most {MAX_TEMPLATE} characters"));
        }
        let mut pieces = Vec::new();
        let mut literal = String::new();
        // A line feed at the end is there anyway.
        let mut rest = text.strip_suffix('\n').unwrap_or(text);
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            if let Some(tail) = after.strip_prefix('%') {
                literal.push('%');
                rest = tail;
                continue;
            }
            let Some((inside, tail)) = after.split_once('%') else {
                return Err(format!("%{after} has no % at its end; a sign by itself is written %%"));
            };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
            }
            let (operator, length) = read(inside)?;
            pieces.push(Piece::Value(operator, length));
            rest = tail;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.into()));
        }
        Ok(Self { pieces })
    }
}

/// Reads what stands between two signs.
fn read(inside: &str) -> Result<(Operator, Option<usize>), String> {
    let (name, argument, length) = match inside.split_once('(') {
        None => (inside, None, ""),
        Some((name, rest)) => {
            let (argument, length) = rest.rsplit_once(')').ok_or(format!("%{inside}% lacks a )"))?;
            (name, Some(argument), length)
        }
    };
    let length = match length {
        "" => None,
        length => {
            let digits = length.strip_prefix(':').unwrap_or_default();
            Some(digits.parse().map_err(|_| format!("%{inside}%: {length:?} is no length, as in :20"))?)
        }
    };
    let operator = match (name, argument) {
        ("REQ", Some(argument)) => Operator::Request(alternatives(argument, inside, part)?),
        ("RESP", Some(argument)) => Operator::Response(alternatives(argument, inside, loggable)?),
        ("REQ" | "RESP", None) => {
            return Err(format!("%{inside}% names no header field, as in %{inside}(X-A)%"));
        }
        (name, None) => Operator::Field(field(name)?),
        (name, Some(_)) => {
            field(name)?;
            return Err(format!("%{inside}%: {name} takes nothing in brackets"));
        }
    };
    Ok((operator, length))
}

fn field(name: &str) -> Result<Field, String> {
    let found = Field::ALL.iter().find(|(text, _)| *text == name).map(|(_, field)| *field);
    found.ok_or_else(|| {
        let known: Vec<&str> = Field::ALL.iter().map(|(text, _)| *text).collect();
        format!("%{name}% is not known here; there are REQ(..), RESP(..), {}", known.join(", "))
    })
}

/// Reads `X` or `X?Y`.
fn alternatives<T>(
    argument: &str,
    inside: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    argument.split('?').map(|name| read(name).map_err(|reason| format!("%{inside}%: {reason}"))).collect()
}

fn part(name: &str) -> Result<Part, String> {
    Ok(match name.to_ascii_lowercase().as_str() {
        ":method" => Part::Method,
        ":path" => Part::Path,
        ":authority" | "host" => Part::Authority,
        "x-request-id" => Part::RequestId,
        other => Part::Header(loggable(other)?),
    })
}

/// A header field whose value may be logged.
fn loggable(name: &str) -> Result<HeaderName, String> {
    let read = HeaderName::try_from(name).map_err(|_| format!("{name:?} is no header field"))?;
    if SECRETS.contains(&read) {
        return Err(format!("{read} holds secrets, which are not logged"));
    }
    Ok(read)
}

/// Reads `errors,slower-than=500ms,sample=1%`: requests for which any of these holds.
pub(super) fn filter(text: &str) -> Result<LogFilter, String> {
    let mut any = text.split(',').map(condition).collect::<Result<Vec<_>, _>>()?;
    Ok(match any.pop() {
        Some(only) if any.is_empty() => only,
        last => {
            any.extend(last);
            LogFilter::Any(any)
        }
    })
}

fn condition(text: &str) -> Result<LogFilter, String> {
    match text.split_once('=') {
        None if text == "errors" => Ok(LogFilter::Any(vec![
            LogFilter::Flagged,
            LogFilter::Status(Comparison::AtLeast, 500),
            LogFilter::GrpcStatus(Comparison::NotEqual, 0),
        ])),
        Some(("slower-than", limit)) => {
            let millis = u64::try_from(duration(limit)?.as_millis()).unwrap_or(u64::MAX);
            Ok(LogFilter::DurationMillis(Comparison::AtLeast, millis))
        }
        Some(("sample", share)) => {
            let wrong = || format!("{share:?} is no share: write 1% or 0.01%");
            let percent =
                share.strip_suffix('%').and_then(|percent| percent.parse().ok()).ok_or_else(wrong)?;
            Ok(LogFilter::Sampled(Fraction::from_percent(percent).map_err(|_| wrong())?))
        }
        _ => Err(format!("{text:?} is no condition: there are errors, slower-than=TIME and sample=PERCENT%")),
    }
}

#[cfg(test)]
mod tests;
