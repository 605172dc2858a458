//! Budgets to the request, and that neither floods of keys nor threads get past them.

use std::{
    sync::{Barrier, atomic::AtomicU32},
    thread,
};

use pillion_policy::resilience::RateLimitKey;
use proptest::prelude::*;

use super::*;

const REQUESTS: u32 = 100;
const PER: Duration = Duration::from_secs(900);

fn policy(key: Option<RateLimitKey>) -> RateLimit {
    RateLimit { name: "api".into(), requests: REQUESTS, per: PER, key }
}

fn by_peer(now: Instant) -> Limiter {
    Limiter::starting(&policy(Some(RateLimitKey::Peer)), now)
}

fn passes(decision: Decision) -> bool {
    matches!(decision, Decision::Allowed { .. })
}

/// How many of `n` requests pass at `now`.
fn burst(limiter: &Limiter, key: Option<u64>, n: u32, now: Instant) -> u32 {
    (0..n).map(|_| u32::from(passes(limiter.check(key, now)))).sum()
}

#[test]
fn a_budget_is_spent_to_the_request_and_earned_back_evenly() {
    let start = Instant::now();
    let limiter = Limiter::starting(&policy(None), start);
    let nine_seconds = Duration::from_secs(9);
    assert_eq!(limiter.check(None, start), Decision::Allowed { remaining: 99, reset: nine_seconds });
    assert_eq!(burst(&limiter, None, 1000, start), 99);
    let limited = Decision::Limited { retry_after: nine_seconds, reset: PER };
    assert_eq!(limiter.check(None, start), limited);
    assert_eq!(burst(&limiter, None, 10, start + nine_seconds - Duration::from_nanos(1)), 0);
    assert_eq!(burst(&limiter, None, 10, start + nine_seconds), 1);
    assert_eq!(burst(&limiter, None, 1000, start + nine_seconds + PER), 100);
}

#[test]
fn each_key_has_a_budget_of_its_own_and_the_keyless_have_one() {
    let now = Instant::now();
    let limiter = by_peer(now);
    for key in ["a", "b"] {
        let key = Some(limiter.hash(key));
        assert_eq!(burst(&limiter, key, 1000, now), REQUESTS);
    }
    assert_eq!(burst(&limiter, None, 1000, now), REQUESTS);
    assert_eq!(burst(&limiter, Some(0), 1000, now), REQUESTS, "nobody's number is a number like any");

    let limiter = Limiter::starting(&policy(None), now);
    let of_both = burst(&limiter, Some(1), 60, now) + burst(&limiter, Some(2), 60, now);
    assert_eq!(of_both, REQUESTS, "where no keys are told apart, all have one budget");
}

#[test]
fn hashes_cannot_be_foreseen() {
    let (one, other) = (by_peer(Instant::now()), by_peer(Instant::now()));
    assert_eq!(one.hash("a"), one.hash("a"));
    assert_ne!(one.hash("a"), other.hash("a"));
}

#[test]
fn a_million_keys_need_no_more_memory_and_free_nobody() {
    let start = Instant::now();
    let limiter = by_peer(start);
    assert_eq!(size_of_val(&*limiter.sets), 256 << 10);
    let exhausted: Vec<_> = (0..100_u32).map(|number| Some(limiter.hash(("exhausted", number)))).collect();
    for key in &exhausted {
        assert_eq!(burst(&limiter, *key, 1000, start), REQUESTS);
    }
    let flood = Duration::from_secs(60);
    for number in 0..1_000_000_u32 {
        let now = start + flood * (number / 1000) / 1000;
        assert!(passes(limiter.check(Some(limiter.hash(number)), now)), "a new key has its budget");
    }
    for key in &exhausted {
        assert_eq!(burst(&limiter, *key, 1000, start + flood), 6, "what 60 s earn, at one in 9 s");
    }
    assert_eq!(size_of_val(&*limiter.sets), 256 << 10);
}

#[test]
fn the_key_that_has_used_least_makes_room() {
    let now = Instant::now();
    let limiter = by_peer(now);
    let neighbours: Vec<_> = (0..=WAYS as u64).map(|number| 1 + number * (SLOTS / WAYS) as u64).collect();
    let (newcomer, known) = neighbours.split_last().unwrap();
    for (key, used) in known.iter().zip([9, 8, 7, 2, 6, 5, 4, 3]) {
        assert_eq!(burst(&limiter, Some(*key), used, now), used);
    }
    let left = |key: &u64| match limiter.check(Some(*key), now) {
        Decision::Allowed { remaining, .. } => remaining,
        Decision::Limited { .. } => panic!("limited"),
    };
    assert_eq!(left(newcomer), 99, "it starts with a full budget");
    for (key, expected) in known.iter().zip([90, 91, 92, 99, 93, 94, 95, 96]) {
        if expected != 99 {
            assert_eq!(left(key), expected);
        }
    }
    assert_eq!(left(&known[3]), 99, "displaced and forgotten");
}

