use pillion_policy::ratio::Fraction;

use super::*;

fn mode(share: Fraction, is_active: bool, errors: bool) -> Mode {
    Mode { sampling: Sampling::share(share), is_active, errors, has_tags: false }
}

fn record(flag: Flag, span_id: [u8; 8], sampled: bool) -> Record {
    let mut record = Record {
        trace: Some(SpanContext { trace_id: [1; 16], span_id, parent: None, sampled }),
        ..Record::default()
    };
    record.outcome.flag = flag;
    record
}

#[test]
fn modes_survive_packing() {
    for share in [Fraction::NONE, Fraction::ONE_PERCENT, Fraction::ALL] {
        for bits in 0..16_u8 {
            let is = |bit: u8| bits & bit != 0;
            let name = if is(1) { "parentbased_always_on" } else { "always_on" };
            let sampling = if is(8) { Sampling::share(share) } else { Sampling::named(name, None).unwrap() };
            let mode = Mode { sampling, is_active: is(2), errors: is(4), has_tags: is(1) };
            assert_eq!(Mode::unpack(mode.pack()), mode);
        }
    }
    assert!(!Mode::unpack(0).is_active, "nothing is reported before there is a collector");
}

#[test]
fn recorded_traces_and_own_errors_are_told() {
    let (tracer, shared) = Tracer::new(&Metrics::default());
    for (active, errors, flag, sampled, wanted) in [
        (true, true, Flag::None, true, true),
        (true, true, Flag::None, false, false),
        (true, true, Flag::Nr, false, true),
        (true, false, Flag::Nr, false, false),
        (true, true, Flag::Dc, false, false),
        (true, true, Flag::Di, false, false),
        (true, true, Flag::Urx, false, true),
        (false, true, Flag::Nr, true, false),
    ] {
        shared.set(mode(Fraction::NONE, active, errors), Vec::new());
        let record = record(flag, [1; 8], sampled);
        assert_eq!(tracer.wants(&record), wanted, "{active} {errors} {flag:?} {sampled}");
    }
    shared.set(mode(Fraction::ALL, true, true), Vec::new());
    assert!(!tracer.wants(&record(Flag::Nr, [0; 8], true)), "it began before anything was reported");
    assert!(!Tracer::none().wants(&record(Flag::Nr, [1; 8], true)));
}

#[test]
fn without_a_collector_heads_stay_as_they_are() {
    let (tracer, shared) = Tracer::new(&Metrics::default());
    let mint = |text: &[u8]| HeaderValue::from_bytes(text).unwrap();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut headers = HeaderMap::new();
    assert_eq!(tracer.enter(&mut headers, &mut rng, mint), None);
    assert!(headers.is_empty());
    shared.set(mode(Fraction::ALL, true, true), Vec::new());
    let context = tracer.enter(&mut headers, &mut rng, mint).unwrap();
    assert!(context.sampled && context.is_own() && headers.contains_key("traceparent"));
    let before = headers.clone();
    shared.set(mode(Fraction::ALL, false, true), Vec::new());
    let passing = tracer.enter(&mut headers, &mut rng, mint).unwrap();
    assert_eq!((passing.trace_id, passing.is_own()), (context.trace_id, false));
    assert_eq!(headers, before);
}
