//! Resilience, with every field varied: each is present and absent, at its default and away from it.
//!
//! What a `check` of the model refuses is never made.

use std::time::Duration;

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{duration, field, fraction, header_name};
use crate::{
    resilience::{
        Abort, AbortStatus, Bulkhead, CircuitBreaker, ClusterResilience, Delay, ErrorRate, FailurePercentage,
        Fallback, Fault, MAX_BUCKETS, OutlierDetection, RateLimit, RateLimitKey, RouteResilience,
    },
    retry::{Backoff, Jitter, Retry, RetryBudget, RetryOn, RetrySet},
};

pub(super) fn route() -> impl Strategy<Value = RouteResilience> {
    let breaker = option::of(breaker());
    (option::of(retry()), breaker, option::of(fallback()), option::of(rate_limit()), fault()).prop_map(
        |(retry, breaker, fallback, rate_limit, fault)| RouteResilience {
            retry,
            breaker,
            fallback,
            rate_limit,
            fault,
        },
    )
}

pub(super) fn cluster() -> impl Strategy<Value = ClusterResilience> {
    let refusals = (option::of(breaker()), option::of(fallback()));
    let limits = (option::of(bulkhead()), budget(), option::of(any::<u32>()));
    (refusals, limits, option::of(outlier())).prop_map(
        |((breaker, fallback), (bulkhead, budget, max_retries), outlier)| ClusterResilience {
            breaker,
            fallback,
            bulkhead,
            outlier,
            budget,
            max_retries,
        },
    )
}

fn retry() -> impl Strategy<Value = Retry> {
    let on = prop_oneof![
        Just(RetrySet::SAFE),
        vec(select(RetryOn::ALL.to_vec()), 0..=4).prop_map(RetrySet::from_iter),
    ];
    let lists = (vec(any::<u16>(), 0..=2), vec(header_name(), 0..=2));
    let switches = (any::<bool>(), any::<bool>());
    (or(1, any::<u32>()), on, lists, option::of(duration()), backoff(), switches).prop_map(
        |(attempts, on, (statuses, headers), per_try_timeout, backoff, switches)| Retry {
            attempts,
            on,
            statuses,
            headers,
            per_try_timeout,
            backoff,
            non_idempotent: switches.0,
            avoid_previous: switches.1,
        },
    )
}

fn backoff() -> impl Strategy<Value = Backoff> {
    let default = Backoff::default();
    let jitter = select(vec![Jitter::Full, Jitter::Half, Jitter::Above]);
    let multiplier = or(default.multiplier_thousandths, any::<u32>());
    (or(default.base, duration()), or(default.max, duration()), multiplier, jitter).prop_map(
        |(base, max, multiplier_thousandths, jitter)| Backoff { base, max, multiplier_thousandths, jitter },
    )
}

fn budget() -> impl Strategy<Value = RetryBudget> {
    let share = || or(RetryBudget::default_share(), fraction());
    let interval = or(RetryBudget::default_rate_interval(), some_time());
    let rate = (share(), or(RetryBudget::default_min_per_second(), any::<u32>()), interval)
        .prop_map(|(share, min_per_second, interval)| RetryBudget::Rate { share, min_per_second, interval });
    let floor = or(RetryBudget::default_min_concurrency(), any::<u32>());
    let concurrency =
        (share(), floor, or(Duration::ZERO, duration())).prop_map(|(share, min_concurrency, interval)| {
            RetryBudget::Concurrency { share, min_concurrency, interval }
        });
    prop_oneof![Just(RetryBudget::default()), rate, concurrency]
}

fn breaker() -> impl Strategy<Value = CircuitBreaker> {
    let default = CircuitBreaker::default();
    let failures = option::of(1..=u32::MAX);
    let times = (or(default.open_duration, some_time()), or(default.success_threshold, 1..=u32::MAX));
    let counts = (any::<bool>(), any::<bool>());
    (failures, option::of(error_rate()), times, counts).prop_filter_map(
        "something opens it",
        |(consecutive_failures, error_rate, times, counts)| {
            let breaker = CircuitBreaker {
                consecutive_failures,
                error_rate,
                open_duration: times.0,
                success_threshold: times.1,
                count_rate_limited: counts.0,
                count_unknown: counts.1,
            };
            breaker.check().is_ok().then_some(breaker)
        },
    )
}

