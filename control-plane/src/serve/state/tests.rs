use std::net::SocketAddr;

use pillion_policy::{
    Snapshot,
    identity::{Identity, TrustDomain},
    mesh::OutboundMode,
    name::Hostname,
    telemetry::Telemetry,
};
use pillion_xds::{Node, client, discovery::DeltaDiscoveryResponse};
use tokio::sync::mpsc;

use super::{super::Stream, *};
use crate::{naming::Naming, source::files::Files};

/// A control plane on files in memory, and proxies that talk to it without a network.
struct Mesh {
    state: State,
    files: Files,
    proxies: Vec<TestProxy>,
}

struct TestProxy {
    id: u64,
    session: client::Session,
    responses: mpsc::Receiver<Result<DeltaDiscoveryResponse, Status>>,
    snapshot: Snapshot,
    /// Names of the resources that came, in order; `-` marks a removal.
    received: Vec<String>,
}

impl Mesh {
    fn new(text: &str) -> Self {
        let domain = Hostname::new("cluster.local").unwrap();
        let mesh = MeshConfig {
            cluster_domain: domain.clone(),
            trust_domain: TrustDomain::new("cluster.local").unwrap(),
            trust_domain_aliases: Vec::new(),
            trust: None,
            outbound: OutboundMode::AllowAny,
            collector: None,
        };
        let settings = Settings { mesh: Arc::new(mesh), telemetry: Telemetry::default() };
        let naming = Naming::new(&domain);
        let state = State::new(Index::new(naming.clone()), settings, Metrics::new());
        let mut started = Self { state, files: Files::new(naming), proxies: Vec::new() };
        started.save("x.yaml", text);
        started
    }

    fn save(&mut self, name: &str, text: &str) {
        self.files.put(name, text);
        self.state.update(self.files.update().unwrap_or_default());
        self.settle();
    }

    fn connect(&mut self, workload: &str) -> usize {
        self.connect_as(workload, None)
    }

    fn connect_as(&mut self, workload: &str, identity: Option<Identity>) -> usize {
        let id = self.proxies.len() as u64;
        let (sender, responses) = mpsc::channel(8);
        self.state.handle(Command::Open(Stream {
            id,
            peer: Some(peer(id)),
            identity,
            issued: None,
            responses: sender,
        }));
        let mut session = client::Session::new(Node::new(workload.parse().unwrap()));
        session.connected();
        self.proxies.push(TestProxy {
            id,
            session,
            responses,
            snapshot: Snapshot::default(),
            received: Vec::new(),
        });
        self.settle();
        self.proxies.len() - 1
    }

    fn subscribe(&mut self, proxy: usize, name: &str) {
        self.proxies[proxy].session.subscribe(ResourceKind::Service, name);
        self.settle();
    }

    /// Carries messages both ways until nobody has anything to say.
    fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for proxy in &mut self.proxies {
                for request in proxy.session.requests() {
                    self.state.handle(Command::Receive(proxy.id, Box::new(request)));
                    quiet = false;
                }
                while let Ok(response) = proxy.responses.try_recv() {
                    let response = response.unwrap();
                    let resources = response.resources.iter().map(|resource| resource.name.clone());
                    proxy.received.extend(resources);
                    proxy.received.extend(response.removed_resources.iter().map(|name| format!("-{name}")));
                    let effects = proxy.session.receive(response);
                    assert!(effects.rejected.is_empty(), "{:?}", effects.rejected);
                    proxy.snapshot = proxy.snapshot.apply(effects.changes);
                    quiet = false;
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn received(&mut self, proxy: usize) -> Vec<String> {
        std::mem::take(&mut self.proxies[proxy].received)
    }
}

/// Where the proxy of a stream is connected from.
fn peer(id: u64) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1024 + u16::try_from(id).unwrap()))
}

fn service(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n"
    )
}

