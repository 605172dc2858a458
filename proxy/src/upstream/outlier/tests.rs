//! Counters as Envoy counts, times, bounds, and what reaches the endpoints.

use std::{collections::HashMap, time::Duration};

use pillion_policy::{
    cluster::{Cluster, Protocol},
    endpoint::{Endpoint, EndpointSet},
    resilience::FailurePercentage,
};
use proptest::prelude::*;

use super::*;
use crate::{
    telemetry::Metrics,
    upstream::{endpoint::Health, set::LiveSet},
};

const SECOND: Duration = Duration::from_secs(1);

fn off() -> OutlierDetection {
    OutlierDetection { consecutive_5xx: 0, consecutive_local_origin: 0, ..OutlierDetection::default() }
}

fn answered(status: u16) -> Outcome {
    Outcome::Answered { status, grpc_status: None }
}

fn grpc(status: u8) -> Outcome {
    Outcome::Answered { status: 200, grpc_status: Some(status) }
}

/// Whether the outcomes eject at the last one of them, and not before.
fn ejects(policy: &OutlierDetection, outcomes: &[Outcome]) -> bool {
    let monitor = Monitor::default();
    let causes: Vec<_> = outcomes
        .iter()
        .map(|outcome| monitor.note(Verdict::of(*outcome, policy.split_local_origin)?, policy))
        .collect();
    let (last, before) = causes.split_last().unwrap();
    assert!(before.iter().all(Option::is_none), "{outcomes:?}: {causes:?}");
    last.is_some()
}

#[test]
fn server_errors_in_a_row_eject() {
    let policy = OutlierDetection { consecutive_5xx: 3, ..off() };
    let (good, bad) = (answered(404), answered(500));
    assert!(ejects(&policy, &[bad, answered(501), answered(599)]));
    assert!(ejects(&policy, &[Outcome::Unconnected, Outcome::Broken, Outcome::TimedOut]));
    assert!(ejects(&policy, &[bad, bad, Outcome::Cancelled, bad]), "a cancelled request says nothing");
    assert!(!ejects(&policy, &[bad, bad, good, bad, bad]), "any other status starts again");
    assert!(!ejects(&off(), &[bad; 100]), "0 is off");
}

#[test]
fn gateway_errors_in_a_row_eject_and_other_server_errors_reset_them() {
    let policy = OutlierDetection { consecutive_gateway_errors: 3, ..off() };
    assert!(ejects(&policy, &[answered(502), answered(503), answered(504)]));
    assert!(ejects(&policy, &[Outcome::Unconnected, Outcome::Broken, Outcome::TimedOut]));
    assert!(!ejects(&policy, &[answered(502), answered(503), answered(500), answered(504)]));
    assert!(!ejects(&policy, &[answered(500); 100]));
}

#[test]
fn a_counter_starts_again_at_its_threshold() {
    let policy = OutlierDetection { consecutive_5xx: 2, ..off() };
    let monitor = Monitor::default();
    let note = || monitor.note(Verdict::Status(500), &policy).is_some();
    assert_eq!([note(), note(), note(), note()], [false, true, false, true]);
}

#[test]
fn local_failures_are_counted_apart_when_split() {
    let policy = OutlierDetection {
        consecutive_5xx: 2,
        consecutive_gateway_errors: 2,
        consecutive_local_origin: 3,
        split_local_origin: true,
        ..off()
    };
    let local = [Outcome::Unconnected, Outcome::Broken, Outcome::TimedOut];
    assert!(ejects(&policy, &local));
    assert!(!ejects(&policy, &[local[0], local[1], answered(500), local[2]]), "an exchange resets them");
    assert!(ejects(&policy, &[answered(500), local[0], answered(500)]), "and they reset no other counter");
}

#[test]
fn grpc_statuses_count_as_their_http_statuses() {
    let gateway = OutlierDetection { consecutive_gateway_errors: 1, ..off() };
    let server = OutlierDetection { consecutive_5xx: 1, ..off() };
    for status in 0..=16 {
        assert_eq!(ejects(&gateway, &[grpc(status)]), [4, 14].contains(&status), "{status}");
        assert_eq!(ejects(&server, &[grpc(status)]), [2, 4, 12, 13, 14, 15].contains(&status), "{status}");
    }
}

