//! Whole clusters under simulated traffic: what callers see when an endpoint turns bad.

use std::{collections::VecDeque, net::SocketAddr};

use pillion_policy::{endpoint::Endpoint, resilience::OutlierDetection};

use super::*;
use crate::{error::Flag, telemetry::Metrics};

/// 100 requests per second.
const PACE: Duration = Duration::from_millis(10);

fn endpoints(hosts: u8) -> Arc<EndpointSet> {
    let endpoints = (1..=hosts).map(|host| Endpoint::at(address(host))).collect();
    Arc::new(EndpointSet { name: "shop.default:80".parse().unwrap(), endpoints })
}

fn address(host: u8) -> SocketAddr {
    ([10, 0, 0, host], 80).into()
}

fn policy(balancing: LoadBalancer, outlier: Option<OutlierDetection>) -> Cluster {
    let mut cluster = Cluster::plain("shop.default:80".parse().unwrap(), Protocol::Http1);
    cluster.balancing.policy = balancing;
    cluster.resilience.outlier = outlier;
    cluster
}

fn upstream(cluster: Cluster, hosts: u8, now: Instant) -> Upstream {
    let (metrics, name) = (Metrics::new(), "shop".into());
    let stats = metrics.request_stats(&crate::telemetry::requests::Labels::default());
    let upstream = Upstream::new(cluster, metrics.cluster(&name), stats);
    upstream.discover(&endpoints(hosts), now);
    upstream
}

/// `consecutiveErrors: 5, interval: 30s, baseEjectionTime: 30s`, as it is read.
fn gateway_errors() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: 0,
        consecutive_gateway_errors: 5,
        interval: Duration::from_secs(30),
        base_ejection_time: Duration::from_secs(30),
        ..OutlierDetection::default()
    }
}

/// What the first endpoint does.
#[derive(Debug, Clone, Copy)]
enum Ill {
    Answers(u16),
    AnswersHalf(u16),
    Refuses,
    /// Connects time out after this long.
    SwallowsFor(Duration),
}

/// Requests and errors of each second of a minute.
fn minute(upstream: &Upstream, start: Instant, ill: Ill, rng: &mut fastrand::Rng) -> Vec<(u32, u32)> {
    let mut hanging: VecDeque<(Instant, u64, InFlight)> = VecDeque::new();
    let mut seconds = Vec::new();
    let reason: Arc<str> = "connection refused".into();
    for second in 0..60 {
        let (mut requests, mut errors) = (0, 0);
        for tick in 0..100 {
            let now = start + Duration::from_secs(second) + PACE * tick;
            while hanging.front().is_some_and(|(end, ..)| *end <= now) {
                let (end, begun, mut in_flight) = hanging.pop_front().unwrap();
                in_flight.live().unreachable(&"timed out".into(), end);
                in_flight.report(Outcome::Unconnected, end);
                // Errors belong to the second in which the request came.
                match seconds.get_mut(usize::try_from(begun).unwrap()) {
                    Some((_, errors)) => *errors += 1,
                    None => errors += 1,
                }
            }
            requests += 1;
            let mut in_flight = upstream.admit(None, Tried::default(), now, rng).unwrap();
            let is_ill = in_flight.live().address() == address(1);
            let status = match ill {
                _ if !is_ill => 200,
                Ill::Answers(status) => status,
                Ill::AnswersHalf(status) => {
                    if rng.bool() {
                        status
                    } else {
                        200
                    }
                }
                Ill::Refuses => {
                    in_flight.live().unreachable(&reason, now);
                    in_flight.report(Outcome::Unconnected, now);
                    errors += 1;
                    continue;
                }
                Ill::SwallowsFor(time) => {
                    hanging.push_back((now + time, second, in_flight));
                    continue;
                }
            };
            errors += u32::from(status >= 500);
            in_flight.report(Outcome::Answered { status, grpc_status: None }, now);
        }
        seconds.push((requests, errors));
    }
    seconds
}

/// Asserts that from the fifth second on less than 1 % of the requests of all `proxies` together fail, and that some
/// did before.
fn assert_heals(ill: Ill, balancing: LoadBalancer, outlier: Option<OutlierDetection>, proxies: u64) {
    let start = Instant::now();
    let (mut requests, mut errors, mut before) = (0, 0, 0);
    for seed in 0..proxies {
        let upstream = upstream(policy(balancing.clone(), outlier), 3, start);
        let seconds = minute(&upstream, start, ill, &mut fastrand::Rng::with_seed(seed));
        before += seconds[..5].iter().map(|second| second.1).sum::<u32>();
        requests += seconds[5..].iter().map(|second| second.0).sum::<u32>();
        errors += seconds[5..].iter().map(|second| second.1).sum::<u32>();
    }
    assert!(errors * 100 < requests, "{ill:?}, {balancing:?}: {errors} of {requests} failed");
    assert!(before > 0, "{ill:?}: nothing had to be healed");
}

