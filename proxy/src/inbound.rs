//! The inbound face: what others send to the application beside the proxy.
//!
//! There is one endpoint, the application. In explicit mode its address is given; in redirected mode it is where the
//! connection was meant for, and the proxy connects to it from an address of its own (127.0.0.6, as Istio does) so
//! that redirection rules do not turn the connection back.

mod entry;

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use http::{Request, Response};
use hyper::body::Incoming;
use pillion_policy::{
    cluster::{Cluster, Protocol as Declared},
    name::{ClusterName, EndpointSetName, Hostname},
    workload::WorkloadPort,
};
use rustc_hash::FxHashMap;
use tokio::{net::TcpStream, time::Instant};

use self::entry::{Asked, Entered};
use crate::{
    authz::Guest,
    body::Body,
    http::{
        authz::admits_bytes,
        downstream::Downstream,
        exchange::{Decided, Exchange},
        serve,
    },
    net::{detect::Protocol, rewind::Io, socket},
    tcp,
    telemetry::{
        access_log::Direction,
        requests::{Labels, Reporter},
    },
    tls::Alpn,
    upstream::Upstream,
    view::LiveWorkload,
    worker::Worker,
};

/// Most addresses of the application that are told apart; a pod has few ports.
const MAX_APPS: usize = 256;

/// The applications beside the proxy, as one worker knows them.
#[derive(Debug)]
pub struct Inbound {
    worker: Rc<Worker>,
    app: Option<SocketAddr>,
    apps: RefCell<FxHashMap<SocketAddr, Known>>,
}

/// An application, and the policy it was measured and spoken to by.
#[derive(Debug)]
struct Known {
    policy: Option<Arc<LiveWorkload>>,
    upstream: Arc<Upstream>,
}

impl Inbound {
    /// A face with nothing known. `app` is the application's address in explicit mode.
    pub fn new(worker: Rc<Worker>, app: Option<SocketAddr>) -> Self {
        Self { worker, app, apps: RefCell::default() }
    }

    /// Serves a connection from outside.
    pub async fn connection(self: Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        let Ok(local) = stream.local_addr() else { return };
        let original = socket::original_dst(&stream);
        let Some(app) = original.or(self.app) else {
            return tracing::warn!(%peer, "inbound connection refused: it was not redirected and --inbound-app is not given");
        };
        // What the connection was meant for names the port of the workload, redirected or not.
        let (source, made) = (original.map(source), Instant::now());
        let port = original.unwrap_or(local).port();
        let upstream = self.upstream(app, port, source);
        let declared = upstream.cluster().protocol;
        let is_redirected = original.is_some();
        let asked = Asked { port, declared, is_redirected };
        // In a box, so that an open connection does not keep what only its beginning needs.
        let entered = match Box::pin(entry::enter(&self.worker, stream, asked)).await {
            Ok(entered) => entered,
            Err(refused) => return refused.report(&self.worker, peer, port),
        };
        let Entered { io, protocol, client } = entered;
        let secured = client.as_ref().map(|client| client.secured.clone());
        let guest = self.worker.guests.enter(peer.ip(), original.unwrap_or(local), secured);
        if protocol == Protocol::Opaque && (is_redirected || declared == Declared::Tcp || client.is_some()) {
            return self.opaque(io, app, source, &guest).await;
        }
        let http2 = protocol == Protocol::Http2;
        let mut downstream =
            Downstream::new(&self.worker, Direction::Inbound, (peer, local, original), http2);
        if let Some(client) = client {
            downstream.carries = client.alpn == Some(Alpn::Mesh);
            downstream.forwarded = Some(client.forwarded);
            downstream.secured = Some(client.secured);
        }
        downstream.guest = Some(guest);
        downstream.since(made);
        let downstream = Rc::new(downstream);
        let shared = Rc::clone(&downstream);
        let handle = move |request| handle(Rc::clone(&shared), port, Arc::clone(&upstream), request);
        serve::connection(io, http2, &downstream, handle).await;
    }

    /// Carries an opaque connection that policy lets in, for as long as it does.
    async fn opaque(&self, io: Io, app: SocketAddr, source: Option<IpAddr>, guest: &Guest) {
        let own = self.worker.views.load().workload.clone();
        if !admits_bytes(own.as_deref(), guest, &self.worker.metrics) {
            return;
        }
        let stats = self.worker.metrics.tcp_stats(&labels(&self.worker, None));
        tokio::select! {
            () = tcp::forward(io, app, source, &self.worker.drain, &stats) => {}
            () = guest.broken_off() => {
                tracing::info!(endpoint = %app, "opaque connection broken off: a new policy denies access");
            }
        }
    }