#[test]
fn a_probe_fails_by_what_is_switched_on() {
    let gateway = OutlierDetection { consecutive_gateway_errors: 5, ..off() };
    assert!(!Verdict::Status(500).is_failure(&gateway) && Verdict::Status(503).is_failure(&gateway));
    let shares = OutlierDetection { failure_percentage: Some(percentage()), ..off() };
    assert!(Verdict::Status(500).is_failure(&shares) && Verdict::Local.is_failure(&shares));
    assert!(!Verdict::Status(429).is_failure(&shares));
}

#[test]
fn small_clusters_may_lose_one_and_the_last_healthy_one_stays() {
    let allowed = |percent, members| {
        Detector::allowed(&OutlierDetection { max_ejection_percent: percent, ..off() }, members)
    };
    for (members, unset, ten, half, most, all) in [
        (0, 0, 0, 0, 0, 0),
        (1, 0, 0, 0, 0, 1),
        (2, 1, 0, 1, 1, 2),
        (3, 1, 0, 1, 2, 3),
        (10, 1, 1, 5, 9, 10),
        (30, 3, 3, 15, 29, 30),
    ] {
        assert_eq!(allowed(None, members), unset);
        assert_eq!(allowed(Some(10), members), ten);
        assert_eq!(allowed(Some(50), members), half);
        assert_eq!(allowed(Some(99), members), most);
        assert_eq!(allowed(Some(100), members), all);
    }
}

#[test]
fn ejections_grow_and_shrink_again() {
    let policy = OutlierDetection { max_ejection_time: 100 * SECOND, ..off() };
    let mut detector = Detector::new(policy, 0..2);
    let mut now = Instant::now();
    let cause = Cause::ServerErrors(5);
    let mut eject = |now: Instant| match detector.eject(0, cause, now) {
        Ruling::Ejected(until) => {
            assert_eq!(detector.probed(0, true, until), Probed::Returned);
            until - now
        }
        other => panic!("{other:?}"),
    };
    for seconds in [30, 60, 90, 100, 100, 100] {
        let time = eject(now);
        assert_eq!(time, seconds * SECOND);
        now += time;
    }
    // Envoy's multiplier stops one step after the longest time is reached: 30 s times 5.
    now += 3 * policy.interval;
    assert_eq!(eject(now), 90 * SECOND, "three intervals in health, one more ejection");
    now += 1000 * policy.interval;
    assert_eq!(eject(now), 30 * SECOND);
}

#[test]
fn a_failed_probe_prolongs_the_ejection() {
    let mut detector = Detector::new(off(), 0..3);
    let now = Instant::now();
    let cause = Cause::GatewayErrors(5);
    assert_eq!(detector.eject(0, cause, now), Ruling::Ejected(now + 30 * SECOND));
    assert_eq!(detector.eject(0, cause, now), Ruling::Moot);
    assert_eq!(detector.eject(1, cause, now), Ruling::Overflow);
    assert_eq!(detector.eject(7, cause, now), Ruling::Moot, "it is no member");
    assert_eq!(detector.probed(0, false, now + 31 * SECOND), Probed::Again(now + 91 * SECOND));
    let (ejection, times) = detector.ejection(0).unwrap();
    assert_eq!((ejection.since, ejection.failed_probes, times), (now, 1, 2));
    assert_eq!(detector.probed(0, true, now + 91 * SECOND), Probed::Returned);
    assert_eq!(detector.probed(0, true, now + 91 * SECOND), Probed::Moot);
    assert_eq!(detector.probed(7, true, now), Probed::Moot);
}

