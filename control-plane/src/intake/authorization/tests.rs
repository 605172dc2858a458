use pillion_policy::authorization::{Action, AuthorizationPolicy, TextKey};

use super::*;
use crate::{
    intake::{
        read_file,
        tests::{errors, remarks},
    },
    naming::Naming,
    object::{Object, Scope},
};

fn object(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: x, namespace: shop}}\nspec: {{{spec}}}\n"
    )
}

fn policy(spec: &str) -> AuthorizationPolicy {
    let naming = Naming::new(&pillion_policy::name::Hostname::new("cluster.local").unwrap());
    let document = read_file("x.yaml", &object(spec), &naming).unwrap().remove(0);
    let stored = document.object.unwrap_or_else(|| panic!("{spec}: {:?}", document.problems));
    let Object::AuthorizationPolicy(policy) = &stored.object else { panic!("{stored:?}") };
    policy.policy.clone()
}

fn only_rule(rule: &str) -> Rule {
    let mut policy = policy(&format!("rules: [{{{rule}}}]"));
    assert_eq!(policy.rules.len(), 1);
    policy.rules.remove(0)
}

fn texts(values: &[&str]) -> Vec<TextMatch> {
    values.iter().map(|value| TextMatch::new(value).unwrap()).collect()
}

#[test]
fn without_a_rule_nobody_is_allowed_and_an_empty_one_is_for_everybody() {
    let nothing = policy("");
    assert_eq!((&*nothing.name, nothing.action, nothing.rules), ("shop/x", Action::Allow, Vec::new()));
    for (action, expected) in [("ALLOW", Action::Allow), ("DENY", Action::Deny), ("AUDIT", Action::Audit)] {
        let all = policy(&format!("action: {action}, rules: [{{}}]"));
        assert_eq!((all.action, all.rules), (expected, vec![Rule::default()]));
    }
}

#[test]
fn sources_are_read_in_full() {
    let rule = only_rule(
        "from: [{source: {principals: [td/ns/a/sa/b, '*'], notPrincipals: ['td/*'], requestPrincipals: ['iss/*'], \
         notRequestPrincipals: ['*/root'], namespaces: [a], notNamespaces: [b], ipBlocks: [10.0.0.0/8, 10.1.2.3], \
         notIpBlocks: ['fd00::1'], remoteIpBlocks: [192.168.0.0/16], notRemoteIpBlocks: ['::/0']}}, \
         {source: {serviceAccounts: [cart, other/user], notServiceAccounts: [admin]}}, \
         {source: {trustDomains: [one], notTrustDomains: [two]}}]",
    );
    let block = |text: &str| text.parse::<IpNet>().unwrap();
    let [first, second, third] = rule.from.as_slice() else { panic!("{:?}", rule.from) };
    let expected = Source {
        principals: Choice { any_of: texts(&["td/ns/a/sa/b", "*"]), none_of: texts(&["td/*"]) },
        request_principals: Choice { any_of: texts(&["iss/*"]), none_of: texts(&["*/root"]) },
        namespaces: Choice { any_of: texts(&["a"]), none_of: texts(&["b"]) },
        service_accounts: Choice::default(),
        ip_blocks: Choice {
            any_of: vec![block("10.0.0.0/8"), block("10.1.2.3/32")],
            none_of: vec![block("fd00::1/128")],
        },
        remote_ip_blocks: Choice { any_of: vec![block("192.168.0.0/16")], none_of: vec![block("::/0")] },
    };
    assert_eq!(*first, expected);
    let accounts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(second.service_accounts.any_of, accounts(&["shop/cart", "other/user"]));
    assert_eq!(second.service_accounts.none_of, accounts(&["shop/admin"]));
    assert_eq!(third.principals, Choice { any_of: texts(&["one/*"]), none_of: texts(&["two/*"]) });
}

