use std::{fs, path::PathBuf};

use pillion_policy::{
    endpoint::{EndpointSet, Health},
    identity::TrustDomain,
    name::Hostname,
    route::{Action, Target},
    service::ServicePolicy,
};
use proptest::prelude::*;

use super::*;
use crate::{
    naming::Naming,
    object::{Event, Stored},
    source::files::Files,
};

fn naming() -> Naming {
    Naming::new(&Hostname::new("cluster.local").unwrap())
}

pub(super) fn mesh() -> Settings {
    let mesh = MeshConfig {
        cluster_domain: Hostname::new("cluster.local").unwrap(),
        trust_domain: TrustDomain::new("cluster.local").unwrap(),
        trust_domain_aliases: Vec::new(),
        trust: None,
        outbound: Default::default(),
        collector: None,
    };
    Settings { mesh: Arc::new(mesh), telemetry: Telemetry::default() }
}

fn events(text: &str) -> Vec<Event> {
    let mut files = Files::new(naming());
    files.put("x.yaml", text);
    let update = files.update().unwrap_or_default();
    let errors = update.problems.iter().filter(|problem| problem.severity == crate::Severity::Error);
    assert_eq!(errors.map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
    update.events
}

pub(super) fn index(text: &str) -> Index {
    let mut index = Index::new(naming());
    events(text).into_iter().for_each(|event| index.apply(event));
    index
}

fn service(index: &Index, name: &str) -> Option<ServicePolicy> {
    service::service_policy(index, &name.parse().unwrap(), None)
}

pub(super) fn endpoints(index: &Index, name: &str) -> Option<EndpointSet> {
    endpoints::endpoint_set(index, &mesh().mesh.trust_domain, &name.parse().unwrap())
}

/// Where the first route of a policy leads, with the weight of each destination.
fn leads_to(index: &Index, name: &str) -> Vec<String> {
    let policy = service(index, name).unwrap_or_else(|| panic!("nothing for {name}"));
    match &policy.routes()[0].action {
        Action::Forward(forward) => forward
            .backends
            .all()
            .iter()
            .map(|backend| match &backend.target {
                Target::Cluster(cluster) => format!("{cluster} {}", backend.weight),
                Target::Missing(reason) => format!("missing: {reason}"),
            })
            .collect(),
        Action::Respond(response) => vec![format!("respond {}", response.status)],
        Action::Redirect(redirect) => vec![format!("redirect {}", redirect.code)],
    }
}

/// What is said about the objects.
fn problems(index: &Index) -> String {
    let mut problems = crate::validate::check(index);
    crate::problem::sort(&mut problems);
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

/// What a policy does about failure, a line for each rule and cluster, without what is not there.
fn resilience(policy: &ServicePolicy) -> String {
    fn given(value: serde_json::Value) -> serde_json::Value {
        use serde_json::Value::{Array, Null, Number, Object, String};
        let duration = |object: &serde_json::Map<std::string::String, serde_json::Value>| {
            let (secs, nanos) = (object.get("secs")?.as_u64()?, object.get("nanos")?.as_u64()?);
            Some(String(format!("{:?}", std::time::Duration::new(secs, nanos.try_into().ok()?))))
        };
        let is_empty = |value: &serde_json::Value| match value {
            Null => true,
            Array(items) => items.is_empty(),
            Object(fields) => fields.is_empty(),
            Number(number) => number.as_u64() == Some(u32::MAX.into()),
            _ => false,
        };
        match value {
            Object(fields) => duration(&fields).unwrap_or_else(|| {
                let fields = fields.into_iter().map(|(name, value)| (name, given(value)));
                Object(fields.filter(|(_, value)| !is_empty(value)).collect())
            }),
            Array(items) => Array(items.into_iter().map(given).collect()),
            other => other,
        }
    }
    let line = |name: &dyn ToString, value| format!("{}: {}\n", name.to_string(), given(value));
    let routes = policy.routes().iter().map(|route| {
        line(&route.name, serde_json::json!({ "timeout": route.timeout, "resilience": route.resilience }))
    });
    let clusters = policy.clusters().iter().map(|cluster| {
        let (pool, balancing) = (&cluster.pool, &cluster.balancing.policy);
        let limits =
            [pool.max_connections, pool.max_pending, pool.max_requests, pool.max_requests_per_connection];
        line(
            &cluster.name,
            serde_json::json!({
                "connect": pool.connect_timeout,
                "limits": limits,
                "balancing": balancing,
                "resilience": cluster.resilience,
            }),
        )
    });
    routes.chain(clusters).collect()
}

/// Each input under `tests/data/compile` says what to ask for; the answers stand beside it. To write them anew, remove
/// them and run the test until it passes. `resilience` asks for the part of a service's policy that is about failure,
/// `problems` for what is said about the objects.
#[test]
fn yaml_in_resources_out() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/compile");
    let inputs = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let inputs: Vec<PathBuf> =
        inputs.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    assert!(inputs.len() >= 3);
    for input in inputs {
        let text = fs::read_to_string(&input).unwrap();
        let index = index(&text);
        let mut answers = String::new();
        for question in text.lines().filter_map(|line| line.strip_prefix("# ask: ")) {
            let (kind, name) = question.split_once(' ').unwrap_or((question, ""));
            let answer = match kind {
                "problems" => problems(&index),
                "resilience" => resilience(&service(&index, name).unwrap()),
                kind => {
                    let answer = resource(&index, &mesh(), kind.parse().unwrap(), name, None);
                    serde_json::to_string_pretty(&answer).unwrap() + "\n"
                }
            };
            answers.push_str(&format!("// {question}\n{answer}"));
        }
        let golden = input.with_extension("out");
        let Ok(expected) = fs::read_to_string(&golden) else {
            fs::write(&golden, &answers).unwrap();
            panic!("{} did not exist and has been written: look at it", golden.display());
        };
        assert_eq!(answers, expected, "{}", golden.display());
    }
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}\n";

#[test]
fn a_service_answers_to_all_its_names() {
    let index = index(SERVICE);
    for host in ["a", "a.default", "a.default.svc", "a.default.svc.cluster.local", "10.0.0.1"] {
        assert_eq!(
            leads_to(&index, &format!("default/{host}:80")),
            ["a.default.svc.cluster.local:80 1"],
            "{host}"
        );
    }
    assert!(service(&index, "other/a:80").is_none());
    assert!(service(&index, "other/a.default:80").is_some());
    assert!(service(&index, "default/example.com:80").is_none());
    assert_eq!(
        leads_to(&index, "default/a:81"),
        ["missing: Service a.default.svc.cluster.local has no port 81, its ports: 80"]
    );
}

fn answers(name: &str, spec: &str, status: u16) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{{name}}}\nspec:\n  {spec}\n  http: [{{directResponse: {{status: {status}}}}}]\n"
    )
}

