//! How much traffic flows between whom, as people are told it.
//!
//! A proxy tells what it has counted since it was started; who asks twice learns what has happened in between. Like
//! stories, figures travel as JSON, and a field that one side does not know is ignored.

use serde::{Deserialize, Serialize};

/// All a proxy has counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Requests between callers and destinations, a line for each cluster of a destination.
    pub traffic: Vec<Traffic>,
    /// Requests by the rule they fell under.
    pub routes: Vec<Routed>,
}

/// The requests of one caller to one cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Who tells it: `source` for the caller's proxy, `destination` for the one of whom was called.
    pub reporter: String,
    /// The calling workload as `namespace/name`; empty when it is not known.
    pub source: String,
    /// The service that was called, or the workload where no service is known; empty when neither is.
    pub destination: String,
    /// The cluster: service, port and subset; empty when none was chosen.
    pub cluster: String,
    /// Its requests.
    pub counted: Counted,
    /// Requests sent again.
    pub retries: u64,
    /// Breakers before it that let no request through now.
    pub open_breakers: u64,
}

/// The requests under one rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Routed {
    /// The rule, by its object.
    pub route: String,
    /// The service it stands for.
    pub destination: String,
    /// Its requests.
    pub counted: Counted,
    /// Requests sent again.
    pub retries: u64,
    /// Breakers before it that let no request through now.
    pub open_breakers: u64,
}

/// Requests since the start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counted {
    /// How many have ended.
    pub requests: u64,
    /// Those of them that have failed for a reason that is not the client's.
    pub failures: u64,
    /// How long they took.
    pub durations: Vec<Bucket>,
}

/// How many requests took that long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bucket {
    /// At most so many milliseconds; absent for those that took longer than all other buckets say.
    pub up_to_ms: Option<f64>,
    /// How many took that long, and longer than the bucket before says.
    pub count: u64,
}

/// Whether a request with this result has failed for a reason that is not the client's. Without a status its client saw
/// none: that is a failure unless the client itself has gone away.
pub fn is_failure(status: u16, grpc_status: Option<u8>, client_gone: bool) -> bool {
    // UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE and DATA_LOSS are what 5xx is in HTTP.
    let of_grpc = grpc_status.is_some_and(|status| matches!(status, 2 | 4 | 13 | 14 | 15));
    status >= 500 || of_grpc || (status == 0 && !client_gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_those_of_the_server() {
        for (status, grpc_status, client_gone, failed) in [
            (200, None, false, false),
            (404, None, false, false),
            (429, None, false, false),
            (500, None, false, true),
            (503, None, false, true),
            (200, Some(0), false, false),
            (200, Some(5), false, false),
            (200, Some(14), false, true),
            (0, None, false, true),
            (0, None, true, false),
        ] {
            assert_eq!(is_failure(status, grpc_status, client_gone), failed, "{status} {grpc_status:?}");
        }
    }

    #[test]
    fn what_one_side_does_not_know_is_ignored() {
        let told =
            r#"{"traffic":[{"reporter":"source","weather":"fine","counted":{"requests":3}}],"more":1}"#;
        let figures: Figures = serde_json::from_str(told).unwrap();
        assert_eq!(figures.traffic[0].counted.requests, 3);
        assert!(figures.routes.is_empty());
    }
}
