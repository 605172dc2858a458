//! What is done about failure. A part that is all defaults is left out where its absence means just that.

use bytes::Bytes;
use pillion_policy::{
    resilience::{
        Abort, AbortStatus, Bulkhead, CircuitBreaker, ClusterResilience, Delay, ErrorRate, FailurePercentage,
        Fallback, Fault, OutlierDetection, RateLimit, RateLimitKey, RouteResilience,
    },
    retry::{Backoff, Jitter, Retry, RetryBudget},
};

use super::{duration, field, names, unless};
use crate::pillion as wire;

pub(super) fn cluster(resilience: &ClusterResilience) -> Option<wire::ClusterResilience> {
    (*resilience != ClusterResilience::default()).then(|| wire::ClusterResilience {
        breaker: resilience.breaker.as_ref().map(breaker),
        fallback: resilience.fallback.as_ref().map(fallback),
        bulkhead: resilience.bulkhead.as_ref().map(bulkhead),
        outlier: resilience.outlier.as_ref().map(outlier),
        budget: unless(resilience.budget, RetryBudget::default()).map(budget),
        max_retries: resilience.max_retries,
    })
}

pub(super) fn route(resilience: &RouteResilience) -> Option<wire::RouteResilience> {
    (*resilience != RouteResilience::default()).then(|| wire::RouteResilience {
        retry: resilience.retry.as_ref().map(retry),
        breaker: resilience.breaker.as_ref().map(breaker),
        fallback: resilience.fallback.as_ref().map(fallback),
        rate_limit: resilience.rate_limit.as_ref().map(rate_limit),
        fault: unless(resilience.fault, Fault::default()).map(fault),
    })
}

fn retry(retry: &Retry) -> wire::Retry {
    let default = Retry::default();
    wire::Retry {
        attempts: unless(retry.attempts, default.attempts),
        on: retry.on.into(),
        statuses: retry.statuses.iter().copied().map(u32::from).collect(),
        headers: names(&retry.headers),
        per_try_timeout: retry.per_try_timeout.map(duration),
        backoff: unless(retry.backoff, default.backoff).map(backoff),
        non_idempotent: retry.non_idempotent,
        avoid_previous: unless(retry.avoid_previous, default.avoid_previous),
    }
}

fn backoff(backoff: Backoff) -> wire::Backoff {
    let default = Backoff::default();
    let jitter = match backoff.jitter {
        Jitter::Full => wire::Jitter::Full,
        Jitter::Half => wire::Jitter::Half,
        Jitter::Above => wire::Jitter::Above,
    };
    wire::Backoff {
        base: unless(backoff.base, default.base).map(duration),
        max: unless(backoff.max, default.max).map(duration),
        multiplier_thousandths: unless(backoff.multiplier_thousandths, default.multiplier_thousandths),
        jitter: jitter.into(),
    }
}

fn budget(budget: RetryBudget) -> wire::RetryBudget {
    use wire::retry_budget::Kind;
    let default_share = RetryBudget::default_share();
    let kind = match budget {
        RetryBudget::Rate { share, min_per_second, interval } => Kind::Rate(wire::RateBudget {
            share: unless(share, default_share).map(u32::from),
            min_per_second: unless(min_per_second, RetryBudget::default_min_per_second()),
            interval: unless(interval, RetryBudget::default_rate_interval()).map(duration),
        }),
        RetryBudget::Concurrency { share, min_concurrency, interval } => {
            Kind::Concurrency(wire::ConcurrencyBudget {
                share: unless(share, default_share).map(u32::from),
                min_concurrency: unless(min_concurrency, RetryBudget::default_min_concurrency()),
                interval: (!interval.is_zero()).then(|| duration(interval)),
            })
        }
    };
    wire::RetryBudget { kind: Some(kind) }
}

