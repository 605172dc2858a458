//! What is left alone, by every algorithm, and who gets its share.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use pillion_policy::{
    cluster::{Balancing, Cluster, HashKey, LoadBalancer, Protocol, Warmup},
    endpoint::{Endpoint, EndpointSet},
};
use proptest::prelude::*;
use tokio::time::Instant;

use super::super::Ask;
use crate::upstream::{endpoint::Probe, set::LiveSet};

const HOUR: Duration = Duration::from_secs(3600);

fn algorithms() -> [LoadBalancer; 5] {
    let ring = LoadBalancer::RingHash { key: HashKey::SourceIp, minimum_size: 256 };
    [LoadBalancer::LeastRequest, LoadBalancer::PeakEwma, LoadBalancer::RoundRobin, LoadBalancer::Random, ring]
}

fn set(policy: LoadBalancer, warmup: Option<Warmup>, weights: &[u32]) -> LiveSet {
    let mut cluster = Cluster::plain("shop.default:80".parse().unwrap(), Protocol::Http1);
    cluster.balancing = Balancing { policy, warmup };
    let endpoints = (1..).zip(weights).map(|(host, weight)| Endpoint {
        weight: *weight,
        ..Endpoint::at(SocketAddr::from(([10, 0, 0, host], 80)))
    });
    let endpoints = EndpointSet { name: "shop.default:80".parse().unwrap(), endpoints: endpoints.collect() };
    LiveSet::next(&cluster, &endpoints, &LiveSet::unknown(&cluster), Instant::now())
}

fn ask(ids: &[u64], now: Instant) -> Ask<'_> {
    Ask { hash: None, tried: crate::upstream::lb::Tried { ids, is_gone: false }, min_health_percent: 0, now }
}

fn ids(set: &LiveSet) -> Vec<u64> {
    set.members().iter().map(|member| member.live.id()).collect()
}

/// How often each member is picked, none of them as a probe.
fn counts(set: &LiveSet, ask: &Ask<'_>, picks: usize) -> Vec<usize> {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut counts = vec![0; set.members().len()];
    for _ in 0..picks {
        let picked = set.pick(ask, &mut rng).unwrap();
        assert_eq!(picked.probe, Probe::default());
        let at = set.members().iter().position(|member| std::ptr::eq(member, picked.member));
        counts[at.unwrap()] += 1;
    }
    counts
}

fn reason() -> Arc<str> {
    "connection refused".into()
}

#[test]
fn ejected_and_unreachable_ones_are_left_alone() {
    for policy in algorithms() {
        let set = set(policy, None, &[1, 1, 1, 1]);
        let now = Instant::now();
        set.members()[1].live.eject(now + HOUR, now);
        set.members()[3].live.unreachable(&reason(), now);
        let picks = counts(&set, &ask(&[], now), 400);
        assert!(picks[0] > 100 && picks[2] > 100 && picks[0] + picks[2] == 400, "{picks:?}");
    }
}

#[test]
fn shares_of_those_who_remain_follow_the_weights() {
    let now = Instant::now();
    for policy in [LoadBalancer::RoundRobin, LoadBalancer::Random] {
        let set = set(policy.clone(), None, &[3, 8, 1]);
        set.members()[1].live.eject(now + HOUR, now);
        let picks = counts(&set, &ask(&[], now), 4000);
        assert!((2850..3150).contains(&picks[0]) && picks[1] == 0, "{policy:?}: {picks:?}");
    }
    let equal = set(LoadBalancer::RoundRobin, None, &[1, 1, 1]);
    equal.members()[0].live.eject(now + HOUR, now);
    assert_eq!(counts(&equal, &ask(&[], now), 300), [0, 150, 150]);
}

#[test]
fn least_request_still_avoids_the_busy_one() {
    let set = set(LoadBalancer::LeastRequest, None, &[1, 1, 1]);
    let now = Instant::now();
    set.members()[0].live.eject(now + HOUR, now);
    set.members()[1].live.enter();
    assert_eq!(counts(&set, &ask(&[], now), 100), [0, 0, 100]);
}

#[test]
fn what_was_tried_before_is_picked_last() {
    for policy in algorithms() {
        let set = set(policy, None, &[1, 1, 1]);
        let (now, ids) = (Instant::now(), ids(&set));
        let picks = counts(&set, &ask(&ids[..1], now), 100);
        assert!(picks[0] == 0 && picks[1] > 0 && picks[2] > 0, "{picks:?}");
        assert_eq!(counts(&set, &ask(&ids[..2], now), 100), [0, 0, 100]);
        // All have been tried: any will do.
        assert!(counts(&set, &ask(&ids, now), 100).iter().all(|picks| *picks > 0));
        // Reachable but tried is better than fresh but unreachable.
        set.members()[2].live.unreachable(&reason(), now);
        assert_eq!(counts(&set, &ask(&ids[..2], now), 100)[2], 0);
    }
}

#[test]
fn a_dead_service_is_answered_by_itself_and_an_ejected_one_not_at_all() {
    for policy in algorithms() {
        let set = set(policy, None, &[1, 1]);
        let now = Instant::now();
        for member in set.members() {
            member.live.unreachable(&reason(), now);
        }
        assert!(counts(&set, &ask(&[], now), 100).iter().all(|picks| *picks > 0));
        let first = &ids(&set)[..1];
        assert_eq!(counts(&set, &ask(first, now), 100), [0, 100], "the other one is tried next");
        for member in set.members() {
            member.live.eject(now + HOUR, now);
        }
        assert!(set.pick(&ask(&[], now), &mut fastrand::Rng::with_seed(1)).is_none());
    }
}

