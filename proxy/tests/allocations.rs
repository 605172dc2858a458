//! What a request costs in allocations: a plain GET on warm HTTP/1 connections, through the proxy and through the bare
//! HTTP library.
//!
//! Client, relay and application share one thread, and only the relay allocates while a request is under way: the other
//! two are bytes in buffers of their own. So a count is exact, and a median is free of what happens now and then. Requests
//! that come in are counted without a policy and with one that has to be asked each time.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Request};
use hyper::{body::Incoming, client::conn::http1::SendRequest, service::service_fn};
use hyper_util::rt::TokioIo;
use pillion_policy::{
    authentication::PeerTls,
    authorization::{Action, AuthorizationPolicy, Choice, Operation, PathPattern, Rule, Source, TextMatch},
    cluster::{Cluster, Protocol},
    endpoint::{Endpoint, EndpointSet},
    header::Edits,
    name::{ClusterName, Label},
    resource::Resource,
    route::{self, Backend, Backends, Forward, Route, Target},
    service::ServicePolicy,
    telemetry::Telemetry,
    workload::WorkloadPolicy,
};
use pillion_proxy::{
    control::state::Control,
    inbound::Inbound,
    outbound,
    rt::drain::Drain,
    telemetry::{Metrics, Sinks, otlp, trace},
    upstream::pool::{Connector, Pools},
    view::Views,
    worker::{Demands, Settings, Worker},
};
use pillion_xds::Node;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::LocalRuntime,
    sync::{Notify, watch},
    task::{spawn_local, yield_now},
    time::Instant,
};

/// Requests of which the median is taken.
const REQUESTS: usize = 1000;

/// Requests before the first that counts.
const WARM_UP: usize = 50;

/// Beyond 100, hyper reads heads by way of the heap: two allocations each.
const MAX_HEADERS: usize = 256;

/// The most the proxy may add to what the library takes for the two legs: a copy of the head for another try (two) and
/// the box of the watched response body.
const OURS: u64 = 3;

/// The workload that the proxy stands beside.
const WORKLOAD: &str = "default/caller";

const ASK: &[u8] = b"GET /orders?page=2 HTTP/1.1\r\nHost: app\r\nAccept: */*\r\nUser-Agent: test\r\n\r\n";

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Sat, 21 Nov 2026 08:00:00 GMT\r\n\
                        Content-Length: 5\r\n\r\nhello";

#[test]
fn a_forwarded_request_allocates_little() {
    let runtime = LocalRuntime::new().unwrap();
    let library = median(&runtime, runtime.block_on(relayed()));
    assert!(library > 0, "nothing is counted");
    let several = || vec![others_only(Action::Deny), everybody(), others_only(Action::Audit)];
    for (what, way) in [
        ("out", Way::Out { is_traced: false }),
        ("out in a trace that is not recorded", Way::Out { is_traced: true }),
        ("in", Way::In(Vec::new())),
        ("in by a policy", Way::In(vec![others_only(Action::Deny)])),
        ("in by several policies", Way::In(several())),
    ] {
        // Connected when it is used: a client that says nothing for long is not waited for.
        let client = runtime.block_on(way.connect());
        let proxy = median(&runtime, client);
        println!("allocations of a request that goes {what}: {proxy}, {library} of them the HTTP library's");
        assert!(proxy <= library + OURS, "{what}: {proxy} allocations, {library} of them the library's");
    }
}

/// Which way a request goes through a proxy.
enum Way {
    /// From the application.
    Out { is_traced: bool },
    /// To the application of a workload with these policies.
    In(Vec<AuthorizationPolicy>),
}

impl Way {
    async fn connect(self) -> TcpStream {
        match self {
            Self::Out { is_traced: true } => sent(traced().await).await,
            Self::Out { is_traced: false } => sent(Sinks::none()).await,
            Self::In(authorization) => received(authorization).await,
        }
    }
}

/// The allocations of the middle one of many requests.
fn median(runtime: &LocalRuntime, mut client: TcpStream) -> u64 {
    let mut counts: Vec<u64> = (0..WARM_UP + REQUESTS)
        .map(|_| allocation_counter::measure(|| runtime.block_on(exchange(&mut client))).count_total)
        .skip(WARM_UP)
        .collect();
    counts.sort_unstable();
    counts[counts.len() / 2]
}