#[test]
fn the_closest_then_the_oldest_rule_decides() {
    let text = [
        SERVICE.to_owned(),
        answers("name: all", "hosts: ['*']", 200),
        answers("name: wide", "hosts: ['*.cluster.local']", 201),
        answers("name: narrow", "hosts: ['*.default.svc.cluster.local']", 202),
    ];
    assert_eq!(leads_to(&index(&text.concat()), "default/a:80"), ["respond 202"]);
    let exact = answers("name: z, creationTimestamp: '2026-01-02T00:00:00Z'", "hosts: [a]", 203);
    let older = answers("name: y, creationTimestamp: '2026-01-01T00:00:00Z'", "hosts: [a.default]", 204);
    let unknown_age = answers("name: x", "hosts: [a.default.svc.cluster.local]", 205);
    let text = [text.concat(), exact, unknown_age].concat();
    assert_eq!(leads_to(&index(&text), "default/a:80"), ["respond 203"]);
    assert_eq!(leads_to(&index(&(text + &older)), "default/a:80"), ["respond 204"]);
}

#[test]
fn a_rule_is_for_whom_it_is_exported_to() {
    let text = [
        SERVICE.to_owned(),
        answers("name: everybody", "hosts: [a]", 200),
        answers("name: always, namespace: default", "hosts: [b.example.com]\n  exportTo: ['.']", 201),
        answers("name: gateway", "hosts: [c.example.com]\n  gateways: [edge]", 202),
    ];
    let index = index(&text.concat());
    assert_eq!(leads_to(&index, "other/a.default:80"), ["respond 200"]);
    assert_eq!(leads_to(&index, "default/b.example.com:443"), ["respond 201"]);
    assert!(service(&index, "other/b.example.com:443").is_none());
    assert!(service(&index, "default/c.example.com:80").is_none());
}

