//! How long an exchange may take: the time the rule gives, or the time a gRPC caller gives, whichever ends first.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The end of an exchange, and the limit that set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// When it is over.
    pub at: Instant,
    /// How long that is from the start.
    pub limit: Duration,
}

/// Fixes the deadline of an exchange that began at `start`.
pub fn fix(start: Instant, rule: Option<Duration>, grpc: bool, headers: &HeaderMap) -> Option<Deadline> {
    let caller = if grpc { caller(headers) } else { None };
    let limit = match (rule, caller) {
        (Some(rule), Some(caller)) => rule.min(caller),
        (one, other) => one.or(other)?,
    };
    Some(Deadline { at: start + limit, limit })
}

/// Tells the next hop how much is left, when that is less than it would be told otherwise: because the request has
/// waited here, or because the rule gives less than the caller.
pub fn forward(deadline: Deadline, now: Instant, headers: &mut HeaderMap) {
    let left = deadline.at.saturating_duration_since(now);
    let Some(told) = caller(headers) else { return };
    if told.saturating_sub(left) < Duration::from_millis(1) {
        return;
    }
    // At most eight digits are allowed: milliseconds reach 27 hours, which then is what is told.
    let told = format!("{}m", left.as_millis().clamp(1, 99_999_999));
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(told)) {
        headers.insert(GRPC_TIMEOUT, value);
    }
}

/// Reads `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2, "Timeout"). What cannot be read is no limit.
fn caller(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(timeout: &str) -> HeaderMap {
        HeaderMap::from_iter([(GRPC_TIMEOUT, HeaderValue::from_str(timeout).unwrap())])
    }

    #[test]
    fn the_earlier_limit_holds() {
        let start = Instant::now();
        let limit = |rule, grpc, timeout: &str| fix(start, rule, grpc, &headers(timeout)).map(|it| it.limit);
        let second = Some(Duration::from_secs(1));
        assert_eq!(limit(second, true, "200m"), Some(Duration::from_millis(200)));
        assert_eq!(limit(second, true, "5S"), second);
        assert_eq!(limit(None, true, "1H"), Some(Duration::from_secs(3600)));
        assert_eq!(limit(second, false, "1n"), second);
        for bad in ["", "m", "5", "5x", "123456789m", "-5m", "ü"] {
            let bad =
                HeaderMap::from_iter([(GRPC_TIMEOUT, HeaderValue::from_bytes(bad.as_bytes()).unwrap())]);
            assert_eq!(fix(start, None, true, &bad), None);
        }
    }

    #[test]
    fn what_is_left_is_forwarded() {
        let start = Instant::now();
        let mut headers = headers("200m");
        let deadline = fix(start, None, true, &headers).unwrap();
        forward(deadline, start, &mut headers);
        assert_eq!(headers[GRPC_TIMEOUT], "200m");
        forward(deadline, start + Duration::from_millis(50), &mut headers);
        assert_eq!(headers[GRPC_TIMEOUT], "150m");
        let less = fix(start, Some(Duration::from_millis(90)), true, &headers).unwrap();
        forward(less, start, &mut headers);
        assert_eq!(headers[GRPC_TIMEOUT], "90m", "the rule gives less than the caller");
    }
}
