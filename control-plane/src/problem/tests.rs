use super::*;

#[test]
fn lines_follow_the_path() {
    let document = crate::yaml::parse("spec:\n  http:\n  - route:\n    - weight: 1\n").unwrap().remove(0);
    let mut report = Report::default();
    report.field("spec", |report| {
        report.field("http", |report| report.item(0, |report| report.error("no")));
        report.accept(Err::<(), _>(
            Invalid::new("bad").within("weight").at_index(0).within("route").at_index(0).within("http"),
        ));
    });
    let findings = report.into_findings();
    assert_eq!(findings[0].path.to_string(), "spec.http[0]");
    assert_eq!(findings[0].path.line_in(&document), 3);
    assert_eq!(findings[1].path.to_string(), "spec.http[0].route[0].weight");
    assert_eq!(findings[1].path.line_in(&document), 4);
}

#[test]
fn suggestions_are_near() {
    assert_eq!(suggestion("wieght", ["weight", "route"]), Some("weight"));
    assert_eq!(suggestion("nmae", ["name", "namespace"]), Some("name"));
    assert_eq!(suggestion("Exact", ["exact"]), Some("exact"));
    assert_eq!(suggestion("timeout", ["route"]), None);
    assert_eq!(unknown("field", "hots", ["hosts"]), "unknown field \"hots\", did you mean \"hosts\"?");
}
