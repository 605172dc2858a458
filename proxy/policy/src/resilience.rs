//! What is done about failure: giving up early, leaving endpoints alone, holding back, and failing on purpose.
//!
//! Every type is policy only and each number says where it comes from. Outlier detection, bulkhead and retry budget
//! belong to a cluster; retries, rate limits and faults to a rule; breakers and fallbacks to either, and where both
//! have one the rule's comes first. What is absent is off, except for the retry budget, which always limits, and the
//! safe retries every rule has without a policy (see [`Retry`]). Where a number has a default, text and wire may leave
//! it out.

use std::{sync::Arc, time::Duration};

use http::HeaderName;
use serde::{Deserialize, Serialize};

use crate::{
    Invalid, body_text, header,
    ratio::Fraction,
    retry::{Retry, RetryBudget},
};

/// Largest body of a fallback.
pub const MAX_FALLBACK_BODY: usize = 64 << 10;

/// Most buckets of a rolling window.
pub const MAX_BUCKETS: u32 = 100;

/// What a rule does about failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RouteResilience {
    /// Repetitions; absent is the safe default.
    pub retry: Option<Retry>,
    /// A breaker for the requests of this rule.
    pub breaker: Option<CircuitBreaker>,
    /// What is answered in place of a refusal.
    pub fallback: Option<Fallback>,
    /// A limit of the requests of this rule.
    pub rate_limit: Option<RateLimit>,
    /// Failures made on purpose.
    pub fault: Fault,
}

/// What a cluster does about failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClusterResilience {
    /// A breaker for all requests to the cluster.
    pub breaker: Option<CircuitBreaker>,
    /// What is answered in place of a refusal.
    pub fallback: Option<Fallback>,
    /// A limit of the requests under way.
    pub bulkhead: Option<Bulkhead>,
    /// When endpoints are left alone.
    pub outlier: Option<OutlierDetection>,
    /// How many repetitions are allowed.
    pub budget: RetryBudget,
    /// `http.maxRetries`: repetitions under way; absent is no limit of its own.
    pub max_retries: Option<u32>,
}

impl RouteResilience {
    /// Refuses what could not be carried out.
    pub fn check(&self) -> Result<(), Invalid> {
        check(self.breaker.as_ref(), self.fallback.as_ref())?;
        let limit = self.rate_limit.as_ref().map_or(Ok(()), RateLimit::check);
        limit.map_err(|invalid| invalid.within("rateLimit"))?;
        self.fault.check().map_err(|invalid| invalid.within("fault"))
    }
}

impl ClusterResilience {
    /// Refuses what could not be carried out.
    pub fn check(&self) -> Result<(), Invalid> {
        check(self.breaker.as_ref(), self.fallback.as_ref())?;
        let bulkhead = self.bulkhead.as_ref().map_or(Ok(()), Bulkhead::check);
        bulkhead.map_err(|invalid| invalid.within("bulkhead"))?;
        let outlier = self.outlier.as_ref().map_or(Ok(()), OutlierDetection::check);
        outlier.map_err(|invalid| invalid.within("outlier"))?;
        self.budget.check().map_err(|invalid| invalid.within("budget"))
    }
}

fn check(breaker: Option<&CircuitBreaker>, fallback: Option<&Fallback>) -> Result<(), Invalid> {
    breaker.map_or(Ok(()), CircuitBreaker::check).map_err(|invalid| invalid.within("breaker"))?;
    fallback.map_or(Ok(()), Fallback::check).map_err(|invalid| invalid.within("fallback"))
}

/// A breaker of three states before a cluster or a rule. Failures are 5xx, failed connects, resets, time-outs, and the
/// gRPC statuses 4, 13, 14 and 15; never what the client or a limit of the proxy has caused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CircuitBreaker {
    /// Opens after so many failures in a row.
    pub consecutive_failures: Option<u32>,
    /// Opens when too large a share of recent requests has failed.
    pub error_rate: Option<ErrorRate>,
    /// How long it stays open; default 30 s.
    pub open_duration: Duration,
    /// Requests that are let through at a time to find out whether the destination has recovered, and how many of them
    /// must succeed; default 2.
    pub success_threshold: u32,
    /// Whether 429 counts as a failure.
    pub count_rate_limited: bool,
    /// Whether gRPC status 2 counts as a failure.
    pub count_unknown: bool,
}

/// A share of failures over a rolling window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ErrorRate {
    /// More than this share must fail; default 50 %.
    pub threshold: Fraction,
    /// Fewer requests in the window than this decide nothing; default 10.
    pub minimum_requests: u32,
    /// Length of the window; default 10 s.
    pub window: Duration,
    /// Parts in which the window moves on, 1 to [`MAX_BUCKETS`]; default 10.
    pub buckets: u32,
}

