//! What a new policy does to those who are inside already: a worker and its inbound face, in this process, in front of an
//! application at the level of bytes.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use pillion_policy::{
    authentication::PeerTls,
    authorization::{Action, AuthorizationPolicy, Choice, Operation, PathPattern, Rule, Source},
    cluster::Protocol,
    name::Label,
    service::ServiceRef,
    telemetry::Telemetry,
    workload::{WorkloadPolicy, WorkloadPort},
};
use pillion_proxy::{
    inbound::Inbound,
    rt::{drain::Drain, task::LocalExec},
    telemetry::{Metrics, Sinks},
    upstream::{
        Guards,
        pool::{Connector, Pools},
    },
    view::{LiveWorkload, View, Views},
    worker::{Demands, Settings, Worker},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::LocalRuntime,
    sync::Notify,
    task::spawn_local,
    time::{Instant, timeout},
};

/// Within which a new policy must have taken hold; the promise to users is five seconds.
const SOON: Duration = Duration::from_secs(5);

/// An inbound listener whose policy can be changed.
struct Bench {
    address: SocketAddr,
    views: Arc<Views>,
    metrics: Arc<Metrics>,
    protocol: Protocol,
    revision: u64,
}

impl Bench {
    async fn new(protocol: Protocol) -> Self {
        let app = application().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (views, metrics) = (Arc::new(Views::new(Instant::now())), Metrics::new());
        let worker = Rc::new(worker(&views, &metrics));
        let face = Rc::new(Inbound::new(Rc::clone(&worker), Some(app)));
        spawn_local(async move { worker.review().await });
        spawn_local(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                spawn_local(Rc::clone(&face).connection(stream, peer));
            }
        });
        let mut bench = Self { address, views, metrics, protocol, revision: 0 };
        bench.enforce(Vec::new());
        bench
    }

    /// Puts these policies in force.
    fn enforce(&mut self, authorization: Vec<AuthorizationPolicy>) {
        self.revision += 1;
        let label = |text| Label::new(text).unwrap();
        let service =
            ServiceRef { namespace: label("shop"), name: label("app"), host: "app.shop".parse().unwrap() };
        let port =
            WorkloadPort { port: self.address.port(), protocol: self.protocol, service, rate_limit: None };
        let policy = WorkloadPolicy {
            name: "shop/app".parse().unwrap(),
            identity: None,
            ports: vec![port],
            peer_tls: PeerTls::default(),
            port_tls: Default::default(),
            authorization,
            authentication: Vec::new(),
            telemetry: Telemetry::default(),
        };
        let own = LiveWorkload::new(Arc::new(policy), &mut Guards::default());
        self.views.publish(View::new(self.revision, None, Some(Arc::new(own))));
    }

    /// A connection on which this has been said, and answered with something that ends so.
    async fn said(&self, words: &str, answer: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(words.as_bytes()).await.unwrap();
        timeout(SOON, heard(&mut stream, answer)).await.unwrap();
        stream
    }

    /// A connection on which this has been asked by HTTP/1.
    async fn asked(&self, path: &str, answer: &str) -> TcpStream {
        self.said(&format!("GET {path} HTTP/1.1\r\nHost: app\r\n\r\n"), answer).await
    }
}

fn worker(views: &Arc<Views>, metrics: &Arc<Metrics>) -> Worker {
    let settings = Settings {
        namespace: Label::new("shop").unwrap(),
        hold_timeout: Duration::from_secs(1),
        outbound_mode: None,
        max_header_bytes: 65536,
        max_headers: 256,
        first_request_timeout: Duration::from_secs(60),
        max_body_bytes: None,
        stream_idle_timeout: Some(Duration::from_secs(300)),
    };
    let connector = Connector {
        max_header_bytes: 65536,
        max_headers: 256,
        pressure: Arc::new([Notify::new()]),
        wallet: Arc::default(),
        metrics: Arc::clone(metrics),
    };
    Worker::new(
        Arc::clone(views),
        Pools::new(connector),
        Arc::new(settings),
        Demands::new().0,
        (Drain::new(), Sinks::none(), Arc::clone(metrics), Arc::default()),
        fastrand::Rng::with_seed(1),
    )
}

/// Answers by path: `/stream` begins and never ends, `/hang` never begins, `/switch` changes the protocol to one that
/// says nothing. What is no request is greeted.
async fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            spawn_local(answer(stream));
        }
    });
    address
}

async fn answer(mut stream: TcpStream) {
    let mut seen = Vec::new();
    while stream.read_buf(&mut seen).await.is_ok_and(|read| read > 0) {
        if seen.starts_with(b"GET ") && !seen.ends_with(b"\r\n\r\n") {
            continue;
        }
        let answer = match String::from_utf8_lossy(&seen).split([' ', '?']).nth(1) {
            Some("/stream") => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n",
            Some("/hang") => "",
            Some("/switch") => {
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nswitched"
            }
            Some(_) => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone",
            None => "greeting",
        };
        seen.clear();
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

/// Reads until what has been read ends so.
async fn heard(stream: &mut TcpStream, end: &str) {
    let mut heard = Vec::new();
    while !heard.ends_with(end.as_bytes()) {
        let read = stream.read_buf(&mut heard).await.unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&heard));
    }
}