#[test]
fn operations_are_read_in_full() {
    let rule = only_rule(
        "to: [{operation: {hosts: ['*.Example.COM'], notHosts: [a.example.com], ports: ['80'], notPorts: ['81'], \
         methods: [GET, 'P*'], notMethods: [PUT], paths: [/a, '/b/*', '/c/{*}/{**}'], notPaths: ['*.html']}}]",
    );
    let path = |text| PathPattern::new(text).unwrap();
    let expected = Operation {
        hosts: Choice { any_of: texts(&["*.example.com"]), none_of: texts(&["a.example.com"]) },
        ports: Choice { any_of: vec![80], none_of: vec![81] },
        methods: Choice { any_of: texts(&["GET", "P*"]), none_of: texts(&["PUT"]) },
        paths: Choice {
            any_of: vec![path("/a"), path("/b/*"), path("/c/{*}/{**}")],
            none_of: vec![path("*.html")],
        },
    };
    assert_eq!(rule.to, [expected]);
}

#[test]
fn every_key_of_a_condition_is_read() {
    let condition = |key: &str, value: &str| {
        let rule =
            only_rule(&format!("when: [{{key: '{key}', values: ['{value}'], notValues: ['{value}']}}]"));
        rule.when.into_iter().next().unwrap()
    };
    let both = |text: &str| Choice { any_of: texts(&[text]), none_of: texts(&[text]) };
    for (key, subject) in [
        ("source.namespace", TextKey::SourceNamespace),
        ("source.principal", TextKey::SourcePrincipal),
        ("request.auth.principal", TextKey::TokenPrincipal),
        ("request.auth.audiences", TextKey::TokenAudiences),
        ("request.auth.presenter", TextKey::TokenPresenter),
        ("connection.sni", TextKey::Sni),
    ] {
        assert_eq!(condition(key, "a*"), Condition::Text { key: subject, values: both("a*") });
    }
    assert_eq!(
        condition("source.serviceAccount", "cart"),
        Condition::Text { key: TextKey::SourceServiceAccount, values: both("shop/cart") }
    );
    for (key, subject) in [
        ("source.ip", AddressKey::Source),
        ("remote.ip", AddressKey::Remote),
        ("destination.ip", AddressKey::Destination),
    ] {
        let block = vec!["10.0.0.1/32".parse::<IpNet>().unwrap()];
        let values = Choice { any_of: block.clone(), none_of: block };
        assert_eq!(condition(key, "10.0.0.1"), Condition::Address { key: subject, values });
    }
    assert_eq!(
        condition("destination.port", "80"),
        Condition::Port(Choice { any_of: vec![80], none_of: vec![80] })
    );
    assert_eq!(
        condition("request.headers[X-Tenant]", "*"),
        Condition::Header { name: "x-tenant".parse().unwrap(), values: both("*") }
    );
    for (key, path) in [
        ("request.auth.claims[iss]", &["iss"][..]),
        ("request.auth.claims[a][b]", &["a", "b"]),
        ("request.auth.claims[https://a.b/c]", &["https://a.b/c"]),
    ] {
        let path = path.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(condition(key, "x"), Condition::Claim { path, values: both("x") });
    }
}

