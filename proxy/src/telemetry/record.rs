//! What is remembered of a request: the one story that its log line, its spans and its explanation are made of.
//!
//! It is filled as the exchange goes on, without formatting and, but for growing lists, without an allocation: workers keep
//! records and use them again. Whoever wants one when the exchange is over gets a copy to share, see
//! [`super::sinks::Sinks`].

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderName, HeaderValue, Method, Uri, Version, uri::PathAndQuery};
use pillion_policy::identity::Identity;

use super::trace::SpanContext;
use crate::{
    error::{Flag, ProxyError},
    telemetry::requests::Outcome,
};

/// Which way a request went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Direction {
    /// From an app to the sidecar of the same pod.
    #[default]
    Outbound,
    /// To the app, from another pod.
    Inbound,
}

impl Direction {
    /// The direction as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// A request, as far as its log line tells of it. All texts are shared with the request: making one copies no bytes.
#[derive(Debug, Clone)]
pub struct Record {
    /// When its head was read.
    pub start: SystemTime,
    /// Its method.
    pub method: Method,
    /// Its target as the client sent it.
    pub uri: Uri,
    /// Its `Host` header; without one the target's authority is printed.
    pub host: Option<HeaderValue>,
    /// The version the client spoke.
    pub version: Version,
    /// Its `x-request-id`.
    pub request_id: Option<HeaderValue>,
    /// Which way it went.
    pub direction: Direction,
    /// The client's address.
    pub downstream_peer: Option<SocketAddr>,
    /// The rule that matched.
    pub route: Option<Arc<str>>,
    /// The cluster it went to.
    pub cluster: Option<Arc<str>>,
    /// The endpoint it went to.
    pub upstream: Option<SocketAddr>,
    /// Who sent it, where mutual TLS has proved that.
    pub source: Option<Arc<Identity>>,
    /// Whom it was sent to, likewise.
    pub destination: Option<Arc<Identity>>,
    /// How often it was sent again.
    pub repeated: u32,
    /// Why a failed request was not sent again.
    pub not_retried: Option<&'static str>,
    /// Why, in words, where the proxy made the answer.
    pub cause: Option<Box<str>>,
    /// The error that is the cause, as long as nobody has asked for it in words.
    pub error: Option<ProxyError>,
    /// The AUDIT policies that match it, joined by commas.
    pub audit: Option<Box<str>>,
    /// Its place in its trace.
    pub trace: Option<SpanContext>,
    /// Attributes its span takes from its head.
    pub tags: Vec<(Arc<str>, HeaderValue)>,
    /// Every try, in order.
    pub attempts: Vec<Attempt>,
    /// What was decided about it, in order.
    pub events: Vec<Event>,
    /// Fields of the request that somebody wants to tell of.
    pub request_headers: Vec<(HeaderName, HeaderValue)>,
    /// The same of the response.
    pub response_headers: Vec<(HeaderName, HeaderValue)>,
    /// What samples are drawn by, uniform in 0..1,000,000.
    pub dice: u32,
    /// The revision of the policy in force when it came.
    pub policy_revision: u64,
    /// Time from the request's head to the response's.
    pub first_byte: Option<Duration>,
    /// How it ended.
    pub outcome: Outcome,
}

/// One try, as it is remembered.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// When it began, after the request's head.
    pub began: Duration,
    /// How long until there was a response head, or a reason for none.
    pub took: Duration,
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// The status of its response; 0 when there was none.
    pub status: u16,
    /// Its gRPC status, where one was seen in the head.
    pub grpc_status: Option<u8>,
    /// Why there was no response.
    pub error: Option<ProxyError>,
    /// How it got its connection.
    pub waits: Waits,
    /// What became of it.
    pub verdict: Verdict,
    /// The wait before the next try.
    pub backoff: Duration,
    /// Its span.
    pub span_id: [u8; 8],
}

