use http::HeaderValue;

use super::*;
use crate::{
    error::ProxyError,
    telemetry::{
        record::{Decision, Direction, Verdict, Waits},
        trace::SpanContext,
    },
};

const SLOW: Duration = Duration::from_secs(1);

/// A request that just ended well and is not drawn by lot.
fn record(id: &str) -> Record {
    let mut record = Record {
        start: clock::now(),
        request_id: Some(HeaderValue::from_str(id).unwrap()),
        uri: "/orders/7?card=1234".parse().unwrap(),
        host: Some(HeaderValue::from_static("order")),
        route: Some("VirtualService default/order http[0]".into()),
        cluster: Some("order.default.svc.cluster.local:80".into()),
        dice: 999_999,
        ..Record::default()
    };
    record.outcome.status = 200;
    record
}

fn failed(id: &str, flag: Flag, cause: &str) -> Record {
    let mut record = Record { cause: Some(cause.into()), ..record(id) };
    (record.outcome.status, record.outcome.flag) = (503, flag);
    record
}

fn journal(metrics: &Arc<Metrics>) -> Journal {
    Journal::start("default/front", SLOW, Arc::clone(metrics)).unwrap()
}

/// Hands a request in as sinks do.
fn take(journal: &Journal, record: Record) -> bool {
    let interest = journal.wants(&record);
    if interest.any() {
        journal.push(Arc::new(record), interest);
    }
    interest.any()
}

#[test]
fn what_failed_what_was_slow_and_some_of_the_rest_is_kept() {
    let journal = journal(&Metrics::new());
    assert!(!take(&journal, record("fine")));
    assert!(take(&journal, Record { dice: 7, ..record("drawn") }));
    let mut slow = record("slow");
    slow.outcome.duration = SLOW;
    assert!(take(&journal, slow));
    assert!(take(&journal, failed("failed", Flag::Uf, "cannot connect")));
    let mut of_app = record("of-app");
    of_app.outcome.status = 500;
    assert!(take(&journal, of_app));
    for (id, stories) in [("fine", 0), ("drawn", 1), ("slow", 1), ("failed", 1), ("of-app", 1), ("", 0)] {
        assert_eq!(journal.explain(id).len(), stories, "{id}");
    }
    assert_eq!(journal.newest(3).len(), 3);
}

#[test]
fn the_whole_story_is_told_without_the_query() {
    let journal = journal(&Metrics::new());
    let mut record = failed("id-1", Flag::Urx, "every try has failed");
    record.trace = Some(SpanContext { trace_id: [0xab; 16], span_id: [1; 8], parent: None, sampled: false });
    record.direction = Direction::Inbound;
    record.policy_revision = 7;
    record.not_retried = Some("attempts used up");
    record.attempt("10.0.0.1:80".parse().unwrap(), Duration::from_millis(1));
    let attempt = record.last_attempt().unwrap();
    attempt.error = Some(ProxyError::UpstreamClosed { endpoint: "10.0.0.1:80".parse().unwrap() });
    attempt.took = Duration::from_micros(2500);
    attempt.waits = Waits { connecting: Some(Duration::from_millis(2)), ..Waits::default() };
    (attempt.verdict, attempt.backoff) = (Verdict::Stopped("attempts used up"), Duration::from_millis(25));
    record.event(Duration::from_millis(3), Decision::BudgetSpent);
    record.event(Duration::from_millis(4), Decision::BreakerOpen("order".into()));
    assert!(take(&journal, record));
    let told = journal.explain("id-1");
    assert_eq!(told, journal.explain(&"ab".repeat(16)), "by its trace");
    let told = &told[0];
    assert_eq!((&*told.proxy, &*told.direction, &*told.path), ("default/front", "inbound", "/orders/7"));
    assert_eq!((&*told.flag, told.status, told.policy_revision), ("URX", 503, 7));
    assert_eq!(told.route.as_deref(), Some("VirtualService default/order http[0]"));
    let attempt = &told.attempts[0];
    assert_eq!((&*attempt.flag, &*attempt.verdict), ("UC", "not retried: attempts used up"));
    assert_eq!((attempt.at_ms, attempt.duration_ms, attempt.connect_ms), (1.0, 2.5, Some(2.0)));
    assert_eq!((attempt.tls_ms, attempt.backoff_ms), (None, Some(25.0)));
    let events: Vec<_> = told.events.iter().map(|event| (&*event.what, event.detail.as_deref())).collect();
    assert_eq!(events, [("budget", None), ("breaker", Some("order"))]);
}

