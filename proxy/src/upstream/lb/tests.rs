//! Distribution, stability and weights of the balancers.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use pillion_policy::{
    cluster::{Balancing, Cluster, HashKey, LoadBalancer, Protocol, Warmup},
    endpoint::{Endpoint, EndpointSet},
};
use proptest::prelude::*;
use tokio::time::Instant;

use super::{
    super::{
        endpoint::Probe,
        set::{LiveSet, Member},
    },
    Ask,
};

fn cluster(policy: LoadBalancer, warmup: Option<Warmup>) -> Cluster {
    let mut cluster = Cluster::plain("shop.default:80".parse().unwrap(), Protocol::Http1);
    cluster.balancing = Balancing { policy, warmup };
    cluster
}

fn endpoints(weights: &[u32]) -> EndpointSet {
    let endpoints = (1..).zip(weights).map(|(host, weight)| Endpoint {
        weight: *weight,
        ..Endpoint::at(SocketAddr::from(([10, 0, 0, host], 80)))
    });
    EndpointSet { name: "shop.default:80".parse().unwrap(), endpoints: endpoints.collect() }
}

fn set(cluster: &Cluster, weights: &[u32]) -> LiveSet {
    LiveSet::next(cluster, &endpoints(weights), &LiveSet::unknown(cluster), Instant::now())
}

fn ring() -> LoadBalancer {
    LoadBalancer::RingHash { key: HashKey::SourceIp, minimum_size: 1024 }
}

/// A pick from a set of endpoints none of which is impaired.
fn pick<'a>(
    set: &'a LiveSet,
    hash: Option<u64>,
    now: Instant,
    rng: &mut fastrand::Rng,
) -> Option<&'a Member> {
    let picked = set.pick(&Ask { hash, tried: super::Tried::default(), min_health_percent: 0, now }, rng)?;
    assert!(picked.probe == Probe::default(), "nothing is to be found out");
    Some(picked.member)
}

fn counts(set: &LiveSet, picks: usize, now: Instant) -> Vec<usize> {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut counts: HashMap<SocketAddr, usize> = HashMap::new();
    for _ in 0..picks {
        *counts.entry(pick(set, None, now, &mut rng).unwrap().live.address()).or_default() += 1;
    }
    set.members().iter().map(|member| counts.get(&member.live.address()).copied().unwrap_or(0)).collect()
}

#[test]
fn round_robin_is_exact_and_smooth() {
    let cluster = cluster(LoadBalancer::RoundRobin, None);
    assert_eq!(counts(&set(&cluster, &[1, 1, 1]), 300, Instant::now()), [100, 100, 100]);
    let weighted = set(&cluster, &[5, 1, 1]);
    assert_eq!(counts(&weighted, 700, Instant::now()), [500, 100, 100]);
    let mut rng = fastrand::Rng::with_seed(1);
    let run: Vec<_> =
        (0..7).map(|_| pick(&weighted, None, Instant::now(), &mut rng).unwrap().live.address()).collect();
    assert!(run.windows(4).any(|four| four.iter().any(|address| *address != run[0])), "turns are spread");
}

#[test]
fn huge_weights_do_not_make_a_huge_schedule() {
    let cluster = cluster(LoadBalancer::RoundRobin, None);
    let shares = counts(&set(&cluster, &[u32::MAX, u32::MAX - 1, 1]), 8192, Instant::now());
    assert!(shares[0] > 3000 && shares[1] > 3000 && shares[2] < 16, "{shares:?}");
}

#[test]
fn dice_follow_the_weights() {
    for policy in [LoadBalancer::Random, LoadBalancer::LeastRequest] {
        let shares = counts(&set(&cluster(policy, None), &[1, 1, 1, 1]), 8000, Instant::now());
        assert!(shares.iter().all(|share| (1700..2300).contains(share)), "{shares:?}");
    }
    let shares = counts(&set(&cluster(LoadBalancer::Random, None), &[3, 1]), 8000, Instant::now());
    assert!((5700..6300).contains(&shares[0]), "{shares:?}");
}

