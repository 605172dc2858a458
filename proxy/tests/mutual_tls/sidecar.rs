//! Both faces of a proxy in this process, and an application that tells what it was sent.

use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use pillion_policy::{
    authentication::PeerTls,
    cluster::{Cluster, ClusterTls, Protocol},
    endpoint::{Endpoint, EndpointSet},
    header::Edits,
    name::{ClusterName, Label},
    resource::Resource,
    route::{Action, Backend, Backends, Forward, Route, Target},
    service::{ServicePolicy, ServiceRef},
    telemetry::Telemetry,
    workload::{WorkloadPolicy, WorkloadPort},
};
use pillion_proxy::{
    control::state::Control,
    inbound::Inbound,
    outbound,
    rt::drain::Drain,
    telemetry::{Metrics, Sinks},
    tls::credentials::{Credentials, Wallet},
    upstream::{
        Guards,
        pool::{Connector, Pools},
    },
    view::{LiveWorkload, View, Views},
    worker::{Demands, Settings, Worker},
};
use pillion_xds::Node;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::spawn_local,
    time::Instant,
};

/// A proxy.
pub(super) struct Sidecar {
    pub(super) address: SocketAddr,
    pub(super) wallet: Arc<Wallet>,
    pub(super) metrics: Arc<Metrics>,
}

/// What an application was sent, one entry for each connection.
pub(super) type Heard = Rc<RefCell<Vec<Vec<u8>>>>;

fn worker(wallet: &Arc<Wallet>, views: Arc<Views>, metrics: &Arc<Metrics>) -> Rc<Worker> {
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
        wallet: Arc::clone(wallet),
        metrics: Arc::clone(metrics),
    };
    Rc::new(Worker::new(
        views,
        Pools::new(connector),
        Arc::new(settings),
        Demands::new().0,
        (Drain::new(), Sinks::none(), Arc::clone(metrics), Arc::default()),
        fastrand::Rng::with_seed(1),
    ))
}

fn wallet(credentials: Option<Credentials>) -> Arc<Wallet> {
    match credentials {
        None => Arc::new(Wallet::none()),
        Some(credentials) => {
            let wallet = Wallet::awaiting();
            wallet.publish(credentials);
            Arc::new(wallet)
        }
    }
}

/// A proxy before the application at `app`, whose port takes `mode` and is declared to speak `protocol`.
pub(super) async fn inbound(
    credentials: Option<Credentials>,
    app: SocketAddr,
    mode: PeerTls,
    protocol: Protocol,
) -> Sidecar {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = ServiceRef {
        host: "cart.shop".parse().unwrap(),
        name: "cart".parse().unwrap(),
        namespace: "shop".parse().unwrap(),
    };
    let port = WorkloadPort { port: address.port(), protocol, service, rate_limit: None };
    let policy = WorkloadPolicy {
        name: "shop/cart".parse().unwrap(),
        identity: None,
        ports: vec![port],
        peer_tls: mode,
        port_tls: BTreeMap::new(),
        authorization: Vec::new(),
        authentication: Vec::new(),
        telemetry: Telemetry::default(),
    };
    let views = Views::new(Instant::now());
    let own = LiveWorkload::new(Arc::new(policy), &mut Guards::default());
    views.publish(View::new(1, None, Some(Arc::new(own))));
    let (wallet, metrics) = (wallet(credentials), Metrics::new());
    let face = Rc::new(Inbound::new(worker(&wallet, Arc::new(views), &metrics), Some(app)));
    spawn_local(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            spawn_local(Rc::clone(&face).connection(stream, peer));
        }
    });
    Sidecar { address, wallet, metrics }
}

/// A proxy for callers of `app`, which is where `endpoint` says.
pub(super) async fn outbound(
    credentials: Option<Credentials>,
    endpoint: Endpoint,
    tls: ClusterTls,
    protocol: Protocol,
) -> Sidecar {
    caller(wallet(credentials), vec![endpoint], tls, protocol).await
}

/// The same with a wallet, and any number of endpoints.
pub(super) async fn caller(
    wallet: impl Into<Arc<Wallet>>,
    endpoints: Vec<Endpoint>,
    tls: ClusterTls,
    protocol: Protocol,
) -> Sidecar {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let views = Arc::new(Views::new(Instant::now()));
    let (wallet, metrics) = (wallet.into(), Metrics::new());
    let node = Node::new("default/caller".parse().unwrap());
    let mut control = Control::new(node, Duration::from_secs(600), Arc::clone(&views), Arc::clone(&metrics));
    control.stand_alone(resources(endpoints, tls, protocol), Instant::now());
    let worker = worker(&wallet, views, &metrics);
    spawn_local(async move {
        let _control = control;
        while let Ok((stream, peer)) = listener.accept().await {
            spawn_local(outbound::connection(Rc::clone(&worker), stream, peer));
        }
    });
    Sidecar { address, wallet, metrics }
}

fn resources(endpoints: Vec<Endpoint>, tls: ClusterTls, protocol: Protocol) -> Vec<Resource> {
    let name = ClusterName { endpoints: "app:80".parse().unwrap(), subset: None };
    let endpoints = EndpointSet { name: name.endpoints.clone(), endpoints };
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
        action: Action::Forward(forward),
        request_headers: Edits::default(),
        response_headers: Edits::default(),
        timeout: None,
        mirrors: Vec::new(),
        cors: None,
        resilience: Default::default(),
    };
    let cluster = Cluster { tls, ..Cluster::plain(name, protocol) };
    let service = "default/app:80".parse().unwrap();
    let policy = ServicePolicy::new(service, None, protocol, vec![route], vec![cluster]);
    vec![Resource::Endpoints(Arc::new(endpoints)), Resource::Service(Arc::new(policy.unwrap()))]
}

/// An application that answers whatever comes in, once there is all of `until`, with `answer`, and closes.
pub(super) async fn application(until: &'static [u8], answer: &'static [u8]) -> (SocketAddr, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Heard::default();
    let told = Rc::clone(&heard);
    spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let index = told.borrow().len();
            told.borrow_mut().push(Vec::new());
            let told = Rc::clone(&told);
            spawn_local(async move {
                let mut bytes = Vec::new();
                while memchr::memmem::find(&bytes, until).is_none() {
                    let mut piece = [0; 4096];
                    match stream.read(&mut piece).await {
                        Ok(0) | Err(_) => return,
                        Ok(read) => bytes.extend_from_slice(&piece[..read]),
                    }
                    told.borrow_mut()[index] = bytes.clone();
                }
                let _gone = stream.write_all(answer).await;
                let _gone = stream.shutdown().await;
            });
        }
    });
    (address, heard)
}

/// Sends `request` and reads to the end.
pub(super) async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is refused may be reset.
    let _reset = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}
