use std::slice;

use pillion_policy::{
    authorization::{Action, PathPattern, TextMatch},
    cluster::ClusterTls,
    endpoint::Endpoint,
    resource::{Resource, ResourceKind},
    workload::WorkloadPolicy,
};

use super::*;
use crate::{
    compile::{
        resource, service,
        tests::{endpoints, index, mesh},
        workload::workload_policy,
    },
    object::Event,
};

fn object(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{{spec}}}\n"
    )
}

fn dated(object: &str, year: u16) -> String {
    object.replacen("metadata: {", &format!("metadata: {{creationTimestamp: '{year}-01-01T00:00:00Z', "), 1)
}

fn peer(namespace: &str, name: &str, spec: &str) -> String {
    object("PeerAuthentication", namespace, name, spec)
}

fn pod(namespace: &str, name: &str, labels: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: {namespace}, name: {name}, labels: {{{labels}}}}}\nstatus: {{podIP: 10.0.0.1}}\n"
    )
}

fn workload(parts: &[String], name: &str) -> WorkloadPolicy {
    workload_policy(&index(&parts.concat()), &mesh(), &name.parse().unwrap())
}

fn policies(policy: &WorkloadPolicy) -> Vec<&str> {
    policy.authorization.iter().map(|policy| &*policy.name).collect()
}

#[test]
fn the_narrowest_peer_authentication_that_says_something_has_the_word() {
    let order = pod("shop", "order", "app: order");
    let mesh = peer("istio-system", "mesh", "mtls: {mode: STRICT}");
    let own = peer("shop", "own", "mtls: {mode: DISABLE}");
    let silent = peer("shop", "own", "mtls: {mode: UNSET}");
    let only = peer("shop", "only", "selector: {matchLabels: {app: order}}, mtls: {mode: PERMISSIVE}");
    let ports = peer(
        "shop",
        "only",
        "selector: {matchLabels: {app: order}}, portLevelMtls: {80: {mode: DISABLE}, 81: {mode: UNSET}, 82: {}}",
    );
    let other = peer("shop", "other", "selector: {matchLabels: {app: cart}}, mtls: {mode: DISABLE}");
    for (parts, mode) in [
        (vec![], PeerTls::Permissive),
        (vec![&other], PeerTls::Permissive),
        (vec![&mesh], PeerTls::Strict),
        (vec![&mesh, &own], PeerTls::Disable),
        (vec![&mesh, &silent], PeerTls::Strict),
        (vec![&mesh, &own, &only], PeerTls::Permissive),
        (vec![&mesh, &own, &ports], PeerTls::Disable),
        (vec![&mesh, &silent, &ports, &other], PeerTls::Strict),
    ] {
        let parts: Vec<String> = [&order].into_iter().chain(parts).cloned().collect();
        let policy = workload(&parts, "shop/order");
        assert_eq!(policy.peer_tls, mode, "{parts:?}");
        let ported = parts.contains(&ports);
        assert_eq!(policy.peer_tls(80), if ported { PeerTls::Disable } else { mode });
        assert_eq!((policy.peer_tls(81), policy.peer_tls(82), policy.peer_tls(83)), (mode, mode, mode));
        assert_eq!(policy.port_tls.len(), if ported { 3 } else { 0 });
    }
}

#[test]
fn both_root_namespaces_are_for_the_whole_mesh() {
    for root in ["istio-system", "pillion-system"] {
        let strict = peer(root, "mesh", "mtls: {mode: STRICT}");
        assert_eq!(workload(slice::from_ref(&strict), "shop/order").peer_tls, PeerTls::Strict);
        assert_eq!(workload(slice::from_ref(&strict), &format!("{root}/gateway")).peer_tls, PeerTls::Strict);
        // Only policies for the whole mesh count there.
        let selecting = strict.replace("spec: {", "spec: {selector: {matchLabels: {app: order}}, ");
        let order = pod("shop", "order", "app: order");
        assert_eq!(workload(&[selecting, order], "shop/order").peer_tls, PeerTls::Permissive);
    }
    let [older, newer] = [("istio-system", "STRICT", 2025), ("pillion-system", "DISABLE", 2026)]
        .map(|(root, mode, year)| dated(&peer(root, "mesh", &format!("mtls: {{mode: {mode}}}")), year));
    assert_eq!(workload(&[newer, older], "shop/order").peer_tls, PeerTls::Strict);
}

#[test]
fn of_two_policies_for_the_same_workloads_the_oldest_counts() {
    let [strict, disable] = [("z", "STRICT"), ("a", "DISABLE")]
        .map(|(name, mode)| peer("shop", name, &format!("mtls: {{mode: {mode}}}")));
    assert_eq!(workload(&[strict.clone(), disable.clone()], "shop/order").peer_tls, PeerTls::Disable);
    let parts = [dated(&strict, 2025), dated(&disable, 2026)];
    assert_eq!(workload(&parts, "shop/order").peer_tls, PeerTls::Strict);
    let parts = [dated(&strict, 2025), disable];
    assert_eq!(workload(&parts, "shop/order").peer_tls, PeerTls::Strict);
}