fn route_to(destination: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: r}}\nspec:\n  hosts: [r.example.com]\n  http: [{{route: [{{destination: {destination}}}]}}]\n"
    )
}

#[test]
fn what_leads_nowhere_is_kept_and_says_why() {
    for (destination, reason) in [
        ("{host: b}", "missing: there is no Service b.default.svc.cluster.local"),
        (
            "{host: a, port: {number: 81}}",
            "missing: Service a.default.svc.cluster.local has no port 81, its ports: 80",
        ),
        (
            "{host: a, subset: v1}",
            "missing: no DestinationRule defines subset v1 of a.default.svc.cluster.local, its subsets: none",
        ),
        ("{host: a}", "a.default.svc.cluster.local:80 1"),
    ] {
        let index = index(&(SERVICE.to_owned() + &route_to(destination)));
        assert_eq!(leads_to(&index, "default/r.example.com:443"), [reason]);
    }
}

fn rule(meta: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{{meta}}}\nspec:\n  host: a.default.svc.cluster.local\n  {spec}\n"
    )
}

fn limit(index: &Index, name: &str) -> u32 {
    service(index, name).unwrap().clusters()[0].pool.max_connections
}

#[test]
fn rules_are_looked_for_near_the_client_then_the_service_then_the_root() {
    let with = |meta: &str, limit: u32| {
        rule(meta, &format!("trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {limit}}}}}}}"))
    };
    let root = with("name: r, namespace: istio-system", 1);
    let own = with("name: r, namespace: default", 2);
    let client = with("name: r, namespace: shop", 3);
    let name = "shop/a.default:80";
    assert_eq!(limit(&index(SERVICE), name), u32::MAX);
    assert_eq!(limit(&index(&[SERVICE, &root].concat()), name), 1);
    assert_eq!(limit(&index(&[SERVICE, &root, &own].concat()), name), 2);
    let all = index(&[SERVICE, &root, &own, &client].concat());
    assert_eq!((limit(&all, name), limit(&all, "default/a:80"), limit(&all, "x/a.default:80")), (3, 2, 2));
}

#[test]
fn rules_for_one_host_are_merged_and_the_oldest_policy_counts() {
    let first = rule(
        "name: b, creationTimestamp: '2025-01-01T00:00:00Z'",
        "trafficPolicy: {connectionPool: {tcp: {maxConnections: 5}}}\n  subsets: [{name: v1, labels: {version: v1}}]",
    );
    let second = rule(
        "name: a, creationTimestamp: '2026-01-01T00:00:00Z'",
        "trafficPolicy: {connectionPool: {tcp: {maxConnections: 6}}}\n  subsets: [{name: v2, labels: {version: v2}}]",
    );
    let index = index(&[SERVICE, &second, &first, &route_to("{host: a, subset: v2}")].concat());
    assert_eq!(limit(&index, "default/a:80"), 5);
    assert_eq!(leads_to(&index, "default/r.example.com:80"), ["a.default.svc.cluster.local:80/v2 1"]);
}