#[test]
fn least_request_follows_the_weights_at_rest() {
    let shares = counts(&set(&cluster(LoadBalancer::LeastRequest, None), &[9, 1]), 8000, Instant::now());
    assert!((7000..7400).contains(&shares[0]), "{shares:?}");
}

#[test]
fn least_request_avoids_the_busy_one() {
    let set = set(&cluster(LoadBalancer::LeastRequest, None), &[1, 1]);
    for _ in 0..10 {
        set.members()[0].live.enter();
    }
    assert_eq!(counts(&set, 100, Instant::now()), [0, 100]);
}

#[test]
fn peak_ewma_avoids_the_slow_one() {
    let set = set(&cluster(LoadBalancer::PeakEwma, None), &[1, 1]);
    let now = Instant::now();
    set.members()[0].live.observe(Duration::from_millis(100), now);
    set.members()[1].live.observe(Duration::from_millis(5), now);
    assert_eq!(counts(&set, 100, now), [0, 100]);
    // Twenty times as fast, but with twenty times as much to do: the idle one answers sooner.
    for _ in 0..20 {
        set.members()[1].live.enter();
    }
    assert_eq!(counts(&set, 100, now), [100, 0]);
}

#[test]
fn peak_ewma_gives_an_unknown_endpoint_one_request_at_a_time() {
    let set = set(&cluster(LoadBalancer::PeakEwma, None), &[1, 1]);
    let now = Instant::now();
    set.members()[0].live.observe(Duration::from_millis(5), now);
    assert_eq!(counts(&set, 100, now), [0, 100]);
    set.members()[1].live.enter();
    assert_eq!(counts(&set, 100, now), [100, 0]);
}

#[test]
fn a_new_endpoint_warms_up() {
    let warmup =
        Warmup { duration: Duration::from_secs(10), minimum_percent: 10, aggression_thousandths: 1000 };
    for policy in [LoadBalancer::RoundRobin, LoadBalancer::LeastRequest, LoadBalancer::PeakEwma] {
        let cluster = cluster(policy, Some(warmup));
        let start = Instant::now();
        let first = LiveSet::next(&cluster, &endpoints(&[1, 1]), &LiveSet::unknown(&cluster), start);
        let grown = LiveSet::next(&cluster, &endpoints(&[1, 1, 1]), &first, start);
        let cold = counts(&grown, 3000, start)[2];
        let half = counts(&grown, 3000, start + Duration::from_secs(5))[2];
        let warm = counts(&grown, 3000, start + Duration::from_secs(10))[2];
        assert!(cold < 250 && cold < half && half < warm && warm > 850, "{cold} {half} {warm}");
    }
}

#[test]
fn nothing_to_pick_from() {
    let cluster = cluster(ring(), None);
    let mut rng = fastrand::Rng::with_seed(1);
    assert!(pick(&set(&cluster, &[]), Some(1), Instant::now(), &mut rng).is_none());
}

proptest! {
    #[test]
    fn a_ring_moves_few_keys(hosts in 3_usize..20, keys in prop::collection::vec(any::<u64>(), 400)) {
        let cluster = cluster(ring(), None);
        let mut rng = fastrand::Rng::with_seed(1);
        let all = set(&cluster, &vec![1; hosts]);
        let fewer = set(&cluster, &vec![1; hosts - 1]);
        let now = Instant::now();
        let gone = all.members()[hosts - 1].live.address();
        for key in keys {
            let before = pick(&all, Some(key), now, &mut rng).unwrap().live.address();
            let after = pick(&fewer, Some(key), now, &mut rng).unwrap().live.address();
            prop_assert!(before == after || before == gone, "a key of a host that stayed has moved");
        }
    }

    #[test]
    fn every_pick_is_a_member(weights in prop::collection::vec(1_u32..1000, 1..12), seed: u64) {
        for policy in [LoadBalancer::LeastRequest, LoadBalancer::RoundRobin, LoadBalancer::Random, ring()] {
            let set = set(&cluster(policy, None), &weights);
            let mut rng = fastrand::Rng::with_seed(seed);
            prop_assert!(pick(&set, None, Instant::now(), &mut rng).is_some());
        }
    }
}
