//! The formulas, and that no interleaving of first tries, repetitions and time gets past them.

use std::{sync::atomic::AtomicU64, thread};

use proptest::prelude::*;

use super::*;

fn rate(percent: f64, min_per_second: u32, interval: Duration) -> RetryBudget {
    RetryBudget::Rate { share: Fraction::from_percent(percent).unwrap(), min_per_second, interval }
}

fn budget(policy: &RetryBudget, max_retries: Option<u32>, now: Instant) -> Arc<Budget> {
    Arc::new(Budget::starting(policy, max_retries, now))
}

/// How many repetitions are allowed at once.
fn burst(budget: &Arc<Budget>, now: Instant) -> usize {
    (0..1000).filter_map(|_| budget.try_retry(now, 0)).count()
}

#[test]
fn without_traffic_the_floor_is_saved_up_for_a_moment() {
    let start = Instant::now();
    let budget = budget(&RetryBudget::default(), None, start);
    let mut allowed = 0;
    for tenth in 0..100 {
        let now = start + Duration::from_millis(100 * tenth);
        allowed += burst(&budget, now);
        if tenth < 30 {
            assert_eq!(allowed, 30, "not what has been saved up over the interval");
        }
    }
    assert!((90..=100).contains(&allowed), "{allowed} in 10 s");
}

#[test]
fn with_traffic_it_is_a_share() {
    let start = Instant::now();
    let budget = budget(&RetryBudget::default(), None, start);
    let mut allowed = 0;
    for millis in 0..60_000 {
        let now = start + Duration::from_millis(millis);
        budget.note_request(now);
        allowed += usize::from(budget.try_retry(now, 0).is_some());
    }
    assert!((10_800..=12_000).contains(&allowed), "{allowed} of 60,000 at 20 %");
}

#[test]
fn a_burst_of_traffic_is_forgotten_after_the_interval() {
    let start = Instant::now();
    let budget = budget(&rate(20.0, 0, Duration::from_secs(10)), None, start);
    for _ in 0..1000 {
        budget.note_request(start);
    }
    let soon = start + Duration::from_millis(9_499);
    assert_eq!(budget.requests.as_ref().unwrap().sum(soon), 1000);
    assert_eq!(burst(&budget, start + Duration::from_secs(10)), 0);
    assert_eq!(burst(&budget, soon), 0, "time does not run back");
}

#[test]
fn places_are_given_back() {
    let now = Instant::now();
    let policy = RetryBudget::Concurrency {
        share: Fraction::from_percent(20.0).unwrap(),
        min_concurrency: 3,
        interval: Duration::ZERO,
    };
    let budget = budget(&policy, None, now);
    let mut held: Vec<_> = (0..10).filter_map(|_| budget.try_retry(now, 15)).collect();
    assert_eq!(held.len(), 3, "15 requests, of which a fifth is 3 as well");
    held.extend((0..30).filter_map(|_| budget.try_retry(now, 100)));
    assert_eq!((held.len(), budget.under_way()), (20, 20));
    held.truncate(2);
    assert!(budget.try_retry(now, 0).is_some() && budget.under_way() == 2);
}

#[test]
fn requests_begun_count_where_the_policy_says_so() {
    let start = Instant::now();
    let policy = RetryBudget::Concurrency {
        share: Fraction::from_percent(20.0).unwrap(),
        min_concurrency: 0,
        interval: Duration::from_secs(10),
    };
    let budget = budget(&policy, None, start);
    assert!(budget.try_retry(start, 4).is_none());
    (0..50).for_each(|_| budget.note_request(start));
    assert_eq!((0..100).filter_map(|_| budget.try_retry(start, 50)).collect::<Vec<_>>().len(), 20);
}

#[test]
fn max_retries_holds_in_addition() {
    let now = Instant::now();
    let budget = budget(&rate(100.0, 1, Duration::from_secs(10)), Some(1), now);
    let first = budget.try_retry(now, 0).unwrap();
    assert!(budget.try_retry(now, 0).is_none());
    drop(first);
    let rest = (0..10).filter(|_| budget.try_retry(now, 0).is_some()).count();
    assert_eq!(rest, 2, "what met maxRetries was not taken from the three of the rate, what ran was");
    assert_eq!(budget.under_way(), 0);
}

#[test]
fn threads_together_get_no_more() {
    let start = Instant::now();
    let budget = budget(&rate(20.0, 10, Duration::from_secs(10)), None, start);
    let allowed = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                (0..250).for_each(|_| budget.note_request(start));
            });
        }
    });
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let count = (0..500).filter_map(|_| budget.try_retry(start, 0)).count();
                allowed.fetch_add(count as u64, Relaxed);
            });
        }
    });
    assert_eq!((allowed.into_inner(), budget.under_way()), (200, 0));
}

#[test]
fn state_is_kept_only_under_the_same_policy() {
    let policy = RetryBudget::default();
    let budget = Budget::new(&policy, None);
    assert!(budget.is_for(&policy, None));
    assert!(!budget.is_for(&policy, Some(3)));
    assert!(!budget.is_for(&rate(20.0, 11, Duration::from_secs(10)), None));
}

proptest! {
    /// Over the interval that ends with any repetition, and so over any interval at all.
    #[test]
    fn no_interval_has_more_than_the_formula(
        percent in 0.0..=100.0,
        min_per_second in 0_u32..20,
        interval_millis in 1000_u64..20_000,
        events in prop::collection::vec((0_u64..300, 0_u32..40, 0_u32..40), 1..150),
    ) {
        let interval = Duration::from_millis(interval_millis);
        let policy = rate(percent, min_per_second, interval);
        let start = Instant::now();
        let budget = budget(&policy, None, start);
        let (mut now, mut requests, mut retries) = (start, Vec::new(), Vec::new());
        for (pause, tries, wishes) in events {
            now += Duration::from_millis(pause);
            for _ in 0..tries {
                budget.note_request(now);
                requests.push(now);
            }
            retries.extend((0..wishes).filter_map(|_| budget.try_retry(now, 0)).map(|_| now));

            let within = |all: &[Instant], span| all.iter().filter(|at| now - **at < span).count() as u64;
            let spent = within(&retries, interval);
            let RetryBudget::Rate { share: of, .. } = policy else { unreachable!() };
            let of_traffic = share(of, within(&requests, interval));
            let floor = u64::from(min_per_second) * interval_millis / 1000;
            if retries.last() == Some(&now) {
                prop_assert!(spent <= of_traffic.max(floor), "{} of {} or {}", spent, of_traffic, floor);
                let lately = within(&retries, SECOND * SAVED);
                prop_assert!(spent <= of_traffic || lately <= u64::from(min_per_second * SAVED));
            }
        }
        prop_assert_eq!(budget.under_way(), 0);
    }
}