fn balancers() -> [LoadBalancer; 4] {
    [LoadBalancer::LeastRequest, LoadBalancer::PeakEwma, LoadBalancer::RoundRobin, LoadBalancer::Random]
}

#[test]
fn one_of_three_that_answers_errors_is_left_alone() {
    for balancing in balancers() {
        assert_heals(Ill::Answers(503), balancing.clone(), Some(gateway_errors()), 2);
        assert_heals(Ill::Answers(500), balancing, Some(OutlierDetection::default()), 2);
    }
}

#[test]
fn one_of_three_that_fails_half_of_the_time_is_left_alone() {
    // Five in a row take 62 results on average, which is 2 s; a probe succeeds half of the time and gives the endpoint
    // another such while. One proxy in ten sees more than 1 % of errors, all together see about 0.4 %.
    for balancing in [LoadBalancer::LeastRequest, LoadBalancer::RoundRobin] {
        assert_heals(Ill::AnswersHalf(503), balancing.clone(), Some(gateway_errors()), 20);
        let three = OutlierDetection { consecutive_5xx: 3, ..OutlierDetection::default() };
        assert_heals(Ill::AnswersHalf(500), balancing, Some(three), 5);
    }
}

#[test]
fn one_of_three_that_cannot_be_connected_to_is_left_alone_without_any_policy() {
    for balancing in balancers() {
        for ill in [Ill::Refuses, Ill::SwallowsFor(Duration::from_secs(2))] {
            assert_heals(ill, balancing.clone(), None, 2);
            assert_heals(ill, balancing.clone(), Some(gateway_errors()), 2);
        }
    }
}

#[test]
fn it_returns_through_one_request() {
    let start = Instant::now();
    let upstream = upstream(policy(LoadBalancer::RoundRobin, Some(gateway_errors())), 3, start);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut fail = |now: Instant| {
        let mut in_flight = upstream.admit(None, Tried::default(), now, &mut rng).unwrap();
        let is_ill = in_flight.live().address() == address(1);
        let status = if is_ill { 503 } else { 200 };
        in_flight.report(Outcome::Answered { status, grpc_status: None }, now);
        is_ill
    };
    assert_eq!((0..300).filter(|_| fail(start)).count(), 5, "five in a row, then no more");
    let due = start + Duration::from_secs(30);
    assert_eq!((0..300).filter(|_| fail(due)).count(), 1, "one probe, which fails");
    assert_eq!((0..300).filter(|_| fail(due + Duration::from_secs(59))).count(), 0, "out for twice as long");
    let due = due + Duration::from_secs(60);
    let mut rng = fastrand::Rng::with_seed(2);
    let mut admit = || upstream.admit(None, Tried::default(), due, &mut rng).unwrap();
    let broken_off: Vec<_> = (0..30).map(|_| admit()).collect();
    let to_ill = |all: &[InFlight]| all.iter().filter(|it| it.live().address() == address(1)).count();
    assert_eq!(to_ill(&broken_off), 1, "one probe under way");
    assert_eq!(upstream.describe(due)["endpoints"][0]["state"], "probing");
    drop(broken_off);
    let mut probes: Vec<_> = (0..30).map(|_| admit()).collect();
    assert_eq!(to_ill(&probes), 1, "the one broken off made room for another");
    for in_flight in &mut probes {
        in_flight.report(Outcome::Answered { status: 200, grpc_status: None }, due);
    }
    drop(probes);
    assert_eq!(to_ill(&(0..30).map(|_| admit()).collect::<Vec<_>>()), 10, "a full share again");
}

#[test]
fn a_limit_of_requests_gives_the_probe_back() {
    let start = Instant::now();
    let mut cluster = policy(LoadBalancer::LeastRequest, Some(OutlierDetection::default()));
    cluster.pool.max_requests = 1;
    let upstream = upstream(cluster, 2, start);
    let live = Arc::clone(&upstream.endpoints().members()[0].live);
    live.unreachable(&"refused".into(), start);
    let (later, mut rng) = (start + Duration::from_secs(1), fastrand::Rng::with_seed(1));
    let held = upstream.admit(None, Tried { ids: &[live.id()], is_gone: false }, later, &mut rng).unwrap();
    for _ in 0..3 {
        let refused = upstream.admit(None, Tried::default(), later, &mut rng).unwrap_err();
        assert_eq!(refused.flag(), Flag::Uo);
    }
    drop(held);
    assert_eq!(upstream.admit(None, Tried::default(), later, &mut rng).unwrap().live().id(), live.id());
}

