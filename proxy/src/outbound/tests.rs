//! What a connection costs: every open one keeps these futures, so they must not grow unnoticed. And where opaque
//! connections go that must be secured.

use std::{mem::size_of_val, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::Request;
use pillion_policy::{
    endpoint::{Endpoint, EndpointSet},
    header::Edits,
    identity::Identity,
    name::{ClusterName, Label},
    resource::Resource,
    route::{Action, Backend, Backends, Forward, Route, Target as Named},
    service::ServicePolicy,
};
use pillion_xds::node::Node;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime::LocalRuntime,
    sync::Notify,
    time::{Instant, timeout},
};

use super::*;
use crate::{
    control::state::Control,
    error::Refusal,
    rt::drain::Drain,
    telemetry::{Metrics, Sinks},
    tls::{Alpn, accept, credentials::Wallet, testing::Authority},
    upstream::pool::{Connector, Pools},
    view::Views,
    worker::{Demands, Settings},
};

/// Bytes of the future of a connection, HTTP/1 with its state included.
const CONNECTION: usize = 4096;

/// Bytes of the future of a request, which hyper keeps a place for on every HTTP/1 connection.
const REQUEST: usize = 3072;

fn worker() -> Rc<Worker> {
    worker_with(Views::new(Instant::now()).into(), Arc::default())
}

fn worker_with(views: Arc<Views>, wallet: Arc<Wallet>) -> Rc<Worker> {
    let settings = Settings {
        namespace: Label::new("default").unwrap(),
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
        wallet,
        metrics: Arc::default(),
    };
    let shared = (Drain::new(), Sinks::none(), Metrics::new(), Arc::default());
    Rc::new(Worker::new(
        views,
        Pools::new(connector),
        Arc::new(settings),
        Demands::new().0,
        shared,
        fastrand::Rng::with_seed(1),
    ))
}

#[tokio::test]
async fn futures_stay_small() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let peer: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let of_connection = size_of_val(&connection(worker(), stream, peer));
    let of_request = size_of_request(|request: Request<Incoming>| {
        let downstream = Rc::new(Downstream::new(&worker(), Direction::Outbound, (peer, peer, None), false));
        handle(Rc::new(Outbound { downstream, passthrough: std::cell::OnceCell::new() }), request)
    });
    assert!(of_connection <= CONNECTION, "a connection takes {of_connection} bytes");
    assert!(of_request <= REQUEST, "a request takes {of_request} bytes");
}

/// The size of the future a handler returns, without a request to call it with.
fn size_of_request<F: Future<Output = Response<Body>>>(_: impl Fn(Request<Incoming>) -> F) -> usize {
    size_of::<F>()
}

/// The resources of a service of opaque bytes with the address 10.9.8.7 and one endpoint.
fn database(endpoint: Endpoint) -> Vec<Resource> {
    let name = ClusterName { endpoints: "db.shop:5432".parse().unwrap(), subset: None };
    let endpoints = EndpointSet { name: name.endpoints.clone(), endpoints: vec![endpoint] };
    let backend = Backend {
        target: Named::Cluster(name.clone()),
        weight: 1,
        request_headers: Edits::default(),
        response_headers: Edits::default(),
        authority: None,
    };
    let forward = Forward { backends: Backends::new(vec![backend]).unwrap(), path: None, authority: None };
    let route = Route {
        name: "all".into(),
        matches: Vec::new(),
        action: Action::Forward(forward),
        request_headers: Edits::default(),
        response_headers: Edits::default(),
        timeout: None,
        mirrors: Vec::new(),
        cors: None,
        resilience: Default::default(),
    };
    let (service, tcp) = ("default/10.9.8.7:5432".parse().unwrap(), Declared::Tcp);
    let policy = ServicePolicy::new(service, None, tcp, vec![route], vec![Cluster::plain(name, tcp)]);
    vec![Resource::Endpoints(Arc::new(endpoints)), Resource::Service(Arc::new(policy.unwrap()))]
}

#[test]
fn opaque_bytes_for_a_sidecar_are_secured_or_not_sent() {
    let test = async {
        let identity = |account: &str| -> Identity {
            format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let root = Authority::new("root");
        let wallet = Wallet::awaiting();
        wallet.publish(root.credentials(&identity("caller")));
        let wallet = Arc::new(wallet);
        for (expected, is_good) in [("db", true), ("other", false)] {
            let sidecar =
                Endpoint { sidecar: true, identity: Some(identity(expected)), ..Endpoint::at(address) };
            let views = Arc::new(Views::new(Instant::now()));
            let node = Node::new("default/caller".parse().unwrap());
            let mut control =
                Control::new(node, Duration::from_secs(600), Arc::clone(&views), Metrics::new());
            control.stand_alone(database(sidecar), Instant::now());
            let worker = worker_with(views, Arc::clone(&wallet));
            let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(own.local_addr().unwrap()).await.unwrap();
            let accepted = own.accept().await.unwrap().0;
            client.write_all(b" there").await.unwrap();
            client.shutdown().await.unwrap();
            let serve = async {
                let (stream, _) = listener.accept().await.unwrap();
                let credentials = root.credentials(&identity("db"));
                let accepted = accept::accept(&credentials, Io::new(stream)).await;
                if !is_good {
                    return assert_eq!(accepted.unwrap_err(), Refusal::ByPeer);
                }
                let mut accepted = accepted.unwrap();
                assert_eq!(
                    (accepted.alpn, &*accepted.secured.peer),
                    (Some(Alpn::MeshTcp), &identity("caller"))
                );
                let mut heard = String::new();
                accepted.io.read_to_string(&mut heard).await.unwrap();
                assert_eq!(heard, "hello there");
                accepted.io.write_all(b"welcome").await.unwrap();
                accepted.io.shutdown().await.unwrap();
            };
            let original = "10.9.8.7:5432".parse().unwrap();
            tokio::join!(opaque(&worker, accepted, "hello".into(), original), serve);
            let mut answer = String::new();
            // A client that is turned away has written more than was read.
            let _reset = client.read_to_string(&mut answer).await;
            assert_eq!(answer, if is_good { "welcome" } else { "" });
        }
    };
    let runtime = LocalRuntime::new().unwrap();
    runtime.block_on(async { timeout(Duration::from_secs(20), test).await.unwrap() });
}