/// One request and its response, without an allocation.
async fn exchange(client: &mut TcpStream) {
    client.write_all(ASK).await.unwrap();
    let mut seen = [0; 1024];
    let mut length = 0;
    while !seen[..length].ends_with(b"hello") {
        let read = client.read(&mut seen[length..]).await.unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&seen[..length]));
        length += read;
    }
    assert!(seen.starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&seen[..length]));
}

/// An application at the level of bytes, without an allocation per request.
async fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            spawn_local(async move {
                let mut seen = [0; 1024];
                let mut length = 0;
                loop {
                    match stream.read(&mut seen[length..]).await {
                        Ok(0) | Err(_) => return,
                        Ok(read) => length += read,
                    }
                    if seen[..length].ends_with(b"\r\n\r\n") {
                        length = 0;
                        stream.write_all(ANSWER).await.unwrap();
                    }
                }
            });
        }
    });
    address
}

/// A connection through a relay of nothing but hyper, set up as the proxy does: the hook for interim responses is four
/// allocations of the library's, the limit on header fields another four.
async fn relayed() -> TcpStream {
    let stream = TcpStream::connect(application().await).await.unwrap();
    let mut client_side = hyper::client::conn::http1::Builder::new();
    let shaken = client_side.max_headers(MAX_HEADERS).handshake(TokioIo::new(stream)).await;
    let (sender, connection) = shaken.unwrap();
    spawn_local(connection);
    let sender: Rc<RefCell<SendRequest<Incoming>>> = Rc::new(RefCell::new(sender));
    let relay = service_fn(move |mut request: Request<Incoming>| {
        hyper::ext::on_informational(&mut request, |_| {});
        sender.borrow_mut().send_request(request)
    });
    let (client, server, _) = pair().await;
    let mut server_side = hyper::server::conn::http1::Builder::new();
    spawn_local(server_side.max_headers(MAX_HEADERS).serve_connection(TokioIo::new(server), relay));
    client
}

/// A tracer that takes part in every trace and records none.
async fn traced() -> Sinks {
    let variables =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"), ("OTEL_TRACES_SAMPLER", "always_off")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let environment = Arc::new(otlp::settings::Environment::of(variables));
    let place = otlp::resource::Place::of_process("default/caller".parse().unwrap(), None);
    // Nothing is wanted anew: the exporter keeps to what it is told first.
    let (_, wanted) = watch::channel(otlp::Wanted::default());
    let rng = fastrand::Rng::with_seed(2);
    let (tracer, exporter, _) = trace::export::new(&place, &environment, wanted, &Metrics::default(), rng);
    spawn_local(exporter.run());
    yield_now().await;
    let mut headers = HeaderMap::new();
    let mint = |text: &[u8]| HeaderValue::from_bytes(text).unwrap();
    let context = tracer.enter(&mut headers, &mut fastrand::Rng::with_seed(3), mint);
    assert!(context.is_some_and(|context| context.is_own() && !context.sampled), "it takes no part");
    Sinks { tracer, ..Sinks::none() }
}

/// A connection through the outbound face of a worker with one service of one endpoint.
async fn sent(sinks: Sinks) -> TcpStream {
    let worker = worker(resources(application().await), sinks);
    let (client, server, peer) = pair().await;
    spawn_local(outbound::connection(worker, server, peer));
    client
}

/// A connection in plain text through the inbound face of a worker whose workload has these policies, or no policy at
/// all where there are none.
async fn received(authorization: Vec<AuthorizationPolicy>) -> TcpStream {
    let app = application().await;
    let own = (!authorization.is_empty()).then(|| Resource::Workload(Arc::new(workload(authorization))));
    let worker = worker(own.into_iter().collect(), Sinks::none());
    let face = Rc::new(Inbound::new(worker, Some(app)));
    let (client, server, peer) = pair().await;
    spawn_local(face.connection(server, peer));
    client
}

