use pillion_policy::{
    ratio::Fraction,
    telemetry::{Comparison, Tag, TagValue},
};

use crate::compile::{
    Settings,
    tests::{index, mesh},
    workload::workload_policy,
};

use super::*;

fn object(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{{spec}}}\n"
    )
}

fn order() -> String {
    "---\napiVersion: v1\nkind: Pod\nmetadata: {namespace: shop, name: order, labels: {app: order}}\nstatus: {podIP: 10.0.0.1}\n"
        .to_owned()
}

fn told(parts: &[&str], settings: &Settings) -> Telemetry {
    let text: String = parts.iter().copied().chain([order().as_str()]).collect();
    workload_policy(&index(&text), settings, &"shop/order".parse().unwrap()).telemetry
}

fn percent(percent: f64) -> Fraction {
    Fraction::from_percent(percent).unwrap()
}

const SELECTED: &str = "selector: {matchLabels: {app: order}}";

#[test]
fn without_an_object_the_command_line_has_the_word() {
    assert_eq!(told(&[], &mesh()), Telemetry::default());
    let mut settings = mesh();
    settings.telemetry.tracing.sampling = percent(7.0);
    settings.telemetry.access_log = Some(AccessLogging { sinks: vec![LogSink::Json], filter: None });
    assert_eq!(told(&[], &settings), settings.telemetry);
    let other = object("elsewhere", "own", "tracing: [{randomSamplingPercentage: 9}]");
    assert_eq!(told(&[&other], &settings), settings.telemetry);
}

#[test]
fn the_narrowest_that_says_something_has_the_word_on_it() {
    let wide = object(
        "istio-system",
        "mesh",
        "tracing: [{randomSamplingPercentage: 5, disableSpanReporting: true, customTags: {a: {literal: {value: x}}}}]",
    );
    let own = object("shop", "own", "tracing: [{randomSamplingPercentage: 20}]");
    let only = object(
        "shop",
        "only",
        &format!(
            "{SELECTED}, tracing: [{{disableSpanReporting: false, customTags: {{b: {{literal: {{value: y}}}}}}}}]"
        ),
    );
    let tags =
        |telemetry: &Telemetry| telemetry.tracing.tags.iter().map(|tag| tag.name.clone()).collect::<String>();
    let all = told(&[&wide, &own, &only], &mesh());
    assert_eq!(
        (all.tracing.sampling, all.tracing.reporting, tags(&all)),
        (percent(20.0), true, "b".to_owned())
    );
    let two = told(&[&wide, &own], &mesh());
    assert_eq!(
        (two.tracing.sampling, two.tracing.reporting, tags(&two)),
        (percent(20.0), false, "a".to_owned())
    );
    let value = TagValue::Literal("x".to_owned());
    assert_eq!(two.tracing.tags, [Tag { name: "a".to_owned(), value }]);
    assert_eq!(told(&[&wide], &mesh()).tracing.sampling, percent(5.0));
    assert_eq!(two.access_log, None, "nothing is said about logs");
}

#[test]
fn of_two_for_the_same_workloads_the_oldest_counts() {
    let [old, young] = [("z", 3, 2025), ("a", 4, 2026)].map(|(name, percent, year)| {
        object("shop", name, &format!("tracing: [{{randomSamplingPercentage: {percent}}}]")).replacen(
            "metadata: {",
            &format!("metadata: {{creationTimestamp: '{year}-01-01T00:00:00Z', "),
            1,
        )
    });
    assert_eq!(told(&[&young, &old], &mesh()).tracing.sampling, percent(3.0));
}

#[test]
fn logs_are_inherited_by_what_is_not_said() {
    let wide = object(
        "istio-system",
        "mesh",
        "accessLogging: [{providers: [{name: json}, {name: otel}], filter: {expression: response.code >= 500}}]",
    );
    let logs = |own: &str| {
        let own = object("shop", "own", own);
        told(&[&wide, &own], &mesh()).access_log.unwrap()
    };
    let bad = || Some(LogFilter::Status(Comparison::AtLeast, 500));
    let both = vec![LogSink::Json, LogSink::Otlp];
    assert_eq!(logs(""), AccessLogging { sinks: both.clone(), filter: bad() });
    let filtered = logs("accessLogging: [{filter: {expression: connection.mtls}}]");
    assert_eq!(filtered, AccessLogging { sinks: both.clone(), filter: Some(LogFilter::Secured) });
    let elsewhere = logs("accessLogging: [{providers: [{name: text}]}]");
    assert_eq!(elsewhere, AccessLogging { sinks: vec![LogSink::Text], filter: None });
    assert_eq!(logs("accessLogging: [{disabled: true}]"), AccessLogging { sinks: vec![], filter: None });
    let less = logs("accessLogging: [{disabled: true, providers: [{name: otel}]}]");
    assert_eq!(less, AccessLogging { sinks: vec![LogSink::Json], filter: bad() });
}

#[test]
fn directions_are_told_apart() {
    let logs = |own: &str| told(&[&object("shop", "own", own)], &mesh()).access_log.unwrap();
    let received = logs("accessLogging: [{match: {mode: CLIENT}, disabled: true}]");
    let sinks = vec![LogSink::Configured];
    assert_eq!(received, AccessLogging { sinks: sinks.clone(), filter: Some(LogFilter::Inbound) });
    let sent = logs(
        "accessLogging: [{match: {mode: CLIENT}, filter: {expression: response.flags != 0}}, \
         {match: {mode: SERVER}, disabled: true}]",
    );
    let flagged = || vec![LogFilter::Outbound, LogFilter::Flagged];
    assert_eq!(sent, AccessLogging { sinks: sinks.clone(), filter: Some(LogFilter::All(flagged())) });
    let apart = logs("accessLogging: [{match: {mode: CLIENT}, filter: {expression: response.flags != 0}}]");
    let filter = LogFilter::Any(vec![LogFilter::All(flagged()), LogFilter::Inbound]);
    assert_eq!(apart, AccessLogging { sinks, filter: Some(filter) });
}

#[test]
fn a_namespace_can_log_again_what_the_mesh_does_not() {
    let wide = object("istio-system", "mesh", "accessLogging: [{disabled: true}]");
    let own = object("shop", "own", "accessLogging: [{}]");
    let logs = told(&[&wide, &own], &mesh()).access_log.unwrap();
    assert_eq!(logs, AccessLogging { sinks: vec![LogSink::Configured], filter: None });
    assert_eq!(told(&[&wide], &mesh()).access_log.unwrap().sinks, []);
}