#[test]
fn the_longest_ejected_return_when_the_set_shrinks() {
    let policy = OutlierDetection { max_ejection_percent: Some(50), ..off() };
    let mut detector = Detector::new(policy, 0..6);
    let start = Instant::now();
    for id in [2, 0, 1] {
        let now = start + Duration::from_secs(3 - id);
        assert!(matches!(detector.eject(id, Cause::ServerErrors(5), now), Ruling::Ejected(_)));
    }
    assert_eq!(detector.set_members([0, 1, 2, 3].into_iter(), start), [2], "ejected first");
    assert_eq!((detector.ejected(), detector.members()), (2, 4));
    assert_eq!(detector.set_members([0, 1].into_iter(), start), [1]);
    assert_eq!(detector.set_members([0].into_iter(), start), [0], "the last one is needed");
}

fn percentage() -> FailurePercentage {
    FailurePercentage { threshold: 85, minimum_hosts: 5, request_volume: 50 }
}

#[test]
fn shares_decide_only_among_enough_busy_endpoints() {
    let detector = Detector::new(off(), 0..6);
    let limits = percentage();
    let mut shares = [(0, 100, 85), (1, 100, 84), (2, 50, 0), (3, 1000, 10), (4, 49, 49), (5, 50, 0)];
    let cause = Cause::Share { failures: 85, requests: 100 };
    assert_eq!(detector.outliers(&shares, &limits), [(0, cause)]);
    shares[5].1 = 49;
    assert_eq!(detector.outliers(&shares, &limits), [], "only four have had enough requests");
    let never = FailurePercentage { threshold: 0, minimum_hosts: 0, request_volume: 0 };
    assert_eq!(
        detector.outliers(&[(0, 0, 0), (1, 9, 0)], &never),
        [],
        "without failures nobody is an outlier"
    );
}

/// A cluster of `hosts` with detection.
fn cluster(policy: OutlierDetection, hosts: u8) -> (LiveSet, Outliers) {
    let cluster = Cluster::plain("shop.default:80".parse().unwrap(), Protocol::Http1);
    let endpoints = (1..=hosts).map(|host| Endpoint::at(([10, 0, 0, host], 80).into())).collect();
    let endpoints = EndpointSet { name: "shop.default:80".parse().unwrap(), endpoints };
    let set = LiveSet::next(&cluster, &endpoints, &LiveSet::unknown(&cluster), Instant::now());
    let name: Arc<str> = "shop".into();
    let outliers = Outliers::new(policy, set.members(), &name, &Metrics::new().cluster(&name));
    (set, outliers)
}

fn gauge(gauge: &AtomicU64) -> u64 {
    gauge.load(Ordering::Relaxed)
}

#[test]
fn shares_are_looked_at_when_an_interval_has_ended() {
    let limits = FailurePercentage { minimum_hosts: 3, ..percentage() };
    let (set, outliers) = cluster(OutlierDetection { failure_percentage: Some(limits), ..off() }, 3);
    let start = Instant::now();
    let interval = outliers.policy().interval;
    for request in 0..180_u32 {
        let now = start + interval * request / 200;
        for (index, member) in set.members().iter().enumerate() {
            let is_bad = index == 1 && request % 10 != 0;
            outliers.report(&member.live, answered(if is_bad { 500 } else { 200 }), false, now);
        }
        assert!(!set.members()[1].live.is_ejected(), "the interval is not over");
    }
    outliers.report(&set.members()[0].live, answered(200), false, start + interval);
    assert!(set.members()[1].live.is_ejected());
    let ejection = outliers.describe_ejection(&set.members()[1].live, start + interval).unwrap();
    assert_eq!(ejection["why"], "162 of 180 requests in one interval have failed");
    assert_eq!(ejection["forMs"], 30_000);
}

