use std::path::PathBuf;

use pillion_policy::{name::Hostname, telemetry::Comparison};

use super::*;
use crate::{
    intake::{
        read_file,
        tests::{assert_misspellings, errors, remarks},
    },
    naming::Naming,
    object::Object,
};

fn object(spec: &str) -> String {
    format!(
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: x, namespace: shop}}\nspec: {{{spec}}}\n"
    )
}

fn telemetry(spec: &str) -> Telemetry {
    let naming = Naming::new(&Hostname::new("cluster.local").unwrap());
    let document = read_file("x.yaml", &object(spec), &naming).unwrap().remove(0);
    let stored = document.object.unwrap_or_else(|| panic!("{spec}: {:?}", document.problems));
    match std::sync::Arc::into_inner(stored).map(|stored| stored.object) {
        Some(Object::Telemetry(telemetry)) => *telemetry,
        other => panic!("{other:?}"),
    }
}

fn wanted(sinks: &[LogSink], filter: Option<LogFilter>) -> LogSettings {
    LogSettings { wanted: Some(LogWanted { sinks: sinks.to_vec(), filter }), silenced: Silenced::Nothing }
}

#[test]
fn every_field_is_accepted_and_its_misspellings_are_not() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/telemetry.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let unenforced = ["useRequestIdForTraceSampling", "enableIstioTags", "disableContextPropagation"];
    let unenforced =
        unenforced.map(|field| format!("warning spec.tracing[0].{field}: accepted, not enforced yet"));
    let mut expected = unenforced.to_vec();
    expected.push("warning spec.metrics: accepted, not enforced yet".to_owned());
    let mut found = remarks(&text);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert!(assert_misspellings("telemetry.yaml", &text) > 150);
}

#[test]
fn the_example_is_accepted() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../k8s/examples/telemetry.yaml");
    assert_eq!(remarks(&std::fs::read_to_string(path).unwrap()), Vec::<String>::new());
}

#[test]
fn traces_are_read_in_full() {
    let read = telemetry(
        "tracing: [{providers: [{name: otel}], randomSamplingPercentage: 12.5, disableSpanReporting: true, \
         customTags: {b: {header: {name: X-Tenant, defaultValue: none}}, a: {literal: {value: gold}}, \
         c: {environment: {name: ZONE, defaultValue: ''}}}}, {randomSamplingPercentage: 50}]",
    );
    assert_eq!(read.tracing.sampling, Some(Fraction::from_percent(50.0).unwrap()));
    assert_eq!(read.tracing.reporting, Some(false));
    let tag = |name: &str, value| Tag { name: name.to_owned(), value };
    let header = TagValue::Header { name: "x-tenant".to_owned(), default: Some("none".to_owned()) };
    let variable = TagValue::Environment { name: "ZONE".to_owned(), default: None };
    let gold = TagValue::Literal("gold".to_owned());
    assert_eq!(read.tracing.tags, [tag("a", gold), tag("b", header), tag("c", variable)]);
    assert_eq!(read.logging, [LogSettings::default(), LogSettings::default()]);
    assert_eq!(telemetry("").tracing, TracingSettings::default());
}

#[test]
fn logs_are_read_for_each_direction() {
    let bad = || Some(LogFilter::Status(Comparison::AtLeast, 400));
    let both = telemetry(
        "accessLogging: [{providers: [{name: envoy}], filter: {expression: 'response.code >= 400'}}]",
    );
    let expected = wanted(&[LogSink::Configured], bad());
    assert_eq!(both.logging, [expected.clone(), expected]);

    let apart = telemetry(
        "accessLogging: [{match: {mode: SERVER}, providers: [{name: json}, {name: otel}, {name: otlp}]}, \
         {match: {mode: CLIENT}, disabled: true}]",
    );
    let silent = LogSettings { wanted: None, silenced: Silenced::All };
    assert_eq!(apart.logging, [silent, wanted(&[LogSink::Json, LogSink::Otlp], None)]);

    let less = telemetry(
        "accessLogging: [{disabled: true, providers: [{name: otel}]}, {disabled: true, providers: [{name: text}]}]",
    );
    let silenced = Silenced::Sinks(vec![LogSink::Otlp, LogSink::Text]);
    assert_eq!(less.logging[0], LogSettings { wanted: None, silenced });
}