/// What is answered in place of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Fallback {
    /// Status, 200 to 599; default 503, which the refusal would have had.
    pub status: u16,
    /// Header fields.
    pub headers: Vec<header::Field>,
    /// Body, at most [`MAX_FALLBACK_BODY`].
    #[serde(with = "body_text")]
    pub body: Arc<[u8]>,
    /// Whether it also stands in for failures of the destination when all tries are used up, not only for refusals by
    /// breaker and bulkhead.
    pub on_failure: bool,
}

/// A limit of requests under way, with a bounded queue before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bulkhead {
    /// Requests under way at a time, at least 1.
    pub max_concurrent: u32,
    /// Requests that may wait for their turn; default none.
    #[serde(default)]
    pub max_pending: u32,
    /// How long they wait; default 3 s (Linkerd's fail-fast timeout).
    #[serde(default = "Bulkhead::default_queue_timeout")]
    pub queue_timeout: Duration,
}

/// When an endpoint that fails is left alone (Envoy's outlier detection). A threshold of 0 is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OutlierDetection {
    /// 5xx in a row; default 5. Without the split, failures of the connection count, too.
    pub consecutive_5xx: u32,
    /// 502, 503 and 504 in a row; default off. Without the split, failures of the connection count, too.
    pub consecutive_gateway_errors: u32,
    /// Whether failures of the connection (connect, reset, time-out) are counted apart from statuses.
    pub split_local_origin: bool,
    /// Failures of the connection in a row, when they are counted apart; default 5.
    pub consecutive_local_origin: u32,
    /// Share of failures over one interval; default off.
    pub failure_percentage: Option<FailurePercentage>,
    /// How often shares are looked at, and the step in which ejection times shrink again; default 10 s.
    pub interval: Duration,
    /// Length of the first ejection; each further one is as much longer. Default 30 s.
    pub base_ejection_time: Duration,
    /// Longest ejection; default 300 s.
    pub max_ejection_time: Duration,
    /// The largest share that may be ejected, in percent. Absent is 10, but always at least one endpoint. The last
    /// healthy endpoint is ejected only at 100.
    pub max_ejection_percent: Option<u8>,
    /// When fewer endpoints than this share, in percent, are healthy, ejections are ignored (panic); 0 never does.
    pub min_health_percent: u8,
}

/// Ejection by the share of failures over one interval (Envoy's `failure_percentage_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FailurePercentage {
    /// At least this share, in percent, must fail; default 85.
    pub threshold: u8,
    /// Fewer endpoints with enough traffic than this decide nothing; default 5.
    pub minimum_hosts: u32,
    /// Requests an endpoint must have had in the interval; default 50.
    pub request_volume: u32,
}

/// A limit of requests over time, in this proxy (GCRA: a bucket of `requests` tokens that refills over `per`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// Which policy it comes from. Rules that name the same one share it.
    pub name: Arc<str>,
    /// Requests that may come at once, at least 1.
    pub requests: u32,
    /// The time in which they are earned anew.
    pub per: Duration,
    /// What is limited by itself; absent is all requests together.
    pub key: Option<RateLimitKey>,
}

/// Who is limited by himself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum RateLimitKey {
    /// Each value of a header; requests without it are one.
    Header(#[serde(with = "header::name_text")] HeaderName),
    /// Each peer: its identity where it has proved one, else its address.
    Peer,
    /// Each client address: the first of `X-Forwarded-For` where there is one, else the peer's.
    ClientAddress,
}

/// Failures made on purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Fault {
    /// A wait before the request goes on.
    pub delay: Option<Delay>,
    /// An answer in its place; its dice are independent of the delay's and thrown after it.
    pub abort: Option<Abort>,
}

/// A wait made on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Delay {
    /// Share of the requests.
    pub fraction: Fraction,
    /// How long.
    pub duration: Duration,
}

/// An answer made on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Abort {
    /// Share of the requests.
    pub fraction: Fraction,
    /// What is answered.
    pub status: AbortStatus,
}

/// What a request that is aborted on purpose gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum AbortStatus {
    /// An HTTP status, 200 to 599.
    Http(u16),
    /// A gRPC status, 0 to 16.
    Grpc(u8),
}

impl Default for CircuitBreaker {
    /// The numbers of one that still lacks what opens it, so [`CircuitBreaker::check`] refuses it.
    fn default() -> Self {
        Self {
            consecutive_failures: None,
            error_rate: None,
            open_duration: Duration::from_secs(30),
            success_threshold: 2,
            count_rate_limited: false,
            count_unknown: false,
        }
    }
}