#[test]
fn figures_follow_ejections_refusals_and_returns() {
    let (set, outliers) = cluster(OutlierDetection::default(), 3);
    let now = Instant::now();
    let live = |index: usize| &set.members()[index].live;
    for index in [0, 1] {
        for _ in 0..5 {
            outliers.report(live(index), answered(500), false, now);
        }
    }
    let gauges = &outliers.gauges;
    assert_eq!((live(0).health(now), live(1).health(now)), (Health::Ejected, Health::Healthy));
    assert_eq!((gauge(&gauges.ejections_active), gauge(&gauges.ejections_enforced)), (1, 1));
    assert_eq!(gauge(&gauges.ejections_overflow), 1);
    assert_eq!(outliers.describe()["mayBeEjected"], 1);
    outliers.report(live(0), Outcome::Cancelled, true, now + 30 * SECOND);
    assert!(live(0).is_ejected(), "a probe that is broken off decides nothing");
    outliers.report(live(0), Outcome::TimedOut, true, now + 30 * SECOND);
    assert!(live(0).is_ejected());
    assert_eq!(gauge(&gauges.ejections_enforced), 2);
    outliers.report(live(0), answered(204), true, now + 90 * SECOND);
    assert!(!live(0).is_ejected());
    assert_eq!(gauge(&gauges.ejections_active), 0);
    for _ in 0..5 {
        outliers.report(live(1), answered(500), false, now + 91 * SECOND);
    }
    assert_eq!(gauge(&gauges.ejections_active), 1);
    let gauges = Arc::clone(gauges);
    drop(outliers);
    assert_eq!((live(1).is_ejected(), gauge(&gauges.ejections_active)), (false, 0));
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Result(u64, bool),
    Probe(u64, bool),
    Members(std::collections::BTreeSet<u64>),
}

fn step() -> impl Strategy<Value = Step> {
    let id = || 0_u64..12;
    prop_oneof![
        1 => (0_u64..100).prop_map(Step::Wait),
        6 => (id(), prop::bool::weighted(0.8)).prop_map(|(id, fails)| Step::Result(id, fails)),
        2 => (id(), any::<bool>()).prop_map(|(id, succeeds)| Step::Probe(id, succeeds)),
        1 => prop::collection::btree_set(id(), 0..12).prop_map(Step::Members),
    ]
}

proptest! {
    /// Whatever happens, in whatever order: no more are ejected than allowed, and what the detector says agrees with
    /// a plain list of who is out.
    #[test]
    fn the_ejected_share_is_bounded(
        percent in prop::option::of(0_u8..=100),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let policy = OutlierDetection { max_ejection_percent: percent, ..OutlierDetection::default() };
        let mut members: std::collections::BTreeSet<u64> = (0..12).collect();
        let mut detector = Detector::new(policy, members.iter().copied());
        let mut now = Instant::now();
        let mut out: HashMap<u64, Instant> = HashMap::new();
        for step in steps {
            match step {
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
                Step::Result(_, false) => {}
                Step::Result(id, true) => match detector.eject(id, Cause::ServerErrors(5), now) {
                    Ruling::Ejected(until) => {
                        prop_assert!(members.contains(&id) && out.insert(id, until).is_none());
                        prop_assert!(until - now >= policy.base_ejection_time);
                        prop_assert!(until - now <= policy.max_ejection_time);
                    }
                    Ruling::Overflow => {
                        prop_assert_eq!(out.len(), Detector::allowed(&policy, members.len()));
                    }
                    Ruling::Moot => prop_assert!(out.contains_key(&id) || !members.contains(&id)),
                },
                Step::Probe(id, succeeds) => match detector.probed(id, succeeds, now) {
                    Probed::Returned => prop_assert!(succeeds && out.remove(&id).is_some()),
                    Probed::Again(until) => prop_assert!(!succeeds && out.insert(id, until).is_some()),
                    Probed::Moot => prop_assert!(!out.contains_key(&id)),
                },
                Step::Members(next) => {
                    out.retain(|id, _| next.contains(id));
                    for id in detector.set_members(next.iter().copied(), now) {
                        prop_assert!(out.remove(&id).is_some());
                    }
                    members = next;
                }
            }
            let allowed = Detector::allowed(&policy, members.len());
            prop_assert!(out.len() <= allowed, "{} of {} are out", out.len(), members.len());
            prop_assert_eq!(detector.ejected(), out.len());
            if percent != Some(100) && !members.is_empty() {
                prop_assert!(out.len() < members.len(), "the last healthy one is out");
            }
        }
    }
}