#[test]
fn a_port_block_replaces_and_a_subset_block_overrides() {
    let rule = rule(
        "name: r",
        "trafficPolicy:\n    loadBalancer: {simple: RANDOM}\n    connectionPool: {tcp: {maxConnections: 5}}\n    \
         portLevelSettings: [{port: {number: 81}, connectionPool: {tcp: {maxConnections: 9}}}]\n  \
         subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}}]",
    );
    let service_two =
        SERVICE.replace("[{name: http, port: 80}]", "[{name: http, port: 80}, {name: b, port: 81}]");
    let cluster = |destination: &str, name: &str| {
        let index = index(&[service_two.as_str(), rule.as_str(), &route_to(destination)].concat());
        service(&index, name).unwrap().clusters()[0].clone()
    };
    let plain = cluster("{host: a, port: {number: 80}}", "default/r.example.com:80");
    assert_eq!(
        (plain.pool.max_connections, plain.balancing.policy),
        (5, pillion_policy::cluster::LoadBalancer::Random)
    );
    let port = cluster("{host: a}", "default/r.example.com:81");
    assert_eq!((port.pool.max_connections, port.balancing), (9, Default::default()));
    let subset = cluster("{host: a, port: {number: 80}, subset: v1}", "default/r.example.com:80");
    assert_eq!(
        (subset.pool.max_connections, subset.balancing.policy),
        (7, pillion_policy::cluster::LoadBalancer::Random)
    );
    let both = cluster("{host: a, subset: v1}", "default/r.example.com:81");
    assert_eq!((both.pool.max_connections, both.balancing), (7, Default::default()));
}

#[test]
fn a_rule_says_which_version_is_spoken_upstream() {
    use pillion_policy::cluster::Protocol::{self, Auto, Http1, Http2, Tcp};
    let spoken = |port: &str, settings: &str| -> Protocol {
        let rule = rule("name: r", &format!("trafficPolicy: {{connectionPool: {{http: {{{settings}}}}}}}"));
        let index =
            index(&[&SERVICE.replace("name: http", &format!("name: {port}")), rule.as_str()].concat());
        service(&index, "default/a:80").unwrap().clusters()[0].protocol
    };
    for (port, settings, protocol) in [
        ("http", "h2UpgradePolicy: UPGRADE", Http2),
        ("http", "h2UpgradePolicy: DO_NOT_UPGRADE", Http1),
        ("grpc", "h2UpgradePolicy: DO_NOT_UPGRADE", Http2),
        ("http", "useClientProtocol: true", Auto),
        ("http2", "useClientProtocol: true, h2UpgradePolicy: UPGRADE", Auto),
        ("http", "useClientProtocol: false", Http1),
        ("tcp", "h2UpgradePolicy: UPGRADE", Tcp),
    ] {
        assert_eq!(spoken(port, settings), protocol, "{port} {settings}");
    }
}

fn pod(name: &str, ip: u8, rest: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: a}}{}}}\nstatus: {{podIP: 10.2.0.{ip}{}}}\n",
        if rest.starts_with("deletion") { format!(", {rest}") } else { String::new() },
        if rest.starts_with("deletion") { String::new() } else { rest.to_owned() },
    )
}

#[test]
fn pods_give_endpoints_by_their_condition() {
    let selecting = SERVICE.replace("spec: {", "spec: {selector: {app: a}, ");
    let pods = [
        pod("ready", 1, ""),
        pod("checked", 2, ", conditions: [{type: Ready, status: 'True'}]"),
        pod("unready", 3, ", conditions: [{type: Ready, status: 'False'}]"),
        pod("leaving", 4, "deletionTimestamp: '2026-01-01T00:00:00Z'"),
        pod("done", 5, ", phase: Succeeded"),
        pod("starting", 6, ", phase: Pending"),
    ];
    let text = selecting.clone() + &pods.concat();
    let found = |text: &str| -> Vec<(u8, Health)> {
        let set = endpoints(&index(text), "a.default.svc.cluster.local:80").unwrap();
        let last = |endpoint: &pillion_policy::endpoint::Endpoint| match endpoint.address.ip() {
            std::net::IpAddr::V4(ip) => ip.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        };
        set.endpoints.iter().map(|endpoint| (last(endpoint), endpoint.health)).collect()
    };
    assert_eq!(found(&text), [(1, Health::Ready), (2, Health::Ready), (4, Health::Draining)]);
    let all = text.replace("spec: {", "spec: {publishNotReadyAddresses: true, ");
    let ready: Vec<u8> =
        found(&all).iter().filter(|(_, health)| *health == Health::Ready).map(|(ip, _)| *ip).collect();
    assert_eq!(ready, [1, 2, 3, 4, 6]);
    assert!(endpoints(&index(&text), "a.default.svc.cluster.local:81").is_none());
    assert!(endpoints(&index(&text), "b.default.svc.cluster.local:80").is_none());
}