impl Default for ErrorRate {
    fn default() -> Self {
        Self {
            threshold: Fraction::from_parts_per_million(500_000).unwrap_or(Fraction::NONE),
            minimum_requests: 10,
            window: Duration::from_secs(10),
            buckets: 10,
        }
    }
}

impl Default for Fallback {
    fn default() -> Self {
        Self { status: 503, headers: Vec::new(), body: Arc::default(), on_failure: false }
    }
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self { threshold: 85, minimum_hosts: 5, request_volume: 50 }
    }
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway_errors: 0,
            split_local_origin: false,
            consecutive_local_origin: 5,
            failure_percentage: None,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: None,
            min_health_percent: 0,
        }
    }
}

impl Fallback {
    /// Refuses statuses outside 200 to 599 and bodies over [`MAX_FALLBACK_BODY`].
    pub fn check(&self) -> Result<(), Invalid> {
        if !(200..=599).contains(&self.status) {
            return Err(Invalid::new(format!("{} is not a status between 200 and 599", self.status)));
        }
        if self.body.len() > MAX_FALLBACK_BODY {
            let bytes = self.body.len();
            return Err(Invalid::new(format!(
                "the body has {bytes} bytes, at most {MAX_FALLBACK_BODY} are allowed"
            )));
        }
        Ok(())
    }
}

impl CircuitBreaker {
    /// Refuses a breaker that could never open, never close, or that has a window nothing can be counted in.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.consecutive_failures.is_none() && self.error_rate.is_none() {
            return Err(Invalid::new("never opens: set consecutiveFailures or errorRate"));
        }
        if self.consecutive_failures == Some(0) {
            return Err(Invalid::new("must be at least 1").within("consecutiveFailures"));
        }
        if self.success_threshold == 0 {
            return Err(Invalid::new("must be at least 1").within("successThreshold"));
        }
        if self.open_duration.is_zero() {
            return Err(Invalid::new("must be longer than 0").within("openDuration"));
        }
        match self.error_rate {
            Some(rate) if rate.window.is_zero() || !(1..=MAX_BUCKETS).contains(&rate.buckets) => {
                Err(Invalid::new(format!("must be longer than 0, in 1 to {MAX_BUCKETS} buckets"))
                    .within("window")
                    .within("errorRate"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Bulkhead {
    /// How long a request waits for its turn unless the policy says otherwise.
    pub fn default_queue_timeout() -> Duration {
        Duration::from_secs(3)
    }

    /// Refuses a bulkhead that would let nothing through.
    pub fn check(&self) -> Result<(), Invalid> {
        match self.max_concurrent {
            0 => Err(Invalid::new("must be at least 1").within("maxConcurrent")),
            _ => Ok(()),
        }
    }
}

impl OutlierDetection {
    /// Refuses shares over 100 percent and an interval of no length.
    pub fn check(&self) -> Result<(), Invalid> {
        percent("maxEjectionPercent", self.max_ejection_percent.unwrap_or_default())?;
        percent("minHealthPercent", self.min_health_percent)?;
        let failures = self.failure_percentage.map_or(0, |failures| failures.threshold);
        percent("threshold", failures).map_err(|invalid| invalid.within("failurePercentage"))?;
        if self.interval.is_zero() {
            return Err(Invalid::new("must be longer than 0").within("interval"));
        }
        Ok(())
    }
}

fn percent(field: &str, percent: u8) -> Result<(), Invalid> {
    if percent > 100 {
        return Err(Invalid::new(format!("{percent} is over 100")).within(field));
    }
    Ok(())
}

impl Fault {
    /// Refuses answers that cannot be sent: HTTP statuses outside 200 to 599 and gRPC statuses over 16.
    pub fn check(&self) -> Result<(), Invalid> {
        let reason = match self.abort.map(|abort| abort.status) {
            Some(AbortStatus::Http(status)) if !(200..=599).contains(&status) => {
                format!("{status} is not a status between 200 and 599")
            }
            Some(AbortStatus::Grpc(status)) if status > 16 => format!("{status} is not a gRPC status"),
            Some(AbortStatus::Http(_) | AbortStatus::Grpc(_)) | None => return Ok(()),
        };
        Err(Invalid::new(reason).within("status").within("abort"))
    }
}

impl RateLimit {
    /// Refuses a limit that would let nothing through.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.requests == 0 {
            return Err(Invalid::new("must be at least 1").within("requests"));
        }
        if self.per.is_zero() {
            return Err(Invalid::new("must be longer than 0").within("per"));
        }
        Ok(())
    }
}