#[test]
fn a_proxy_gets_what_it_asks_for_and_nothing_else() {
    let mut mesh = Mesh::new(&(service("a", 80) + &service("b", 80)));
    let proxy = mesh.connect("default/api");
    assert_eq!(mesh.received(proxy), ["mesh", "default/api"]);
    mesh.subscribe(proxy, "default/a:80");
    assert_eq!(mesh.received(proxy), ["default/a:80", "a.default.svc.cluster.local:80"]);
    mesh.save("b.yaml", &service("c", 80));
    mesh.save("x.yaml", &(service("a", 80) + &service("b", 81)));
    assert_eq!(mesh.received(proxy), Vec::<String>::new());
}

#[test]
fn an_unknown_name_is_answered_and_pushed_when_it_appears() {
    let mut mesh = Mesh::new("");
    let proxy = mesh.connect("default/api");
    mesh.received(proxy);
    mesh.subscribe(proxy, "default/late:80");
    assert_eq!(mesh.received(proxy), ["-default/late:80"]);
    mesh.save("late.yaml", &service("late", 80));
    assert_eq!(mesh.received(proxy), ["default/late:80", "late.default.svc.cluster.local:80"]);
    mesh.save("late.yaml", "");
    assert!(mesh.received(proxy).contains(&"-default/late:80".to_owned()));
    assert!(mesh.proxies[proxy].snapshot.service(&"default/late:80".parse().unwrap()).is_none());
}

#[test]
fn a_change_goes_to_those_who_asked_for_it() {
    let mut mesh = Mesh::new(&(service("a", 80) + &service("b", 80)));
    let (one, two) = (mesh.connect("default/one"), mesh.connect("default/two"));
    mesh.subscribe(one, "default/a:80");
    mesh.subscribe(two, "default/b:80");
    mesh.received(one);
    mesh.received(two);
    mesh.save(
        "pods.yaml",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: b}\n\
         spec: {hosts: [b], http: [{route: [{destination: {host: b}}], timeout: 1s}]}\n",
    );
    assert_eq!((mesh.received(one), mesh.received(two)), (vec![], vec!["default/b:80".to_owned()]));
}

#[test]
fn a_policy_travels_whole_and_only_to_whom_it_concerns() {
    let mut mesh = Mesh::new(&(service("user-service", 80) + &service("b", 80)));
    let (one, two) = (mesh.connect("default/one"), mesh.connect("default/two"));
    mesh.subscribe(one, "default/user-service:80");
    mesh.subscribe(two, "default/b:80");
    mesh.received(one);
    mesh.received(two);
    let policy = include_str!("../../../tests/data/every-field.yaml").replace("sectionName: http", "");
    mesh.save("policy.yaml", &policy);
    let name = "default/user-service:80";
    assert_eq!((mesh.received(one), mesh.received(two)), (vec![name.to_owned()], vec![]));
    let name = name.parse().unwrap();
    let made = compile::resource(
        &mesh.state.index,
        &mesh.state.settings,
        ResourceKind::Service,
        "default/user-service:80",
        None,
    );
    let Some(pillion_policy::Resource::Service(made)) = made else { panic!("no policy") };
    let arrived = mesh.proxies[one].snapshot.service(&name).unwrap();
    assert_eq!(**arrived, *made);
    let route = &arrived.routes()[0].resilience;
    let cluster = &arrived.clusters()[0].resilience;
    assert!(route.retry.is_some() && route.rate_limit.is_some() && route.fault.abort.is_some());
    assert!(cluster.breaker.is_some() && cluster.bulkhead.is_some() && cluster.outlier.is_some());
    mesh.save("policy.yaml", "");
    assert_eq!((mesh.received(one).len(), mesh.received(two).len()), (1, 0));
}

#[test]
fn what_nobody_asks_for_any_more_is_forgotten() {
    let mut mesh = Mesh::new(&service("a", 80));
    let (one, two) = (mesh.connect("default/one"), mesh.connect("default/two"));
    mesh.subscribe(one, "default/a:80");
    mesh.subscribe(two, "default/a:80");
    // Each workload has an answer of its own.
    assert_eq!(mesh.state.demand[&ResourceKind::Service].len(), 2);
    let effects = mesh.proxies[one].session.unsubscribe(ResourceKind::Service, "default/a:80");
    assert_eq!(effects.changes.len(), 2);
    mesh.settle();
    assert_eq!(mesh.state.demand[&ResourceKind::Service].len(), 1);
    mesh.state.handle(Command::Close(mesh.proxies[two].id));
    assert_eq!(mesh.state.demand[&ResourceKind::Service].len(), 0);
    assert_eq!(mesh.state.proxies.len(), 1);
}

