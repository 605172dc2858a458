use std::sync::Arc;

use http::HeaderValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;

use super::*;
use crate::{
    error::{Flag, ProxyError},
    telemetry::record::Waits,
};

const START: u64 = 1_795_219_200_000_000_000;
const CONTEXT: SpanContext =
    SpanContext { trace_id: [7; 16], span_id: [1; 8], parent: Some([9; 8]), sampled: true };

/// A request that failed once and was answered by another endpoint.
fn record() -> Record {
    let mut record = Record {
        start: UNIX_EPOCH + Duration::from_nanos(START),
        method: Method::POST,
        uri: "/orders/7?token=secret".parse().unwrap(),
        host: Some(HeaderValue::from_static("orders:8080")),
        request_id: Some(HeaderValue::from_static("r-1")),
        downstream_peer: Some("10.0.0.2:4711".parse().unwrap()),
        route: Some("shop/orders".into()),
        cluster: Some("orders:80".into()),
        repeated: 1,
        trace: Some(CONTEXT),
        tags: vec![("tenant".into(), HeaderValue::from_static("t"))],
        ..Record::default()
    };
    let (dead, alive) = ("10.0.0.3:80".parse().unwrap(), "[::1]:80".parse().unwrap());
    record.attempt(dead, Duration::from_millis(1));
    let first = record.last_attempt().unwrap();
    first.span_id = [2; 8];
    first.took = Duration::from_millis(3);
    first.error = Some(ProxyError::UpstreamClosed { endpoint: dead });
    (first.verdict, first.backoff) = (Verdict::Retried, Duration::from_millis(5));
    record.event(Duration::from_millis(4), Decision::Ejected(dead));
    record.attempt(alive, Duration::from_millis(9));
    let second = record.last_attempt().unwrap();
    second.span_id = [3; 8];
    (second.took, second.status, second.verdict) = (Duration::from_millis(2), 201, Verdict::Final);
    second.waits = Waits { connecting: Some(Duration::from_micros(1500)), ..Waits::default() };
    record.outcome.status = 201;
    record.outcome.duration = Duration::from_millis(20);
    record
}

fn spans(record: &Record) -> Vec<Span> {
    let mut spans = Vec::new();
    tell(record, &[text("zone", "b")], &mut spans);
    spans
}

/// An attribute as text; empty when absent.
fn of(span: &Span, key: &str) -> String {
    value(&span.attributes, key)
}

fn value(attributes: &[KeyValue], key: &str) -> String {
    let found: Vec<_> = attributes.iter().filter(|known| known.key == key).collect();
    assert!(found.len() < 2, "{key} stands twice");
    let value = found.first().and_then(|found| found.value.clone()).and_then(|value| value.value);
    match value {
        None => String::new(),
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(other) => panic!("{other:?}"),
    }
}

#[test]
fn an_outbound_request_is_a_client_span_with_one_below_for_each_try() {
    let spans = spans(&record());
    let [exchange, first, second] = &spans[..] else { panic!("{spans:#?}") };
    assert_eq!((exchange.kind, exchange.name.as_str()), (SpanKind::Client.into(), "POST shop/orders"));
    assert_eq!((&exchange.span_id[..], &exchange.parent_span_id[..]), (&[1; 8][..], &[9; 8][..]));
    assert_eq!(exchange.flags, 1 | KNOWN_PARENT | REMOTE_PARENT);
    assert_eq!(exchange.end_time_unix_nano - START, 20_000_000);
    assert_eq!(exchange.status, None);
    for (key, expected) in [
        ("http.request.method", "POST"),
        ("url.path", "/orders/7"),
        ("server.address", "orders"),
        ("server.port", "8080"),
        ("http.response.status_code", "201"),
        ("network.protocol.version", "1.1"),
        ("pillion.request_id", "r-1"),
        ("pillion.route", "shop/orders"),
        ("pillion.cluster", "orders:80"),
        ("pillion.retries", "1"),
        ("tenant", "t"),
        ("zone", "b"),
        ("error.type", ""),
        ("pillion.flag", ""),
    ] {
        assert_eq!(of(exchange, key), expected, "{key}");
    }
    assert!(!format!("{spans:?}").contains("secret"), "a query is told");
    let [event] = &exchange.events[..] else { panic!("{:?}", exchange.events) };
    assert_eq!((event.name.as_str(), event.time_unix_nano - START), ("pillion.ejected", 4_000_000));
    assert_eq!(value(&event.attributes, "pillion.endpoint"), "10.0.0.3:80");
    for attempt in [first, second] {
        assert_eq!((attempt.kind, attempt.name.as_str()), (SpanKind::Client.into(), "attempt"));
        assert_eq!((&attempt.trace_id[..], &attempt.parent_span_id[..]), (&[7; 16][..], &[1; 8][..]));
    }
    for (key, of_first, of_second) in [
        ("network.peer.address", "10.0.0.3", "::1"),
        ("pillion.attempt", "1", "2"),
        ("http.request.resend_count", "", "1"),
        ("http.response.status_code", "", "201"),
        ("pillion.verdict", "retried", "final"),
        ("pillion.backoff_ms", "5", ""),
        ("pillion.connect_ms", "", "1.5"),
        ("error.type", "UC", ""),
        ("pillion.cause", "10.0.0.3:80 closed the connection before it answered", ""),
    ] {
        assert_eq!((of(first, key), of(second, key)), (of_first.to_owned(), of_second.to_owned()), "{key}");
    }
    assert_eq!(first.status.as_ref().map(|status| status.code), Some(StatusCode::Error.into()));
    let times = |span: &Span| (span.start_time_unix_nano - START, span.end_time_unix_nano - START);
    assert_eq!((times(first), times(second)), ((1_000_000, 4_000_000), (9_000_000, 20_000_000)));
}

