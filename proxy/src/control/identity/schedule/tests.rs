use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// A moment on both clocks, which advance together.
fn start() -> Now {
    #[expect(clippy::disallowed_methods, reason = "an origin; only differences matter")]
    let instant = std::time::Instant::now().into();
    Now { instant, wall: UNIX_EPOCH + 1000 * HOUR }
}

fn after(now: Now, time: Duration) -> Now {
    Now { instant: now.instant + time, wall: now.wall + time }
}

fn rng(seed: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(seed)
}

/// A schedule with a certificate of a day.
fn holding(now: Now, rng: &mut fastrand::Rng) -> Schedule {
    let mut schedule = Schedule::default();
    schedule.issued(now.wall + 24 * HOUR, now, rng);
    schedule
}

#[test]
fn the_first_one_is_asked_for_at_once() {
    assert_eq!(Schedule::default().wait(start()), Duration::ZERO);
}

#[test]
fn failures_are_followed_by_longer_and_longer_pauses() {
    let (mut now, mut rng) = (start(), rng(1));
    let mut schedule = Schedule::default();
    for at_least in [1, 2, 4, 8, 16, 32, 64, 128, 200, 200, 200] {
        schedule.failed(now.instant, &mut rng);
        let wait = schedule.wait(now).as_secs_f64();
        let at_least = f64::from(at_least);
        assert!((at_least..=at_least * 1.5).contains(&wait), "{wait} after {}", schedule.failures());
        now = after(now, schedule.wait(now));
        assert_eq!(schedule.wait(now), Duration::ZERO);
    }
    schedule.issued(now.wall + 24 * HOUR, now, &mut rng);
    assert_eq!(schedule.failures(), 0);
    now = after(now, 24 * HOUR);
    schedule.failed(now.instant, &mut rng);
    assert!(schedule.wait(now) < Duration::from_secs(2), "the pauses begin anew");
}

#[test]
fn a_summons_comes_before_the_renewal_and_after_the_pause() {
    let (now, mut rng) = (start(), rng(2));
    let mut schedule = holding(now, &mut rng);
    assert!(schedule.wait(now) > 9 * HOUR);
    schedule.summon(now.instant, &mut rng);
    let wait = schedule.wait(now);
    assert!(wait <= SPREAD);
    schedule.summon(now.instant + SPREAD, &mut rng);
    assert_eq!(schedule.wait(now), wait, "a second one puts nothing off");
    let now = after(now, SPREAD);
    schedule.failed(now.instant, &mut rng);
    assert!(schedule.wait(now) >= PAUSE.0);
    schedule.issued(now.wall + 24 * HOUR, now, &mut rng);
    assert!(schedule.wait(now) > 9 * HOUR, "it has been followed");
}

#[test]
fn whoever_is_back_is_asked_soon_but_only_after_a_failure() {
    let (now, mut rng) = (start(), rng(3));
    let mut schedule = holding(now, &mut rng);
    let wait = schedule.wait(now);
    schedule.reachable(now.instant, &mut rng);
    assert_eq!(schedule.wait(now), wait);
    let now = after(now, 24 * HOUR);
    for _ in 0..10 {
        schedule.failed(now.instant, &mut rng);
    }
    assert!(schedule.wait(now) >= PAUSE.1);
    schedule.reachable(now.instant, &mut rng);
    assert!(schedule.wait(now) <= RETURN);
}

#[test]
fn a_clock_that_is_set_does_not_put_a_renewal_off() {
    let (now, mut rng) = (start(), rng(4));
    let schedule = holding(now, &mut rng);
    let set_back = Now { instant: now.instant + 15 * HOUR, wall: now.wall - 500 * HOUR };
    assert_eq!(schedule.wait(set_back), Duration::ZERO);
    let slept = Now { instant: now.instant, wall: now.wall + 15 * HOUR };
    assert_eq!(schedule.wait(slept), Duration::ZERO);
}

#[derive(Debug, Clone)]
enum Event {
    Issued(u64),
    Failed,
    Summon,
    Reachable,
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0_u64..200_000).prop_map(Event::Issued),
        Just(Event::Failed),
        Just(Event::Summon),
        Just(Event::Reachable),
        (0_u64..100_000_000).prop_map(Event::Pass),
    ]
}

proptest! {
    #[test]
    fn a_renewal_lies_around_the_middle_of_a_life(life in 2_u64..100_000_000, seed: u64) {
        let (now, mut rng) = (start(), rng(seed));
        let mut schedule = Schedule::default();
        schedule.issued(now.wall + Duration::from_secs(life), now, &mut rng);
        let part = schedule.wait(now).as_secs_f64() / life as f64;
        prop_assert!((0.4..=0.6).contains(&part) || life == 2, "{}", part);
        prop_assert!(schedule.wait(now) >= LEAST);
    }

    #[test]
    fn whatever_happens_it_neither_spins_nor_sleeps_for_ever(
        events in proptest::collection::vec(event(), 1..60),
        seed: u64,
    ) {
        let (mut now, mut rng) = (start(), rng(seed));
        let mut schedule = Schedule::default();
        let mut life = Duration::ZERO;
        for event in events {
            match event {
                Event::Issued(seconds) => {
                    life = Duration::from_secs(seconds);
                    schedule.issued(now.wall + life, now, &mut rng);
                    prop_assert!(schedule.wait(now) >= LEAST);
                }
                Event::Failed => {
                    schedule.failed(now.instant, &mut rng);
                    prop_assert!(schedule.wait(now) >= PAUSE.0);
                }
                Event::Summon => {
                    schedule.summon(now.instant, &mut rng);
                    prop_assert!(schedule.wait(now) <= SPREAD.max(PAUSE.1.mul_f64(1.5)));
                }
                Event::Reachable => schedule.reachable(now.instant, &mut rng),
                Event::Pass(millis) => now = after(now, Duration::from_millis(millis)),
            }
            let wait = schedule.wait(now);
            prop_assert!(wait <= life.mul_f64(0.6).max(PAUSE.1.mul_f64(1.5)).max(LEAST), "{:?}", wait);
            prop_assert_eq!(schedule.wait(after(now, wait)), Duration::ZERO);
        }
    }
}
