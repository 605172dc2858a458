//! What went wrong with a try, in the terms retry policies are written in.
//!
//! A response or an error satisfies any number of conditions at once, as in Envoy: a refused connection is a
//! `connect-failure`, and because it will become a 503 it is a `reset`, a `gateway-error` and a `5xx`, too. Whether a
//! policy asks for one of them is for [`super::retry`] to say. Failures that are nobody's but ours are none at all.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, StatusCode, header::RETRY_AFTER};
use pillion_policy::retry::{Retry, RetryOn, RetrySet};

use super::attempt::Progress;
use crate::{error::ProxyError, upstream::outcome::Outcome};

/// The word of a sidecar to its peer about a failure: `unsent` when the application has not seen the request, `no`
/// when someone nearer to the failure has repeated it already.
pub const PEER_SAYS: HeaderName = HeaderName::from_static("x-pillion-retry");
/// Marks answers of a proxy that is over its limits (Envoy's); they are not repeated.
pub const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
/// Marks answers of a rate limit (Envoy's).
pub const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// The longest wait a server may ask for.
const MAX_HINT: Duration = Duration::from_secs(300);

/// A try that did not go well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trouble {
    /// Every condition it satisfies.
    pub is: RetrySet,
    /// Whether it is certain that the application has not seen the request.
    pub unsent: bool,
    /// What the server asks for.
    pub hint: Hint,
}

/// When a server wants to see a request again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// It does not say.
    None,
    /// Not before this time has passed.
    After(Duration),
    /// Not at all: it said so.
    Never,
    /// Not at all: it or someone behind it is over a limit.
    Overloaded,
    /// Not from here: it was repeated further on.
    Repeated,
}

const RESET: RetrySet = RetrySet::of(&[RetryOn::Status5xx, RetryOn::GatewayError, RetryOn::Reset]);
const UNCONNECTED: RetrySet = RESET.with(RetryOn::ConnectFailure).with(RetryOn::ResetBeforeRequest);

/// What an error of a try means; `None` when no repetition could help.
pub fn failure(error: &ProxyError, progress: Progress) -> Option<Trouble> {
    let is = match (error, progress) {
        (
            ProxyError::ConnectFailed { .. }
            | ProxyError::ConnectTimeout { .. }
            | ProxyError::Handshake { .. },
            _,
        ) => UNCONNECTED,
        (
            ProxyError::UpstreamClosed { .. }
            | ProxyError::UpstreamReset { .. }
            | ProxyError::UpstreamProtocol { .. }
            | ProxyError::ResponseTooLarge { .. }
            | ProxyError::TryTimeout { .. },
            progress,
        ) => match progress {
            Progress::Unsent => RESET.with(RetryOn::ResetBeforeRequest),
            Progress::Unprocessed => RESET.with(RetryOn::RefusedStream),
            Progress::Sent => RESET,
        },
        _ => return None,
    };
    let unsent = is.meets(RetrySet::SAFE);
    Some(Trouble { is, unsent, hint: Hint::None })
}

/// What a response means; `None` when nothing is wrong with it. `grpc` is its gRPC status, from the head or from
/// trailers that came with it; `now` is what an HTTP date is compared with.
pub fn response(
    policy: &Retry,
    status: StatusCode,
    headers: &HeaderMap,
    grpc: Option<u8>,
    now: impl FnOnce() -> SystemTime,
) -> Option<Trouble> {
    let is_fine = status.as_u16() < 400 && grpc.is_none_or(|grpc| grpc == 0);
    if is_fine && policy.statuses.is_empty() && policy.headers.is_empty() {
        return None;
    }
    let peer = headers.get(PEER_SAYS).filter(|_| !is_fine).map(http::HeaderValue::as_bytes);
    let mut is = conditions(policy, status, headers, grpc);
    let unsent = peer == Some(b"unsent");
    if unsent {
        is = UNCONNECTED;
    }
    if is.is_empty() {
        return None;
    }
    let limited = headers.contains_key(RATE_LIMITED) && !policy.on.has(RetryOn::RateLimited);
    let hint = if peer == Some(b"no") {
        Hint::Repeated
    } else if limited || headers.contains_key(OVERLOADED) {
        Hint::Overloaded
    } else {
        hint(status, headers, grpc, now())
    };
    Some(Trouble { is, unsent, hint })
}