/// A worker that these resources are in force for.
fn worker(resources: Vec<Resource>, sinks: Sinks) -> Rc<Worker> {
    let views = Arc::new(Views::new(Instant::now()));
    let metrics = Metrics::new();
    let node = Node::new(WORKLOAD.parse().unwrap());
    let mut control = Control::new(node, Duration::from_secs(600), Arc::clone(&views), Arc::clone(&metrics));
    control.stand_alone(resources, Instant::now());
    let settings = Settings {
        namespace: Label::new("default").unwrap(),
        hold_timeout: Duration::from_secs(1),
        outbound_mode: None,
        max_header_bytes: 65536,
        max_headers: MAX_HEADERS,
        first_request_timeout: Duration::from_secs(60),
        max_body_bytes: None,
        stream_idle_timeout: Some(Duration::from_secs(300)),
    };
    let connector = Connector {
        max_header_bytes: 65536,
        max_headers: MAX_HEADERS,
        pressure: Arc::new([Notify::new()]),
        wallet: Arc::default(),
        metrics: Arc::default(),
    };
    Rc::new(Worker::new(
        views,
        Pools::new(connector),
        Arc::new(settings),
        Demands::new().0,
        (Drain::new(), sinks, metrics, Arc::default()),
        fastrand::Rng::with_seed(1),
    ))
}

async fn pair() -> (TcpStream, TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, peer) = listener.accept().await.unwrap();
    (client, server, peer)
}

fn resources(app: SocketAddr) -> Vec<Resource> {
    let name = ClusterName { endpoints: "app:80".parse().unwrap(), subset: None };
    let endpoints = EndpointSet { name: name.endpoints.clone(), endpoints: vec![Endpoint::at(app)] };
    let backend = Backend {
        target: Target::Cluster(name.clone()),
        weight: 1,
        request_headers: Edits::default(),
        response_headers: Edits::default(),
        authority: None,
    };
    let forward = Forward { backends: Backends::new(vec![backend]).unwrap(), path: None, authority: None };
    let route = Route {
        name: "all".into(),
        matches: Vec::new(),
        action: route::Action::Forward(forward),
        request_headers: Edits::default(),
        response_headers: Edits::default(),
        timeout: None,
        mirrors: Vec::new(),
        cors: None,
        resilience: Default::default(),
    };
    let cluster = Cluster::plain(name, Protocol::Http1);
    let policy = ServicePolicy::new(
        "default/app:80".parse().unwrap(),
        None,
        Protocol::Http1,
        vec![route],
        vec![cluster],
    );
    vec![Resource::Endpoints(Arc::new(endpoints)), Resource::Service(Arc::new(policy.unwrap()))]
}

fn workload(authorization: Vec<AuthorizationPolicy>) -> WorkloadPolicy {
    WorkloadPolicy {
        name: WORKLOAD.parse().unwrap(),
        identity: None,
        ports: Vec::new(),
        peer_tls: PeerTls::default(),
        port_tls: Default::default(),
        authorization,
        authentication: Vec::new(),
        telemetry: Telemetry::default(),
    }
}

/// A policy about somebody and something else.
fn others_only(action: Action) -> AuthorizationPolicy {
    let principals = Choice { any_of: vec![TextMatch::new("mesh/ns/shop/*").unwrap()], none_of: Vec::new() };
    let paths = Choice { any_of: vec![PathPattern::new("/admin/*").unwrap()], none_of: Vec::new() };
    let rules = vec![
        Rule { from: vec![Source { principals, ..Source::default() }], ..Rule::default() },
        Rule { to: vec![Operation { paths, ..Operation::default() }], ..Rule::default() },
    ];
    AuthorizationPolicy { name: "default/others".into(), action, rules }
}

/// A policy that allows everything that is asked for with GET.
fn everybody() -> AuthorizationPolicy {
    let methods = Choice { any_of: vec![TextMatch::new("GET").unwrap()], none_of: Vec::new() };
    let rules = vec![Rule { to: vec![Operation { methods, ..Operation::default() }], ..Rule::default() }];
    AuthorizationPolicy { name: "default/everybody".into(), action: Action::Allow, rules }
}
