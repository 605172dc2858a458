use std::collections::BTreeMap;

use pillion_policy::ratio::Fraction;
use proptest::prelude::*;

use super::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SHORT: &str = "80f198ee56343ba8";
const SPAN: &str = "b7ad6b7169203331";
const LONG_OF_SHORT: &str = "000000000000000080f198ee56343ba8";
/// Trace, span and options of the constants above.
const CENSUS: &str = "AAAK92UZFs1D3YRI6yEcgDGcAbeta3FpIDMxAgE";

fn head(fields: &[(&'static str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
    };
    fields.iter().map(field).collect()
}

fn mint(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap()
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fields(headers: &HeaderMap) -> BTreeMap<String, String> {
    headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
}

/// What a request goes on with, under a sampler of a share, and its place.
fn through(
    came: &[(&'static str, &str)],
    share: Fraction,
) -> (SpanContext, BTreeMap<String, String>, BTreeMap<String, String>) {
    let mut headers = head(came);
    let mut rng = fastrand::Rng::with_seed(7);
    let context = enter(&mut headers, Sampling::share(share), &mut rng, mint);
    let entered = fields(&headers);
    hand_over(&mut headers, &context, [0xab; 8], mint);
    (context, entered, fields(&headers))
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of forms")]
fn every_form_is_continued_in_its_form_and_as_traceparent() {
    let child = text(&[0xab; 8]);
    let parent = |trace: &str, flags: &str| format!("00-{trace}-{child}-{flags}");
    for (came, trace, sampled, goes_on) in [
        (
            vec![("traceparent", format!("00-{TRACE}-{SPAN}-01"))],
            TRACE,
            true,
            vec![("traceparent", parent(TRACE, "01"))],
        ),
        // A flag of level 2 stays.
        (
            vec![("traceparent", format!("00-{TRACE}-{SPAN}-02"))],
            TRACE,
            false,
            vec![("traceparent", parent(TRACE, "02"))],
        ),
        (
            vec![("b3", format!("{TRACE}-{SPAN}-1-{SHORT}"))],
            TRACE,
            true,
            vec![("traceparent", parent(TRACE, "01")), ("b3", format!("{TRACE}-{child}-1"))],
        ),
        // 64 bits stay 64 bits where they came so.
        (
            vec![("b3", format!("{SHORT}-{SPAN}-0"))],
            LONG_OF_SHORT,
            false,
            vec![("traceparent", parent(LONG_OF_SHORT, "00")), ("b3", format!("{SHORT}-{child}-0"))],
        ),
        // A wish to debug is recorded, and handed on.
        (
            vec![("b3", format!("{TRACE}-{SPAN}-d"))],
            TRACE,
            true,
            vec![("traceparent", parent(TRACE, "01")), ("b3", format!("{TRACE}-{child}-d"))],
        ),
        // Nobody has decided: the share of 0 does.
        (
            vec![("b3", format!("{TRACE}-{SPAN}"))],
            TRACE,
            false,
            vec![("traceparent", parent(TRACE, "00")), ("b3", format!("{TRACE}-{child}-0"))],
        ),
        (
            vec![
                ("x-b3-traceid", SHORT.to_owned()),
                ("x-b3-spanid", SPAN.to_owned()),
                ("x-b3-parentspanid", SHORT.to_owned()),
                ("x-b3-sampled", "1".to_owned()),
            ],
            LONG_OF_SHORT,
            true,
            vec![
                ("traceparent", parent(LONG_OF_SHORT, "01")),
                ("x-b3-traceid", SHORT.to_owned()),
                ("x-b3-spanid", child.clone()),
                ("x-b3-sampled", "1".to_owned()),
            ],
        ),
        (
            vec![
                ("x-b3-traceid", TRACE.to_owned()),
                ("x-b3-spanid", SPAN.to_owned()),
                ("x-b3-flags", "1".to_owned()),
            ],
            TRACE,
            true,
            vec![
                ("traceparent", parent(TRACE, "01")),
                ("x-b3-traceid", TRACE.to_owned()),
                ("x-b3-spanid", child.clone()),
                ("x-b3-flags", "1".to_owned()),
            ],
        ),
        (
            vec![("grpc-trace-bin", CENSUS.to_owned())],
            TRACE,
            true,
            vec![
                ("traceparent", parent(TRACE, "01")),
                ("grpc-trace-bin", "AAAK92UZFs1D3YRI6yEcgDGcAaurq6urq6urAgE".to_owned()),
            ],
        ),
        // What counts is the first form; the others are brought into line.
        (
            vec![
                ("traceparent", format!("00-{TRACE}-{SPAN}-00")),
                ("b3", format!("{SHORT}-{SPAN}-1")),
                ("grpc-trace-bin", format!("{CENSUS}=")),
            ],
            TRACE,
            false,
            vec![
                ("traceparent", parent(TRACE, "00")),
                ("b3", format!("{TRACE}-{child}-0")),
                ("grpc-trace-bin", "AAAK92UZFs1D3YRI6yEcgDGcAaurq6urq6urAgA".to_owned()),
            ],
        ),
    ] {
        let came: Vec<_> = came.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (context, _, after) = through(&came, Fraction::NONE);
        assert_eq!((text(&context.trace_id), context.sampled), (trace.to_owned(), sampled), "{came:?}");
        assert_eq!(context.parent.map(|span| text(&span)), Some(SPAN.to_owned()), "{came:?}");
        let goes_on: BTreeMap<_, _> =
            goes_on.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(after, goes_on, "{came:?}");
    }
}

#[test]
fn what_enters_hangs_below_the_exchange() {
    let (context, entered, _) = through(&[("traceparent", &format!("00-{TRACE}-{SPAN}-01"))], Fraction::NONE);
    assert_eq!(entered["traceparent"], format!("00-{TRACE}-{}-01", text(&context.span_id)));
    assert!(context.is_own() && text(&context.span_id) != SPAN);
    let (context, entered, _) = through(&[("grpc-trace-bin", CENSUS)], Fraction::NONE);
    let theirs = census::read(entered["grpc-trace-bin"].as_bytes()).unwrap();
    assert_eq!((theirs.span_id, theirs.trace_id), (context.span_id, context.trace_id));
}

#[test]
fn without_a_valid_context_a_trace_begins_here() {
    let upper = format!("00-{}-{SPAN}-01", TRACE.to_uppercase());
    for bad in [
        "",
        "00",
        "nonsense",
        &format!("ff-{TRACE}-{SPAN}-01"),
        &format!("00-{}-{SPAN}-01", "0".repeat(32)),
        &format!("00-{TRACE}-{}-01", "0".repeat(16)),
        &format!("00-{TRACE}-{SPAN}-01-more"),
        &format!("00-{TRACE}-{SPAN}-1"),
        &format!("00-{TRACE}-{SPAN}"),
        &format!("00-{TRACE}{SPAN}-01-xx"),
        &format!("0g-{TRACE}-{SPAN}-01"),
        &format!("01-{TRACE}-{SPAN}-01x"),
        &upper,
    ] {
        for share in [Fraction::ALL, Fraction::NONE] {
            let (context, entered, _) = through(&[("traceparent", bad), ("tracestate", "a=b")], share);
            assert_eq!((context.parent, context.sampled), (None, share == Fraction::ALL), "{bad}");
            assert!(!entered.contains_key("tracestate"), "the state of no trace stays: {bad}");
            let written = w3c::read(entered["traceparent"].as_bytes()).unwrap();
            assert_eq!((written.trace_id, written.span_id), (context.trace_id, context.span_id), "{bad}");
        }
    }
    for (name, bad) in [
        ("b3", "d-d"),
        ("b3", &*format!("{TRACE}-{SPAN}-2")),
        ("b3", &*format!("{TRACE}-{SPAN}-1-{SPAN}-1")),
        ("b3", &*format!("{TRACE}-{SPAN}-1-x")),
        ("b3", &*format!("{}-{SPAN}-1", "0".repeat(16))),
        ("x-b3-traceid", TRACE),
        ("x-b3-spanid", SPAN),
        ("grpc-trace-bin", "AAAK"),
        ("grpc-trace-bin", "!"),
        ("grpc-trace-bin", &*"A".repeat(39)),
        ("grpc-trace-bin", &*"A".repeat(4000)),
    ] {
        let (context, entered, _) = through(&[(name, bad)], Fraction::ALL);
        assert_eq!(context.parent, None, "{name}: {bad}");
        assert!(w3c::read(entered["traceparent"].as_bytes()).is_some(), "{name}: {bad}");
    }
}

#[test]
fn a_later_version_is_read_as_far_as_it_is_known() {
    for later in [format!("01-{TRACE}-{SPAN}-ff"), format!("cc-{TRACE}-{SPAN}-01-what-the-future-brings")] {
        let (context, entered, _) =
            through(&[("traceparent", &later), ("tracestate", "a=b")], Fraction::NONE);
        assert_eq!((text(&context.trace_id), context.sampled), (TRACE.to_owned(), true), "{later}");
        assert_eq!(entered["traceparent"], format!("00-{TRACE}-{}-01", text(&context.span_id)));
        assert_eq!(entered["tracestate"], "a=b");
    }
}

#[test]
fn two_contexts_are_none() {
    let mut headers = head(&[("traceparent", &format!("00-{TRACE}-{SPAN}-01"))]);
    headers.append(TRACEPARENT, mint(format!("00-{TRACE}-{SPAN}-01").as_bytes()));
    let mut rng = fastrand::Rng::with_seed(7);
    let context = enter(&mut headers, Sampling::share(Fraction::NONE), &mut rng, mint);
    assert_eq!((context.parent, headers.get_all(TRACEPARENT).iter().count()), (None, 1));
}

#[test]
fn a_decision_alone_holds_for_the_trace_that_begins_here() {
    for (name, decision, share, sampled) in [
        ("b3", "0", Fraction::ALL, false),
        ("b3", "1", Fraction::NONE, true),
        ("b3", "d", Fraction::NONE, true),
        ("x-b3-sampled", "0", Fraction::ALL, false),
        ("x-b3-sampled", "true", Fraction::NONE, true),
        ("x-b3-flags", "1", Fraction::NONE, true),
    ] {
        let (context, entered, _) = through(&[(name, decision)], share);
        assert_eq!((context.parent, context.sampled), (None, sampled), "{name}: {decision}");
        assert!(entered["traceparent"].ends_with(if sampled { "-01" } else { "-00" }));
    }
}

#[test]
fn state_and_baggage_pass() {
    let came = [
        ("traceparent", &*format!("00-{TRACE}-{SPAN}-01")),
        ("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        ("baggage", "user=a%20b;p=1"),
    ];
    let (_, _, after) = through(&came, Fraction::NONE);
    assert_eq!(after["tracestate"], came[1].1);
    assert_eq!(after["baggage"], came[2].1);
}

#[test]
fn who_takes_no_part_changes_nothing() {
    let came = head(&[("b3", &format!("{SHORT}-{SPAN}-1")), ("tracestate", "a=b")]);
    let context = read(&came).unwrap();
    assert!(!context.is_own() && context.sampled);
    assert_eq!(
        (text(&context.trace_id), context.parent.map(|span| text(&span))),
        (LONG_OF_SHORT.to_owned(), Some(SPAN.to_owned()))
    );
    assert_eq!(read(&head(&[("b3", "1")])), None);
}

#[test]
fn what_policy_takes_away_stays_away() {
    let mut headers = head(&[("b3", &format!("{SHORT}-{SPAN}-1"))]);
    let mut rng = fastrand::Rng::with_seed(7);
    let context = enter(&mut headers, Sampling::share(Fraction::ALL), &mut rng, mint);
    headers.remove(TRACEPARENT);
    headers.insert(B3, HeaderValue::from_static("mine"));
    hand_over(&mut headers, &context, [1; 8], mint);
    assert_eq!(fields(&headers), BTreeMap::from([("b3".to_owned(), "mine".to_owned())]));
}

proptest! {
    #[test]
    fn any_context_survives_the_way(
        trace in any::<[u8; 16]>(), span in any::<[u8; 8]>(), sampled in any::<bool>(), seed in any::<u64>(),
    ) {
        prop_assume!(trace != [0; 16] && span != [0; 8]);
        let context = SpanContext { trace_id: trace, span_id: span, parent: None, sampled };
        let w3c = w3c::write(&context, 0);
        let short = trace.starts_with(&[0; 8]);
        let b3 = b3::write_single(&trace, short, span, if sampled { b'1' } else { b'0' });
        let census = census::write(&context, span);
        for (name, value) in [(TRACEPARENT, &w3c[..]), (B3, b3.as_bytes()), (GRPC, &census[..])] {
            let mut headers = HeaderMap::from_iter([(name.clone(), mint(value))]);
            let mut rng = fastrand::Rng::with_seed(seed);
            let here = enter(&mut headers, Sampling::share(Fraction::NONE), &mut rng, mint);
            prop_assert_eq!((here.trace_id, here.parent, here.sampled), (trace, Some(span), sampled));
            let there = read(&headers).unwrap();
            prop_assert_eq!((there.trace_id, there.parent, there.sampled), (trace, Some(here.span_id), sampled));
            // The same is said in the form it came in.
            headers.remove(TRACEPARENT);
            if name != TRACEPARENT {
                let there = read(&headers).unwrap();
                prop_assert_eq!((there.trace_id, there.parent), (trace, Some(here.span_id)));
            }
        }
    }

    #[test]
    fn whatever_comes_there_is_one_valid_context_after(
        values in proptest::collection::vec((0..8_usize, "[ -~]{0,70}"), 0..5), seed in any::<u64>(),
    ) {
        const NAMES: [&str; 8] = [
            "traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags",
            "grpc-trace-bin",
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in &values {
            headers.append(NAMES[*name], HeaderValue::from_str(value).unwrap());
        }
        let mut rng = fastrand::Rng::with_seed(seed);
        let context = enter(&mut headers, Sampling::share(Fraction::ALL), &mut rng, mint);
        prop_assert!(context.is_own());
        hand_over(&mut headers, &context, [9; 8], mint);
        let there = read(&headers).unwrap();
        prop_assert_eq!(there.trace_id, context.trace_id);
        prop_assert_eq!(there.parent, Some([9; 8]));
        prop_assert_eq!(there.sampled, context.sampled);
    }
}