fn error_rate() -> impl Strategy<Value = ErrorRate> {
    let default = ErrorRate::default();
    let threshold = or(default.threshold, fraction());
    let window = or(default.window, some_time());
    (threshold, or(default.minimum_requests, any::<u32>()), window, or(default.buckets, 1..=MAX_BUCKETS))
        .prop_map(|(threshold, minimum_requests, window, buckets)| ErrorRate {
            threshold,
            minimum_requests,
            window,
            buckets,
        })
}

fn fallback() -> impl Strategy<Value = Fallback> {
    let body = prop_oneof![
        vec(any::<u8>(), 0..=20),
        ".{0,10}".prop_map(String::into_bytes),
        Just(b"{\"a\": \"b\"}\r\n".to_vec()),
    ];
    (or(503, 200..=599u16), vec(field(), 0..=2), body, any::<bool>()).prop_map(
        |(status, headers, body, on_failure)| Fallback { status, headers, body: body.into(), on_failure },
    )
}

fn bulkhead() -> impl Strategy<Value = Bulkhead> {
    (1..=u32::MAX, or(0, any::<u32>()), or(Bulkhead::default_queue_timeout(), duration())).prop_map(
        |(max_concurrent, max_pending, queue_timeout)| Bulkhead {
            max_concurrent,
            max_pending,
            queue_timeout,
        },
    )
}

fn outlier() -> impl Strategy<Value = OutlierDetection> {
    let default = OutlierDetection::default();
    let in_a_row = (
        or(default.consecutive_5xx, any::<u32>()),
        or(default.consecutive_gateway_errors, any::<u32>()),
        or(default.consecutive_local_origin, any::<u32>()),
    );
    let times = (
        or(default.interval, some_time()),
        or(default.base_ejection_time, duration()),
        or(default.max_ejection_time, duration()),
    );
    let shares = (option::of(0..=100u8), 0..=100u8);
    (in_a_row, any::<bool>(), option::of(failure_percentage()), times, shares).prop_map(
        |(in_a_row, split_local_origin, failure_percentage, times, shares)| OutlierDetection {
            consecutive_5xx: in_a_row.0,
            consecutive_gateway_errors: in_a_row.1,
            split_local_origin,
            consecutive_local_origin: in_a_row.2,
            failure_percentage,
            interval: times.0,
            base_ejection_time: times.1,
            max_ejection_time: times.2,
            max_ejection_percent: shares.0,
            min_health_percent: shares.1,
        },
    )
}

fn failure_percentage() -> impl Strategy<Value = FailurePercentage> {
    let default = FailurePercentage::default();
    (
        or(default.threshold, 0..=100u8),
        or(default.minimum_hosts, any::<u32>()),
        or(default.request_volume, any::<u32>()),
    )
        .prop_map(|(threshold, minimum_hosts, request_volume)| FailurePercentage {
            threshold,
            minimum_hosts,
            request_volume,
        })
}

pub(super) fn rate_limit() -> impl Strategy<Value = RateLimit> {
    let key = prop_oneof![
        header_name().prop_map(RateLimitKey::Header),
        Just(RateLimitKey::Peer),
        Just(RateLimitKey::ClientAddress),
    ];
    (".{0,6}", 1..=u32::MAX, some_time(), option::of(key)).prop_map(|(name, requests, per, key)| RateLimit {
        name: name.into(),
        requests,
        per,
        key,
    })
}

fn fault() -> impl Strategy<Value = Fault> {
    let delay = (fraction(), duration()).prop_map(|(fraction, duration)| Delay { fraction, duration });
    let status =
        prop_oneof![(200..=599u16).prop_map(AbortStatus::Http), (0..=16u8).prop_map(AbortStatus::Grpc)];
    let abort = (fraction(), status).prop_map(|(fraction, status)| Abort { fraction, status });
    (option::of(delay), option::of(abort)).prop_map(|(delay, abort)| Fault { delay, abort })
}

/// The default, and anything that may stand in its place.
fn or<T: Clone + std::fmt::Debug + 'static>(
    default: T,
    other: impl Strategy<Value = T>,
) -> impl Strategy<Value = T> {
    prop_oneof![Just(default), other]
}

fn some_time() -> impl Strategy<Value = Duration> {
    duration().prop_filter("longer than 0", |duration| !duration.is_zero())
}
