//! When a failed request is repeated, how long is waited, and how much repeating a destination may be asked to bear.

use std::time::Duration;

use http::HeaderName;
use serde::{Deserialize, Serialize};

use crate::{Invalid, header, ratio::Fraction};

/// When and how a failed try is repeated. A rule without one repeats up to twice what certainly has not reached the
/// application: failed connects, refused and unprocessed streams, and resets before the request was sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retry {
    /// How often a request may be repeated after its first try; 0 turns repeating off. Default 1.
    pub attempts: u32,
    /// Which failures are repeated; default [`RetrySet::SAFE`].
    pub on: RetrySet,
    /// Statuses that are repeated when `on` has [`RetryOn::RetriableStatusCodes`].
    pub statuses: Vec<u16>,
    /// Response headers that ask for a repetition when `on` has [`RetryOn::RetriableHeaders`].
    #[serde(with = "header::names_text")]
    pub headers: Vec<HeaderName>,
    /// Time for one try, from its start to the head of its response; the deadline of the whole request holds, too.
    pub per_try_timeout: Option<Duration>,
    /// How long is waited before each repetition.
    pub backoff: Backoff,
    /// Whether requests that are not idempotent (RFC 9110 §9.2.2) and carry no `Idempotency-Key` are repeated although
    /// they may have reached the application.
    pub non_idempotent: bool,
    /// Whether endpoints already tried are avoided while there are others; default yes.
    pub avoid_previous: bool,
}

/// A kind of failure that may be repeated: Envoy's `retry_on` and `retry_grpc_on` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetryOn {
    /// Statuses 500 to 599, or no response at all.
    Status5xx,
    /// 502, 503 and 504, or no response at all.
    GatewayError,
    /// No response: disconnected, reset, or a try out of time.
    Reset,
    /// No response, and the request was not sent yet.
    ResetBeforeRequest,
    /// No connection.
    ConnectFailure,
    /// A stream the peer has not looked at.
    RefusedStream,
    /// 409.
    Retriable4xx,
    /// The statuses listed.
    RetriableStatusCodes,
    /// The headers listed.
    RetriableHeaders,
    /// Responses with `x-envoy-ratelimited`, which are never repeated otherwise.
    RateLimited,
    /// gRPC status 1.
    Cancelled,
    /// gRPC status 4.
    DeadlineExceeded,
    /// gRPC status 8.
    ResourceExhausted,
    /// gRPC status 13.
    Internal,
    /// gRPC status 14.
    Unavailable,
}

/// A set of [`RetryOn`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct RetrySet(u16);

/// Waits between tries. Before the repetition number `n` the nominal wait is `base · multiplier^(n−1)`, at most `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Backoff {
    /// First wait; default 25 ms.
    pub base: Duration,
    /// Longest wait; default 250 ms.
    pub max: Duration,
    /// Growth in thousandths; default 2000.
    pub multiplier_thousandths: u32,
    /// How the wait is spread.
    pub jitter: Jitter,
}

/// How waits are spread, so that callers who failed together do not come back together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Jitter {
    /// Envoy's: uniform in 0 to `base · (2^n − 1)`, at most `max`; the multiplier is not used.
    #[default]
    Full,
    /// Uniform in the upper half of the nominal wait.
    Half,
    /// Uniform from the nominal wait to half as much again (the Gateway API forbids shorter waits).
    Above,
}

/// How many repetitions are allowed in relation to the traffic of a cluster. What is denied is answered with the
/// failure that would have been repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum RetryBudget {
    /// Over the last `interval`, repetitions are at most `share` of the requests, or `min_per_second` a second if that
    /// is more (Gateway API's retry constraint: 20 %, 10 a second, 10 s).
    Rate {
        /// Repetitions in relation to requests; default 20 %.
        #[serde(default = "RetryBudget::default_share")]
        share: Fraction,
        /// Repetitions a second that are always allowed; default 10.
        #[serde(default = "RetryBudget::default_min_per_second")]
        min_per_second: u32,
        /// What is looked back on; default 10 s.
        #[serde(default = "RetryBudget::default_rate_interval")]
        interval: Duration,
    },
    /// Repetitions under way are fewer than `share` of the requests under way (and of those begun in the last
    /// `interval`), or than `min_concurrency` if that is more (Envoy's and Istio's `retryBudget`).
    Concurrency {
        /// Repetitions in relation to requests; default 20 %.
        #[serde(default = "RetryBudget::default_share")]
        share: Fraction,
        /// Repetitions under way that are always allowed; default 3.
        #[serde(default = "RetryBudget::default_min_concurrency")]
        min_concurrency: u32,
        /// What is looked back on; zero, the default, counts only what is under way.
        #[serde(default)]
        interval: Duration,
    },
}

