use crate::validate::tests::remarks;

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{{spec}}}\n"
    )
}

fn policy(spec: &str) -> String {
    object("AuthorizationPolicy", "x", spec)
}

/// A database behind a TCP port, with a page for people on another one.
const DATABASE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: db}, ports: [{name: tcp-db, port: 5432, targetPort: 5433}, {name: http, port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop, labels: {app: db, tier: data}}
status: {podIP: 10.0.0.1}
";

#[test]
fn policies_that_fit_are_passed_over() {
    for spec in [
        "",
        "selector: {matchLabels: {app: db}}, rules: [{from: [{source: {namespaces: [shop]}}]}]",
        "rules: [{to: [{operation: {methods: [GET], ports: ['80']}}]}]",
        "rules: [{to: [{operation: {methods: [GET], notPorts: ['5433']}}]}]",
        "action: DENY, rules: [{to: [{operation: {ports: ['5433']}}, {operation: {paths: [/x], ports: ['80']}}]}]",
        "selector: {matchLabels: {app: db}}, rules: [{when: [{key: source.ip, values: [10.0.0.0/8]}]}]",
    ] {
        assert_eq!(remarks(&[DATABASE, &policy(spec)]), Vec::<String>::new(), "{spec}");
    }
}

#[test]
fn a_selector_that_picks_nobody_is_named() {
    for kind in ["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"] {
        let spec = match kind {
            "AuthorizationPolicy" => "selector: {matchLabels: {app: dbx}}",
            "PeerAuthentication" => "selector: {matchLabels: {app: dbx}}, mtls: {mode: STRICT}",
            _ => "selector: {matchLabels: {app: dbx}}, jwtRules: [{issuer: a, jwks: '{\"keys\": []}'}]",
        };
        let policy = object(kind, "x", spec);
        let expected = "warning spec.selector.matchLabels: it selects no Pod: the policy is for nobody";
        assert_eq!(remarks(&[DATABASE, &policy]), [expected]);
        assert_eq!(remarks(&[&policy]), Vec::<String>::new(), "policies alone are not judged");
        if kind == "AuthorizationPolicy" {
            let root = policy.replace("namespace: shop", "namespace: istio-system");
            assert_eq!(remarks(&[DATABASE, &root]), [expected]);
            assert_eq!(remarks(&[DATABASE, &root.replace("dbx", "db")]), Vec::<String>::new());
        }
    }
}

#[test]
fn two_peer_authentications_for_the_same_workloads_are_both_told() {
    let mode =
        |name: &str, spec: &str| object("PeerAuthentication", name, &format!("{spec}mtls: {{mode: STRICT}}"));
    let selecting =
        |name: &str, labels: &str| mode(name, &format!("selector: {{matchLabels: {{{labels}}}}}, "));
    let both = |what: &str| {
        [
            "warning spec: PeerAuthentication shop/b is for the same workloads; this one is older and counts"
                .to_owned(),
            format!("warning spec: not used there: PeerAuthentication shop/a is {what} and older"),
        ]
    };
    assert_eq!(remarks(&[&mode("a", ""), &mode("b", "")]), both("for the same workloads"));
    let overlap = both("for workloads that it selects, too,");
    assert_eq!(remarks(&[DATABASE, &selecting("a", "app: db"), &selecting("b", "app: db")]), overlap);
    assert_eq!(remarks(&[DATABASE, &selecting("a", "app: db"), &selecting("b", "tier: data")]), overlap);
    assert_eq!(remarks(&[DATABASE, &mode("a", ""), &selecting("b", "tier: data")]), Vec::<String>::new());
    let roots = ["istio-system", "pillion-system"].map(|root| mode("a", "").replace("shop", root));
    let said = remarks(&[&roots[0], &roots[1]]);
    assert!(
        said.len() == 2 && said[1].contains("istio-system/a is for the same workloads and older"),
        "{said:?}"
    );
}

#[test]
fn custom_is_refused_by_name() {
    let custom = policy("action: CUSTOM, provider: {name: opa}, rules: [{}]");
    assert_eq!(
        remarks(&[&custom]),
        [
            "error spec.action: CUSTOM is not supported: there is no authorizer to ask, so requests that match its \
             rules are refused; use ALLOW, DENY or AUDIT"
        ]
    );
}

#[test]
fn questions_about_requests_are_named_where_there_are_none() {
    for (rule, fields) in [
        ("to: [{operation: {methods: [GET], paths: [/a]}}]", "methods, paths"),
        ("to: [{operation: {ports: ['5433'], notHosts: [a]}}]", "hosts"),
        ("when: [{key: 'request.headers[a]', values: [b]}]", "headers"),
    ] {
        let allow = policy(&format!("rules: [{{}}, {{{rule}}}]"));
        assert_eq!(
            remarks(&[DATABASE, &allow]),
            [format!(
                "warning spec.rules[1]: no effect on port 5433 of shop/db, which is TCP and has no {fields}: nobody is \
                 allowed by it"
            )]
        );
        for action in ["DENY", "AUDIT"] {
            let deny = policy(&format!("action: {action}, rules: [{{{rule}}}]"));
            assert_eq!(
                remarks(&[DATABASE, &deny]),
                [format!(
                    "warning spec.rules[0]: on port 5433 of shop/db, which is TCP, it matches whatever the {fields}: \
                     limit it to other ports"
                )]
            );
        }
    }
    let mixed = "rules: [{to: [{operation: {ports: ['5433']}}, {operation: {paths: [/x], ports: ['80']}}]}]";
    let said = remarks(&[DATABASE, &policy(mixed)]);
    assert!(said.len() == 1 && said[0].contains("no effect on port 5433"), "{said:?}");
    let other = policy("selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {methods: [GET]}}]}]");
    let web = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, labels: {app: web}}\nstatus: {podIP: 10.0.0.2}\n";
    assert_eq!(remarks(&[DATABASE, web, &other]), Vec::<String>::new());
}

