//! Gates, back-off and latency.

use proptest::prelude::*;

use super::*;

fn endpoint() -> (LiveEndpoint, Arc<AtomicU32>) {
    let impaired = Arc::default();
    (LiveEndpoint::new("10.0.0.1:80".parse().unwrap(), None, &impaired), impaired)
}

fn retry_in(live: &LiveEndpoint, now: Instant) -> Duration {
    match live.health(now) {
        Health::Unreachable { retry_in, .. } => retry_in,
        other => panic!("{other:?}"),
    }
}

#[test]
fn back_off_doubles_up_to_its_limit_and_ends_with_a_connection() {
    let (live, impaired) = endpoint();
    let mut now = Instant::now();
    for expected in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
        live.unreachable(&"refused".into(), now);
        let wait = retry_in(&live, now);
        let expected = Duration::from_millis(expected);
        assert!(wait >= expected * 8 / 10 && wait <= expected * 12 / 10, "{wait:?} for {expected:?}");
        // Connects that were under way fail with it; this says nothing new.
        live.unreachable(&"refused".into(), now + wait / 2);
        assert_eq!(retry_in(&live, now), wait);
        now += wait;
    }
    assert_eq!(impaired.load(Ordering::Relaxed), 1);
    live.reachable();
    assert_eq!(live.health(now), Health::Healthy);
    assert_eq!(impaired.load(Ordering::Relaxed), 0);
    live.unreachable(&"refused".into(), now);
    assert!(retry_in(&live, now) <= Duration::from_millis(120), "it starts again");
}

#[test]
fn an_endpoint_that_goes_takes_its_gates_with_it() {
    let (live, impaired) = endpoint();
    let now = Instant::now();
    live.unreachable(&"refused".into(), now);
    live.eject(now + MAX_BACKOFF, now);
    assert_eq!(impaired.load(Ordering::Relaxed), 2);
    drop(live);
    assert_eq!(impaired.load(Ordering::Relaxed), 0);
}

#[test]
fn an_ejected_and_unreachable_endpoint_is_due_when_both_times_are_over() {
    let (live, _) = endpoint();
    let now = Instant::now();
    live.unreachable(&"refused".into(), now);
    live.eject(now + MAX_BACKOFF, now);
    let later = now + MAX_BACKOFF / 2;
    assert!(!live.availability(later).due && live.probe(later).is_none());
    let over = now + MAX_BACKOFF;
    assert!(live.availability(over).due);
    let probe = live.probe(over).unwrap();
    assert!(probe.ejection.is_some() && probe.reach.is_some());
    assert_eq!((live.probe(over), live.health(over)), (None, Health::Probing));
    live.reachable();
    assert_eq!(live.probe(over), None, "the probe that connects still decides about the ejection");
}

#[test]
fn a_probe_of_an_earlier_time_frees_no_place() {
    let (live, _) = endpoint();
    let now = Instant::now();
    live.eject(now + MAX_BACKOFF, now);
    let stale = live.probe(now + MAX_BACKOFF).unwrap();
    live.eject(now + 2 * MAX_BACKOFF, now + MAX_BACKOFF);
    let current = live.probe(now + 2 * MAX_BACKOFF).unwrap();
    live.release(stale);
    assert_eq!(live.probe(now + 2 * MAX_BACKOFF), None);
    live.release(current);
    assert!(live.probe(now + 2 * MAX_BACKOFF).is_some());
}

#[test]
fn latency_jumps_to_a_peak_and_comes_down_slowly() {
    let (live, _) = endpoint();
    let start = Instant::now();
    let millis = |live: &LiveEndpoint, now| live.latency(now).map(|latency| latency.as_secs_f64() * 1e3);
    assert_eq!(millis(&live, start), None);
    live.observe(Duration::from_millis(10), start);
    live.observe(Duration::from_millis(500), start);
    assert_eq!(millis(&live, start), Some(500.0));
    let later = start + Duration::from_secs(10);
    let left = millis(&live, later).unwrap();
    assert!((left - 500.0 / std::f64::consts::E).abs() < 0.1, "{left}");
    live.observe(Duration::from_millis(10), later);
    let mixed = millis(&live, later).unwrap();
    assert!((mixed - (left + 10.0 * (1.0 - 1.0 / std::f64::consts::E))).abs() < 0.1, "{mixed}");
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Wait(u64),
    Probe,
    Release(prop::sample::Index),
    Succeed(prop::sample::Index),
    Fail(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1_u64..2000).prop_map(Step::Wait),
        Just(Step::Probe),
        any::<prop::sample::Index>().prop_map(Step::Release),
        any::<prop::sample::Index>().prop_map(Step::Succeed),
        any::<prop::sample::Index>().prop_map(Step::Fail),
    ]
}

proptest! {
    /// However probes end, there is never more than one of the same time, and a shut gate always lets one through in
    /// the end.
    #[test]
    fn one_probe_at_a_time(steps in prop::collection::vec(step(), 1..60)) {
        let (live, impaired) = endpoint();
        let mut now = Instant::now();
        let mut until = now + Duration::from_secs(1);
        live.eject(until, now);
        let mut probes: Vec<Probe> = Vec::new();
        for step in steps {
            let take = |probes: &mut Vec<Probe>, index: prop::sample::Index| {
                (!probes.is_empty()).then(|| probes.swap_remove(index.index(probes.len())))
            };
            match step {
                Step::Wait(millis) => now += Duration::from_millis(millis),
                Step::Probe => {
                    let free = live.is_ejected() && now >= until && probes.is_empty();
                    let probe = live.probe(now);
                    prop_assert_eq!(probe.is_some(), free);
                    probes.extend(probe);
                }
                Step::Release(index) => {
                    if let Some(probe) = take(&mut probes, index) {
                        live.release(probe);
                    }
                }
                Step::Succeed(index) => {
                    if let Some(probe) = take(&mut probes, index) {
                        live.readmit(Some(now));
                        live.release(probe);
                    }
                }
                Step::Fail(index) => {
                    if let Some(probe) = take(&mut probes, index) {
                        until = now + Duration::from_secs(1);
                        live.eject(until, now);
                        live.release(probe);
                    }
                }
            }
            prop_assert_eq!(impaired.load(Ordering::Relaxed), u32::from(live.is_ejected()));
        }
        for probe in probes {
            live.release(probe);
        }
        prop_assert_eq!(live.probe(until.max(now)).is_some(), live.is_ejected());
    }
}