#[test]
fn all_return_when_detection_changes_and_none_when_the_rest_does() {
    let now = Instant::now();
    let everything = OutlierDetection { max_ejection_percent: Some(100), ..OutlierDetection::default() };
    let mut cluster = policy(LoadBalancer::LeastRequest, Some(everything));
    let upstream = upstream(cluster.clone(), 2, now);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut admit = |upstream: &Upstream| upstream.admit(None, Tried::default(), now, &mut rng);
    for _ in 0..100 {
        if let Ok(mut in_flight) = admit(&upstream) {
            in_flight.report(Outcome::Broken, now);
        }
    }
    assert_eq!(admit(&upstream).unwrap_err().flag(), Flag::Uh, "all are out, as 100 % allows");
    let described = upstream.describe(now);
    assert_eq!(described["endpoints"][1]["state"], "ejected");
    assert_eq!(described["endpoints"][1]["ejected"]["why"], "5 server errors in a row");
    assert_eq!(described["outlierDetection"]["mayBeEjected"], 2);
    let left_alone = upstream.left_alone();
    assert_eq!(left_alone.len(), 2);
    assert_eq!((left_alone[1].address, left_alone[1].since), (address(2), now));
    assert_eq!(left_alone[1].ejected_until, Some(now + Duration::from_secs(30)));
    assert_eq!(left_alone[1].reason, "5 server errors in a row");
    cluster.pool.max_requests = 7;
    let upstream = upstream.with_policy(cluster.clone());
    assert!(admit(&upstream).is_err());
    cluster.resilience.outlier = Some(OutlierDetection { consecutive_5xx: 6, ..everything });
    let upstream = upstream.with_policy(cluster.clone());
    assert!(admit(&upstream).is_ok());
    assert_eq!(upstream.gauges().ejections_active.load(Ordering::Relaxed), 0);
    cluster.resilience.outlier = None;
    let upstream = upstream.with_policy(cluster);
    assert!(upstream.describe(now)["outlierDetection"].is_null());
    assert!(upstream.left_alone().is_empty());
}

#[test]
fn what_cannot_be_reached_is_left_alone_since_the_first_time() {
    let start = Instant::now();
    let upstream = upstream(policy(LoadBalancer::LeastRequest, None), 2, start);
    let live = Arc::clone(&upstream.endpoints().members()[0].live);
    for second in [0, 60] {
        live.unreachable(&"refused".into(), start + Duration::from_secs(second));
        let left_alone = upstream.left_alone();
        assert_eq!((left_alone.len(), left_alone[0].address, left_alone[0].since), (1, address(1), start));
        assert_eq!((&*left_alone[0].reason, left_alone[0].ejected_until), ("refused", None));
    }
    live.reachable();
    assert!(upstream.left_alone().is_empty());
}

#[test]
fn the_bound_holds_when_discovery_shrinks_the_set() {
    let now = Instant::now();
    let half = OutlierDetection { max_ejection_percent: Some(50), ..OutlierDetection::default() };
    let upstream = upstream(policy(LoadBalancer::RoundRobin, Some(half)), 4, now);
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..100 {
        let mut in_flight = upstream.admit(None, Tried::default(), now, &mut rng).unwrap();
        in_flight.report(Outcome::Broken, now);
    }
    let ejected = |upstream: &Upstream| {
        upstream.endpoints().members().iter().filter(|member| member.live.is_ejected()).count()
    };
    assert_eq!(ejected(&upstream), 2);
    for hosts in [3, 2, 1] {
        upstream.discover(&endpoints(hosts), now);
        assert!(ejected(&upstream) <= usize::from(hosts / 2), "{hosts}");
        let active = upstream.gauges().ejections_active.load(Ordering::Relaxed);
        assert_eq!(active, ejected(&upstream) as u64);
    }
}

#[test]
fn one_report_counts_and_latency_only_where_it_is_asked_for() {
    let now = Instant::now();
    let outlier = OutlierDetection { consecutive_5xx: 2, ..OutlierDetection::default() };
    for (balancing, is_timed) in [(LoadBalancer::PeakEwma, true), (LoadBalancer::LeastRequest, false)] {
        let upstream = upstream(policy(balancing, Some(outlier)), 2, now);
        let mut in_flight =
            upstream.admit(None, Tried::default(), now, &mut fastrand::Rng::with_seed(1)).unwrap();
        for _ in 0..5 {
            in_flight.report(Outcome::Broken, now);
        }
        assert!(!in_flight.live().is_ejected());
        in_flight.observe(Duration::from_millis(3), now);
        assert_eq!(in_flight.live().latency(now).is_some(), is_timed);
    }
}
