use pillion_policy::{
    ResourceKind,
    cluster::{Cluster, Protocol},
};
use prost::Message;

use super::*;
use crate::Encoded;

/// Why a service whose one rule has that resilience is refused.
fn rule_refused(resilience: wire::RouteResilience) -> String {
    let respond = wire::DirectResponse { status: 200, ..wire::DirectResponse::default() };
    let action = Some(wire::route::Action::Respond(respond));
    let route = wire::Route { action, resilience: Some(resilience), ..wire::Route::default() };
    let reason = refused(wire::Service { routes: vec![route], ..wire::Service::default() });
    reason.strip_prefix("routes[0].resilience.").unwrap().to_owned()
}

/// Why a service whose one cluster has that resilience is refused.
fn cluster_refused(resilience: wire::ClusterResilience) -> String {
    let name = "a.b:80".to_owned();
    let cluster = wire::Cluster { name, resilience: Some(resilience), ..wire::Cluster::default() };
    let reason = refused(wire::Service { clusters: vec![cluster], ..wire::Service::default() });
    reason.strip_prefix("clusters[0].resilience.").unwrap().to_owned()
}

fn refused(service: wire::Service) -> String {
    let service = wire::Service { name: "default/order:80".into(), ..service };
    crate::decode::resource(ResourceKind::Service, &service.encode_to_vec()).unwrap_err().to_string()
}

fn seconds(seconds: i64) -> Option<protobuf::Duration> {
    Some(protobuf::Duration { seconds, nanos: 0 })
}

#[test]
fn conditions_and_waits_of_retries_must_be_known() {
    let retry = |retry| rule_refused(wire::RouteResilience { retry: Some(retry), ..Default::default() });
    let on = vec!["5xx".into(), "sometimes".into()];
    assert_eq!(
        retry(wire::Retry { on, ..Default::default() }),
        "retry.on: \"sometimes\" is no condition for a retry"
    );
    assert_eq!(
        retry(wire::Retry { statuses: vec![503, 70_000], ..Default::default() }),
        "retry.statuses[1]: 70000 is out of range"
    );
    let backoff = Some(wire::Backoff { jitter: 3, ..Default::default() });
    assert_eq!(
        retry(wire::Retry { backoff, ..Default::default() }),
        "retry.backoff.jitter: 3 is not a value known here"
    );
}

#[test]
fn breakers_must_open_and_count() {
    let rule = |breaker| rule_refused(wire::RouteResilience { breaker: Some(breaker), ..Default::default() });
    let never = wire::CircuitBreaker::default();
    assert_eq!(rule(never), "breaker: never opens: set consecutiveFailures or errorRate");
    let breaker = Some(never);
    let cluster = cluster_refused(wire::ClusterResilience { breaker, ..Default::default() });
    assert!(cluster.starts_with("breaker: never opens"), "{cluster}");

    let rate = |rate| rule(wire::CircuitBreaker { error_rate: Some(rate), ..Default::default() });
    let window = "breaker.errorRate.window: must be longer than 0, in 1 to 100 buckets";
    for buckets in [0, 101] {
        assert_eq!(rate(wire::ErrorRate { buckets: Some(buckets), ..Default::default() }), window);
    }
    assert_eq!(rate(wire::ErrorRate { window: seconds(0), ..Default::default() }), window);
    assert_eq!(
        rate(wire::ErrorRate { threshold: Some(1_000_001), ..Default::default() }),
        "breaker.errorRate.threshold: 1000001 parts per million is more than everything"
    );
}

#[test]
fn what_stands_in_for_an_answer_must_be_one() {
    let fallback = |status| {
        let fallback = Some(wire::Fallback { status: Some(status), ..Default::default() });
        cluster_refused(wire::ClusterResilience { fallback, ..Default::default() })
    };
    assert_eq!(fallback(99), "fallback: 99 is not a status between 200 and 599");
    assert_eq!(fallback(65_736), "fallback.status: 65736 is out of range");

    let abort = |fraction, status| {
        let fault = wire::Fault { abort: Some(wire::Abort { fraction, status }), ..Default::default() };
        rule_refused(wire::RouteResilience { fault: Some(fault), ..Default::default() })
    };
    use wire::abort::Status::{Grpc, Http};
    let over = "fault.abort.fraction: 1000001 parts per million is more than everything";
    assert_eq!(abort(1_000_001, Some(Http(503))), over);
    assert_eq!(abort(1, Some(Http(99))), "fault.abort.status: 99 is not a status between 200 and 599");
    assert_eq!(abort(1, Some(Grpc(17))), "fault.abort.status: 17 is not a gRPC status");
    assert_eq!(abort(1, Some(Grpc(300))), "fault.abort.grpc: 300 is out of range");
    assert_eq!(abort(1, None), "fault.abort.status: holds nothing that is known here");

    let delay = Some(wire::Delay { fraction: 1, duration: None });
    let fault = Some(wire::Fault { delay, ..Default::default() });
    let missing = rule_refused(wire::RouteResilience { fault, ..Default::default() });
    assert_eq!(missing, "fault.delay.duration: is missing");
}