/// Everything that can be asked of the objects below, as text.
fn everything(index: &Index) -> String {
    let names = [
        ("service", "default/order-service:80"),
        ("service", "shop/order-service.default:80"),
        ("service", "default/api:8080"),
        ("service", "shop/cart:80"),
        ("service", "default/a:80"),
        ("service", "default/odd:80"),
        ("service", "default/user-service:80"),
        ("endpoints", "order-service.default.svc.cluster.local:80"),
        ("endpoints", "cart.shop.svc.cluster.local:80"),
        ("workload", "default/order-v1"),
        ("workload", "shop/cart"),
        ("workload", "foo/httpbin"),
        ("workload", "bar/finance"),
    ];
    let answers = names.map(|(kind, name)| resource(index, &mesh(), kind.parse().unwrap(), name, None));
    let problems: Vec<String> = crate::validate::check(index).iter().map(ToString::to_string).collect();
    format!("{answers:#?}{problems:#?}")
}

fn corpus() -> Vec<Arc<Stored>> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/compile");
    let mut files = Files::new(naming());
    for name in ["split", "rules", "slices", "policy", "conflicts", "security"] {
        files.put(name, fs::read_to_string(directory.join(name).with_extension("yaml")).unwrap());
    }
    let stored = |event| match event {
        Event::Apply(stored) => Some(stored),
        Event::Delete(_) => None,
    };
    files.update().unwrap_or_default().events.into_iter().filter_map(stored).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn order_repetition_and_detours_do_not_show(
        order in Just(corpus()).prop_shuffle(),
        extra in Just(corpus()).prop_shuffle(),
        detours in 0..12_usize,
    ) {
        let mut straight = Index::new(naming());
        corpus().into_iter().for_each(|stored| straight.apply(Event::Apply(stored)));
        let mut other = Index::new(naming());
        for stored in extra.iter().take(detours) {
            other.apply(Event::Apply(stored.clone()));
        }
        for stored in extra.iter().take(detours / 2) {
            other.apply(Event::Delete(stored.key.clone()));
        }
        order.into_iter().for_each(|stored| other.apply(Event::Apply(stored)));
        prop_assert_eq!(everything(&straight), everything(&other));
    }

    #[test]
    fn what_is_taken_out_leaves_nothing(order in Just(corpus()).prop_shuffle()) {
        let mut index = Index::new(naming());
        order.iter().for_each(|stored| index.apply(Event::Apply(stored.clone())));
        order.iter().rev().for_each(|stored| index.apply(Event::Delete(stored.key.clone())));
        prop_assert!(index.is_bare());
    }
}

#[test]
fn a_match_can_be_for_clients_with_certain_labels() {
    let index = index(
        "apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: tester-1, labels: {app: tester, ring: canary}}
status: {podIP: 10.0.0.1}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop]
  http:
  - match: [{sourceLabels: {ring: canary}}]
    directResponse: {status: 201}
  - directResponse: {status: 202}
",
    );
    let statuses = |client: &str| {
        let client = client.parse().unwrap();
        let Some(Resource::Service(policy)) =
            resource(&index, &mesh(), ResourceKind::Service, "default/shop:80", Some(&client))
        else {
            panic!("no policy")
        };
        let status = |route: &pillion_policy::route::Route| match &route.action {
            Action::Respond(response) => response.status,
            Action::Forward(_) | Action::Redirect(_) => 0,
        };
        policy.routes().iter().map(status).collect::<Vec<_>>()
    };
    assert_eq!(statuses("default/tester"), [201, 202]);
    assert_eq!(statuses("default/other"), [202]);
}