fn conditions(policy: &Retry, status: StatusCode, headers: &HeaderMap, grpc: Option<u8>) -> RetrySet {
    let mut is = RetrySet::NONE;
    let mut add = |condition: bool, on: RetryOn| {
        if condition {
            is = is.with(on);
        }
    };
    let code = status.as_u16();
    add(status.is_server_error(), RetryOn::Status5xx);
    add(matches!(code, 502..=504), RetryOn::GatewayError);
    add(code == 409, RetryOn::Retriable4xx);
    add(policy.statuses.contains(&code), RetryOn::RetriableStatusCodes);
    add(policy.headers.iter().any(|name| headers.contains_key(name)), RetryOn::RetriableHeaders);
    add(headers.contains_key(RATE_LIMITED), RetryOn::RateLimited);
    match grpc {
        Some(1) => add(true, RetryOn::Cancelled),
        Some(4) => add(true, RetryOn::DeadlineExceeded),
        Some(8) => add(true, RetryOn::ResourceExhausted),
        Some(13) => add(true, RetryOn::Internal),
        Some(14) => add(true, RetryOn::Unavailable),
        Some(_) | None => {}
    }
    is
}

/// `Retry-After` (RFC 9110 §10.2.3) on 429 and 503, and gRPC's pushback, where anything but a number is a no.
fn hint(status: StatusCode, headers: &HeaderMap, grpc: Option<u8>, now: SystemTime) -> Hint {
    if grpc.is_some()
        && let Some(pushback) = headers.get(PUSHBACK)
    {
        let millis = pushback.to_str().ok().and_then(|text| text.parse::<i32>().ok());
        return match millis.and_then(|millis| u64::try_from(millis).ok()) {
            Some(millis) => Hint::After(Duration::from_millis(millis).min(MAX_HINT)),
            None => Hint::Never,
        };
    }
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return Hint::None;
    }
    let Some(text) = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()) else {
        return Hint::None;
    };
    let wait = match text.trim().parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => match httpdate::parse_http_date(text.trim()) {
            Ok(date) => date.duration_since(now).unwrap_or_default(),
            Err(_) => return Hint::None,
        },
    };
    Hint::After(wait.min(MAX_HINT))
}

