//! Policy as text: dumps read back as what they were, and files written by hand may leave out what has a default.

use std::time::Duration;

use pillion_policy::{
    Resource,
    header::Field,
    ratio::Fraction,
    resilience::{
        Bulkhead, CircuitBreaker, ClusterResilience, ErrorRate, FailurePercentage, Fallback,
        OutlierDetection, RateLimit, RouteResilience,
    },
    retry::{Backoff, Jitter, Retry, RetryBudget, RetryOn, RetrySet},
    testing::any_resource,
    workload::WorkloadPort,
};
use proptest::prelude::*;
use serde::de::DeserializeOwned;

#[expect(clippy::unwrap_used, reason = "a test fails by it")]
fn yaml<T: DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).unwrap()
}

fn refused<T: DeserializeOwned>(text: &str) -> String {
    serde_saphyr::from_str::<T>(text).map_or_else(|error| error.to_string(), |_| "is read".to_owned())
}

proptest! {
    #[test]
    fn dumps_read_back_as_what_they_were(resource in any_resource()) {
        let text = serde_json::to_string(&resource).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Resource>(&text).unwrap(), &resource);
        // YAML reads control characters only when they are escaped, which JSON does not do for all of them.
        if !text.chars().any(|c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')) {
            prop_assert_eq!(&yaml::<Resource>(&text), &resource);
        }
    }
}

#[test]
fn what_is_left_out_is_the_default() {
    let resilience: RouteResilience = yaml("{retry: {attempts: 2, on: [5xx]}}");
    let on = RetrySet::NONE.with(RetryOn::Status5xx);
    let retry = Retry {
        attempts: 2,
        on,
        statuses: vec![],
        headers: vec![],
        per_try_timeout: None,
        backoff: Backoff {
            base: Duration::from_millis(25),
            max: Duration::from_millis(250),
            multiplier_thousandths: 2000,
            jitter: Jitter::Full,
        },
        non_idempotent: false,
        avoid_previous: true,
    };
    assert_eq!(resilience, RouteResilience { retry: Some(retry), ..RouteResilience::default() });
    assert_eq!(yaml::<Retry>("{backoff: {jitter: half}}").on, RetrySet::SAFE);

    let limit: RateLimit = yaml("{name: a, requests: 5, per: {secs: 1, nanos: 0}}");
    assert_eq!((limit.check(), limit.key), (Ok(()), None));
    assert_eq!(yaml::<RouteResilience>("{fault: {}}"), RouteResilience::default());

    let port = "port: 80, protocol: http1, service: {host: a.b, name: a, namespace: b}";
    assert_eq!(yaml::<WorkloadPort>(&format!("{{{port}}}")).rate_limit, None);
    let limit = "rateLimit: {name: a, requests: 0, per: {secs: 1, nanos: 0}}";
    let reason = refused::<WorkloadPort>(&format!("{{{port}, {limit}}}"));
    assert!(reason.contains("requests: must be at least 1"), "{reason}");
}

#[test]
fn breakers_need_only_what_opens_them() {
    let breaker = CircuitBreaker {
        consecutive_failures: Some(5),
        error_rate: None,
        open_duration: Duration::from_secs(30),
        success_threshold: 2,
        count_rate_limited: false,
        count_unknown: false,
    };
    assert_eq!(breaker.check(), Ok(()));
    assert_eq!(yaml::<CircuitBreaker>("{consecutiveFailures: 5}"), breaker);
    let rate = ErrorRate {
        threshold: Fraction::from_percent(50.0).unwrap(),
        minimum_requests: 10,
        window: Duration::from_secs(10),
        buckets: 10,
    };
    let breaker = CircuitBreaker { consecutive_failures: None, error_rate: Some(rate), ..breaker };
    assert_eq!(breaker.check(), Ok(()));
    assert_eq!(yaml::<CircuitBreaker>("{errorRate: {}}"), breaker);
    assert!(yaml::<CircuitBreaker>("{}").check().is_err());
}

#[test]
fn clusters_leave_out_what_they_do_not_limit() {
    let text = "{bulkhead: {maxConcurrent: 10}, outlier: {failurePercentage: {}}, budget: {concurrency: {}}}";
    let resilience: ClusterResilience = yaml(text);
    let queue_timeout = Duration::from_secs(3);
    let bulkhead = Bulkhead { max_concurrent: 10, max_pending: 0, queue_timeout };
    assert_eq!(resilience.bulkhead, Some(bulkhead));
    let shares = FailurePercentage { threshold: 85, minimum_hosts: 5, request_volume: 50 };
    let outlier = OutlierDetection { failure_percentage: Some(shares), ..OutlierDetection::default() };
    assert_eq!(resilience.outlier, Some(outlier));
    let share = Fraction::from_percent(20.0).unwrap();
    let budget = RetryBudget::Concurrency { share, min_concurrency: 3, interval: Duration::ZERO };
    assert_eq!(resilience.budget, budget);
    assert_eq!(resilience.check(), Ok(()));
    assert_eq!(yaml::<RetryBudget>("{rate: {}}"), RetryBudget::default());
}

#[test]
fn bodies_are_text_where_they_can_be() {
    let fallback: Fallback =
        yaml(r#"{status: 200, headers: [[content-type, application/json]], body: '{"name":"x"}'}"#);
    assert_eq!(fallback.headers, [Field::new("content-type", "application/json").unwrap()]);
    assert_eq!(*fallback.body, *br#"{"name":"x"}"#);
    let dump = serde_json::to_value(&fallback).unwrap();
    assert_eq!(dump.get("body"), Some(&r#"{"name":"x"}"#.into()));

    let bytes: Fallback = yaml("{body: [0, 255]}");
    assert_eq!((bytes.status, &*bytes.body), (503, &[0, 255][..]));
    assert!(refused::<Fallback>("{body: [256]}").contains("256"));
}

#[test]
fn words_that_are_not_known_are_named() {
    assert!(refused::<Retry>("{on: [5xx, sometimes]}").contains("\"sometimes\" is no condition for a retry"));
    assert!(refused::<Retry>("{tries: 3}").contains("tries"));
}