/// How long a try waited for its connection; absent where it did not have to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waits {
    /// In line, for others to give one back or for a place to open one.
    pub queued: Option<Duration>,
    /// For it to be made.
    pub connecting: Option<Duration>,
    /// For it to be secured.
    pub securing: Option<Duration>,
}

/// What became of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The request ended while it was under way.
    Abandoned,
    /// Its response was passed on.
    Final,
    /// It failed, and the request was sent again.
    Retried,
    /// It failed, and the request was not sent again for this reason.
    Stopped(&'static str),
}

/// Something that was decided about a request.
#[derive(Debug, Clone)]
pub struct Event {
    /// When, after the request's head.
    pub at: Duration,
    /// What.
    pub what: Decision,
}

/// What can be decided about a request beside its route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It waited for its destination to be looked up.
    Held(Duration),
    /// A rate limit has refused it.
    RateLimited,
    /// It is delayed because the policy wants that.
    FaultDelay(Duration),
    /// It is failed because the policy wants that.
    FaultAbort,
    /// It is denied, by this policy or because none allows it.
    Denied(Option<Arc<str>>),
    /// Its token is not accepted.
    BadToken,
    /// A breaker is open.
    BreakerOpen(Arc<str>),
    /// It waited in the bulkhead.
    Queued(Duration),
    /// Its outcome had the endpoint ejected.
    Ejected(SocketAddr),
    /// The budget has refused another try.
    BudgetSpent,
    /// The policy's fallback stands in for the error.
    Fallback,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            start: UNIX_EPOCH,
            method: Method::GET,
            uri: Uri::default(),
            host: None,
            version: Version::HTTP_11,
            request_id: None,
            direction: Direction::Outbound,
            downstream_peer: None,
            route: None,
            cluster: None,
            upstream: None,
            source: None,
            destination: None,
            repeated: 0,
            not_retried: None,
            cause: None,
            error: None,
            audit: None,
            trace: None,
            tags: Vec::new(),
            attempts: Vec::new(),
            events: Vec::new(),
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            dice: 0,
            policy_revision: 0,
            first_byte: None,
            outcome: Outcome {
                status: 0,
                flag: Flag::None,
                grpc: false,
                grpc_status: None,
                secured: false,
                duration: Duration::ZERO,
                request_bytes: 0,
                response_bytes: 0,
            },
        }
    }
}

impl Record {
    /// Forgets everything but the memory of its lists.
    pub fn clear(&mut self) {
        let Self { attempts, events, tags, request_headers, response_headers, .. } = self;
        let (attempts, events, tags) = (emptied(attempts), emptied(events), emptied(tags));
        let (request_headers, response_headers) = (emptied(request_headers), emptied(response_headers));
        *self = Self { attempts, events, tags, request_headers, response_headers, ..Self::default() };
    }

    /// The story, for others to keep: nothing in it holds on to the buffer its request was read into, which would have to
    /// be replaced for the next one.
    pub fn detached(&mut self) -> Self {
        let mut told = std::mem::take(self);
        let Self { uri, host, request_id, tags, request_headers, response_headers, .. } = &mut told;
        *uri = copy_of_uri(uri);
        let fields = request_headers.iter_mut().chain(response_headers).map(|(_, value)| value);
        let values = host.iter_mut().chain(request_id).chain(tags.iter_mut().map(|(_, value)| value));
        values.chain(fields).for_each(|value| *value = copy_of(value));
        told
    }

    /// A try begins, `began` after the request's head.
    pub fn attempt(&mut self, endpoint: SocketAddr, began: Duration) {
        self.upstream = Some(endpoint);
        self.attempts.push(Attempt {
            began,
            took: Duration::ZERO,
            endpoint,
            status: 0,
            grpc_status: None,
            error: None,
            waits: Waits::default(),
            verdict: Verdict::Abandoned,
            backoff: Duration::ZERO,
            span_id: [0; 8],
        });
    }

    /// The try under way, or the last one.
    pub fn last_attempt(&mut self) -> Option<&mut Attempt> {
        self.attempts.last_mut()
    }