    /// The application at an address, as the policy of the moment describes it.
    fn upstream(&self, app: SocketAddr, port: u16, source: Option<IpAddr>) -> Arc<Upstream> {
        let policy = self.worker.views.load().workload.clone();
        let mut apps = self.apps.borrow_mut();
        let is_current = |known: &&Known| match (&known.policy, &policy) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if let Some(known) = apps.get(&app).filter(is_current) {
            return Arc::clone(&known.upstream);
        }
        let described =
            policy.as_ref().and_then(|own| own.policy().ports.iter().find(|known| known.port == port));
        let cluster = Cluster::plain(name(port), described.map_or(Declared::Auto, |port| port.protocol));
        let upstream = match apps.get(&app) {
            Some(known) => Arc::new(known.upstream.with_policy(cluster)),
            None => {
                let labels = labels(&self.worker, described);
                let metrics = &self.worker.metrics;
                Arc::new(Upstream::single(
                    cluster,
                    app,
                    source,
                    metrics.cluster(&labels.cluster),
                    metrics.request_stats(&labels),
                ))
            }
        };
        if apps.len() >= MAX_APPS {
            apps.clear();
        }
        apps.insert(app, Known { policy, upstream: Arc::clone(&upstream) });
        upstream
    }
}

async fn handle(
    downstream: Rc<Downstream>,
    port: u16,
    app: Arc<Upstream>,
    request: Request<Incoming>,
) -> Response<Body> {
    let (exchange, decided) = match decide(downstream, port, app, request).await {
        Ok(begun) => begun,
        Err(refusal) => return refusal,
    };
    // A new policy may be against the request before there is a response.
    let Some(denied) = exchange.denied() else { return exchange.carry_out(decided).await };
    tokio::select! {
        biased;
        denial = denied => denial,
        response = exchange.carry_out(decided) => response,
    }
}

/// Begins with a request, and prepares it for the application if it is let in.
async fn decide(
    downstream: Rc<Downstream>,
    port: u16,
    app: Arc<Upstream>,
    mut request: Request<Incoming>,
) -> Result<(Exchange, Decided), Response<Body>> {
    downstream.receive(&mut request);
    // Asked anew for each request: a connection may outlive the policy it began under.
    let own = downstream.worker.views.load().workload.clone();
    let exchange = Exchange::begin(downstream, &mut request)?;
    let mut exchange = exchange.admitted(own.as_deref(), &app, &mut request).await?;
    if let Some(limiter) = own.as_ref().and_then(|own| own.limiter(port)) {
        exchange = exchange.limited(limiter, &app, &request)?;
    }
    let decided = exchange.direct(app, request);
    Ok((exchange, decided))
}

/// The address a redirected connection goes on from.
fn source(original: SocketAddr) -> IpAddr {
    match original {
        SocketAddr::V4(_) => Ipv4Addr::new(127, 0, 0, 6).into(),
        SocketAddr::V6(_) => Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
    }
}

#[expect(clippy::expect_used, reason = "the word is a host name")]
fn name(port: u16) -> ClusterName {
    let service = Hostname::new("inbound").expect("a plain word is a host name");
    ClusterName { endpoints: EndpointSetName { service, port }, subset: None }
}

/// Under which labels the application's traffic is measured.
fn labels(worker: &Worker, port: Option<&WorkloadPort>) -> Labels {
    let view = worker.views.load();
    let mut labels =
        Labels { reporter: Reporter::Destination, cluster: "inbound".into(), ..Labels::default() };
    if let Some(workload) = view.workload.as_ref().map(|own| own.policy()) {
        labels.destination_workload = workload.name.name.as_str().into();
        labels.destination_workload_namespace = workload.name.namespace.as_str().into();
    }
    if let Some(port) = port {
        labels.destination_service = port.service.host.as_str().into();
        labels.destination_service_name = port.service.name.as_str().into();
        labels.destination_service_namespace = port.service.namespace.as_str().into();
    }
    labels
}

#[cfg(test)]
mod tests;