#[test]
fn a_proxy_that_comes_back_gets_only_what_differs() {
    let mut mesh = Mesh::new(&(service("a", 80) + &service("b", 80)));
    let proxy = mesh.connect("default/api");
    mesh.subscribe(proxy, "default/a:80");
    mesh.subscribe(proxy, "default/b:80");
    mesh.state.handle(Command::Close(mesh.proxies[proxy].id));
    mesh.received(proxy);
    mesh.save("x.yaml", &(service("a", 80) + &service("b", 80).replace("port: 80", "name: http, port: 80")));
    let (sender, responses) = mpsc::channel(8);
    mesh.state.handle(Command::Open(Stream {
        id: 9,
        peer: Some(peer(9)),
        identity: None,
        issued: None,
        responses: sender,
    }));
    mesh.proxies[proxy].id = 9;
    mesh.proxies[proxy].responses = responses;
    mesh.proxies[proxy].session.connected();
    mesh.settle();
    assert_eq!(mesh.received(proxy), ["default/b:80"]);
}

#[test]
fn a_breach_of_the_protocol_closes_the_stream() {
    let mut mesh = Mesh::new("");
    let (sender, mut responses) = mpsc::channel(8);
    mesh.state.handle(Command::Open(Stream {
        id: 7,
        peer: None,
        identity: None,
        issued: None,
        responses: sender,
    }));
    mesh.state.handle(Command::Receive(7, Box::default()));
    assert_eq!(responses.try_recv().unwrap().unwrap_err().code(), tonic::Code::InvalidArgument);
    assert!(mesh.state.proxies.is_empty());
}

