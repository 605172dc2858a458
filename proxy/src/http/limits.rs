//! What a caller is told about limits, in header fields.
//!
//! `RateLimit-Limit`, `-Remaining` and `-Reset` are those of draft-ietf-httpapi-ratelimit-headers-07, the last ones
//! that clients of today read; `RateLimit-Policy` says over which time the limit holds. Times are whole seconds, rounded
//! up, so that who comes back then is not too early; `Retry-After` is at least one.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};
use pillion_policy::resilience::RateLimit;

use crate::error::ProxyError;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Tells who was let through how much of his budget is left.
pub fn allowed(limit: &RateLimit, remaining: u32, reset: Duration, headers: &mut HeaderMap) {
    budget(limit.requests, limit.per, remaining, reset, headers);
}

/// Tells who was refused when to come back, where the refusal has an end that is known.
pub fn refused(error: &ProxyError, headers: &mut HeaderMap) {
    let retry_after = match error {
        ProxyError::BreakerOpen { retry_after, .. } => retry_after,
        ProxyError::RateLimited { requests, per, retry_after, reset, .. } => {
            budget(*requests, *per, 0, *reset, headers);
            retry_after
        }
        _ => return,
    };
    headers.insert(RETRY_AFTER, HeaderValue::from(seconds(*retry_after).max(1)));
}

fn budget(requests: u32, per: Duration, remaining: u32, reset: Duration, headers: &mut HeaderMap) {
    let requests = HeaderValue::from(requests);
    let window = HeaderValue::from(seconds(per));
    let policy = [requests.as_bytes(), b";w=", window.as_bytes()].concat();
    if let Ok(policy) = HeaderValue::from_maybe_shared(bytes::Bytes::from(policy)) {
        headers.insert(POLICY, policy);
    }
    headers.insert(LIMIT, requests);
    headers.insert(REMAINING, HeaderValue::from(remaining));
    headers.insert(RESET, HeaderValue::from(seconds(reset)));
}

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(headers: &HeaderMap) -> Vec<(&str, &str)> {
        let mut all: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn those_let_through_know_what_is_left() {
        let limit = RateLimit { name: "a".into(), requests: 100, per: Duration::from_secs(900), key: None };
        let mut headers = HeaderMap::new();
        allowed(&limit, 99, Duration::from_secs(9), &mut headers);
        let expected = [
            ("ratelimit-limit", "100"),
            ("ratelimit-policy", "100;w=900"),
            ("ratelimit-remaining", "99"),
            ("ratelimit-reset", "9"),
        ];
        assert_eq!(text(&headers), expected);
    }

    #[test]
    fn those_refused_know_when_to_come_back() {
        let mut headers = HeaderMap::new();
        let limited = ProxyError::RateLimited {
            limit: "a".into(),
            requests: 10,
            per: Duration::from_millis(1500),
            retry_after: Duration::from_millis(150),
            reset: Duration::from_millis(1001),
        };
        refused(&limited, &mut headers);
        let expected = [
            ("ratelimit-limit", "10"),
            ("ratelimit-policy", "10;w=2"),
            ("ratelimit-remaining", "0"),
            ("ratelimit-reset", "2"),
            ("retry-after", "1"),
        ];
        assert_eq!(text(&headers), expected);

        for (retry_after, expected) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (30_000, "30")] {
            let mut headers = HeaderMap::new();
            let retry_after = Duration::from_millis(retry_after);
            refused(&ProxyError::BreakerOpen { breaker: "a".into(), retry_after }, &mut headers);
            assert_eq!(text(&headers), [("retry-after", expected)]);
        }
    }

    #[test]
    fn other_answers_stay_as_they_are() {
        let mut headers = HeaderMap::new();
        refused(&ProxyError::Draining, &mut headers);
        assert!(headers.is_empty());
    }
}
