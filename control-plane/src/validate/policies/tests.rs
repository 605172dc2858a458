use crate::validate::tests::{POD, SERVICE, remarks, rule};

fn policy(name: &str, target: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: policy.pillion.dev/v1alpha1\nkind: ResiliencePolicy\nmetadata: {{name: {name}}}\n\
         spec: {{targetRefs: [{target}], {spec}}}\n"
    )
}

const OF_SERVICE: &str = "{kind: Service, name: a}";
const OF_RULES: &str = "{group: networking.istio.io, kind: VirtualService, name: a}";

/// A VirtualService whose rules, named by their numbers, have these further fields.
fn rules(fields: &[&str]) -> String {
    let rules: String = (0..)
        .zip(fields)
        .map(|(number, fields)| {
            format!(
                "\n  - {{name: '{number}', match: [{{uri: {{exact: /{number}}}}}], \
                 route: [{{destination: {{host: a}}}}]{fields}}}"
            )
        })
        .collect();
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a}}\nspec:\n  hosts: [a]\n  \
         http:{rules}\n"
    )
}

#[test]
fn a_field_that_counts_somewhere_is_passed_over() {
    for target in [OF_SERVICE, OF_RULES] {
        let policy = policy("p", target, "timeout: 1s");
        assert_eq!(remarks(&[SERVICE, POD, &rules(&[", timeout: 2s", ""]), &policy]), Vec::<String>::new());
    }
    let subset = "host: a, subsets: [{name: v1, labels: {v: '1'}, \
                  trafficPolicy: {outlierDetection: {interval: 1s}}}]";
    let policy = policy("p", OF_SERVICE, "outlierDetection: {interval: 2s}");
    assert_eq!(remarks(&[SERVICE, POD, &rule("a", subset), &policy]), Vec::<String>::new());
}

#[test]
fn a_field_that_counts_nowhere_is_named_with_who_says_so() {
    let timeout = ", timeout: 2s";
    for (target, rules_given, by) in [
        (OF_SERVICE, 1, "VirtualService default/a http[0] (0) says so itself"),
        (
            OF_RULES,
            2,
            "VirtualService default/a http[0] (0), VirtualService default/a http[1] (1) say so themselves",
        ),
        (
            OF_RULES,
            5,
            "VirtualService default/a http[0] (0), VirtualService default/a http[1] (1), \
             VirtualService default/a http[2] (2), 2 more say so themselves",
        ),
    ] {
        let policy = policy("p", target, "timeout: 1s");
        assert_eq!(
            remarks(&[SERVICE, POD, &rules(&vec![timeout; rules_given]), &policy]),
            [format!("info spec.timeout: not used: {by}")]
        );
    }
}

#[test]
fn settings_of_ports_and_policies_for_parts_override() {
    let port = "host: a, trafficPolicy: {portLevelSettings: [{port: {number: 80}, \
                connectionPool: {tcp: {connectTimeout: 1s}}}]}";
    let wide = policy("wide", OF_SERVICE, "connectTimeout: 2s");
    let said = remarks(&[SERVICE, POD, &rule("a", port), &wide]);
    assert_eq!(said, ["info spec.connectTimeout: not used: DestinationRule default/a says so itself"]);
    let narrow = policy("narrow", "{kind: Service, name: a, sectionName: '80'}", "connectTimeout: 3s");
    let said = remarks(&[SERVICE, POD, &rule("a", port), &wide, &narrow]);
    assert_eq!(said, ["info spec.connectTimeout: not used: ResiliencePolicy default/narrow says so itself"]);
    let all = "host: a, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 1s}}}";
    assert_eq!(remarks(&[SERVICE, POD, &rule("a", all), &wide]), Vec::<String>::new());
}

#[test]
fn a_policy_for_one_rule_overrides_one_for_all() {
    let one = policy(
        "one",
        "{group: networking.istio.io, kind: VirtualService, name: a, sectionName: '0'}",
        "circuitBreaker: {}",
    );
    let all = policy("all", OF_RULES, "circuitBreaker: {}");
    let service = policy("service", OF_SERVICE, "circuitBreaker: {}");
    assert_eq!(
        remarks(&[SERVICE, POD, &rules(&[""]), &one, &all, &service]),
        ["info spec.circuitBreaker: not used: ResiliencePolicy default/one says so itself"]
    );
}

#[test]
fn a_limit_counts_at_the_destination_whatever_rules_say() {
    let limit = "rateLimit: {requests: 1, per: 1s}";
    let of_rules = policy("of-rules", OF_RULES, limit);
    let wide = policy("wide", OF_SERVICE, limit);
    assert_eq!(remarks(&[SERVICE, POD, &rules(&[""]), &of_rules, &wide]), Vec::<String>::new());
    let narrow = policy("narrow", "{kind: Service, name: a, sectionName: '80'}", limit);
    assert_eq!(
        remarks(&[SERVICE, POD, &rules(&[""]), &of_rules, &wide, &narrow]),
        [
            "info spec.rateLimit: not used: ResiliencePolicy default/narrow, ResiliencePolicy default/of-rules say so \
          themselves"
        ]
    );
    let by_peer = limit.replace("1s}", "1s, key: {peer: {}}}");
    let narrow = policy("narrow", "{kind: Service, name: a, sectionName: '80'}", &by_peer);
    assert_eq!(
        remarks(&[SERVICE, POD, &wide, &narrow]),
        ["info spec.rateLimit: not used: ResiliencePolicy default/narrow says so itself"]
    );
}

#[test]
fn ports_without_requests_are_named() {
    let tcp = SERVICE.replace("port: 80,", "port: 80, name: tcp,");
    assert_ne!(tcp, SERVICE);
    let said = remarks(&[&tcp, POD, &policy("p", OF_SERVICE, "timeout: 1s, connectTimeout: 1s")]);
    assert_eq!(said, ["warning spec: no effect on port 80, which is TCP and has no requests: timeout"]);
    let said = remarks(&[&tcp, POD, &policy("p", OF_SERVICE, "connectTimeout: 1s")]);
    assert_eq!(said, Vec::<String>::new());
}