#[test]
fn an_inbound_request_is_a_server_span_and_no_more_while_all_is_well() {
    let mut record = Record { direction: Direction::Inbound, ..record() };
    record.attempts.remove(0);
    record.trace = Some(SpanContext { parent: None, ..CONTEXT });
    let spans = spans(&record);
    let [exchange] = &spans[..] else { panic!("{spans:#?}") };
    assert_eq!((exchange.kind, exchange.flags), (SpanKind::Server.into(), 1 | KNOWN_PARENT));
    assert!(exchange.parent_span_id.is_empty());
    assert_eq!(of(exchange, "client.address"), "10.0.0.2");
    record.attempts[0].verdict = Verdict::Stopped("not idempotent");
    assert_eq!(self::spans(&record).len(), 1, "it was answered");
    let endpoint = record.attempts[0].endpoint;
    record.attempts[0].error = Some(ProxyError::UpstreamClosed { endpoint });
    let spans = self::spans(&record);
    assert_eq!((spans.len(), spans[1].kind), (2, SpanKind::Internal.into()));
    assert_eq!(of(&spans[1], "pillion.not_retried"), "not idempotent");
}

#[test]
fn who_has_no_span_tells_none() {
    assert!(spans(&Record { trace: None, ..record() }).is_empty());
    let passing = SpanContext { span_id: [0; 8], ..CONTEXT };
    assert!(spans(&Record { trace: Some(passing), ..record() }).is_empty());
}

#[test]
fn failures_are_the_proxy_s_by_flag_and_the_application_s_by_status() {
    for (direction, status, grpc_status, flag, kind) in [
        (Direction::Outbound, 503, None, Flag::Brk, "BRK"),
        (Direction::Outbound, 404, None, Flag::None, "404"),
        (Direction::Inbound, 404, None, Flag::None, ""),
        (Direction::Inbound, 500, None, Flag::None, "500"),
        (Direction::Outbound, 200, Some(5), Flag::None, "5"),
        (Direction::Inbound, 200, Some(5), Flag::None, ""),
        (Direction::Inbound, 200, Some(14), Flag::None, "14"),
        (Direction::Outbound, 200, Some(0), Flag::None, ""),
        (Direction::Outbound, 0, None, Flag::Dc, ""),
        (Direction::Inbound, 403, None, Flag::Authz, "AUTHZ"),
    ] {
        let mut record = Record { direction, cause: Some("why".into()), ..record() };
        let outcome = &mut record.outcome;
        (outcome.status, outcome.grpc_status, outcome.flag) = (status, grpc_status, flag);
        let exchange = spans(&record).remove(0);
        assert_eq!(of(&exchange, "error.type"), kind, "{direction:?} {status} {grpc_status:?} {flag:?}");
        assert_eq!(exchange.status.is_some(), !kind.is_empty());
        assert_eq!(of(&exchange, "pillion.flag"), if flag == Flag::None { "" } else { flag.as_str() });
        assert_eq!(of(&exchange, "pillion.cause"), "why");
    }
}

#[test]
fn calls_of_grpc_are_named_as_such() {
    let mut record = Record { uri: "/shop.Orders/Place".parse().unwrap(), ..record() };
    (record.outcome.grpc, record.outcome.grpc_status) = (true, Some(0));
    let exchange = spans(&record).remove(0);
    for (key, expected) in [
        ("rpc.system", "grpc"),
        ("rpc.service", "shop.Orders"),
        ("rpc.method", "Place"),
        ("rpc.grpc.status_code", "0"),
    ] {
        assert_eq!(of(&exchange, key), expected, "{key}");
    }
}

#[test]
fn what_clients_make_up_is_bounded() {
    let long = "x".repeat(5000);
    let mut record = Record { uri: format!("/{long}").parse().unwrap(), route: None, ..record() };
    record.method = Method::from_bytes(b"MAKEUP").unwrap();
    let exchange = spans(&record).remove(0);
    assert_eq!((exchange.name.as_str(), of(&exchange, "url.path").len()), ("_OTHER", 1024));
    assert_eq!(of(&exchange, "http.request.method_original"), "MAKEUP");
}

#[test]
fn every_decision_is_an_event_of_its_own() {
    let policy: Arc<str> = "shop/deny".into();
    let all = [
        Decision::Held(Duration::from_millis(2)),
        Decision::RateLimited,
        Decision::FaultDelay(Duration::from_millis(2)),
        Decision::FaultAbort,
        Decision::Denied(Some(Arc::clone(&policy))),
        Decision::BadToken,
        Decision::BreakerOpen("orders".into()),
        Decision::Queued(Duration::from_millis(2)),
        Decision::Ejected("10.0.0.3:80".parse().unwrap()),
        Decision::BudgetSpent,
        Decision::Fallback,
    ];
    let events: Vec<_> = all.iter().map(|what| decision(START, Duration::ZERO, what)).collect();
    let names: std::collections::BTreeSet<_> = events.iter().map(|event| &event.name).collect();
    assert_eq!(names.len(), all.len(), "{names:?}");
    assert_eq!(value(&events[4].attributes, "pillion.policy"), "shop/deny");
    assert_eq!(value(&events[6].attributes, "pillion.breaker"), "orders");
}

#[test]
fn authorities_are_taken_apart() {
    for (authority, host, port) in [
        ("orders", "orders", None),
        ("orders:80", "orders", Some(80)),
        ("[::1]:80", "::1", Some(80)),
        ("[::1]", "::1", None),
        ("orders:", "orders", None),
    ] {
        assert_eq!(host_and_port(authority), (host, port), "{authority}");
    }
}