    /// Something is decided, `at` after the request's head.
    pub fn event(&mut self, at: Duration, what: Decision) {
        self.events.push(Event { at, what });
    }

    /// Completes the record.
    pub fn finish(&mut self, outcome: &Outcome) {
        self.outcome = *outcome;
        if let Some(last) = self.attempts.last_mut()
            && last.verdict == Verdict::Abandoned
        {
            last.took = outcome.duration.saturating_sub(last.began);
        }
    }

    /// How the last try got its connection.
    pub fn waits(&self) -> Waits {
        self.attempts.last().map_or_else(Waits::default, |attempt| attempt.waits)
    }

    /// Its trace, in hexadecimal.
    pub fn trace_id(&self) -> Option<String> {
        self.trace.map(|trace| String::from_utf8_lossy(&trace.trace_id_text()).into_owned())
    }

    /// The host the request was for.
    pub fn authority(&self) -> Option<&str> {
        let host = self.host.as_ref().and_then(|host| host.to_str().ok());
        host.or_else(|| self.uri.authority().map(http::uri::Authority::as_str))
    }

    /// The id of the request; what of it is no UTF-8 is replaced.
    pub fn request_id(&self) -> Option<Cow<'_, str>> {
        let id = self.request_id.as_ref()?.as_bytes();
        // Nearly always UTF-8, for which there is a shorter way than the lossy one.
        Some(str::from_utf8(id).map_or_else(|_| String::from_utf8_lossy(id), Cow::Borrowed))
    }

    /// Its path with the query; `*` for `OPTIONS *`, nothing for `CONNECT`.
    pub fn path(&self) -> Option<&str> {
        self.uri.path_and_query().map(PathAndQuery::as_str)
    }
}

/// The same value in memory of its own.
fn copy_of(value: &HeaderValue) -> HeaderValue {
    let Ok(mut copy) = HeaderValue::from_bytes(value.as_bytes()) else { return value.clone() };
    copy.set_sensitive(value.is_sensitive());
    copy
}

/// The same target in memory of its own.
fn copy_of_uri(uri: &Uri) -> Uri {
    let copy = match uri.path_and_query() {
        Some(path) if uri.authority().is_none() => PathAndQuery::try_from(path.as_str()).ok().map(Uri::from),
        _ => Uri::try_from(uri.to_string()).ok(),
    };
    copy.unwrap_or_else(|| uri.clone())
}

/// The list without what it holds; its memory is kept.
fn emptied<T>(list: &mut Vec<T>) -> Vec<T> {
    let mut list = std::mem::take(list);
    list.clear();
    list
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_others_keep_is_the_same_and_holds_no_buffer() {
        for target in ["/a%20b?c=d", "*", "http://user@shop:80/a?b", "shop:443", "/"] {
            let head = Bytes::from(format!("{target} shop id tag noted").into_bytes());
            let part = |from: usize, to: usize| {
                let start = target.len() + 1;
                HeaderValue::from_maybe_shared(head.slice(start + from..start + to)).unwrap()
            };
            let mut record = Record {
                uri: Uri::from_maybe_shared(head.slice(..target.len())).unwrap(),
                host: Some(part(0, 4)),
                request_id: Some(part(5, 7)),
                tags: vec![("tag".into(), part(8, 11))],
                request_headers: vec![(http::header::ACCEPT, part(12, 17))],
                response_headers: vec![(http::header::SERVER, part(12, 17))],
                ..Record::default()
            };
            let before = record.clone();
            let told = record.detached();
            assert_eq!(told.uri, before.uri);
            assert_eq!((&told.host, &told.request_id), (&before.host, &before.request_id));
            assert_eq!(told.tags, before.tags);
            assert_eq!(told.request_headers, before.request_headers);
            assert_eq!(told.response_headers, before.response_headers);
            drop((record, before));
            assert!(head.is_unique(), "{target}");
        }
    }
}
