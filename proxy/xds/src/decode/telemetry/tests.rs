use super::*;

fn decoded(sinks: Vec<i32>, filter: Option<wire::log_filter::Filter>) -> AccessLogging {
    let filter = filter.map(|filter| wire::LogFilter { filter: Some(filter) });
    let access_log = Some(wire::AccessLogging { sinks, filter });
    telemetry(wire::Telemetry { tracing: None, access_log }).unwrap().access_log.unwrap()
}

#[test]
fn silence_stands_for_the_defaults() {
    assert_eq!(telemetry(wire::Telemetry::default()), Ok(Telemetry::default()));
}

#[test]
fn unknown_sinks_leave_the_known_ones() {
    assert_eq!(decoded(vec![2, 99], None).sinks, [LogSink::Json]);
    assert_eq!(decoded(vec![99], None).sinks, [LogSink::Configured], "rather logged than lost");
    assert!(decoded(vec![], None).sinks.is_empty(), "told to be silent");
}

#[test]
fn a_filter_with_an_unknown_part_lets_everything_through() {
    use wire::log_filter::Filter;
    let unknown = || wire::LogFilter { filter: Some(Filter::Has(99)) };
    let known = || wire::LogFilter { filter: Some(Filter::Method("GET".into())) };
    for filter in [
        Filter::Not(Box::new(unknown())),
        Filter::All(wire::LogFilters { filters: vec![known(), unknown()] }),
        Filter::Not(Box::default()),
        Filter::Status(wire::NumberTest { comparison: 99, value: 500 }),
        Filter::Status(wire::NumberTest { comparison: 0, value: 70_000 }),
        Filter::Sampled(1_000_001),
    ] {
        assert_eq!(decoded(vec![0], Some(filter)).filter, None);
    }
    let filter = decoded(vec![0], Some(Filter::Any(wire::LogFilters { filters: vec![known()] }))).filter;
    assert_eq!(filter, Some(LogFilter::Any(vec![LogFilter::Method("GET".into())])));
}

#[test]
fn unknown_tags_are_left_out() {
    let tag = |value| wire::Tag { name: "shop.tier".into(), value };
    let tags = vec![tag(None), tag(Some(wire::tag::Value::Literal("gold".into())))];
    let tracing = Some(wire::Tracing { tags, ..wire::Tracing::default() });
    let tags = telemetry(wire::Telemetry { tracing, access_log: None }).unwrap().tracing.tags;
    assert_eq!(tags, [Tag { name: "shop.tier".into(), value: TagValue::Literal("gold".into()) }]);
}

#[test]
fn a_collector_of_an_unknown_protocol_is_none() {
    let wire = |protocol| wire::Collector { endpoint: "http://127.0.0.1:4317".into(), protocol };
    assert_eq!(collector(wire(99)), None);
    assert_eq!(collector(wire(1)).unwrap().protocol, OtlpProtocol::HttpProtobuf);
}