/// Waits for the end of a connection; says what came before.
async fn ended(mut stream: TcpStream) -> String {
    let mut rest = Vec::new();
    // A reset is an end as well.
    let _reset = timeout(SOON, stream.read_to_end(&mut rest)).await.unwrap();
    String::from_utf8_lossy(&rest).into_owned()
}

fn deny(rule: Rule) -> Vec<AuthorizationPolicy> {
    vec![AuthorizationPolicy { name: "shop/deny".into(), action: Action::Deny, rules: vec![rule] }]
}

fn path(path: &str) -> Rule {
    let paths = Choice { any_of: vec![PathPattern::new(path).unwrap()], none_of: Vec::new() };
    Rule { to: vec![Operation { paths, ..Operation::default() }], ..Rule::default() }
}

fn address(block: &str) -> Rule {
    let ip_blocks = Choice { any_of: vec![block.parse().unwrap()], none_of: Vec::new() };
    Rule { from: vec![Source { ip_blocks, ..Source::default() }], ..Rule::default() }
}

fn run<F: Future<Output = ()>>(test: F) {
    LocalRuntime::new().unwrap().block_on(test);
}

#[test]
fn a_response_under_way_and_a_tunnel_are_broken_off() {
    run(async {
        let mut bench = Bench::new(Protocol::Http1).await;
        let stream = bench.asked("/stream", "begin\r\n").await;
        let switch = "GET /switch HTTP/1.1\r\nHost: app\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
        let tunnel = bench.said(switch, "switched").await;
        let mut idle = bench.asked("/", "done").await;

        bench.enforce(deny(path("/other")));
        idle.write_all(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n").await.unwrap();
        heard(&mut idle, "done").await;
        assert_eq!(bench.metrics.access.broken_off.get(), 0, "a policy for others");

        bench.enforce(deny(path("/s*")));
        assert_eq!(ended(stream).await, "", "the response is not completed");
        assert_eq!(ended(tunnel).await, "");
        idle.write_all(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n").await.unwrap();
        heard(&mut idle, "done").await;
        assert_eq!(bench.metrics.access.broken_off.get(), 2);
    });
}

#[test]
fn a_request_without_a_response_yet_is_refused() {
    run(async {
        let mut bench = Bench::new(Protocol::Http1).await;
        let mut stream = TcpStream::connect(bench.address).await.unwrap();
        stream.write_all(b"GET /hang HTTP/1.1\r\nHost: app\r\n\r\n").await.unwrap();
        // Another one on the same worker that is answered shows that the first is under way.
        drop(bench.asked("/", "done").await);
        bench.enforce(deny(path("/hang")));
        timeout(SOON, heard(&mut stream, "access denied by policy\n")).await.unwrap();
    });
}

#[test]
fn one_stream_of_many_is_broken_off_alone() {
    run(async {
        let mut bench = Bench::new(Protocol::Http1).await;
        let stream = TcpStream::connect(bench.address).await.unwrap();
        let (mut sender, connection) = http2::handshake(LocalExec, TokioIo::new(stream)).await.unwrap();
        spawn_local(connection);
        let mut ask = |path: &str| {
            let request = Request::get(format!("http://app{path}")).body(Empty::<Bytes>::new()).unwrap();
            sender.send_request(request)
        };
        let (denied, other, late) = (ask("/stream"), ask("/stream?x=1"), ask("/late"));
        let (mut denied, other) = (denied.await.unwrap().into_body(), other.await.unwrap().into_body());
        let first = denied.frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "begin");
        assert_eq!(late.await.unwrap().status(), 200);
        bench.enforce(deny(path("/stream")));
        let broken = timeout(SOON, denied.frame()).await.unwrap();
        assert!(broken.is_some_and(|frame| frame.is_err()));
        let broken = timeout(SOON, other.collect()).await.unwrap();
        assert!(broken.is_err(), "the query is no part of the path");
        assert_eq!(ask("/later").await.unwrap().status(), 200, "the connection goes on");
        assert_eq!(ask("/stream").await.unwrap().status(), 403);
        assert_eq!(bench.metrics.access.broken_off.get(), 2);
    });
}

#[test]
fn connections_of_a_peer_that_is_denied_are_closed() {
    run(async {
        for (protocol, words, answer) in [
            (Protocol::Http1, "GET / HTTP/1.1\r\nHost: app\r\n\r\n", "done"),
            (Protocol::Http1, "GET /stream HTTP/1.1\r\nHost: app\r\n\r\n", "begin\r\n"),
            (Protocol::Tcp, "hello", "greeting"),
        ] {
            let mut bench = Bench::new(protocol).await;
            let connection = bench.said(words, answer).await;
            bench.enforce(deny(address("192.0.2.0/24")));
            bench.enforce(deny(address("127.0.0.0/8")));
            assert_eq!(ended(connection).await, "");
            assert_eq!(bench.metrics.access.broken_off.get(), 1, "{words}");
        }
    });
}

#[test]
fn opaque_connections_are_let_in_by_what_is_known_of_them() {
    run(async {
        let mut bench = Bench::new(Protocol::Tcp).await;
        bench.enforce(deny(address("127.0.0.0/8")));
        let refused = TcpStream::connect(bench.address).await.unwrap();
        assert_eq!(ended(refused).await, "");
        bench.enforce(deny(address("192.0.2.0/24")));
        drop(bench.said("hello", "greeting").await);
        let access = &bench.metrics.access;
        assert_eq!((access.denied.get(), access.allowed.get(), access.broken_off.get()), (1, 1, 0));
    });
}