#[test]
fn limits_must_let_something_through() {
    let limit = |requests, per, key| {
        let limit = wire::RateLimit { name: "a".into(), requests, per, key };
        rule_refused(wire::RouteResilience { rate_limit: Some(limit), ..Default::default() })
    };
    assert_eq!(limit(0, seconds(1), None), "rateLimit.requests: must be at least 1");
    assert_eq!(limit(1, seconds(0), None), "rateLimit.per: must be longer than 0");
    assert_eq!(limit(1, None, None), "rateLimit.per: is missing");
    let unknown = Some(wire::RateLimitKey { key: None });
    assert_eq!(limit(1, seconds(1), unknown), "rateLimit.key: holds nothing that is known here");

    let bulkhead = Some(wire::Bulkhead::default());
    let none = cluster_refused(wire::ClusterResilience { bulkhead, ..Default::default() });
    assert_eq!(none, "bulkhead.maxConcurrent: must be at least 1");
}

#[test]
fn shares_of_a_cluster_are_shares() {
    let budget = |kind| {
        let budget = Some(wire::RetryBudget { kind });
        cluster_refused(wire::ClusterResilience { budget, ..Default::default() })
    };
    use wire::retry_budget::Kind;
    assert_eq!(budget(None), "budget.kind: holds nothing that is known here");
    let over = wire::ConcurrencyBudget { share: Some(1_000_001), ..Default::default() };
    assert_eq!(
        budget(Some(Kind::Concurrency(over))),
        "budget.concurrency.share: 1000001 parts per million is more than everything"
    );
    let never = wire::RateBudget { interval: seconds(0), ..Default::default() };
    assert_eq!(budget(Some(Kind::Rate(never))), "budget.interval: must be longer than 0");

    let outlier = |change: fn(&mut wire::OutlierDetection)| {
        let mut outlier = wire::OutlierDetection::default();
        change(&mut outlier);
        cluster_refused(wire::ClusterResilience { outlier: Some(outlier), ..Default::default() })
    };
    let over = outlier(|outlier| outlier.max_ejection_percent = Some(101));
    assert_eq!(over, "outlier.maxEjectionPercent: 101 is over 100");
    assert_eq!(outlier(|outlier| outlier.interval = seconds(0)), "outlier.interval: must be longer than 0");
    let over = outlier(|outlier| {
        let threshold = Some(256);
        outlier.failure_percentage = Some(wire::FailurePercentage { threshold, ..Default::default() });
    });
    assert_eq!(over, "outlier.failurePercentage.threshold: 256 is out of range");
}

#[test]
fn absent_parts_are_the_defaults_of_the_model() {
    assert_eq!(cluster(wire::ClusterResilience::default()), Ok(ClusterResilience::default()));
    assert_eq!(route(wire::RouteResilience::default()), Ok(RouteResilience::default()));
    assert_eq!(outlier(wire::OutlierDetection::default()), Ok(OutlierDetection::default()));
    // What is done without a policy is never written out, so it has the bytes it had before there was any.
    let plain = Cluster::plain("a.b:80".parse().unwrap(), Protocol::Auto);
    let service = pillion_policy::service::ServicePolicy::new(
        "default/b:80".parse().unwrap(),
        None,
        Protocol::Auto,
        vec![],
        vec![plain],
    );
    let encoded = Encoded::of(&pillion_policy::Resource::Service(service.unwrap().into()));
    let bare = wire::Service {
        name: "default/b:80".into(),
        clusters: vec![wire::Cluster { name: "a.b:80".into(), ..wire::Cluster::default() }],
        ..wire::Service::default()
    };
    assert_eq!(encoded.content, bare.encode_to_vec());
}