#[test]
fn what_cannot_be_told_apart_is_logged_rather_than_lost() {
    let text = "accessLogging: [{providers: [{name: text}], filter: {expression: connection.mtls}}, \
                {providers: [{name: otel}], filter: {expression: response.flags != 0}}]";
    let either = LogFilter::Any(vec![LogFilter::Secured, LogFilter::Flagged]);
    assert_eq!(telemetry(text).logging[1], wanted(&[LogSink::Text, LogSink::Otlp], Some(either)));
    let told = remarks(&object(text));
    assert!(
        told.iter().any(|told| told.contains("accessLogging[1]: accepted, not enforced yet: a filter")),
        "{told:?}"
    );

    let sides = "accessLogging: [{match: {mode: CLIENT}, providers: [{name: text}]}, {match: {mode: SERVER}, providers: [{name: json}]}]";
    let told = remarks(&object(sides));
    assert_eq!(
        told,
        [
            "warning spec.accessLogging: accepted, not enforced yet: other providers for CLIENT than for SERVER (both log to all)"
        ]
    );
    let told = remarks(&object("tracing: [{match: {mode: CLIENT}, randomSamplingPercentage: 1}]"));
    assert_eq!(
        told,
        [
            "warning spec.tracing[0].match: accepted, not enforced yet: the entry is for requests of both directions"
        ]
    );
}

#[test]
fn mistakes_are_named() {
    for (spec, expected) in [
        (
            "tracing: [{providers: [{name: zipkin}]}]",
            "providers[0].name: unknown provider \"zipkin\"; known: otel, otlp",
        ),
        ("tracing: [{providers: [{name: otel}, {name: otlp}]}]", "tracing[0].providers: only one provider"),
        ("tracing: [{randomSamplingPercentage: 101}]", "randomSamplingPercentage: 101 is not a percentage"),
        ("tracing: [{match: {mode: BOTH}}]", "match.mode: \"BOTH\" is not a value of this field"),
        (
            "tracing: [{customTags: {a: {header: {name: 'a b'}}}}]",
            "customTags.a.header.name: \"a b\" is not a header name",
        ),
        (
            "tracing: [{customTags: {a: {environment: {}}}}]",
            "customTags.a.environment.name: \"\" is not the name",
        ),
        (
            "tracing: [{customTags: {a: {literal: {}, header: {name: b}}}}]",
            "customTags.a: only one of literal",
        ),
        (
            "tracing: [{customTags: {a: {litteral: {}}}}]",
            "unknown field \"litteral\", did you mean \"literal\"?",
        ),
        ("tracing: [{customTags: {a: {header: {defaultvalue: x}}}}]", "did you mean \"defaultValue\"?"),
        ("metrics: [{overrides: [{tagOverrides: {a: {operation: UPSERTS}}}]}]", "did you mean UPSERT?"),
        ("accessLogging: [{providers: [{name: jsn}]}]", "unknown provider \"jsn\", did you mean \"json\"?"),
        (
            "accessLogging: [{filter: {expression: 'response.code > x'}}]",
            "accessLogging[0].filter.expression: character 17: expected a whole number",
        ),
        ("accessLogging: [{disabled: 'yes'}]", "disabled: expected true or false"),
        ("selector: {matchExpressions: []}", "selector.matchExpressions: unknown field"),
        ("accesLogging: []", "unknown field \"accesLogging\", did you mean \"accessLogging\"?"),
    ] {
        let found = errors(&object(spec));
        assert!(found.iter().any(|error| error.contains(expected)), "{spec}: {found:?}");
    }
    let many: String = (0..33).map(|number| format!("t{number}: {{literal: {{value: x}}}}, ")).collect();
    let found = errors(&object(&format!("tracing: [{{customTags: {{{many}}}}}]")));
    assert!(found.iter().any(|error| error.contains("33 tags are too many")), "{found:?}");
}

#[test]
fn a_selector_in_a_root_namespace_is_told() {
    let text = object("selector: {matchLabels: {app: a}}, tracing: [{randomSamplingPercentage: 1}]");
    let root = text.replace("namespace: shop", "namespace: istio-system");
    assert_eq!(
        remarks(&root),
        ["warning spec.selector: not used: istio-system has settings for the whole mesh only"]
    );
}