#[test]
fn one_request_finds_out_whether_an_endpoint_has_recovered() {
    for policy in algorithms() {
        let set = set(policy, None, &[1, 1, 1]);
        let start = Instant::now();
        set.members()[0].live.eject(start + HOUR, start);
        let (later, mut rng) = (start + HOUR, fastrand::Rng::with_seed(3));
        let tried = [set.members()[1].live.id()];
        assert_eq!(counts(&set, &ask(&tried, later), 100), [0, 0, 100], "a repeated request is no probe");
        let mut probe = |picks| {
            (0..picks).find_map(|_| {
                let picked = set.pick(&ask(&[], later), &mut rng).unwrap();
                let id = picked.member.live.id();
                assert_eq!(id == set.members()[0].live.id(), picked.probe != Probe::default());
                (picked.probe != Probe::default()).then_some(picked.probe)
            })
        };
        let first = probe(100).unwrap();
        assert_eq!(probe(1000), None, "one at a time");
        set.members()[0].live.release(first);
        assert!(probe(100).is_some(), "a probe that was given up makes room for the next");
    }
}

#[test]
fn ejections_are_ignored_in_panic() {
    for policy in algorithms() {
        let set = set(policy, None, &[1, 1, 1, 1]);
        let now = Instant::now();
        for member in &set.members()[..2] {
            member.live.eject(now + HOUR, now);
        }
        let calm = Ask { min_health_percent: 50, ..ask(&[], now) };
        assert_eq!(counts(&set, &calm, 100)[..2], [0, 0]);
        let panic = Ask { min_health_percent: 51, ..calm };
        assert!(counts(&set, &panic, 200).iter().all(|picks| *picks > 0));
    }
}

#[test]
fn keys_stay_with_who_remains_and_come_back() {
    let ring = LoadBalancer::RingHash { key: HashKey::SourceIp, minimum_size: 256 };
    let set = set(ring, None, &[1, 1, 1]);
    let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(3));
    let mut owners = |now| {
        let key = |key| Ask { hash: Some(key), ..ask(&[], now) };
        let keys = (0..300_u64).map(|key_number| key_number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        keys.map(|hash| set.pick(&key(hash), &mut rng).unwrap().member.live.id()).collect::<Vec<_>>()
    };
    let before = owners(now);
    let gone = &set.members()[1].live;
    gone.eject(now + HOUR, now);
    let during = owners(now);
    assert!(before.iter().zip(&during).all(|(before, during)| before == during || *before == gone.id()));
    gone.readmit(Some(now));
    assert_eq!(owners(now), before);
}

#[test]
fn an_endpoint_that_returns_warms_up() {
    let warmup =
        Warmup { duration: Duration::from_secs(10), minimum_percent: 10, aggression_thousandths: 1000 };
    for policy in [LoadBalancer::RoundRobin, LoadBalancer::LeastRequest] {
        let set = set(policy, Some(warmup), &[1, 1, 1]);
        let start = Instant::now();
        set.members()[2].live.eject(start + HOUR, start);
        set.members()[2].live.readmit(Some(start + HOUR));
        let cold = counts(&set, &ask(&[], start + HOUR), 3000)[2];
        let warm = counts(&set, &ask(&[], start + HOUR + Duration::from_secs(10)), 3000)[2];
        assert!(cold < 250 && warm > 850, "{cold} {warm}");
    }
}

proptest! {
    /// Whatever is shut and tried, a pick is never ejected, and fresh and reachable where there is such a member.
    #[test]
    fn every_pick_is_of_the_best_class(
        weights in prop::collection::vec(1_u32..20, 1..8),
        ejected in prop::collection::vec(any::<bool>(), 8),
        unreachable in prop::collection::vec(any::<bool>(), 8),
        tried in prop::collection::vec(any::<bool>(), 8),
        seed: u64,
    ) {
        for policy in algorithms() {
            let set = set(policy, None, &weights);
            let now = Instant::now();
            for (index, member) in set.members().iter().enumerate() {
                if ejected[index] {
                    member.live.eject(now + HOUR, now);
                }
                if unreachable[index] {
                    member.live.unreachable(&reason(), now);
                }
            }
            let avoid: Vec<u64> =
                ids(&set).into_iter().zip(&tried).filter_map(|(id, tried)| tried.then_some(id)).collect();
            let class = |index: usize| match (ejected[index], unreachable[index], tried[index]) {
                (true, _, _) => None,
                (false, false, false) => Some(0),
                (false, false, true) => Some(1),
                (false, true, false) => Some(2),
                (false, true, true) => Some(3),
            };
            let best = (0..weights.len()).filter_map(class).min();
            let picked = set.pick(&ask(&avoid, now), &mut fastrand::Rng::with_seed(seed));
            let picked = picked.map(|picked| {
                set.members().iter().position(|member| std::ptr::eq(member, picked.member)).unwrap()
            });
            prop_assert_eq!(picked.and_then(class), best);
        }
    }
}