#[test]
fn every_policy_that_selects_a_workload_is_carried() {
    let policy = |namespace, name, spec| object("AuthorizationPolicy", namespace, name, spec);
    let parts = [
        policy("istio-system", "for-all", "rules: [{}]"),
        policy("istio-system", "for-orders", "selector: {matchLabels: {app: order}}"),
        policy("istio-system", "for-carts", "selector: {matchLabels: {app: cart}}"),
        policy("shop", "for-all", ""),
        policy("shop", "for-v1", "selector: {matchLabels: {app: order, version: v1}}"),
        policy("shop", "for-v2", "selector: {matchLabels: {app: order, version: v2}}"),
        policy("shop", "for-waypoints", "targetRefs: [{kind: Service, group: '', name: order}]"),
        policy("other", "for-all", ""),
        pod("shop", "order", "app: order, version: v1, zone: a"),
    ];
    let order = workload(&parts, "shop/order");
    let expected = ["istio-system/for-all", "istio-system/for-orders", "shop/for-all", "shop/for-v1"];
    assert_eq!(policies(&order), expected);
    assert_eq!(policies(&workload(&parts, "shop/unknown")), ["istio-system/for-all", "shop/for-all"]);
    assert_eq!(policies(&workload(&parts, "istio-system/x")), ["istio-system/for-all"]);
    assert_eq!(policies(&workload(&parts, "other/x")), ["istio-system/for-all", "other/for-all"]);
}

#[test]
fn a_policy_for_one_pod_of_a_workload_is_for_all_of_them() {
    let version = |name: &str, version: &str| {
        pod("shop", name, &format!("app: order, version: {version}"))
            .replace("metadata: {", "metadata: {ownerReferences: [{kind: StatefulSet, name: order}], ")
    };
    let deny = object(
        "AuthorizationPolicy",
        "shop",
        "new",
        "action: DENY, selector: {matchLabels: {version: v2}}, rules: [{}]",
    );
    let parts = [version("order-0", "v1"), version("order-1", "v2"), deny];
    assert_eq!(policies(&workload(&parts, "shop/order")), ["shop/new"]);
    assert!(policies(&workload(&[parts[0].clone(), parts[2].clone()], "shop/order")).is_empty());
}

#[test]
fn a_change_of_a_policy_reaches_what_it_selects() {
    let deny = object("AuthorizationPolicy", "shop", "deny", "action: DENY, rules: [{}]");
    let mut changing = index(&pod("shop", "order", "app: order"));
    let stored = index(&deny).objects().next().cloned().unwrap();
    let name = "shop/order".parse().unwrap();
    assert!(workload_policy(&changing, &mesh(), &name).authorization.is_empty());
    changing.apply(Event::Apply(stored.clone()));
    assert_eq!(workload_policy(&changing, &mesh(), &name).authorization.len(), 1);
    let narrowed = deny.replace("action", "selector: {matchLabels: {app: cart}}, action");
    changing.apply(Event::Apply(index(&narrowed).objects().next().cloned().unwrap()));
    assert!(workload_policy(&changing, &mesh(), &name).authorization.is_empty());
    changing.apply(Event::Delete(stored.key.clone()));
    assert!(workload_policy(&changing, &mesh(), &name).authorization.is_empty());
}

#[test]
fn custom_fails_closed() {
    let custom = object(
        "AuthorizationPolicy",
        "shop",
        "ask",
        "action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {paths: [/admin*]}}]}]",
    );
    for custom in [custom.replace("provider: {name: opa}, ", ""), custom] {
        let policy = workload(&[custom], "shop/order");
        let [policy] = policy.authorization.as_slice() else { panic!("{policy:?}") };
        assert_eq!((policy.action, policy.rules.len()), (Action::Deny, 1));
        assert_eq!(policy.rules[0].to[0].paths.any_of, [PathPattern::new("/admin*").unwrap()]);
    }
}

#[test]
fn principals_are_carried_as_they_are_written() {
    let texts = ["cluster.local/ns/shop/sa/cart", "old/*", "*/sa/cart", "*"];
    let spec = format!("rules: [{{from: [{{source: {{principals: ['{}']}}}}]}}]", texts.join("', '"));
    let policy = workload(&[object("AuthorizationPolicy", "shop", "a", &spec)], "shop/order");
    let carried = &policy.authorization[0].rules[0].from[0].principals.any_of;
    assert_eq!(carried.iter().map(TextMatch::text).collect::<Vec<_>>(), texts);
}

