use pillion_policy::retry::{RetryOn, RetrySet};
use proptest::prelude::*;

use super::*;

const FACTS: Facts = Facts {
    idempotent: true,
    repeatable: true,
    complete: true,
    repeated: 0,
    caller_repeats: false,
    left: None,
};

fn policy(on: &[RetryOn]) -> Retry {
    Retry { attempts: 2, on: RetrySet::of(on), ..Retry::SAFE }
}

fn status_5xx() -> Trouble {
    Trouble { is: RetrySet::of(&[RetryOn::Status5xx]), unsent: false, hint: Hint::None }
}

fn unconnected() -> Trouble {
    Trouble { is: RetrySet::of(&[RetryOn::ConnectFailure]), unsent: true, hint: Hint::None }
}

fn stop(policy: &Retry, trouble: &Trouble, facts: &Facts) -> Option<Stop> {
    match decide(policy, trouble, facts, || Some(()), &mut fastrand::Rng::with_seed(1)) {
        Verdict::Again { .. } => None,
        Verdict::Stop(stop) => Some(stop),
    }
}

#[test]
fn every_reason_has_its_case() {
    let on_5xx = policy(&[RetryOn::Status5xx]);
    assert_eq!(stop(&on_5xx, &status_5xx(), &FACTS), None);
    assert_eq!(stop(&policy(&[RetryOn::Reset]), &status_5xx(), &FACTS), Some(Stop::NotAsked));
    let off = Retry { attempts: 0, ..on_5xx.clone() };
    assert_eq!(stop(&off, &status_5xx(), &FACTS), Some(Stop::NotAsked));
    let hinted = |hint| Trouble { hint, ..status_5xx() };
    assert_eq!(stop(&on_5xx, &hinted(Hint::Never), &FACTS), Some(Stop::Forbidden));
    assert_eq!(stop(&on_5xx, &hinted(Hint::Overloaded), &FACTS), Some(Stop::Overloaded));
    assert_eq!(stop(&on_5xx, &hinted(Hint::Repeated), &FACTS), Some(Stop::Elsewhere));
    let facts = Facts { caller_repeats: true, ..FACTS };
    assert_eq!(stop(&on_5xx, &status_5xx(), &facts), Some(Stop::Elsewhere));
    let facts = Facts { repeated: 2, ..FACTS };
    assert_eq!(stop(&on_5xx, &status_5xx(), &facts), Some(Stop::Exhausted));
    let facts = Facts { idempotent: false, ..FACTS };
    assert_eq!(stop(&on_5xx, &status_5xx(), &facts), Some(Stop::NotIdempotent));
    let facts = Facts { repeatable: false, ..FACTS };
    assert_eq!(stop(&on_5xx, &status_5xx(), &facts), Some(Stop::BodyTooLong));
    let facts = Facts { complete: false, ..FACTS };
    assert_eq!(stop(&on_5xx, &status_5xx(), &facts), Some(Stop::BodyUnfinished));
    let facts = Facts { left: Some(Duration::from_secs(1)), ..FACTS };
    let later = hinted(Hint::After(Duration::from_secs(1)));
    assert_eq!(stop(&on_5xx, &later, &facts), Some(Stop::Deadline));
    let denied = decide(&on_5xx, &status_5xx(), &FACTS, || None::<()>, &mut fastrand::Rng::with_seed(1));
    assert_eq!(denied, Verdict::Stop(Stop::Budget));
}

#[test]
fn what_was_not_sent_is_sent_elsewhere_at_once_whatever_the_method() {
    let facts = Facts { idempotent: false, complete: false, caller_repeats: true, ..FACTS };
    let verdict = decide(&Retry::SAFE, &unconnected(), &facts, || Some(()), &mut fastrand::Rng::with_seed(1));
    assert_eq!(verdict, Verdict::Again { wait: Duration::ZERO, budget: () });
    assert_eq!(stop(&Retry::SAFE, &status_5xx(), &FACTS), Some(Stop::NotAsked));
}

#[test]
fn a_policy_may_accept_the_risk() {
    let facts = Facts { idempotent: false, ..FACTS };
    let willing = Retry { non_idempotent: true, ..policy(&[RetryOn::Status5xx]) };
    assert_eq!(stop(&willing, &status_5xx(), &facts), None);
    let mut keyed = HeaderMap::new();
    assert!(!is_idempotent(&Method::POST, &keyed));
    keyed.insert(IDEMPOTENCY_KEY, http::HeaderValue::from_static("k"));
    assert!(is_idempotent(&Method::POST, &keyed));
}

#[test]
fn waits_keep_to_the_numbers_of_the_policy() {
    // The example of the users: three attempts, multiplier 1, at least 2 s, at most 10 s.
    let flat = Backoff {
        base: Duration::from_secs(2),
        max: Duration::from_secs(10),
        multiplier_thousandths: 1000,
        jitter: Jitter::Above,
    };
    let mut rng = fastrand::Rng::with_seed(7);
    for number in 1..=3 {
        let wait = backoff(&flat, number, &mut rng);
        assert!((Duration::from_secs(2)..=Duration::from_secs(3)).contains(&wait), "{wait:?}");
    }
    for (number, bound) in [(1, 25), (2, 75), (3, 175), (4, 250), (40, 250)] {
        for _ in 0..100 {
            assert!(backoff(&Backoff::ENVOY, number, &mut rng) <= Duration::from_millis(bound));
        }
    }
}

proptest! {
    #[test]
    fn waits_are_within_their_bounds(
        base in 1..10_000u64,
        factor in 1..40u64,
        multiplier in 0..10_000u32,
        number in 1..100u32,
        jitter in prop::sample::select(vec![Jitter::Full, Jitter::Half, Jitter::Above]),
        seed: u64,
    ) {
        let policy = Backoff {
            base: Duration::from_millis(base),
            max: Duration::from_millis(base * factor),
            multiplier_thousandths: multiplier,
            jitter,
        };
        let wait = backoff(&policy, number, &mut fastrand::Rng::with_seed(seed));
        let most = if jitter == Jitter::Above { policy.max.mul_f64(1.5) } else { policy.max };
        prop_assert!(wait <= most);
        if multiplier >= 1000 {
            match jitter {
                Jitter::Full => {}
                Jitter::Half => prop_assert!(wait >= policy.base / 2),
                Jitter::Above => prop_assert!(wait >= policy.base),
            }
        }
    }

    #[test]
    fn without_a_policy_nothing_that_may_have_been_carried_out_is_repeated(
        conditions: u16, unsent: bool, idempotent: bool, repeated in 0..3u32,
    ) {
        let is = RetryOn::ALL.into_iter().filter(|on| conditions & 1 << *on as u16 != 0).collect();
        let trouble = Trouble { is, unsent, hint: Hint::None };
        let facts = Facts { idempotent, repeated, ..FACTS };
        if stop(&Retry::SAFE, &trouble, &facts).is_none() {
            prop_assert!(is.meets(RetrySet::SAFE) && repeated < 2);
            prop_assert!(unsent || idempotent);
        }
    }
}
