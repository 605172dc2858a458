//! What is done about failure. The service that is made of it checks what only the whole can tell.

use std::time::Duration;

use pillion_policy::{
    Invalid,
    ratio::Fraction,
    resilience::{
        Abort, AbortStatus, Bulkhead, CircuitBreaker, ClusterResilience, Delay, ErrorRate, FailurePercentage,
        Fallback, Fault, OutlierDetection, RateLimit, RateLimitKey, RouteResilience,
    },
    retry::{Backoff, Jitter, Retry, RetryBudget, RetrySet},
};

use super::{
    duration, fraction, header_name, known, list, number, optional, required,
    route::{field, names},
    unknown,
};
use crate::{pillion as wire, protobuf};

pub(super) fn cluster(resilience: wire::ClusterResilience) -> Result<ClusterResilience, Invalid> {
    Ok(ClusterResilience {
        breaker: optional("breaker", resilience.breaker, breaker)?,
        fallback: optional("fallback", resilience.fallback, fallback)?,
        bulkhead: optional("bulkhead", resilience.bulkhead, bulkhead)?,
        outlier: optional("outlier", resilience.outlier, outlier)?,
        budget: optional("budget", resilience.budget, budget)?.unwrap_or_default(),
        max_retries: resilience.max_retries,
    })
}

pub(super) fn route(resilience: wire::RouteResilience) -> Result<RouteResilience, Invalid> {
    Ok(RouteResilience {
        retry: optional("retry", resilience.retry, retry)?,
        breaker: optional("breaker", resilience.breaker, breaker)?,
        fallback: optional("fallback", resilience.fallback, fallback)?,
        rate_limit: optional("rateLimit", resilience.rate_limit, rate_limit)?,
        fault: optional("fault", resilience.fault, fault)?.unwrap_or_default(),
    })
}

fn retry(retry: wire::Retry) -> Result<Retry, Invalid> {
    let default = Retry::default();
    Ok(Retry {
        attempts: retry.attempts.unwrap_or(default.attempts),
        on: RetrySet::try_from(retry.on).map_err(|invalid| invalid.within("on"))?,
        statuses: list("statuses", retry.statuses, status)?,
        headers: names("headers", retry.headers)?,
        per_try_timeout: optional("perTryTimeout", retry.per_try_timeout, duration)?,
        backoff: optional("backoff", retry.backoff, backoff)?.unwrap_or_default(),
        non_idempotent: retry.non_idempotent,
        avoid_previous: retry.avoid_previous.unwrap_or(default.avoid_previous),
    })
}

fn status(status: u32) -> Result<u16, Invalid> {
    u16::try_from(status).map_err(|_| Invalid::new(format!("{status} is out of range")))
}

fn backoff(backoff: wire::Backoff) -> Result<Backoff, Invalid> {
    let default = Backoff::default();
    Ok(Backoff {
        base: time("base", backoff.base, default.base)?,
        max: time("max", backoff.max, default.max)?,
        multiplier_thousandths: backoff.multiplier_thousandths.unwrap_or(default.multiplier_thousandths),
        jitter: match known("jitter", backoff.jitter)? {
            wire::Jitter::Full => Jitter::Full,
            wire::Jitter::Half => Jitter::Half,
            wire::Jitter::Above => Jitter::Above,
        },
    })
}

fn budget(budget: wire::RetryBudget) -> Result<RetryBudget, Invalid> {
    use wire::retry_budget::Kind;
    let rate = |rate: wire::RateBudget| {
        Ok(RetryBudget::Rate {
            share: share("share", rate.share, RetryBudget::default_share())?,
            min_per_second: rate.min_per_second.unwrap_or_else(RetryBudget::default_min_per_second),
            interval: time("interval", rate.interval, RetryBudget::default_rate_interval())?,
        })
    };
    let concurrency = |budget: wire::ConcurrencyBudget| {
        Ok(RetryBudget::Concurrency {
            share: share("share", budget.share, RetryBudget::default_share())?,
            min_concurrency: budget.min_concurrency.unwrap_or_else(RetryBudget::default_min_concurrency),
            interval: time("interval", budget.interval, Duration::ZERO)?,
        })
    };
    match budget.kind {
        Some(Kind::Rate(value)) => required("rate", Some(value), rate),
        Some(Kind::Concurrency(value)) => required("concurrency", Some(value), concurrency),
        None => Err(unknown("kind")),
    }
}

fn breaker(breaker: wire::CircuitBreaker) -> Result<CircuitBreaker, Invalid> {
    let default = CircuitBreaker::default();
    Ok(CircuitBreaker {
        consecutive_failures: breaker.consecutive_failures,
        error_rate: optional("errorRate", breaker.error_rate, error_rate)?,
        open_duration: time("openDuration", breaker.open_duration, default.open_duration)?,
        success_threshold: breaker.success_threshold.unwrap_or(default.success_threshold),
        count_rate_limited: breaker.count_rate_limited,
        count_unknown: breaker.count_unknown,
    })
}

