//! The transitions one by one, then any interleaving of admissions, results, cancellations and time.

use std::{
    collections::HashMap,
    sync::{atomic::AtomicUsize, mpsc},
    thread,
};

use pillion_policy::{ratio::Fraction, resilience::ErrorRate};
use proptest::prelude::*;

use super::*;
use crate::telemetry::Metrics;

const OPEN: Duration = Duration::from_secs(30);
const OK: Outcome = Outcome::Answered { status: 200, grpc_status: None };
const BAD: Outcome = Outcome::Answered { status: 503, grpc_status: None };

fn consecutive(failures: u32) -> CircuitBreaker {
    CircuitBreaker {
        consecutive_failures: Some(failures),
        error_rate: None,
        open_duration: OPEN,
        success_threshold: 2,
        count_rate_limited: false,
        count_unknown: false,
    }
}

fn rate(percent: f64, minimum_requests: u32) -> CircuitBreaker {
    let rate = ErrorRate {
        threshold: Fraction::from_percent(percent).unwrap(),
        minimum_requests,
        window: Duration::from_secs(10),
        buckets: 10,
    };
    CircuitBreaker { consecutive_failures: None, error_rate: Some(rate), ..consecutive(1) }
}

fn breaker(policy: &CircuitBreaker, now: Instant) -> Arc<Breaker> {
    Arc::new(Breaker::starting(policy, "shop.default:80".into(), now))
}

fn call(breaker: &Arc<Breaker>, outcome: Outcome, now: Instant) {
    breaker.admit(now).unwrap().report(outcome, now);
}