#[test]
fn mistakes_in_sources_and_operations_are_named() {
    for (rule, expected) in [
        ("from: []", "rules[0].from: it is empty"),
        ("to: []", "rules[0].to: it is empty"),
        ("from: [{}]", "from[0]: source is missing"),
        ("to: [{}]", "to[0]: operation is missing"),
        ("from: [{source: {}}]", "from[0]: it asks nothing"),
        ("from: [{source: {principals: []}}]", "from[0]: it asks nothing"),
        ("to: [{operation: {methods: []}}]", "to[0]: it asks nothing"),
        ("from: [{source: {principals: ['']}}]", "source.principals[0]: is empty"),
        ("from: [{source: {principals: ['a*b']}}]", "source.principals[0]: \"a*b\" has '*' in the middle"),
        (
            "from: [{source: {notPrincipals: ['spiffe://a/ns/b/sa/c']}}]",
            "notPrincipals[0]: a principal is written without",
        ),
        ("from: [{source: {serviceAccounts: ['a/b/c']}}]", "serviceAccounts[0]: name \"b/c\" holds '/'"),
        ("from: [{source: {serviceAccounts: ['*']}}]", "serviceAccounts[0]: name \"*\" holds '*'"),
        (
            "from: [{source: {serviceAccounts: [a], namespaces: [b]}}]",
            "source: serviceAccounts cannot stand beside",
        ),
        (
            "from: [{source: {notServiceAccounts: [a], principals: [b]}}]",
            "source: serviceAccounts cannot stand beside",
        ),
        (
            "from: [{source: {trustDomains: [a], principals: [b]}}]",
            "source: trustDomains cannot stand beside",
        ),
        ("from: [{source: {trustDomains: ['A']}}]", "trustDomains[0]: trust domain \"A\" holds 'A'"),
        (
            "from: [{source: {ipBlocks: [10.0.0.0/33]}}]",
            "ipBlocks[0]: \"10.0.0.0/33\" is neither an address nor",
        ),
        (
            "from: [{source: {notRemoteIpBlocks: [host]}}]",
            "notRemoteIpBlocks[0]: \"host\" is neither an address",
        ),
        ("to: [{operation: {ports: ['0']}}]", "operation.ports[0]: \"0\" is not a port"),
        ("to: [{operation: {ports: [http]}}]", "operation.ports[0]: \"http\" is not a port"),
        ("to: [{operation: {ports: [80]}}]", "operation.ports[0]: 80 is a number in YAML, put it in quotes"),
        (
            "to: [{operation: {paths: ['/{x}']}}]",
            "operation.paths[0]: \"/{x}\": \"{x}\" is neither plain text",
        ),
        (
            "to: [{operation: {notPaths: ['/{**}/a']}}]",
            "operation.notPaths[0]: \"/{**}/a\": {**} may only be the last",
        ),
        ("to: [{operation: {method: [GET]}}]", "unknown field \"method\", did you mean \"methods\"?"),
        ("form: [{source: {namespaces: [a]}}]", "unknown field \"form\", did you mean \"from\"?"),
    ] {
        let found = errors(&object(&format!("rules: [{{{rule}}}]")));
        assert!(found.iter().any(|error| error.contains(expected)), "{rule}: {found:?}");
    }
}

#[test]
fn mistakes_in_conditions_are_named() {
    for (condition, expected) in [
        ("values: [a]", "when[0].key: key is missing"),
        ("key: source.ip", "when[0]: one of values and notValues is needed"),
        ("key: source.ip, values: []", "when[0]: one of values and notValues is needed"),
        (
            "key: source.ipp, values: [a]",
            "when[0].key: unknown key \"source.ipp\", did you mean \"source.ip\"?",
        ),
        ("key: source.ip, values: [a]", "when[0].values[0]: \"a\" is neither an address nor a block"),
        ("key: destination.port, notValues: [x]", "when[0].notValues[0]: \"x\" is not a port"),
        ("key: request.headers, values: [a]", "when[0].key: a header field is named in brackets"),
        ("key: 'request.headers[]', values: [a]", "when[0].key: a header field is named in brackets"),
        ("key: 'request.headers[a][b]', values: [a]", "when[0].key: a header field is named in brackets"),
        ("key: 'request.headers[a b]', values: [a]", "when[0].key: \"a b\" is not a header name"),
        ("key: request.auth.claims, values: [a]", "when[0].key: a claim is named in brackets"),
        ("key: 'request.auth.claims[a', values: [a]", "when[0].key: a claim is named in brackets"),
        ("key: 'request.auth.claims[a]b', values: [a]", "when[0].key: a claim is named in brackets"),
        ("key: source.namespace, values: ['']", "when[0].values[0]: is empty"),
        (
            "key: experimental.envoy.filters.a, values: [a]",
            "when[0].key: unknown key \"experimental.envoy.filters.a\"",
        ),
    ] {
        let found = errors(&object(&format!("rules: [{{when: [{{{condition}}}]}}]")));
        assert!(found.iter().any(|error| error.contains(expected)), "{condition}: {found:?}");
    }
}

