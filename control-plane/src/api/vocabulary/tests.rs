use super::*;

fn findings(text: &str) -> Vec<String> {
    let document = crate::yaml::parse(text).unwrap().remove(0);
    let mut report = Report::default();
    check(&document, &mut report);
    report.into_findings().iter().map(|finding| format!("{}: {}", finding.path, finding.reason)).collect()
}

#[test]
fn a_near_miss_is_named() {
    assert_eq!(
        findings("spec:\n  template:\n    spec:\n      containers:\n      - imgae: x\n        port: []\n"),
        [
            "spec.template.spec.containers[0].imgae: unknown field \"imgae\", did you mean \"image\"?",
            "spec.template.spec.containers[0].port: unknown field \"port\", did you mean \"ports\"?",
        ]
    );
}

#[test]
fn names_users_choose_are_not_judged() {
    assert!(
        findings("spec:\n  selector:\n    naem: x\n  template: {metadata: {labels: {nmae: y}}}\n").is_empty()
    );
    assert_eq!(findings("spec:\n  selector:\n    matchLabel: {app: x}\n").len(), 1);
}

#[test]
fn unheard_of_fields_are_somebody_elses() {
    assert!(findings("spec:\n  quantumEntanglement: true\n").is_empty());
}