fn refusal(breaker: &Arc<Breaker>, now: Instant) -> Duration {
    match breaker.admit(now) {
        Err(ProxyError::BreakerOpen { retry_after, .. }) => retry_after,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn opens_after_consecutive_failures_only() {
    let now = Instant::now();
    let breaker = breaker(&consecutive(5), now);
    for outcome in [BAD, BAD, BAD, BAD, OK, BAD, BAD, Outcome::Cancelled, BAD, BAD] {
        call(&breaker, outcome, now);
        assert_eq!(breaker.state(now), State::Closed, "a success between, and never five in a row");
    }
    call(&breaker, Outcome::TimedOut, now);
    assert_eq!(breaker.state(now), State::Open);
    assert_eq!(refusal(&breaker, now + Duration::from_secs(10)), Duration::from_secs(20));
    let told = breaker.describe(now + Duration::from_secs(10));
    assert_eq!(told["state"], "open");
    assert_eq!(told["why"], "5 consecutive failures, the last: timed out");
    let trouble = breaker.trouble(now + Duration::from_secs(10)).unwrap();
    assert_eq!((trouble.state, trouble.since), (State::Open, now));
    assert_eq!(trouble.reason.unwrap().to_string(), "5 consecutive failures, the last: timed out");
    assert_eq!((&told["retryAfterMs"], &told["forMs"]), (&20_000.into(), &10_000.into()));
    assert_eq!((&told["opened"], &told["rejected"]), (&1.into(), &1.into()));
}

#[test]
fn opens_when_more_than_the_share_of_enough_requests_fail() {
    let start = Instant::now();
    let breaker = breaker(&rate(50.0, 10), start);
    for second in 0..5 {
        let now = start + Duration::from_secs(second);
        call(&breaker, OK, now);
        call(&breaker, BAD, now);
    }
    let now = start + Duration::from_secs(5);
    assert_eq!(breaker.describe(now)["window"]["requests"], 10);
    assert_eq!(breaker.state(now), State::Closed, "exactly half is not more than half");
    call(&breaker, BAD, now);
    assert_eq!(breaker.state(now), State::Open);
    assert_eq!(breaker.describe(now)["why"], "6 of the last 11 requests failed, the last: 503");
}

#[test]
fn what_has_left_the_window_is_forgotten() {
    let start = Instant::now();
    let breaker = breaker(&rate(50.0, 10), start);
    for _ in 0..9 {
        call(&breaker, BAD, start);
    }
    let later = start + Duration::from_millis(9_999);
    assert_eq!(breaker.describe(later)["window"]["failures"], 9);
    let later = start + Duration::from_secs(10);
    call(&breaker, BAD, later);
    assert_eq!(breaker.state(later), State::Closed);
    assert_eq!(breaker.describe(later)["window"]["failures"], 1);
}

#[test]
fn few_probes_decide_whether_it_closes() {
    let start = Instant::now();
    let breaker = breaker(&consecutive(1), start);
    let stale = breaker.admit(start).unwrap();
    call(&breaker, BAD, start);

    let now = start + OPEN;
    let first = breaker.admit(now).unwrap();
    assert_eq!(breaker.state(now), State::HalfOpen);
    let later = now + Duration::from_secs(10);
    let second = breaker.admit(later).unwrap();
    assert_eq!(refusal(&breaker, later), Duration::from_secs(20), "until the oldest probe must have ended");

    drop(second);
    let second = breaker.admit(later).unwrap();
    stale.report(BAD, later);
    assert_eq!(breaker.state(later), State::HalfOpen, "results of an older generation do not count");
    first.report(OK, later);
    assert_eq!(breaker.state(later), State::HalfOpen);
    second.report(OK, later);
    assert_eq!(breaker.state(later), State::Closed);
    assert_eq!(breaker.describe(later)["closed"], 1);
}

#[test]
fn one_failed_probe_opens_again() {
    let start = Instant::now();
    let breaker = breaker(&consecutive(1), start);
    call(&breaker, BAD, start);
    let now = start + OPEN;
    let other = breaker.admit(now).unwrap();
    call(&breaker, Outcome::Unconnected, now);
    assert_eq!(breaker.describe(now)["why"], "a probe failed: no connection");
    assert_eq!(refusal(&breaker, now), OPEN);
    other.report(OK, now);
    assert_eq!(breaker.state(now), State::Open);
}

#[test]
fn a_probe_that_does_not_end_is_a_failure_as_of_its_time() {
    let start = Instant::now();
    let breaker = breaker(&consecutive(1), start);
    call(&breaker, BAD, start);
    let hanging = breaker.admit(start + OPEN).unwrap();
    assert_eq!(refusal(&breaker, start + 2 * OPEN + OPEN / 3), OPEN - OPEN / 3);
    assert_eq!(breaker.describe(start + 2 * OPEN + OPEN / 3)["why"], "a probe did not end within 30s");
    hanging.report(OK, start + 2 * OPEN + OPEN / 3);

    let hanging = breaker.admit(start + 3 * OPEN).unwrap();
    let next = breaker.admit(start + 6 * OPEN).unwrap();
    assert_eq!(breaker.describe(start + 6 * OPEN)["probesInFlight"], 1, "it had its time, and OPEN, too");
    drop((hanging, next));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_permit_frees_the_place_of_its_probe() {
    let breaker = breaker(&CircuitBreaker { success_threshold: 1, ..consecutive(1) }, Instant::now());
    call(&breaker, BAD, Instant::now());
    tokio::time::advance(OPEN).await;
    let probe = breaker.admit(Instant::now()).unwrap();
    refusal(&breaker, Instant::now());
    drop(probe);
    let probe = breaker.admit(Instant::now()).unwrap();
    tokio::time::advance(OPEN).await;
    drop(probe);
    assert_eq!(breaker.state(Instant::now()), State::Open, "given up too late to be a cancellation");
}

#[test]
fn failures_are_those_of_the_destination() {
    let plain = consecutive(1);
    let more = CircuitBreaker { count_rate_limited: true, count_unknown: true, ..plain.clone() };
    let http = |status| Outcome::Answered { status, grpc_status: None };
    let grpc = |code| Outcome::Answered { status: 200, grpc_status: Some(code) };
    for (outcome, fails, fails_with_more) in [
        (http(200), false, false),
        (http(404), false, false),
        (http(499), false, false),
        (http(429), false, true),
        (http(500), true, true),
        (http(599), true, true),
        (grpc(0), false, false),
        (grpc(1), false, false),
        (grpc(2), false, true),
        (grpc(4), true, true),
        (grpc(7), false, false),
        (grpc(8), false, false),
        (grpc(13), true, true),
        (grpc(14), true, true),
        (grpc(15), true, true),
        (Outcome::Unconnected, true, true),
        (Outcome::Broken, true, true),
        (Outcome::TimedOut, true, true),
    ] {
        let expected = |fails| if fails { Verdict::Failure(outcome) } else { Verdict::Success };
        assert_eq!(judge(&plain, outcome), expected(fails), "{outcome:?}");
        assert_eq!(judge(&more, outcome), expected(fails_with_more), "{outcome:?}");
    }
    assert_eq!(judge(&more, Outcome::Cancelled), Verdict::Cancelled);
}

#[test]
fn the_cluster_counts_along() {
    let gauges = Metrics::new().cluster(&"shop.default:80".into());
    let now = Instant::now();
    let breaker = Breaker::starting(&consecutive(1), "shop".into(), now).counted_in(Arc::clone(&gauges));
    let breaker = Arc::new(breaker);
    let figures = || {
        let read = |figure: &AtomicU64| figure.load(Relaxed);
        [&gauges.breaker_state, &gauges.breaker_opened, &gauges.breaker_closed, &gauges.breaker_rejected]
            .map(read)
    };
    call(&breaker, BAD, now);
    refusal(&breaker, now);
    assert_eq!(figures(), [2, 1, 0, 1]);
    let first = breaker.admit(now + OPEN).unwrap();
    assert_eq!(figures(), [1, 1, 0, 1]);
    call(&breaker, OK, now + OPEN);
    first.report(OK, now + OPEN);
    assert_eq!(figures(), [0, 1, 1, 1]);
    call(&breaker, BAD, now + OPEN);
    drop(breaker);
    assert_eq!(figures(), [0, 2, 1, 1]);
}

#[test]
fn no_lock_is_taken_while_all_is_well_or_all_is_refused() {
    for policy in [consecutive(5), rate(50.0, 10)] {
        let now = Instant::now();
        let breaker = breaker(&policy, now);
        let (done, finished) = mpsc::channel();
        thread::scope(|scope| {
            let machine = breaker.lock();
            scope.spawn(|| {
                let permit = breaker.admit(now).unwrap();
                permit.report(OK, now);
                drop(breaker.admit(now).unwrap());
                done.send(()).unwrap();
            });
            let result = finished.recv_timeout(Duration::from_secs(10));
            drop(machine);
            result.unwrap();
        });
        while breaker.state(now) == State::Closed {
            call(&breaker, BAD, now);
        }
        thread::scope(|scope| {
            let machine = breaker.lock();
            scope.spawn(|| {
                refusal(&breaker, now);
                done.send(()).unwrap();
            });
            let result = finished.recv_timeout(Duration::from_secs(10));
            drop(machine);
            result.unwrap();
        });
    }
}

/// Something that happens to a breaker.
#[derive(Debug, Clone, Copy)]
enum Event {
    Admit,
    /// One of the requests under way ends.
    Report(prop::sample::Index, Outcome),
    /// Milliseconds pass.
    Wait(u64),
}

fn policies() -> impl Strategy<Value = CircuitBreaker> {
    let rates = (0.0..=100.0, 0_u32..8, 1_u32..6, 50_u64..2000).prop_map(
        |(percent, minimum_requests, buckets, window)| {
            let threshold = Fraction::from_percent(percent).unwrap();
            ErrorRate { threshold, minimum_requests, window: Duration::from_millis(window), buckets }
        },
    );
    (prop::option::of(1_u32..5), prop::option::of(rates), 1_u64..1000, 1_u32..4).prop_map(
        |(consecutive_failures, error_rate, open, success_threshold)| CircuitBreaker {
            consecutive_failures: consecutive_failures.or(error_rate.is_none().then_some(2)),
            error_rate,
            open_duration: Duration::from_millis(open),
            success_threshold,
            count_rate_limited: false,
            count_unknown: false,
        },
    )
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![4 => Just(OK), 4 => Just(BAD), 1 => Just(Outcome::Cancelled), 1 => Just(Outcome::TimedOut)]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        5 => Just(Event::Admit),
        4 => (any::<prop::sample::Index>(), outcomes()).prop_map(|(which, outcome)| Event::Report(which, outcome)),
        2 => (0_u64..1500).prop_map(Event::Wait),
    ];
    prop::collection::vec(event, 1..120)
}

/// A breaker beside a machine that hears the same, and the requests under way.
struct Pair {
    breaker: Arc<Breaker>,
    machine: Machine,
    under_way: Vec<(Permit, Ticket)>,
    now: Instant,
}

impl Pair {
    fn new(policy: &CircuitBreaker) -> Self {
        let now = Instant::now();
        let machine = Machine::new(policy.clone(), now);
        Self { breaker: breaker(policy, now), machine, under_way: Vec::new(), now }
    }

    fn admit(&mut self) -> Result<bool, TestCaseError> {
        let (state, since) = (self.machine.state(), self.machine.since());
        let open_duration = self.breaker.policy.open_duration;
        let is_early = state == State::Open && self.now < since + open_duration;
        let expected = self.machine.admit(self.now);
        match (self.breaker.admit(self.now), expected) {
            (Ok(permit), Ok(ticket)) => {
                prop_assert!(!is_early, "let through before openDuration was over");
                prop_assert_eq!(permit.ticket, Some(ticket));
                self.under_way.push((permit, ticket));
                Ok(true)
            }
            (Err(ProxyError::BreakerOpen { retry_after, .. }), Err(left)) => {
                prop_assert_eq!(retry_after, left);
                prop_assert!(left > Duration::ZERO && left <= open_duration);
                prop_assert_ne!(self.machine.state(), State::Closed);
                Ok(false)
            }
            (breaker, machine) => Err(TestCaseError::fail(format!("{breaker:?}, but {machine:?}"))),
        }
    }

    fn report(&mut self, at: usize, outcome: Outcome) -> Result<(), TestCaseError> {
        let (permit, ticket) = self.under_way.swap_remove(at);
        self.machine.catch_up(self.now);
        let is_stale = ticket.generation != self.machine.generation();
        let before = self.figures();
        self.machine.report(ticket, judge(&self.breaker.policy, outcome), self.now);
        permit.report(outcome, self.now);
        prop_assert!(!is_stale || before == self.figures(), "a stale result counts");
        Ok(())
    }

    fn figures(&self) -> impl PartialEq + use<> {
        let machine = &self.machine;
        (machine.generation(), machine.streak(), machine.tally(), machine.probes(), machine.successes())
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        self.machine.catch_up(self.now);
        let told = self.breaker.describe(self.now);
        prop_assert_eq!(&told["state"], self.machine.state().as_str());
        prop_assert_eq!(&told["consecutiveFailures"], self.machine.streak());
        prop_assert_eq!(&told["opened"], self.machine.opened());
        let tally = self.machine.tally().unwrap_or_default();
        prop_assert_eq!(told["window"]["requests"].as_u64().unwrap_or(0), tally.requests);
        prop_assert_eq!(told["window"]["failures"].as_u64().unwrap_or(0), tally.failures);
        let threshold = self.breaker.policy.success_threshold as usize;
        let mut episodes = HashMap::<u64, usize>::new();
        for (_, ticket) in self.under_way.iter().filter(|(_, ticket)| ticket.probe.is_some()) {
            *episodes.entry(ticket.generation).or_default() += 1;
        }
        prop_assert!(episodes.values().all(|probes| *probes <= threshold), "{:?}", episodes);
        prop_assert_eq!(
            self.machine.probes(),
            episodes.get(&self.machine.generation()).copied().unwrap_or(0),
            "every place is held by a request under way"
        );
        Ok(())
    }
}

proptest! {
    #[test]
    fn whatever_happens_it_keeps_its_word_and_recovers(policy in policies(), events in events()) {
        let mut pair = Pair::new(&policy);
        for event in events {
            match event {
                Event::Admit => drop(pair.admit()?),
                Event::Report(which, outcome) if !pair.under_way.is_empty() => {
                    pair.report(which.index(pair.under_way.len()), outcome)?;
                }
                Event::Report(..) => {}
                Event::Wait(millis) => pair.now += Duration::from_millis(millis),
            }
            pair.check()?;
        }
        // Nobody reports any more; still, when hanging probes have had their time, and OPEN, too, it tries again.
        pair.now += 2 * policy.open_duration;
        for _ in 0..policy.success_threshold {
            prop_assert!(pair.admit()?, "stuck");
            pair.report(pair.under_way.len() - 1, OK)?;
            pair.check()?;
        }
        prop_assert_eq!(pair.machine.state(), State::Closed);
    }

    /// Against the definition: results in a list, counted anew for each of them.
    #[test]
    fn it_opens_with_exactly_the_failure_that_is_too_many(
        policy in policies(),
        results in prop::collection::vec((any::<bool>(), 0_u64..400), 1..80),
    ) {
        let start = Instant::now();
        let breaker = breaker(&policy, start);
        let (mut now, mut streak, mut seen) = (start, 0, Vec::<(u64, bool)>::new());
        for (fails, pause) in results {
            now += Duration::from_millis(pause);
            call(&breaker, if fails { BAD } else { OK }, now);
            streak = if fails { streak + 1 } else { 0 };
            let mut is_open = policy.consecutive_failures.is_some_and(|limit| streak >= limit);
            if let Some(rate) = policy.error_rate {
                let bucket = nanos(now - start) / nanos(rate.window / rate.buckets);
                seen.push((bucket, fails));
                let recent = seen.iter().filter(|(at, _)| at + u64::from(rate.buckets) > bucket);
                let (requests, failures) = recent.fold((0, 0), |(requests, failures), (_, fails)| {
                    (requests + 1, failures + u64::from(*fails))
                });
                is_open |= requests >= u64::from(rate.minimum_requests)
                    && failures * 1_000_000 > requests * u64::from(rate.threshold.parts_per_million());
            }
            let is_open = is_open && fails;
            prop_assert_eq!(breaker.state(now), if is_open { State::Open } else { State::Closed });
            if is_open {
                break;
            }
        }
    }
}

#[test]
fn many_threads_never_have_too_many_probes() {
    const THREADS: u64 = 4;
    const STEPS: usize = 20_000;
    let start = Instant::now();
    for policy in [consecutive(3), rate(20.0, 5)] {
        let policy = CircuitBreaker { open_duration: Duration::from_millis(20), ..policy };
        let breaker = breaker(&policy, start);
        let clock = AtomicU64::new(0);
        let probes = Mutex::new(HashMap::<u64, u32>::new());
        let episodes = AtomicUsize::new(0);
        thread::scope(|scope| {
            for seed in 0..THREADS {
                let (breaker, clock, probes, episodes) = (&breaker, &clock, &probes, &episodes);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    let mut held: Vec<Permit> = Vec::new();
                    for step in 0..STEPS {
                        let now = start + Duration::from_millis(clock.fetch_add(rng.u64(0..3), Relaxed));
                        if let Ok(permit) = breaker.admit(now) {
                            if let Some(Ticket { generation, probe: Some(_) }) = permit.ticket {
                                let mut probes = probes.lock().unwrap();
                                let probes = probes.entry(generation).or_default();
                                *probes += 1;
                                assert!(*probes <= policy.success_threshold);
                                episodes.fetch_add(1, Relaxed);
                            }
                            held.push(permit);
                        }
                        while held.len() > 3 || !held.is_empty() && (rng.bool() || step + 1 == STEPS) {
                            let permit = held.swap_remove(rng.usize(..held.len()));
                            if let Some(Ticket { generation, probe: Some(_) }) = permit.ticket {
                                *probes.lock().unwrap().entry(generation).or_default() -= 1;
                            }
                            let outcome = *rng.choice([OK, OK, BAD, Outcome::Cancelled].iter()).unwrap();
                            permit.report(outcome, now);
                        }
                    }
                });
            }
        });
        let told = breaker.describe(start);
        assert!(episodes.into_inner() > 100 && told["closed"].as_u64() > Some(10), "{told}");
        let mut now = start + Duration::from_millis(clock.into_inner()) + 2 * policy.open_duration;
        while breaker.state(now) != State::Closed {
            call(&breaker, OK, now);
            now += Duration::from_millis(1);
        }
    }
}