#[test]
fn mistakes_in_policies_are_named() {
    let many = format!("rules: [{}]", vec!["{}"; 513].join(", "));
    for (spec, expected) in [
        ("action: DENY", "spec.rules: without a rule it matches nothing"),
        ("action: AUDIT, rules: []", "spec.rules: without a rule it matches nothing"),
        ("action: CUSTOM, provider: {name: a}", "spec.rules: without a rule it matches nothing"),
        ("action: DENY, rules: [{}], provider: {name: a}", "spec.provider: only CUSTOM has a provider"),
        (
            "action: DENI, rules: [{}]",
            "spec.action: \"DENI\" is not a value of this field, did you mean DENY?",
        ),
        (&many, "spec.rules: 513 rules are too many, the most is 512"),
        ("selector: {matchLabels: {a: '*'}}", "selector.matchLabels.a: '*' has no meaning here"),
        (
            "selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: a}]",
            "spec.targetRefs: only one of selector, targetRef and targetRefs",
        ),
        ("targetRefs: [{kind: Service}]", "targetRefs[0]: kind and name are needed"),
        (
            "targetRefs: [{kind: Service, name: a, namespace: b}]",
            "targetRefs[0].namespace: a target is in the policy's",
        ),
        (
            "targetRefs: [{kind: Service, group: apps, name: a}]",
            "targetRefs[0].group: the group of Service is",
        ),
        ("rules: {}", "spec.rules: expected a list"),
    ] {
        let found = errors(&object(spec));
        assert!(found.iter().any(|error| error.contains(expected)), "{spec}: {found:?}");
    }
    let without = object("").replace("spec: {}\n", "");
    assert_eq!(errors(&without), [": spec is missing"]);
}

#[test]
fn values_that_nothing_equals_are_told() {
    for (rule, expected) in [
        ("from: [{source: {principals: [shop/cart]}}]", "principals[0]: nobody has this identity"),
        ("when: [{key: source.principal, values: [cart]}]", "when[0].values[0]: nobody has this identity"),
        ("to: [{operation: {methods: [get]}}]", "methods[0]: methods are compared exactly"),
        ("to: [{operation: {paths: [admin]}}]", "paths[0]: no path begins so"),
        (
            "to: [{operation: {paths: ['/a?b=c']}}]",
            "paths[0]: no path is so: it is compared without the query",
        ),
    ] {
        let said = remarks(&object(&format!("rules: [{{{rule}}}]")));
        assert!(
            said.len() == 1 && said[0].starts_with("warning ") && said[0].contains(expected),
            "{rule}: {said:?}"
        );
    }
    let fine = "rules: [{from: [{source: {principals: ['*/sa/a', 'td/*', td/ns/a/sa/b]}}], \
                to: [{operation: {paths: ['*', '*.js', /a]}}]}]";
    assert_eq!(remarks(&object(fine)), Vec::<String>::new());
}

#[test]
fn a_policy_for_waypoints_is_for_no_workload() {
    let naming = Naming::new(&pillion_policy::name::Hostname::new("cluster.local").unwrap());
    let text = object("targetRefs: [{kind: Service, group: '', name: a}]");
    let stored = read_file("x.yaml", &text, &naming).unwrap().remove(0).object.unwrap();
    assert_eq!(stored.object.scope(), Some(&Scope::Nobody));
    assert!(stored.notes[0].reason.starts_with("accepted, not enforced yet: no sidecar is a target"));
}

#[test]
fn a_policy_that_is_tried_out_decides_nothing() {
    let naming = Naming::new(&pillion_policy::name::Hostname::new("cluster.local").unwrap());
    let read = |action: &str, dry_run: &str| {
        let text = object(&format!("action: {action}, rules: [{{}}]"));
        let text =
            text.replace("{name: x", &format!("{{annotations: {{istio.io/dry-run: '{dry_run}'}}, name: x"));
        let stored = read_file("x.yaml", &text, &naming).unwrap().remove(0).object.unwrap();
        let Object::AuthorizationPolicy(policy) = &stored.object else { panic!("{stored:?}") };
        (policy.policy.action, stored.notes.iter().map(|note| note.path.clone()).collect::<Vec<_>>())
    };
    let told = vec!["metadata.annotations.istio.io/dry-run".to_owned()];
    assert_eq!(read("DENY", "true"), (Action::Audit, told.clone()));
    assert_eq!(read("ALLOW", "1"), (Action::Audit, told));
    assert_eq!(read("DENY", "false"), (Action::Deny, Vec::new()));
    assert_eq!(read("CUSTOM", "true"), (Action::Deny, Vec::new()));
}