#[test]
fn texts_of_peers_are_cut() {
    let journal = journal(&Metrics::new());
    let long = "x".repeat(1000);
    let mut record = failed(&long, Flag::Nr, &long);
    record.uri = format!("/{long}").parse().unwrap();
    assert!(take(&journal, record));
    let told = journal.explain(&long);
    assert!(told[0].path.len() < 300 && told[0].cause.as_ref().unwrap().len() < 300, "{told:?}");
}

#[test]
fn a_flood_is_counted_one_by_one_and_told_in_examples() {
    let metrics = Metrics::new();
    let journal = journal(&metrics);
    // All in the same second of the request's clock.
    let start = clock::now();
    let flood = |flag, n: usize| {
        let failure = |id: usize| Record { start, ..failed(&format!("{flag:?}-{id}"), flag, "no") };
        (0..n).filter(|id| take(&journal, failure(*id))).count()
    };
    assert_eq!(flood(Flag::Uf, 1000), ERRORS_PER_SECOND as usize + 1, "the first costs nothing");
    assert_eq!(flood(Flag::Brk, 300), 1, "the second has had its share, but of this kind there is none");
    assert_eq!(metrics.proxy.journal_dropped.get(), 1300 - ERRORS_PER_SECOND as u64 - 2);
    let causes = journal.causes(Duration::from_secs(300));
    let counts: Vec<_> = causes.iter().map(|cause| (&*cause.flag, cause.count)).collect();
    assert_eq!(counts, [("UF", 1000), ("BRK", 300)]);
    assert_eq!(causes[1].request_id, "Brk-0");
    assert_eq!(causes[1].cluster.as_deref(), Some("order.default.svc.cluster.local:80"));
}

#[test]
fn causes_are_forgotten_by_the_minute() {
    let tally = Tally::default();
    let mut causes = Causes::default();
    let counts = |causes: &Causes, minutes: u64, now| {
        causes.within(Duration::from_secs(60 * minutes), now).iter().map(|cause| cause.count).sum::<u64>()
    };
    for minute in 100..103 {
        tally.count(7 << 32);
        causes.count(&tally, minute);
    }
    assert_eq!([1, 2, 3, 15].map(|minutes| counts(&causes, minutes, 102)), [1, 2, 3, 3]);
    assert_eq!([1, 2, 3, 15].map(|minutes| counts(&causes, minutes, 103)), [0, 1, 2, 3]);
    causes.count(&tally, 102 + causes::MINUTES);
    assert_eq!(counts(&causes, 15, 102 + causes::MINUTES), 0);
    assert!(tally.count(7 << 32), "its place was given up");
}

#[test]
fn who_taps_sees_what_comes() {
    let journal = journal(&Metrics::new());
    let filter = Filter { to: Some("order".to_owned()), from: Some("front".to_owned()), ..Filter::default() };
    let mut tapped = journal.tap(filter).unwrap();
    assert!(take(&journal, record("seen")));
    assert!(!take(&journal, Record { host: None, cluster: None, ..record("for-another") }));
    let story = tapped.blocking_recv().unwrap();
    assert_eq!((&*story.request_id, &*story.path), ("seen", "/orders/7"));
    assert_eq!(journal.explain("seen"), [], "it is shown and not kept");
    drop(tapped);
    assert!(!take(&journal, record("unseen")));
}

#[test]
fn a_journal_of_nobody_wants_nothing() {
    let journal = Journal::none();
    assert!(!take(&journal, failed("a", Flag::Uf, "no")));
    assert_eq!((journal.explain("a").len(), journal.causes(SLOW).len(), journal.newest(9).len()), (0, 0, 0));
    assert!(journal.tap(Filter::default()).is_ok());
}
