//! The tries of a request in short, for a line that has more than one to tell of.

use std::{fmt, net::SocketAddr, time::Duration};

use serde::Serialize;

use crate::telemetry::record::{Attempt, Verdict};

/// A time as logs give it: milliseconds with three decimals.
pub(super) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// One try, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Try {
    upstream: SocketAddr,
    #[serde(skip_serializing_if = "is_none")]
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<&'static str>,
    duration_ms: f64,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    backoff_ms: Option<f64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_none(status: &u16) -> bool {
    *status == 0
}

impl Try {
    /// A try in short.
    pub(super) fn of(attempt: &Attempt) -> Self {
        Self {
            upstream: attempt.endpoint,
            status: attempt.status,
            flags: attempt.error.as_ref().map(|error| error.flag().as_str()),
            duration_ms: millis(attempt.took),
            verdict: match attempt.verdict {
                Verdict::Abandoned => "abandoned",
                Verdict::Final => "final",
                Verdict::Retried => "retried",
                Verdict::Stopped(_) => "stopped",
            },
            backoff_ms: (!attempt.backoff.is_zero()).then(|| millis(attempt.backoff)),
        }
    }
}

impl fmt::Display for Try {
    /// `10.0.0.1:80=503/12.3ms`, with the flag in place of a status that there is not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=", self.upstream)?;
        match self.flags {
            Some(flag) if self.status == 0 => f.write_str(flag)?,
            _ => write!(f, "{}", self.status)?,
        }
        write!(f, "/{}ms", self.duration_ms)
    }
}

/// All tries on one line.
pub(super) fn summary(attempts: &[Attempt]) -> String {
    let tries: Vec<String> = attempts.iter().map(|attempt| Try::of(attempt).to_string()).collect();
    tries.join(",")
}
