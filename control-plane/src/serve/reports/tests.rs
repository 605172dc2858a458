use pillion_xds::report::{BreakerHealth, EndpointHealth};

use super::*;
use crate::serve::status;

const NONE: Totals = Totals { breakers: 0, ejected: 0, unreachable: 0 };

fn peer(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn bad() -> HealthReport {
    HealthReport {
        breakers: vec![BreakerHealth {
            name: "app:80".to_owned(),
            state: BreakerState::HalfOpen.into(),
            age_ms: 1500,
            reason: "5 failures".to_owned(),
        }],
        endpoints: vec![EndpointHealth {
            cluster: "web:80".to_owned(),
            address: "10.0.0.7:3000".to_owned(),
            state: EndpointState::Ejected.into(),
            reason: "5 server errors".to_owned(),
            age_ms: 2000,
            retry_in_ms: Some(28_000),
        }],
        breakers_total: 1,
        ejected_total: 7,
        unreachable_total: 2,
    }
}

#[test]
fn a_report_stands_until_the_next() {
    let now = Instant::now();
    let mut reports = Reports::default();
    reports.open(peer(1));
    assert!(reports.receive(peer(1), bad(), now));
    assert_eq!(reports.totals(), Totals { breakers: 1, ejected: 7, unreachable: 2 });
    let shown = reports.of(peer(1), "default/api".to_owned(), now + Duration::from_secs(10)).unwrap();
    assert_eq!(shown.proxy, "default/api");
    assert_eq!(
        (shown.breakers[0].state, shown.breakers[0].for_seconds),
        (status::BreakerState::HalfOpen, 11)
    );
    let endpoint = &shown.endpoints[0];
    assert_eq!((endpoint.for_seconds, endpoint.retry_in_seconds), (12, Some(18)));
    assert_eq!((shown.more_breakers, shown.more_endpoints), (0, 8));
    assert!(reports.receive(peer(1), HealthReport::default(), now));
    assert_eq!(reports.totals(), NONE);
    assert!(reports.of(peer(1), String::new(), now).is_none());
}

#[test]
fn only_a_connection_with_a_stream_may_report() {
    let now = Instant::now();
    let mut reports = Reports::default();
    assert!(!reports.receive(peer(1), bad(), now));
    reports.open(peer(1));
    assert!(!reports.receive(peer(2), bad(), now));
    assert_eq!(reports.totals(), NONE);
}

#[test]
fn a_report_goes_with_its_stream() {
    let now = Instant::now();
    let mut reports = Reports::default();
    reports.open(peer(1));
    reports.receive(peer(1), bad(), now);
    reports.close(peer(1));
    assert_eq!(reports.totals(), NONE);
    assert!(!reports.receive(peer(1), bad(), now));
}

#[test]
fn what_is_not_repeated_is_forgotten() {
    let start = Instant::now();
    let at = |second| start + Duration::from_secs(second);
    let mut reports = Reports::default();
    reports.open(peer(1));
    reports.open(peer(2));
    assert_eq!(reports.expiry(), None);
    reports.receive(peer(1), bad(), start);
    reports.receive(peer(2), bad(), at(5));
    reports.receive(peer(2), bad(), at(35));
    assert_eq!(reports.expiry(), Some(at(90)));
    reports.expire(at(90));
    assert_eq!(reports.totals().breakers, 1);
    assert!(reports.of(peer(1), String::new(), at(90)).is_none());
    assert_eq!(reports.expiry(), Some(at(125)));
    reports.expire(at(125));
    assert_eq!((reports.totals(), reports.expiry()), (NONE, None));
    assert!(reports.receive(peer(1), bad(), at(126)), "a silent proxy may speak again");
}

#[test]
fn a_report_is_bounded_and_strange_entries_are_left_out() {
    let now = Instant::now();
    let mut report = bad();
    report.breakers = vec![report.breakers[0].clone(); 1000];
    report.breakers[0].state = 77;
    report.breakers_total = 1000;
    let mut reports = Reports::default();
    reports.open(peer(1));
    reports.receive(peer(1), report, now);
    let shown = reports.of(peer(1), String::new(), now).unwrap();
    assert_eq!((shown.breakers.len(), shown.more_breakers), (MAX_LISTED - 1, 745));
}