#[test]
fn threads_together_get_exactly_the_budget() {
    const THREADS: usize = 4;
    let now = Instant::now();
    for _ in 0..50 {
        let (limiter, barrier, passed) = (by_peer(now), Barrier::new(THREADS), AtomicU32::new(0));
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    barrier.wait();
                    passed.fetch_add(burst(&limiter, Some(7), 200, now), Relaxed);
                });
            }
        });
        assert_eq!(passed.into_inner(), REQUESTS);
    }
}

#[test]
fn a_known_key_is_counted_exactly_amid_new_ones() {
    const THREADS: u64 = 4;
    let now = Instant::now();
    let limiter = by_peer(now);
    let neighbour = |number: u64| Some(1 + number * (SLOTS / WAYS) as u64);
    let (barrier, passed) = (Barrier::new(4), AtomicU32::new(burst(&limiter, neighbour(0), 10, now)));
    thread::scope(|scope| {
        for thread in 1..=THREADS {
            let (limiter, barrier, passed) = (&limiter, &barrier, &passed);
            scope.spawn(move || {
                barrier.wait();
                for step in 0..5_000 {
                    limiter.check(neighbour(thread * 100_000 + step), now);
                    passed.fetch_add(burst(limiter, neighbour(0), 1, now), Relaxed);
                }
            });
        }
    });
    assert_eq!(passed.into_inner(), REQUESTS);
}

#[test]
fn threads_that_meet_a_new_key_give_it_one_place() {
    const THREADS: u64 = 4;
    let now = Instant::now();
    let limiter = by_peer(now);
    let neighbour = |number: u64| Some(1 + number * (SLOTS / WAYS) as u64);
    let barrier = Barrier::new(4);
    for round in 0..500 {
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (limiter, barrier) = (&limiter, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    limiter.check(neighbour(round * 10 + thread % 2), now);
                    limiter.check(neighbour(round * 10 + thread % 3), now);
                });
            }
        });
        let mut tags: Vec<_> = limiter.sets[1].iter().map(|slot| slot.tag.load(Relaxed)).collect();
        tags.retain(|tag| *tag != 0);
        tags.sort_unstable();
        assert!(tags.windows(2).all(|pair| pair[0] != pair[1]), "{tags:?}");
    }
}

proptest! {
    #[test]
    fn no_time_has_more_than_the_burst_and_what_it_earns(
        requests in 1_u32..50,
        per_millis in 1_u64..5000,
        pauses in prop::collection::vec(prop_oneof![Just(0), 0_u64..50_000_000], 1..300),
    ) {
        let per = Duration::from_millis(per_millis);
        let gcra = Gcra::new(requests, per);
        let (mut arrival, mut now, mut passed) = (0, 0, Vec::new());
        for pause in pauses {
            now += pause;
            match gcra.decide(arrival, now) {
                (Decision::Allowed { remaining, reset }, Some(next)) => {
                    prop_assert!(next > arrival && remaining < requests && reset <= per);
                    (arrival, _) = (next, passed.push(now));
                }
                (Decision::Limited { retry_after, reset }, None) => {
                    let then = now + nanos(retry_after);
                    prop_assert!(reset <= per && nanos(retry_after) > 0);
                    prop_assert!(passes(gcra.decide(arrival, then).0), "it may come back when it was told to");
                    prop_assert!(!passes(gcra.decide(arrival, then - 1).0), "and not before");
                }
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            }
        }
        for (first, from) in passed.iter().enumerate() {
            for (last, to) in passed.iter().enumerate().skip(first) {
                let count = (last - first + 1) as u128;
                let earned = u128::from(to - from) * u128::from(requests) / per.as_nanos();
                prop_assert!(count <= u128::from(requests) + earned);
            }
        }
    }

    #[test]
    fn any_numbers_are_a_limit(requests: u32, per: Duration, arrival: u64, now: u64) {
        let (decision, next) = Gcra::new(requests, per).decide(arrival, now);
        prop_assert_eq!(passes(decision), next.is_some());
        prop_assert!(Gcra::new(requests, per).decide(0, now).1.is_some(), "a full budget lets one through");
    }
}