impl RetryOn {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::Status5xx,
        Self::GatewayError,
        Self::Reset,
        Self::ResetBeforeRequest,
        Self::ConnectFailure,
        Self::RefusedStream,
        Self::Retriable4xx,
        Self::RetriableStatusCodes,
        Self::RetriableHeaders,
        Self::RateLimited,
        Self::Cancelled,
        Self::DeadlineExceeded,
        Self::ResourceExhausted,
        Self::Internal,
        Self::Unavailable,
    ];

    /// The token users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status5xx => "5xx",
            Self::GatewayError => "gateway-error",
            Self::Reset => "reset",
            Self::ResetBeforeRequest => "reset-before-request",
            Self::ConnectFailure => "connect-failure",
            Self::RefusedStream => "refused-stream",
            Self::Retriable4xx => "retriable-4xx",
            Self::RetriableStatusCodes => "retriable-status-codes",
            Self::RetriableHeaders => "retriable-headers",
            Self::RateLimited => "envoy-ratelimited",
            Self::Cancelled => "cancelled",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::ResourceExhausted => "resource-exhausted",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
        }
    }

    /// The failure of that token.
    pub fn from_token(token: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|on| on.as_str() == token)
    }
}

impl RetrySet {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// What certainly has not reached the application.
    pub const SAFE: Self =
        Self::of(&[RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::ResetBeforeRequest]);

    /// Whether it has `on`.
    pub fn has(self, on: RetryOn) -> bool {
        self.0 & 1 << on as u8 != 0
    }

    /// Whether the two have a member in common.
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is nothing in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// With `on` in it, too.
    #[must_use]
    pub const fn with(self, on: RetryOn) -> Self {
        Self(self.0 | 1 << on as u8)
    }

    /// The set of those.
    pub const fn of(all: &[RetryOn]) -> Self {
        let mut set = Self::NONE;
        let mut rest = all;
        while let [first, others @ ..] = rest {
            set = set.with(*first);
            rest = others;
        }
        set
    }

    /// Its members, in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = RetryOn> {
        RetryOn::ALL.into_iter().filter(move |on| self.has(*on))
    }

    /// Whether everything in it certainly has not reached the application.
    pub fn is_safe(self) -> bool {
        self.0 & !Self::SAFE.0 == 0
    }
}

impl FromIterator<RetryOn> for RetrySet {
    fn from_iter<I: IntoIterator<Item = RetryOn>>(all: I) -> Self {
        all.into_iter().fold(Self::NONE, Self::with)
    }
}

impl TryFrom<Vec<String>> for RetrySet {
    type Error = Invalid;

    fn try_from(tokens: Vec<String>) -> Result<Self, Invalid> {
        let parse = |token: &String| {
            RetryOn::from_token(token)
                .ok_or_else(|| Invalid::new(format!("{token:?} is no condition for a retry")))
        };
        tokens.iter().map(parse).collect()
    }
}

impl From<RetrySet> for Vec<String> {
    fn from(set: RetrySet) -> Self {
        set.iter().map(|on| on.as_str().to_owned()).collect()
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 1, ..Self::SAFE }
    }
}

impl Retry {
    /// What a rule without a policy does: repeats what certainly has not reached the application, up to twice (Istio's
    /// default). Once would lose a request whose second endpoint has just gone as well, as in a rolling restart.
    pub const SAFE: Self = Self {
        attempts: 2,
        on: RetrySet::SAFE,
        statuses: Vec::new(),
        headers: Vec::new(),
        per_try_timeout: None,
        backoff: Backoff::ENVOY,
        non_idempotent: false,
        avoid_previous: true,
    };
}

impl Backoff {
    /// Envoy's waits.
    pub const ENVOY: Self = Self {
        base: Duration::from_millis(25),
        max: Duration::from_millis(250),
        multiplier_thousandths: 2000,
        jitter: Jitter::Full,
    };
}

impl Default for Backoff {
    fn default() -> Self {
        Self::ENVOY
    }
}

impl RetryBudget {
    /// 20 %, the share of both kinds.
    pub fn default_share() -> Fraction {
        Fraction::from_parts_per_million(200_000).unwrap_or(Fraction::NONE)
    }

    /// 10, the Gateway API's.
    pub fn default_min_per_second() -> u32 {
        10
    }

    /// 10 s, the Gateway API's; Istio looks back on nothing.
    pub fn default_rate_interval() -> Duration {
        Duration::from_secs(10)
    }

    /// 3, Envoy's and Istio's.
    pub fn default_min_concurrency() -> u32 {
        3
    }

    /// Refuses a rate over no time.
    pub fn check(&self) -> Result<(), Invalid> {
        match self {
            Self::Rate { interval, .. } if interval.is_zero() => {
                Err(Invalid::new("must be longer than 0").within("interval"))
            }
            Self::Rate { .. } | Self::Concurrency { .. } => Ok(()),
        }
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::Rate {
            share: Self::default_share(),
            min_per_second: Self::default_min_per_second(),
            interval: Self::default_rate_interval(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_numbered_in_order_and_found_by_token() {
        for (number, on) in RetryOn::ALL.into_iter().enumerate() {
            assert_eq!(on as usize, number);
            assert_eq!(RetryOn::from_token(on.as_str()), Some(on));
            assert!(RetrySet::NONE.with(on).has(on));
        }
        assert_eq!(RetryOn::from_token("5XX"), None);
    }

    #[test]
    fn only_what_was_not_sent_is_safe() {
        assert!(RetrySet::SAFE.is_safe());
        assert!(!RetrySet::SAFE.with(RetryOn::Reset).is_safe());
        assert_eq!(RetrySet::SAFE.iter().count(), 3);
    }
}
