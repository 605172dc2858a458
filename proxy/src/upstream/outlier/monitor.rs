//! Results of one endpoint: failures in a row, and the share of failures since shares were last looked at.
//!
//! All of it is atomics. A success of an endpoint without a fresh failure only reads them, and counts itself where
//! shares are watched. The counters are Envoy's.

use std::sync::atomic::{AtomicU32, Ordering};

use pillion_policy::resilience::OutlierDetection;

use super::detector::Cause;
use crate::upstream::outcome::Outcome;

/// A result, as outlier detection sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// An HTTP status, be it one that stands for a gRPC status or for a failure of the connection.
    Status(u16),
    /// A failure of the connection, where these are counted apart.
    Local,
}

/// The counters of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Monitor {
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_failures: AtomicU32,
    requests: AtomicU32,
    failures: AtomicU32,
}

impl Verdict {
    /// What an outcome says about the endpoint; `None` when it says nothing. Without the split a time-out is a 504,
    /// other failures of the connection are a 503.
    pub(super) fn of(outcome: Outcome, split: bool) -> Option<Self> {
        match outcome {
            Outcome::Cancelled => None,
            Outcome::Answered { status, grpc_status } => {
                Some(Self::Status(grpc_status.map_or(status, http_status)))
            }
            Outcome::Unconnected | Outcome::Broken | Outcome::TimedOut if split => Some(Self::Local),
            Outcome::Unconnected | Outcome::Broken => Some(Self::Status(503)),
            Outcome::TimedOut => Some(Self::Status(504)),
        }
    }

    fn is_server_error(self) -> bool {
        matches!(self, Self::Status(500..=599))
    }

    fn is_gateway_error(self) -> bool {
        matches!(self, Self::Status(502..=504))
    }

    /// Whether anything that is switched on counts it as a failure. This is what a probe must not be.
    pub(super) fn is_failure(self, policy: &OutlierDetection) -> bool {
        let shares = policy.failure_percentage.is_some();
        match self {
            Self::Local => policy.consecutive_local_origin > 0 || shares,
            Self::Status(_) => {
                (self.is_server_error() && (policy.consecutive_5xx > 0 || shares))
                    || (self.is_gateway_error() && policy.consecutive_gateway_errors > 0)
            }
        }
    }
}

/// The HTTP status of a gRPC status (Envoy's `grpcToHttpStatus`).
fn http_status(grpc: u8) -> u16 {
    match grpc {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

impl Monitor {
    /// Takes a result; the reason to eject, when a threshold is reached. Counters at their threshold start again.
    pub(super) fn note(&self, verdict: Verdict, policy: &OutlierDetection) -> Option<Cause> {
        if verdict == Verdict::Local {
            return reached(&self.local_failures, policy.consecutive_local_origin).map(Cause::LocalFailures);
        }
        zero(&self.local_failures);
        let gateway = if verdict.is_gateway_error() {
            reached(&self.gateway_errors, policy.consecutive_gateway_errors).map(Cause::GatewayErrors)
        } else {
            zero(&self.gateway_errors);
            None
        };
        let server = if verdict.is_server_error() {
            reached(&self.server_errors, policy.consecutive_5xx).map(Cause::ServerErrors)
        } else {
            zero(&self.server_errors);
            None
        };
        gateway.or(server)
    }

    /// Counts a result towards the share of failures.
    pub(super) fn count(&self, verdict: Verdict) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if verdict == Verdict::Local || verdict.is_server_error() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Requests and failures since this was last asked.
    pub(super) fn take_share(&self) -> (u32, u32) {
        (self.requests.swap(0, Ordering::Relaxed), self.failures.swap(0, Ordering::Relaxed))
    }

    /// Starts again from nothing.
    pub(in crate::upstream) fn reset(&self) {
        for counter in
            [&self.server_errors, &self.gateway_errors, &self.local_failures, &self.requests, &self.failures]
        {
            zero(counter);
        }
    }

    /// The counters in a row, for people.
    pub(in crate::upstream) fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "serverErrors": self.server_errors.load(Ordering::Relaxed),
            "gatewayErrors": self.gateway_errors.load(Ordering::Relaxed),
            "localFailures": self.local_failures.load(Ordering::Relaxed),
        })
    }
}

/// Counts up; the count when it has reached the threshold, from which it starts again. Threshold 0 is never reached.
fn reached(counter: &AtomicU32, threshold: u32) -> Option<u32> {
    let count = counter.fetch_add(1, Ordering::Relaxed).saturating_add(1);
    if threshold == 0 || count < threshold {
        return None;
    }
    counter.store(0, Ordering::Relaxed);
    Some(count)
}

/// Writes only where there is something to undo: a line of memory that nobody writes is shared by all cores.
fn zero(counter: &AtomicU32) {
    if counter.load(Ordering::Relaxed) != 0 {
        counter.store(0, Ordering::Relaxed);
    }
}