/// How an error looks to breaker and outlier detection.
pub fn outcome(error: &ProxyError) -> Outcome {
    match error {
        ProxyError::Handshake { refusal, .. } if refusal.is_ours() => Outcome::Cancelled,
        ProxyError::ConnectFailed { .. }
        | ProxyError::ConnectTimeout { .. }
        | ProxyError::Handshake { .. } => Outcome::Unconnected,
        ProxyError::UpstreamClosed { .. }
        | ProxyError::UpstreamReset { .. }
        | ProxyError::UpstreamProtocol { .. }
        | ProxyError::ResponseTooLarge { .. } => Outcome::Broken,
        ProxyError::TryTimeout { .. }
        | ProxyError::Timeout { .. }
        | ProxyError::Idle { of_client: false, .. } => Outcome::TimedOut,
        _ => Outcome::Cancelled,
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::HeaderValue;

    use super::*;

    fn policy(on: &[RetryOn]) -> Retry {
        Retry { on: RetrySet::of(on), statuses: vec![418], ..Retry::SAFE }
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn statuses_satisfy_the_conditions_envoy_gives_them() {
        let is = |status: u16, grpc| {
            let status = StatusCode::from_u16(status).unwrap();
            response(&policy(&[]), status, &HeaderMap::new(), grpc, || UNIX_EPOCH).map(|trouble| trouble.is)
        };
        assert_eq!(is(200, None), None);
        assert_eq!(is(200, Some(0)), None);
        assert_eq!(is(404, None), None);
        assert_eq!(is(500, None), Some(RetrySet::of(&[RetryOn::Status5xx])));
        assert_eq!(is(503, None), Some(RetrySet::of(&[RetryOn::Status5xx, RetryOn::GatewayError])));
        assert_eq!(is(409, None), Some(RetrySet::of(&[RetryOn::Retriable4xx])));
        assert_eq!(is(418, None), Some(RetrySet::of(&[RetryOn::RetriableStatusCodes])));
        for (code, on) in [
            (1, RetryOn::Cancelled),
            (4, RetryOn::DeadlineExceeded),
            (8, RetryOn::ResourceExhausted),
            (13, RetryOn::Internal),
            (14, RetryOn::Unavailable),
        ] {
            assert_eq!(is(200, Some(code)), Some(RetrySet::of(&[on])));
        }
        assert_eq!(is(200, Some(5)), None);
    }

    #[test]
    fn servers_may_say_when_and_whether() {
        let hint = |status: u16, grpc, fields: &[(&'static str, &'static str)]| {
            let status = StatusCode::from_u16(status).unwrap();
            let policy = policy(&[RetryOn::Status5xx]);
            response(&policy, status, &headers(fields), grpc, || UNIX_EPOCH).map(|trouble| trouble.hint)
        };
        let after = |seconds| Some(Hint::After(Duration::from_secs(seconds)));
        assert_eq!(hint(503, None, &[("retry-after", "7")]), after(7));
        assert_eq!(hint(503, None, &[("retry-after", "99999999999")]), after(300));
        assert_eq!(hint(503, None, &[("retry-after", "Thu, 01 Jan 1970 00:00:09 GMT")]), after(9));
        assert_eq!(hint(503, None, &[("retry-after", "soon")]), Some(Hint::None));
        assert_eq!(hint(502, None, &[("retry-after", "7")]), Some(Hint::None), "only 429 and 503");
        assert_eq!(hint(200, Some(14), &[("grpc-retry-pushback-ms", "2000")]), after(2));
        assert_eq!(hint(200, Some(14), &[("grpc-retry-pushback-ms", "-1")]), Some(Hint::Never));
        assert_eq!(hint(200, Some(14), &[("grpc-retry-pushback-ms", "x")]), Some(Hint::Never));
        assert_eq!(hint(503, None, &[("x-envoy-overloaded", "true")]), Some(Hint::Overloaded));
        assert_eq!(hint(503, None, &[("x-envoy-ratelimited", "true")]), Some(Hint::Overloaded));
        assert_eq!(hint(503, None, &[("x-pillion-retry", "no")]), Some(Hint::Repeated));
    }

    #[test]
    fn a_peer_knows_whether_the_application_has_seen_the_request() {
        let fields = headers(&[("x-pillion-retry", "unsent")]);
        let at = |status| response(&Retry::SAFE, status, &fields, None, || UNIX_EPOCH);
        assert!(at(StatusCode::SERVICE_UNAVAILABLE).unwrap().unsent);
        assert_eq!(at(StatusCode::OK), None, "a success is none of its business");
    }

    #[test]
    fn only_what_was_not_processed_is_safe() {
        let endpoint = "127.0.0.1:1".parse().unwrap();
        let closed = ProxyError::UpstreamClosed { endpoint };
        assert!(failure(&closed, Progress::Unsent).unwrap().unsent);
        assert!(failure(&closed, Progress::Unprocessed).unwrap().unsent);
        assert!(!failure(&closed, Progress::Sent).unwrap().unsent);
        let refused = ProxyError::ConnectFailed { endpoint, reason: "refused".into() };
        assert!(failure(&refused, Progress::Unsent).unwrap().is.has(RetryOn::ConnectFailure));
        assert_eq!(failure(&ProxyError::ClientClosed, Progress::Sent), None);
        let timeout = ProxyError::Timeout { after: Duration::ZERO };
        assert_eq!(failure(&timeout, Progress::Sent), None, "the time is over for all tries");
    }
}