fn breaker(breaker: &CircuitBreaker) -> wire::CircuitBreaker {
    let default = CircuitBreaker::default();
    let rate = ErrorRate::default();
    wire::CircuitBreaker {
        consecutive_failures: breaker.consecutive_failures,
        error_rate: breaker.error_rate.map(|error: ErrorRate| wire::ErrorRate {
            threshold: unless(error.threshold, rate.threshold).map(u32::from),
            minimum_requests: unless(error.minimum_requests, rate.minimum_requests),
            window: unless(error.window, rate.window).map(duration),
            buckets: unless(error.buckets, rate.buckets),
        }),
        open_duration: unless(breaker.open_duration, default.open_duration).map(duration),
        success_threshold: unless(breaker.success_threshold, default.success_threshold),
        count_rate_limited: breaker.count_rate_limited,
        count_unknown: breaker.count_unknown,
    }
}

fn fallback(fallback: &Fallback) -> wire::Fallback {
    wire::Fallback {
        status: unless(fallback.status, Fallback::default().status).map(u32::from),
        headers: fallback.headers.iter().map(field).collect(),
        body: Bytes::copy_from_slice(&fallback.body),
        on_failure: fallback.on_failure,
    }
}

fn bulkhead(bulkhead: &Bulkhead) -> wire::Bulkhead {
    wire::Bulkhead {
        max_concurrent: bulkhead.max_concurrent,
        max_pending: bulkhead.max_pending,
        queue_timeout: unless(bulkhead.queue_timeout, Bulkhead::default_queue_timeout()).map(duration),
    }
}

fn outlier(outlier: &OutlierDetection) -> wire::OutlierDetection {
    let default = OutlierDetection::default();
    let time = |value, default| unless(value, default).map(duration);
    wire::OutlierDetection {
        consecutive_5xx: unless(outlier.consecutive_5xx, default.consecutive_5xx),
        consecutive_gateway_errors: unless(
            outlier.consecutive_gateway_errors,
            default.consecutive_gateway_errors,
        ),
        split_local_origin: outlier.split_local_origin,
        consecutive_local_origin: unless(outlier.consecutive_local_origin, default.consecutive_local_origin),
        failure_percentage: outlier.failure_percentage.map(failure_percentage),
        interval: time(outlier.interval, default.interval),
        base_ejection_time: time(outlier.base_ejection_time, default.base_ejection_time),
        max_ejection_time: time(outlier.max_ejection_time, default.max_ejection_time),
        max_ejection_percent: outlier.max_ejection_percent.map(u32::from),
        min_health_percent: unless(outlier.min_health_percent, default.min_health_percent).map(u32::from),
    }
}

fn failure_percentage(failures: FailurePercentage) -> wire::FailurePercentage {
    let default = FailurePercentage::default();
    wire::FailurePercentage {
        threshold: unless(failures.threshold, default.threshold).map(u32::from),
        minimum_hosts: unless(failures.minimum_hosts, default.minimum_hosts),
        request_volume: unless(failures.request_volume, default.request_volume),
    }
}

pub(super) fn rate_limit(limit: &RateLimit) -> wire::RateLimit {
    use wire::rate_limit_key::Key;
    let key = |key: &RateLimitKey| match key {
        RateLimitKey::Header(name) => Key::Header(name.as_str().to_owned()),
        RateLimitKey::Peer => Key::Peer(wire::Peer {}),
        RateLimitKey::ClientAddress => Key::ClientAddress(wire::ClientAddress {}),
    };
    wire::RateLimit {
        name: limit.name.as_ref().to_owned(),
        requests: limit.requests,
        per: Some(duration(limit.per)),
        key: limit.key.as_ref().map(|by| wire::RateLimitKey { key: Some(key(by)) }),
    }
}

fn fault(fault: Fault) -> wire::Fault {
    use wire::abort::Status;
    wire::Fault {
        delay: fault.delay.map(|delay: Delay| wire::Delay {
            fraction: delay.fraction.into(),
            duration: Some(duration(delay.duration)),
        }),
        abort: fault.abort.map(|abort: Abort| wire::Abort {
            fraction: abort.fraction.into(),
            status: Some(match abort.status {
                AbortStatus::Http(status) => Status::Http(status.into()),
                AbortStatus::Grpc(status) => Status::Grpc(status.into()),
            }),
        }),
    }
}