#[test]
fn token_rules_of_all_policies_are_carried_oldest_first() {
    let rule = |namespace: &str, name: &str, year| {
        let spec = format!("jwtRules: [{{issuer: {name}, jwksUri: 'https://{name}.example.com/keys'}}]");
        dated(&object("RequestAuthentication", namespace, name, &spec), year)
    };
    let parts = [
        rule("shop", "b", 2026),
        rule("istio-system", "c", 2024),
        rule("shop", "a", 2025),
        rule("x", "d", 2023),
    ];
    let policy = workload(&parts, "shop/order");
    let issuers: Vec<&str> = policy.authentication.iter().map(|rule| rule.issuer.as_str()).collect();
    assert_eq!(issuers, ["c", "a", "b"]);
}

/// The identities of the endpoints of a service.
fn identities(parts: &[String], name: &str) -> Vec<Option<String>> {
    let set = endpoints(&index(&parts.concat()), name).unwrap();
    let identity = |endpoint: &Endpoint| endpoint.identity.as_ref().map(ToString::to_string);
    set.endpoints.iter().map(identity).collect()
}

#[test]
fn callers_are_not_sent_to_prove_themselves_where_nobody_asks() {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: order, namespace: shop}\nspec: {selector: {app: order}, \
                   ports: [{name: a, port: 80, targetPort: 8080}, {name: b, port: 81, targetPort: 8081}]}\n";
    let mut parts = vec![service.to_owned(), pod("shop", "order", "app: order")];
    let [first, second] = ["order.shop.svc.cluster.local:80", "order.shop.svc.cluster.local:81"];
    let known = [Some("spiffe://cluster.local/ns/shop/sa/default".to_owned())];
    assert_eq!((identities(&parts, first), identities(&parts, second)), (known.to_vec(), known.to_vec()));
    parts.push(peer(
        "shop",
        "x",
        "selector: {matchLabels: {app: order}}, portLevelMtls: {8081: {mode: DISABLE}}",
    ));
    assert_eq!((identities(&parts, first), identities(&parts, second)), (known.to_vec(), vec![None]));
}

#[test]
fn the_tls_of_a_destination_is_that_of_the_narrowest_rule() {
    let text = |host_tls: &str, port_tls: &str, subset_tls: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: [{{name: x, port: 80}}, {{name: y, port: 81}}]}}\n\
             ---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: a}}\nspec:\n  host: a\n  \
             trafficPolicy:\n    retryBudget: {{percent: 10}}\n    {host_tls}\n    portLevelSettings: [{{port: {{number: 81}}, {port_tls}}}]\n  \
             subsets: [{{name: v1, labels: {{v: a}}, trafficPolicy: {{retryBudget: {{percent: 5}}, {subset_tls}}}}}]\n\
             ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a}}\nspec: {{hosts: [v.a], http: \
             [{{route: [{{destination: {{host: a, subset: v1}}}}]}}]}}\n"
        )
    };
    let tls = |text: &str, name: &str| {
        let policy = service::service_policy(&index(text), &name.parse().unwrap(), None).unwrap();
        policy.clusters()[0].tls.clone()
    };
    let none = text("", "", "");
    assert_eq!(tls(&none, "default/a:80"), ClusterTls::Auto);
    let all = text("tls: {mode: DISABLE}", "tls: {mode: ISTIO_MUTUAL}", "tls: {mode: SIMPLE}");
    assert_eq!(tls(&all, "default/a:80"), ClusterTls::Disable);
    assert_eq!(tls(&all, "default/a:81"), ClusterTls::Mutual(Vec::new()));
    assert_eq!(tls(&all, "default/v.a:80"), ClusterTls::Originate(Box::default()));
    let host = text("tls: {mode: DISABLE}", "loadBalancer: {simple: RANDOM}", "");
    assert_eq!(tls(&host, "default/a:81"), ClusterTls::Auto, "a block for a port inherits nothing");
    assert_eq!(tls(&host, "default/v.a:80"), ClusterTls::Disable, "a subset inherits what it does not say");
}

#[test]
fn policies_among_thousands_are_found_by_their_labels() {
    let names: Vec<String> = (0..2_000).map(|number| format!("w{number}")).collect();
    let mut text = String::new();
    for name in &names {
        text += &object(
            "AuthorizationPolicy",
            "shop",
            name,
            &format!("selector: {{matchLabels: {{app: {name}}}}}, rules: [{{}}]"),
        );
        text += &pod("shop", name, &format!("app: {name}, common: label"));
    }
    let index = index(&text);
    for name in names.iter().step_by(97) {
        let labels = Labels::from([("app".into(), name.as_str().into()), ("common".into(), "label".into())]);
        let found = index.governing(Kind::AuthorizationPolicy, &Label::new("shop").unwrap(), &labels);
        assert_eq!(found.iter().map(|stored| stored.key.name.as_str()).collect::<Vec<_>>(), [name]);
        let resource = resource(&index, &mesh(), ResourceKind::Workload, &format!("shop/{name}"), None);
        let Some(Resource::Workload(policy)) = resource else { panic!("{name} has no policy") };
        assert_eq!(policies(&policy), [format!("shop/{name}")]);
    }
}