#[test]
fn questions_about_tokens_are_named_where_none_is_believed() {
    let believing = object("RequestAuthentication", "t", "jwtRules: [{issuer: a, jwks: '{\"keys\": []}'}]");
    let expected =
        "warning spec.rules[0]: no RequestAuthentication is for workloads in shop: no token is known there";
    for rule in [
        "from: [{source: {requestPrincipals: ['*']}}]",
        "when: [{key: 'request.auth.claims[a]', values: [b]}]",
        "when: [{key: request.auth.audiences, values: [b]}]",
    ] {
        let policy = policy(&format!("rules: [{{{rule}}}]"));
        assert_eq!(remarks(&[&policy]), [expected]);
        assert_eq!(remarks(&[&policy, &believing]), Vec::<String>::new());
        let root = believing.replace("namespace: shop", "namespace: pillion-system");
        assert_eq!(remarks(&[&policy, &root]), Vec::<String>::new());
        assert_eq!(remarks(&[&policy, &believing.replace("namespace: shop", "namespace: x")]), [expected]);
    }
}

#[test]
fn callers_who_are_told_to_speak_what_is_refused_are_named() {
    let sidecar = DATABASE.replace(
        "metadata: {name: db-0,",
        "metadata: {name: db-0, annotations: {sidecar.istio.io/status: ''},",
    );
    let rule = |tls: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: db, namespace: shop}}\nspec: {{host: db, \
             trafficPolicy: {{{tls}}}}}\n"
        )
    };
    let [disable, mutual] = ["DISABLE", "ISTIO_MUTUAL"].map(|mode| rule(&format!("tls: {{mode: {mode}}}")));
    let only_http = rule("portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]");
    let mode = |mode: &str| object("PeerAuthentication", "x", &format!("mtls: {{mode: {mode}}}"));
    let said = |port: u16, why: &str| {
        vec![format!(
            "warning spec.trafficPolicy: port {port} cannot be reached: shop/db {why}; without tls, what it takes is spoken"
        )]
    };
    let strict = "takes mutual TLS only (STRICT)";
    let none = Vec::<String>::new();
    for (pods, rule, mode, expected) in [
        (sidecar.as_str(), &disable, mode("STRICT"), said(5432, strict)),
        (&sidecar, &only_http, mode("STRICT"), said(80, strict)),
        (&sidecar, &disable, mode("PERMISSIVE"), none.clone()),
        (DATABASE, &disable, mode("STRICT"), none.clone()),
        (&sidecar, &mutual, mode("STRICT"), none.clone()),
        (&sidecar, &mutual, mode("DISABLE"), said(5432, "takes no mutual TLS (DISABLE)")),
        (DATABASE, &mutual, mode("PERMISSIVE"), said(5432, "has no sidecar to take mutual TLS")),
        (&sidecar, &rule("loadBalancer: {simple: RANDOM}"), mode("STRICT"), none),
    ] {
        assert_eq!(remarks(&[pods, rule, &mode]), expected, "{rule}{mode}");
    }
}
