use super::*;

fn breaker(name: &str, since: Instant) -> Breaker {
    Breaker { name: name.into(), state: BreakerState::Open, since, reason: "5 failures in a row".to_owned() }
}

fn endpoint(last: u8, state: EndpointState, since: Instant) -> Endpoint {
    Endpoint {
        cluster: "app.default:80".into(),
        address: SocketAddr::from(([10, 0, 0, last], 3000)),
        state,
        reason: "refused".to_owned(),
        since,
        retry_at: None,
    }
}

fn open(name: &str, since: Instant) -> Report {
    Report::new(vec![breaker(name, since)], Vec::new())
}

/// What a reporter tells over so many seconds, looking four times a second: the seconds at which it does.
fn told(reporter: &mut Reporter, start: Instant, seconds: u32, look: impl Fn(Instant) -> Report) -> Vec<f64> {
    let looks = (0..seconds * 4).map(|quarter| start + Duration::from_millis(250) * quarter);
    let tells = looks.filter(|now| reporter.next(*now, || look(*now)).is_some());
    tells.map(|now| (now - start).as_secs_f64()).collect()
}

#[test]
fn nothing_is_told_while_all_is_well() {
    assert!(told(&mut Reporter::new(), Instant::now(), 100, |_| Report::default()).is_empty());
}

#[test]
fn what_stays_is_told_at_once_and_again_every_half_a_minute() {
    let start = Instant::now();
    let tells = told(&mut Reporter::new(), start, 100, |_| open("app", start));
    assert_eq!(tells, [0.0, 30.0, 60.0, 90.0]);
}

#[test]
fn the_end_of_trouble_is_told_once() {
    let start = Instant::now();
    let healed = start + Duration::from_millis(3100);
    let look = |now| if now < healed { open("app", start) } else { Report::default() };
    assert_eq!(told(&mut Reporter::new(), start, 100, look), [0.0, 4.0]);
}

#[test]
fn however_often_things_change_there_is_one_report_a_second() {
    let start = Instant::now();
    let tells = told(&mut Reporter::new(), start, 10, |now| open("app", now));
    assert_eq!(tells, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
}

#[test]
fn it_looks_once_a_second() {
    let (start, mut looks) = (Instant::now(), 0);
    let mut reporter = Reporter::new();
    for quarter in 0..40 {
        let look = || {
            looks += 1;
            Report::default()
        };
        assert!(reporter.next(start + Duration::from_millis(250) * quarter, look).is_none());
    }
    assert_eq!(looks, 10);
}

#[test]
fn after_a_failure_it_tells_again_even_that_all_is_well() {
    let start = Instant::now();
    let at = |second| start + Duration::from_secs(second);
    let mut reporter = Reporter::new();
    assert!(reporter.next(at(0), || open("app", start)).is_some());
    reporter.answered(Err(Status::unavailable("restarting")));
    assert!(reporter.next(at(1), || open("app", start)).is_some());
    reporter.answered(Ok(()));
    assert!(reporter.next(at(2), || open("app", start)).is_none());
    assert_eq!(reporter.next(at(3), Report::default), Some(&Report::default()));
    reporter.answered(Err(Status::deadline_exceeded("no answer")));
    assert_eq!(reporter.next(at(4), Report::default), Some(&Report::default()));
    reporter.answered(Ok(()));
    assert!(reporter.next(at(5), Report::default).is_none());
}

#[test]
fn a_control_plane_that_takes_no_reports_is_left_alone() {
    let start = Instant::now();
    let mut reporter = Reporter::new();
    assert!(reporter.next(start, || open("app", start)).is_some());
    reporter.answered(Err(Status::unimplemented("what?")));
    assert!(told(&mut reporter, start, 100, |now| open("app", now)).is_empty());
}

#[test]
fn the_order_of_discovery_does_not_matter() {
    let start = Instant::now();
    let (a, b) = (breaker("a", start), breaker("b", start));
    assert_eq!(Report::new(vec![a.clone(), b.clone()], vec![]), Report::new(vec![b, a], vec![]));
}

#[test]
fn long_lists_are_cut_and_counted() {
    let start = Instant::now();
    let breakers = (0..300).map(|n| breaker(&format!("app-{n}"), start)).collect();
    let unreachable = (0..200).map(|last| endpoint(last, EndpointState::Unreachable, start));
    let ejected = (0..100).map(|last| endpoint(last, EndpointState::Ejected, start));
    let sent = Report::new(breakers, unreachable.chain(ejected).collect()).encode(start);
    assert_eq!((sent.breakers.len(), sent.endpoints.len()), (MAX_LISTED, MAX_LISTED));
    assert_eq!((sent.breakers_total, sent.ejected_total, sent.unreachable_total), (300, 100, 200));
    let listed = sent.endpoints.iter().filter(|endpoint| endpoint.state() == EndpointState::Ejected);
    assert_eq!(listed.count(), 100, "the ejected come first");
}

#[test]
fn times_travel_as_ages() {
    let start = Instant::now();
    let now = start + Duration::from_secs(12);
    let mut ejected = endpoint(1, EndpointState::Ejected, start + Duration::from_secs(2));
    ejected.retry_at = Some(start + Duration::from_secs(32));
    let sent = Report::new(vec![breaker("app", start)], vec![ejected]).encode(now);
    assert_eq!(sent.breakers[0].age_ms, 12_000);
    assert_eq!((sent.endpoints[0].age_ms, sent.endpoints[0].retry_in_ms), (10_000, Some(20_000)));
    assert_eq!(sent.endpoints[0].address, "10.0.0.1:3000");
}
