use pillion_control_plane::{ProxyFigures, Silence};
use pillion_xds::figures::{Bucket, Counted, Figures, Routed, Traffic};

use super::*;

fn counted(requests: u64, failures: u64, [fast, slow, endless]: [u64; 3]) -> Counted {
    let bucket = |up_to_ms, count| Bucket { up_to_ms, count };
    let durations = vec![bucket(Some(10.0), fast), bucket(Some(100.0), slow), bucket(None, endless)];
    Counted { requests, failures, durations }
}

fn traffic(reporter: &str, source: &str, destination: &str, counted: Counted) -> Traffic {
    Traffic {
        reporter: reporter.to_owned(),
        source: source.to_owned(),
        destination: destination.to_owned(),
        counted,
        ..Traffic::default()
    }
}

fn counts(traffic: Vec<Traffic>, routes: Vec<Routed>) -> Counts {
    let figures = Figures { traffic, routes };
    let silence = Silence { asked: 2, silent: vec!["a/late".to_owned()], ..Silence::default() };
    Counts { proxies: vec![ProxyFigures { proxy: "a/web@1".to_owned(), figures }], silence }
}

#[test]
fn the_table_is_of_what_happened_in_between() {
    let web =
        |counted| Traffic { retries: 4, open_breakers: 1, ..traffic("source", "a/web", "order", counted) };
    let before = counts(vec![Traffic { retries: 2, ..web(counted(10, 5, [10, 0, 0])) }], vec![]);
    let now = counts(
        vec![web(counted(110, 6, [60, 49, 1])), traffic("source", "a/web", "user", Counted::default())],
        vec![],
    );
    let told = "\
requests of 2.0 s, as 1 of 2 proxies tell
not heard in time: a/late

FROM   TO     SUCCESS   RPS    P50    P95     P99  RETRIES/S  OPEN BREAKERS
a/web  order  99.00 %  50.0  10 ms  93 ms  100 ms        1.0              1
a/web  user         -   0.0      -      -       -        0.0              0
";
    assert_eq!(render(None, &before, &now, Duration::from_secs(2)), told);
}

#[test]
fn a_proxy_that_was_restarted_counts_from_nothing() {
    let before = counts(vec![traffic("source", "a/web", "order", counted(100, 50, [100, 0, 0]))], vec![]);
    let now = counts(vec![traffic("source", "a/web", "order", counted(7, 1, [7, 0, 0]))], vec![]);
    let lines = between(None, &before, &now);
    assert_eq!((lines[0].counted.requests, lines[0].counted.failures), (7, 1));
}

#[test]
fn a_request_counts_once_however_many_tell_of_it() {
    let none = Counts::default();
    let now = counts(
        vec![
            traffic("source", "a/web", "order", counted(3, 0, [3, 0, 0])),
            traffic("destination", "a/web", "order", counted(3, 0, [3, 0, 0])),
            traffic("destination", "", "order", counted(3, 0, [3, 0, 0])),
            traffic("destination", "", "web", counted(5, 0, [5, 0, 0])),
        ],
        vec![],
    );
    let sums = |by| {
        let lines = between(by, &none, &now);
        lines.into_iter().map(|line| (line.key.0, line.key.1, line.counted.requests)).collect::<Vec<_>>()
    };
    let sum = |first: &str, second: &str, count| (first.to_owned(), second.to_owned(), count);
    assert_eq!(sums(None), [sum("a/web", "order", 3), sum("unknown", "web", 5)]);
    assert_eq!(sums(Some(By::Source)), [sum("a/web", "", 3), sum("unknown", "", 5)]);
    assert_eq!(sums(Some(By::Destination)), [sum("order", "", 3), sum("web", "", 5)]);
}

#[test]
fn rules_are_counted_by_themselves() {
    let routed = |route: &str, requests| Routed {
        route: route.to_owned(),
        destination: "order".to_owned(),
        counted: counted(requests, 0, [requests, 0, 0]),
        ..Routed::default()
    };
    let now = counts(vec![], vec![routed("http[0]", 2), routed("http[1]", 9)]);
    let told = render(Some(By::Route), &Counts::default(), &now, Duration::from_secs(1));
    let lines: Vec<&str> = told.lines().skip(3).collect();
    assert!(lines[0].starts_with("TO     RULE      SUCCESS"), "{told}");
    assert!(lines[1].starts_with("order  http[1]"), "{told}");
    assert!(lines[2].starts_with("order  http[0]"), "{told}");
}

#[test]
fn quantiles_lie_within_their_bucket() {
    let line = Line { counted: counted(100, 0, [50, 40, 10]), ..Line::default() };
    let near = |share: f64, millis: f64| {
        let told = line.quantile(share).unwrap();
        assert!((told - millis).abs() < 1e-9, "{share}: {told}");
    };
    near(0.25, 5.0);
    near(0.5, 10.0);
    near(0.7, 55.0);
    near(0.99, 100.0);
    assert_eq!(Line::default().quantile(0.5), None);
    assert_eq!(Line::default().success(), None);
}

#[test]
fn without_requests_there_is_no_table() {
    let now = counts(vec![], vec![]);
    let told = render(None, &Counts::default(), &now, Duration::from_secs(1));
    assert!(told.ends_with("\nno requests yet\n"), "{told}");
}