fn error_rate(rate: wire::ErrorRate) -> Result<ErrorRate, Invalid> {
    let default = ErrorRate::default();
    Ok(ErrorRate {
        threshold: share("threshold", rate.threshold, default.threshold)?,
        minimum_requests: rate.minimum_requests.unwrap_or(default.minimum_requests),
        window: time("window", rate.window, default.window)?,
        buckets: rate.buckets.unwrap_or(default.buckets),
    })
}

fn fallback(fallback: wire::Fallback) -> Result<Fallback, Invalid> {
    let default = Fallback::default();
    Ok(Fallback {
        status: maybe("status", fallback.status)?.unwrap_or(default.status),
        headers: list("headers", fallback.headers, field)?,
        body: fallback.body.as_ref().into(),
        on_failure: fallback.on_failure,
    })
}

fn bulkhead(bulkhead: wire::Bulkhead) -> Result<Bulkhead, Invalid> {
    Ok(Bulkhead {
        max_concurrent: bulkhead.max_concurrent,
        max_pending: bulkhead.max_pending,
        queue_timeout: time("queueTimeout", bulkhead.queue_timeout, Bulkhead::default_queue_timeout())?,
    })
}

fn outlier(outlier: wire::OutlierDetection) -> Result<OutlierDetection, Invalid> {
    let default = OutlierDetection::default();
    Ok(OutlierDetection {
        consecutive_5xx: outlier.consecutive_5xx.unwrap_or(default.consecutive_5xx),
        consecutive_gateway_errors: outlier
            .consecutive_gateway_errors
            .unwrap_or(default.consecutive_gateway_errors),
        split_local_origin: outlier.split_local_origin,
        consecutive_local_origin: outlier
            .consecutive_local_origin
            .unwrap_or(default.consecutive_local_origin),
        failure_percentage: optional("failurePercentage", outlier.failure_percentage, failure_percentage)?,
        interval: time("interval", outlier.interval, default.interval)?,
        base_ejection_time: time("baseEjectionTime", outlier.base_ejection_time, default.base_ejection_time)?,
        max_ejection_time: time("maxEjectionTime", outlier.max_ejection_time, default.max_ejection_time)?,
        max_ejection_percent: maybe("maxEjectionPercent", outlier.max_ejection_percent)?,
        min_health_percent: maybe("minHealthPercent", outlier.min_health_percent)?
            .unwrap_or(default.min_health_percent),
    })
}

fn failure_percentage(failures: wire::FailurePercentage) -> Result<FailurePercentage, Invalid> {
    let default = FailurePercentage::default();
    Ok(FailurePercentage {
        threshold: maybe("threshold", failures.threshold)?.unwrap_or(default.threshold),
        minimum_hosts: failures.minimum_hosts.unwrap_or(default.minimum_hosts),
        request_volume: failures.request_volume.unwrap_or(default.request_volume),
    })
}

pub(super) fn rate_limit(limit: wire::RateLimit) -> Result<RateLimit, Invalid> {
    use wire::rate_limit_key::Key;
    let key = |key: wire::RateLimitKey| match key.key {
        Some(Key::Header(name)) => Ok(RateLimitKey::Header(header_name("header", &name)?)),
        Some(Key::Peer(wire::Peer {})) => Ok(RateLimitKey::Peer),
        Some(Key::ClientAddress(wire::ClientAddress {})) => Ok(RateLimitKey::ClientAddress),
        None => Err(Invalid::new("holds nothing that is known here")),
    };
    let limit = RateLimit {
        name: limit.name.into(),
        requests: limit.requests,
        per: required("per", limit.per, duration)?,
        key: optional("key", limit.key, key)?,
    };
    limit.check().map(|()| limit)
}

fn fault(fault: wire::Fault) -> Result<Fault, Invalid> {
    use wire::abort::Status;
    let delay = |delay: wire::Delay| {
        Ok(Delay {
            fraction: fraction("fraction", delay.fraction)?,
            duration: required("duration", delay.duration, duration)?,
        })
    };
    let abort = |abort: wire::Abort| {
        Ok(Abort {
            fraction: fraction("fraction", abort.fraction)?,
            status: match abort.status {
                Some(Status::Http(status)) => AbortStatus::Http(number("http", status)?),
                Some(Status::Grpc(status)) => AbortStatus::Grpc(number("grpc", status)?),
                None => return Err(unknown("status")),
            },
        })
    };
    Ok(Fault { delay: optional("delay", fault.delay, delay)?, abort: optional("abort", fault.abort, abort)? })
}

fn time(field: &str, value: Option<protobuf::Duration>, default: Duration) -> Result<Duration, Invalid> {
    Ok(optional(field, value, duration)?.unwrap_or(default))
}

fn share(field: &str, parts: Option<u32>, default: Fraction) -> Result<Fraction, Invalid> {
    parts.map_or(Ok(default), |parts| fraction(field, parts))
}

fn maybe<T: TryFrom<u32>>(field: &str, value: Option<u32>) -> Result<Option<T>, Invalid> {
    value.map(|value| number(field, value)).transpose()
}

#[cfg(test)]
mod tests;
