//! What a caller is told about limits, in header fields.
//!
//! `RateLimit-Limit`, `-Remaining` and `-Reset` are those of draft-ietf-httpapi-ratelimit-headers-07, the last ones
//! that clients of today read; `RateLimit-Policy` says over which time the limit holds. Times are whole seconds, rounded
//! up, so that who comes back then is not too early; `Retry-After` is at least one.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};
use pillion_policy::resilience::{RateLimit, RateLimitKey};
use tokio::time::Instant;

use crate::{
    error::ProxyError,
    limit::{Decision, Limiter},
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Takes a request from the budget of whom it counts for.
pub fn ask(
    limiter: &Arc<Limiter>,
    headers: &HeaderMap,
    peer: IpAddr,
    now: Instant,
) -> Result<Allowance, ProxyError> {
    match limiter.check(key(limiter, headers, peer), now) {
        Decision::Allowed { remaining, reset } => {
            Ok(Allowance { limiter: Arc::clone(limiter), remaining, reset })
        }
        Decision::Limited { retry_after, reset } => Err(limiter.refusal(retry_after, reset)),
    }
}

/// Whom a limit counts a request for; `None` where it counts all together.
fn key(limiter: &Limiter, headers: &HeaderMap, peer: IpAddr) -> Option<u64> {
    match limiter.policy().key.as_ref()? {
        RateLimitKey::Header(name) => Some(limiter.hash(headers.get(name).map(HeaderValue::as_bytes))),
        RateLimitKey::Peer => Some(limiter.hash(peer)),
        RateLimitKey::ClientAddress => Some(limiter.hash(client(headers).unwrap_or(peer))),
    }
}

/// The first address of `X-Forwarded-For`: that of the client, as the first proxy has seen it.
fn client(headers: &HeaderMap) -> Option<IpAddr> {
    let first = headers.get(FORWARDED_FOR)?.to_str().ok()?.split(',').next()?.trim();
    first.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// What a limit has left for a client.
#[derive(Debug)]
pub struct Allowance {
    /// The limit.
    pub limiter: Arc<Limiter>,
    /// Requests it lets through at once.
    pub remaining: u32,
    /// How long until all are earned anew.
    pub reset: Duration,
}

impl Allowance {
    /// Tells the client, unless a proxy further on has left it less.
    pub fn tell(&self, headers: &mut HeaderMap) {
        let told = headers.get(REMAINING).and_then(|told| told.to_str().ok()?.parse().ok());
        if told.is_some_and(|told: u32| told < self.remaining) {
            return;
        }
        let RateLimit { requests, per, .. } = self.limiter.policy();
        budget(*requests, *per, self.remaining, self.reset, headers);
    }
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
        let limiter = Arc::new(Limiter::new(&limit));
        Allowance { limiter, remaining: 99, reset: Duration::from_secs(9) }.tell(&mut headers);
        let expected = [
            ("ratelimit-limit", "100"),
            ("ratelimit-policy", "100;w=900"),
            ("ratelimit-remaining", "99"),
            ("ratelimit-reset", "9"),
        ];
        assert_eq!(text(&headers), expected);
    }

    #[test]
    fn the_least_that_is_left_is_told() {
        let limit = RateLimit { name: "a".into(), requests: 100, per: Duration::from_secs(900), key: None };
        let left = |remaining| Allowance {
            limiter: Arc::new(Limiter::new(&limit)),
            remaining,
            reset: Duration::from_secs(9),
        };
        for (further_on, here, told) in [("0", 5, "0"), ("5", 5, "5"), ("7", 5, "5"), ("many", 5, "5")] {
            let mut headers = HeaderMap::from_iter([(REMAINING, HeaderValue::from_static(further_on))]);
            left(here).tell(&mut headers);
            assert_eq!(headers[REMAINING], told);
        }
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