#[test]
fn the_report_names_proxies_refusals_and_problems() {
    let mut mesh = Mesh::new(&(service("a", 80) + "---\nkind: Service\n"));
    let proxy = mesh.connect("default/api");
    mesh.subscribe(proxy, "default/a:80");
    let refusal = DeltaDiscoveryRequest {
        type_url: kind::type_url(ResourceKind::Service).to_owned(),
        error_detail: Some(pillion_xds::discovery::Status {
            message: "no such thing".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    mesh.state.handle(Command::Receive(mesh.proxies[proxy].id, Box::new(refusal)));
    let report = mesh.state.report();
    assert_eq!(report.objects["Service"], 1);
    assert_eq!(report.proxies[0].workload, "default/api");
    assert!(report.proxies[0].in_sync);
    assert!(report.proxies[0].resources["service default/a:80"].is_some());
    assert_eq!(report.proxies[0].refusals[0].message, "no such thing");
    assert!(report.problems.iter().any(|problem| problem.reason == "apiVersion is missing"));
    let text = report.to_string();
    assert!(text.contains("1 Service") && text.contains("default/api: in sync"), "{text}");
    let dump = mesh.state.dump().to_string();
    assert!(dump.contains("a.default.svc.cluster.local:80"), "{dump}");
}

#[test]
fn what_proxies_report_is_shown_while_they_are_connected() {
    let mut mesh = Mesh::new("");
    let proxy = mesh.connect("default/api");
    let report = |mesh: &mut Mesh, from: u64| {
        let breaker = pillion_xds::report::BreakerHealth {
            name: "app:80".to_owned(),
            reason: "5 failures in a row".to_owned(),
            ..Default::default()
        };
        let (answer, mut is_known) = tokio::sync::oneshot::channel();
        let report = pillion_xds::report::HealthReport {
            breakers: vec![breaker],
            breakers_total: 1,
            ..Default::default()
        };
        mesh.state.handle(Command::Unhealthy(peer(from), report, answer));
        is_known.try_recv().unwrap()
    };
    assert!(mesh.state.report().to_string().contains("no open breakers, no ejected endpoints"));
    assert!(!report(&mut mesh, 99), "nobody is connected from there");
    let id = mesh.proxies[proxy].id;
    assert!(report(&mut mesh, id));
    let shown = mesh.state.report();
    assert_eq!(
        (&*shown.unhealthy[0].proxy, &*shown.unhealthy[0].breakers[0].name),
        ("default/api", "app:80")
    );
    let text = shown.to_string();
    assert!(text.contains("app:80: open for 0 s in default/api: 5 failures in a row"), "{text}");
    assert!(mesh.state.expiry().is_some());
    let figure = |mesh: &Mesh, value| {
        let text = mesh.state.metrics.text(crate::metrics::Format::OpenMetrics).unwrap();
        assert!(text.contains(&format!("pillion_reported_open_breakers {value}")), "{text}");
    };
    figure(&mesh, 1);
    mesh.state.handle(Command::Close(id));
    assert!(mesh.state.report().unhealthy.is_empty());
    figure(&mesh, 0);
}

#[test]
fn metrics_count_what_happens() {
    let mut mesh = Mesh::new(&service("a", 80));
    let proxy = mesh.connect("default/api");
    mesh.subscribe(proxy, "default/none:80");
    mesh.state.check();
    let text = mesh.state.metrics.text(crate::metrics::Format::OpenMetrics).unwrap();
    for line in [
        "pillion_objects{kind=\"Service\"} 1",
        "pillion_problems{severity=\"warning\"} 1",
        "pillion_proxies 1",
        "pillion_nacks_total 0",
        "pillion_resources_sent_total 2",
        "pillion_removals_sent_total 1",
        "pillion_updates_total 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn changes_are_checked_when_somebody_asks_or_time_has_passed() {
    let mut mesh = Mesh::new(&service("a", 80));
    let due = mesh.state.due().unwrap();
    mesh.save("y.yaml", &service("b", 80));
    assert_eq!(mesh.state.due(), Some(due), "a series of changes must not put the check off");
    assert_eq!(mesh.state.report().problems.len(), 2);
    assert_eq!(mesh.state.due(), None);
    mesh.save("y.yaml", "");
    mesh.state.check();
    assert_eq!((mesh.state.due(), mesh.state.problems.len()), (None, 1));
}

const PODS: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: api-1, namespace: default, labels: {app: api}}\n\
                    spec: {serviceAccountName: api-account}\n";

fn identity(namespace: &str, account: &str) -> Option<Identity> {
    Some(format!("spiffe://cluster.local/ns/{namespace}/sa/{account}").parse().unwrap())
}

/// What a proxy with an identity is told when it asks; nothing when it gets what it wants.
fn told(
    mesh: &mut Mesh,
    who: Option<Identity>,
    workload: &str,
    kind: ResourceKind,
    name: &str,
) -> Option<String> {
    let id = 1000 + mesh.proxies.len() as u64;
    let (sender, mut responses) = mpsc::channel(8);
    mesh.state.handle(Command::Open(Stream {
        id,
        peer: None,
        identity: who,
        issued: None,
        responses: sender,
    }));
    let mut session = client::Session::new(Node::new(workload.parse().unwrap()));
    session.subscribe(kind, name);
    session.connected();
    for request in session.requests() {
        mesh.state.handle(Command::Receive(id, Box::new(request)));
    }
    let mut told = None;
    while let Ok(response) = responses.try_recv() {
        told = told.or(response.err());
    }
    mesh.state.handle(Command::Close(id));
    told.map(|status| format!("{:?}: {}", status.code(), status.message()))
}

#[test]
fn a_proxy_reads_what_its_identity_may_see() {
    let mut mesh = Mesh::new(&(service("a", 80) + "---\n" + PODS));
    let api = || identity("default", "api-account");
    for (who, workload, kind, name, denied) in [
        (api(), "default/api-1", ResourceKind::Service, "default/a:80", None),
        (api(), "default/api-1", ResourceKind::Workload, "default/api-1", None),
        (api(), "default/api-1", ResourceKind::Endpoints, "a.other.svc.cluster.local:80", None),
        // It may be starting.
        (api(), "default/unknown", ResourceKind::Service, "default/a:80", None),
        (api(), "default/api-1", ResourceKind::Service, "other/a:80", Some("is not for workload")),
        (api(), "default/api-1", ResourceKind::Workload, "default/other", Some("is not for workload")),
        (api(), "default/api-1", ResourceKind::Workload, "other/api-1", Some("is not for workload")),
        (api(), "other/api-1", ResourceKind::Service, "other/a:80", Some("is not in the namespace")),
        (identity("default", "x"), "default/api-1", ResourceKind::Mesh, "mesh", Some("does not run as")),
        (
            identity("other", "api-account"),
            "default/api-1",
            ResourceKind::Mesh,
            "mesh",
            Some("not in the name"),
        ),
        // In plain text nobody can prove anything, and it is for loopback.
        (None, "default/api-1", ResourceKind::Workload, "default/other", None),
    ] {
        let told = told(&mut mesh, who.clone(), workload, kind, name);
        match (denied, &told) {
            (Some(reason), Some(told)) => {
                assert!(told.starts_with("PermissionDenied") && told.contains(reason), "{told}");
            }
            (denied, told) => assert_eq!(denied, told.as_deref(), "{who:?} {workload} {kind} {name}"),
        }
        assert!(mesh.state.proxies.is_empty());
        assert!(mesh.state.demand.values().all(FxHashMap::is_empty));
    }
}

#[test]
fn a_stream_ends_when_its_workload_turns_out_to_be_anothers() {
    let mut mesh = Mesh::new("");
    let mine = mesh.connect_as("default/api-1", identity("default", "api-account"));
    let other = mesh.connect_as("default/api-1", identity("default", "other"));
    assert_eq!(
        mesh.state.report().proxies[mine].identity.as_deref(),
        Some("spiffe://cluster.local/ns/default/sa/api-account")
    );
    mesh.files.put("pods.yaml", PODS);
    mesh.state.update(mesh.files.update().unwrap());
    assert_eq!(mesh.state.proxies.keys().collect::<Vec<_>>(), [&mesh.proxies[mine].id]);
    let closed = mesh.proxies[other].responses.try_recv().unwrap().unwrap_err();
    assert_eq!(closed.code(), tonic::Code::PermissionDenied);
}

#[test]
fn a_proxy_stands_by_what_it_has_acknowledged_of_the_mesh() {
    let mut mesh = Mesh::new("");
    let proxy = mesh.connect_as("default/api-1", identity("default", "api-account"));
    let acknowledged = |mesh: &Mesh| mesh.state.standing()[0].acknowledged;
    assert!(acknowledged(&mesh));
    let standing = &mesh.state.standing()[0];
    assert_eq!(standing.name, "default/api-1");
    assert_eq!(
        standing.customer,
        identity("default", "api-account").map(|who| (who, Some([10, 0, 0, 1].into())))
    );

    let change = |mesh: &mut Mesh| {
        let key = rcgen::KeyPair::generate().unwrap();
        let root = crate::ca::Authority::root(&key, clock::now()).unwrap();
        let authority = crate::ca::Authority::new(key, vec![root]).unwrap();
        mesh.state.set_authority(Facts::of(&authority, None));
        authority.trust()
    };
    let trust = change(&mut mesh);
    assert!(!acknowledged(&mesh), "it was sent and is not answered yet");
    mesh.settle();
    assert!(acknowledged(&mesh));
    let known = mesh.proxies[proxy].snapshot.resources().find_map(|resource| match resource {
        pillion_policy::Resource::Mesh(mesh) => mesh.trust.clone(),
        _ => None,
    });
    assert_eq!(known, Some(trust));

    change(&mut mesh);
    let response = mesh.proxies[proxy].responses.try_recv().unwrap().unwrap();
    let refusal = DeltaDiscoveryRequest {
        type_url: response.type_url,
        response_nonce: response.nonce,
        error_detail: Some(pillion_xds::discovery::Status::default()),
        ..Default::default()
    };
    mesh.state.handle(Command::Receive(mesh.proxies[proxy].id, Box::new(refusal)));
    assert!(!acknowledged(&mesh), "an answer that refuses is none");
}
