use std::collections::BTreeMap;

use super::*;
use crate::problem::Severity;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Outer {
    host_name: String,
    weight: Option<i32>,
    inner: Vec<Inner>,
    labels: BTreeMap<String, String>,
    later: Unenforced<Inner>,
    mode: Option<Mode>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Inner {
    ratio: f64,
    port: u16,
    on: bool,
}

#[derive(Debug, Deserialize)]
enum Mode {
    #[serde(rename = "ROUND_ROBIN")]
    RoundRobin,
}

fn outer(text: &str) -> (Option<Outer>, Vec<String>) {
    let document = crate::yaml::parse(text).unwrap().remove(0);
    let mut report = Report::default();
    let value = read(&document, Fields::All, &mut report);
    let findings = report.into_findings();
    let texts = findings.iter().map(|finding| {
        let mark = if finding.severity == Severity::Warning { "warning " } else { "" };
        format!("{mark}{}:{}: {}", finding.path, finding.path.line_in(&document), finding.reason)
    });
    (value, texts.collect())
}

#[test]
fn well_formed_values_are_read() {
    let (value, findings) = outer(
        "hostName: a\nweight: -3\ninner:\n- ratio: 1\n  port: 80\n  on: true\nlabels: {a.b/c: 'true'}\nmode: ROUND_ROBIN\n",
    );
    let value = value.unwrap();
    assert_eq!(findings, Vec::<String>::new());
    assert_eq!((value.host_name.as_str(), value.weight), ("a", Some(-3)));
    assert_eq!((value.inner[0].ratio, value.inner[0].port, value.inner[0].on), (1.0, 80, true));
    assert_eq!(value.labels["a.b/c"], "true");
    assert!(matches!(value.mode, Some(Mode::RoundRobin)));
}

#[test]
fn unknown_keys_are_all_named_with_what_was_meant() {
    let (_, findings) = outer("hostname: a\ninner:\n- prot: 80\n  zzz: 1\n");
    assert_eq!(
        findings,
        [
            "hostname:1: unknown field \"hostname\", did you mean \"hostName\"?",
            "inner[0].prot:3: unknown field \"prot\", did you mean \"port\"?",
            "inner[0].zzz:4: unknown field \"zzz\"",
        ]
    );
}

#[test]
fn wrong_types_are_reported_once_where_they_stand() {
    for (text, finding) in [
        ("hostName: 1.10\n", "hostName:1: 1.10 is a number in YAML, put it in quotes"),
        ("weight: many\n", "weight:1: expected a whole number, found \"many\""),
        ("inner:\n- port: 70000\n", "inner[0].port:2: 70000 is not between 0 and 65535"),
        ("inner: {}\n", "inner:1: expected a list, found a mapping"),
        ("labels: {a: true}\n", "labels.a:1: true is a boolean in YAML, put it in quotes"),
        (
            "mode: ROUND_ROBBIN\n",
            "mode:1: \"ROUND_ROBBIN\" is not a value of this field, did you mean ROUND_ROBIN?",
        ),
        ("- a\n", ":1: expected a mapping, found a list"),
    ] {
        assert_eq!(outer(text).1, [finding], "{text}");
    }
}

#[test]
fn what_stands_beside_a_wrong_type_is_read_and_judged() {
    let (value, findings) = outer(
        "hostName: [x]\ninner:\n- port: web\n  on: 3\n- port: 80\n  prot: 1\nlabels: {a: 1, b: c}\nweight: 7\n",
    );
    assert_eq!(
        findings,
        [
            "hostName:1: expected a string, found a list",
            "inner[0].port:3: expected a whole number, found \"web\"",
            "inner[0].on:4: expected true or false, found \"3\"",
            "labels.a:7: 1 is a number in YAML, put it in quotes",
            "inner[1].prot:6: unknown field \"prot\", did you mean \"port\"?",
        ]
    );
    let value = value.unwrap();
    assert_eq!((value.weight, value.inner.len(), value.labels.len()), (Some(7), 2, 1));
}

#[test]
fn there_is_an_end_to_wrong_types() {
    let (value, findings) = outer(&format!("inner: [{}]\n", "{on: 3}, ".repeat(MAX_WRONG * 2)));
    assert!(value.is_none());
    assert_eq!(findings.len(), MAX_WRONG);
}

#[test]
fn what_is_not_enforced_is_said_and_still_checked() {
    let (value, findings) = outer("later: {port: 80, prot: 1}\n");
    assert_eq!(value.unwrap().later.to_check().map(|inner| inner.port), Some(80));
    assert_eq!(
        findings,
        [
            "warning later:1: accepted, not enforced yet",
            "later.prot:1: unknown field \"prot\", did you mean \"port\"?",
        ]
    );
}

#[test]
fn null_is_absence() {
    let (value, findings) = outer("weight:\ninner: ~\nlater: null\nhostName: x\n");
    assert_eq!(value.unwrap().weight, None);
    assert!(findings.is_empty(), "{findings:?}");
}
