//! Pillion's own ResiliencePolicy: what is done about failure that neither Istio nor Kubernetes has words for.
//!
//! The comments at the fields become the descriptions of the CustomResourceDefinition. Blocks that Istio has, too, are
//! Istio's types.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ApiDuration, ConnectionPool, HttpFault, LoadBalancer, OutlierDetection};

described! {
    /// What is done about failure of the services and routes it names.
    struct ResiliencePolicy {
        /// What the policy is for: objects of its own namespace.
        target_refs: Vec<PolicyTarget>,
        /// Time for a whole request, with all its tries; 0s is no limit.
        timeout: Option<ApiDuration>,
        /// Time in which a connection must stand.
        connect_timeout: Option<ApiDuration>,
        /// When failed requests are repeated.
        retry: Option<PolicyRetry>,
        /// When requests are refused at once, because their destination fails anyway.
        circuit_breaker: Option<CircuitBreaker>,
        /// How many requests may be under way to the destination.
        bulkhead: Option<Bulkhead>,
        /// How many requests may come over time, counted in each proxy.
        rate_limit: Option<RateLimit>,
        /// When an endpoint that fails is left alone: the block of Istio's DestinationRule.
        outlier_detection: Option<OutlierDetection>,
        /// How an endpoint is chosen: the block of Istio's DestinationRule.
        load_balancer: Option<LoadBalancer>,
        /// Limits and timeouts of connections: the block of Istio's DestinationRule.
        connection_pool: Option<ConnectionPool>,
        /// Failures made on purpose: the block of Istio's VirtualService.
        fault: Option<HttpFault>,
    }

    /// An object of the policy's namespace, or a part of it.
    struct PolicyTarget {
        /// Empty for Service, networking.istio.io for VirtualService.
        group: Option<String>,
        /// What it is.
        kind: TargetKind,
        /// Name of the object.
        name: String,
        /// Name or number of a port of a Service, or name of an http rule of a VirtualService; all of them when absent.
        section_name: Option<String>,
    }

}

/// The kinds a policy can be for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum TargetKind {
    #[default]
    #[serde(skip)]
    Absent,
    Service,
    VirtualService,
}

described! {
    /// When failed requests are repeated.
    struct PolicyRetry {
        /// Repetitions after the first try, 0 turns them off; default 2.
        attempts: Option<u32>,
        /// Time for one try.
        per_try_timeout: Option<ApiDuration>,
        /// What is repeated: the conditions a VirtualService has. Default: connect-failure, refused-stream,
        /// reset-before-request, unavailable, cancelled.
        retry_on: Vec<String>,
        /// Statuses that are repeated, too.
        status_codes: Vec<u16>,
        /// Response headers that ask for a repetition.
        headers: Vec<String>,
        /// Waits between tries.
        backoff: Option<PolicyBackoff>,
        /// Whether requests that may have had an effect, such as POST, are repeated as well; default false.
        retry_non_idempotent: bool,
        /// How many repetitions a destination may be asked to bear.
        budget: Option<PolicyBudget>,
    }

    /// Waits between tries: base, base times multiplier, and so on up to max, each shortened by up to a half at random.
    struct PolicyBackoff {
        /// First wait; default 25ms.
        base: Option<ApiDuration>,
        /// Growth, at least 1; default 2.
        multiplier: Option<f64>,
        /// Longest wait; default ten times the base.
        max: Option<ApiDuration>,
    }

    /// Repetitions in relation to requests.
    #[derive(Copy)]
    struct PolicyBudget {
        /// Repetitions in percent of the requests of the interval; default 20.
        percent: Option<f64>,
        /// Repetitions a second that are always allowed; default 10.
        min_retries_per_second: Option<u32>,
        /// What is looked back on; default 10s.
        interval: Option<ApiDuration>,
    }

    /// A breaker of three states. Failures are 5xx, failed connects, resets, timeouts, and the gRPC statuses
    /// DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE and DATA_LOSS.
    struct CircuitBreaker {
        /// Opens after so many failures in a row; default 5 when errorRate is absent, too.
        consecutive_failures: Option<u32>,
        /// Opens when too large a share of recent requests has failed.
        error_rate: Option<ErrorRate>,
        /// How long it stays open; default 30s.
        open_duration: Option<ApiDuration>,
        /// Requests let through at a time to find out whether the destination has recovered, and how many of them must
        /// succeed; default 2.
        success_threshold: Option<u32>,
        /// Whether 429 counts as a failure.
        count_rate_limited: bool,
        /// Whether the gRPC status UNKNOWN counts as a failure.
        count_unknown: bool,
        /// What is answered instead of a refusal.
        fallback: Option<Fallback>,
    }

    /// A share of failures over a rolling window.
    #[derive(Copy)]
    struct ErrorRate {
        /// More than this share of the requests must fail; default 50.
        threshold_percent: Option<f64>,
        /// Length of the window; default 10s.
        window: Option<ApiDuration>,
        /// Fewer requests in the window decide nothing; default 10.
        minimum_requests: Option<u32>,
        /// Parts in which the window moves on, at most 100; default 10.
        buckets: Option<u32>,
    }

    /// An answer in place of a refusal.
    struct Fallback {
        /// Status, 200 to 599.
        status: u16,
        /// Header fields.
        headers: BTreeMap<String, String>,
        /// Body, at most 64 KiB.
        body: Option<String>,
        /// Whether it also stands in for failures of the destination when all tries are used up; default false.
        on_failure: bool,
    }

    /// A limit of requests under way, with a queue before it.
    #[derive(Copy)]
    struct Bulkhead {
        /// Requests under way at a time, at least 1.
        max_concurrent: u32,
        /// Requests that may wait for their turn; default 0.
        max_pending: Option<u32>,
        /// How long they wait; default 3s.
        queue_timeout: Option<ApiDuration>,
    }

    /// A limit of requests over time: so many may come at once, and are earned anew over that time.
    struct RateLimit {
        /// Requests, at least 1.
        requests: u32,
        /// The time in which they are earned anew.
        per: ApiDuration,
        /// What is limited by itself; all requests together when absent.
        key: Option<RateLimitKey>,
    }

    /// Exactly one of the fields.
    struct RateLimitKey {
        /// Each value of this header.
        header: Option<String>,
        /// Each workload that calls.
        peer: Option<Nothing>,
        /// Each address of a client: the first of X-Forwarded-For, else that of the connection.
        client_address: Option<Nothing>,
    }

    /// Written as {}.
    #[derive(Copy)]
    struct Nothing {
    }
}
