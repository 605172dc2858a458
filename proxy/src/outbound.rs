//! The outbound face: the application's own requests on their way out.
//!
//! Two ways lead here. In *explicit* mode the application connects to this listener and names its destination in the
//! `Host` header or an absolute-form target; all it can say is HTTP. In *redirected* mode the kernel has turned a
//! connection meant for somewhere else: then the original destination gives the port, and where no policy names the
//! host it is also where the traffic goes, as HTTP or as opaque bytes.
//!
//! A host is asked for when it is first named; the request waits for the answer, bounded in time and number.

use std::{borrow::Cow, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use pillion_policy::{
    cluster::{Cluster, Protocol as Declared},
    mesh::OutboundMode,
    name::Hostname,
};
use tokio::{net::TcpStream, time::Instant};

use crate::{
    body::Body,
    error::ProxyError,
    http::{
        downstream::Downstream,
        exchange::{Decided, Exchange},
        serve,
    },
    net::{
        detect::{self, Protocol},
        rewind::Io,
        socket,
    },
    tcp,
    telemetry::{access_log::Direction, counter::Gauge, requests::Labels},
    upstream::{Upstream, cluster::InFlight, lb::Tried},
    view::{Destination, Entry},
    worker::{Demand, Worker},
};

/// What the application says goes to; port where a client names none.
const DEFAULT_PORT: u16 = 80;

/// One outbound connection.
struct Outbound {
    downstream: Rc<Downstream>,
    /// The original destination as a cluster of one, made when first needed.
    passthrough: std::cell::OnceCell<Arc<Upstream>>,
}

/// Where a request belongs.
enum Target {
    Described(Arc<Destination>),
    Original(Arc<Upstream>),
}

/// Serves a connection of the application.
pub async fn connection(worker: Rc<Worker>, mut stream: TcpStream, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    let (original, made) = (socket::original_dst(&stream), Instant::now());
    let patience = detect::patience(original.is_some(), worker.settings.first_request_timeout);
    let detected = match worker.detect(Direction::Outbound, &mut stream, patience).await {
        Ok(detected) => detected,
        Err(error) => return tracing::debug!(%peer, %error, "connection ended before it said anything"),
    };
    let is_http = matches!(detected.protocol, Protocol::Http1 | Protocol::Http2);
    if let Some(original) = original.filter(|_| !is_http) {
        return opaque(&worker, stream, detected.bytes, original).await;
    }
    let io = Io::rewound(stream, detected.bytes);
    let http2 = detected.protocol == Protocol::Http2;
    let downstream = Rc::new(Downstream::new(&worker, Direction::Outbound, (peer, local, original), http2));
    downstream.since(made);
    let outbound =
        Rc::new(Outbound { downstream: Rc::clone(&downstream), passthrough: std::cell::OnceCell::new() });
    let handle = move |request| handle(Rc::clone(&outbound), request);
    serve::connection(io, http2, &downstream, handle).await;
}

/// Carries bytes to where they were meant for, if the mesh lets unknown traffic out, or to an endpoint of the service
/// that has that address, where that must be secured.
async fn opaque(worker: &Rc<Worker>, stream: TcpStream, front: bytes::Bytes, original: SocketAddr) {
    let only_described = worker.outbound_mode() == OutboundMode::RegistryOnly;
    let mut described = None;
    if only_described || worker.wallet.is_configured() {
        described = look_up(worker, (&original.ip().to_string(), original.port()), &mut None).await.ok();
    }
    if only_described && described.is_none() {
        tracing::debug!(dst = %original, "opaque connection refused: only described hosts may be reached");
        return;
    }
    let (client, stats) = (Io::rewound(stream, front), worker.metrics.tcp_stats(&passthrough_labels()));
    match described.map_or(Ok(None), |destination| endpoint(worker, &destination)) {
        Ok(None) => tcp::forward(client, original, None, &worker.drain, &stats).await,
        Ok(Some((upstream, in_flight))) => {
            let target = in_flight.live().address();
            match Box::pin(worker.pools.open(&upstream, in_flight.live())).await {
                Ok((server, _connected)) => tcp::join(client, server, target, &worker.drain, &stats).await,
                Err(error) => tracing::warn!(dst = %original, %error, "opaque connection cannot be made"),
            }
        }
        Err(error) => tracing::warn!(dst = %original, %error, "opaque connection cannot be made"),
    }
}

/// An endpoint of a destination, if connections to it are to be secured.
fn endpoint(
    worker: &Worker,
    destination: &Destination,
) -> Result<Option<(Arc<Upstream>, InFlight)>, ProxyError> {
    let backend = destination.routes().first().and_then(|route| route.backends.first());
    let Some(Some(upstream)) = backend else { return Ok(None) };
    let now = Instant::now();
    let in_flight = worker.with_rng(|rng| upstream.admit(None, Tried::default(), now, rng))?;
    let is_secured = worker.pools.is_secured(in_flight.live());
    Ok(is_secured.then(|| (Arc::clone(upstream), in_flight)))
}

async fn handle(outbound: Rc<Outbound>, request: Request<Incoming>) -> Response<Body> {
    let (exchange, decided) = match outbound.decide(request).await {
        Ok(begun) => begun,
        Err(refusal) => return refusal,
    };
    exchange.carry_out(decided).await
}

impl Outbound {
    /// Begins with a request, and decides what is to be done with it.
    async fn decide(&self, mut request: Request<Incoming>) -> Result<(Exchange, Decided), Response<Body>> {
        let mut exchange = Exchange::begin(Rc::clone(&self.downstream), &mut request)?;
        let mut held = None;
        let resolved = self.resolve(&exchange, &mut held).await;
        if let Some(waited) = held {
            exchange.held(waited);
        }
        let decided = match resolved {
            Ok(Target::Described(destination)) => exchange.route(&destination, request),
            Ok(Target::Original(upstream)) => exchange.direct(upstream, request),
            Err(error) => Err(error),
        };
        Ok((exchange, decided))
    }

    /// Finds out where a request belongs: by the host it names, then by the address it was meant for; and how long that
    /// took, if it was `held` meanwhile.
    async fn resolve(&self, exchange: &Exchange, held: &mut Option<Duration>) -> Result<Target, ProxyError> {
        let original = self.downstream.original;
        let mut absent = match exchange.asked() {
            Some(asked) => {
                let port = original.map(|original| original.port()).or(asked.port()).unwrap_or(DEFAULT_PORT);
                match look_up(&self.downstream.worker, (asked.host(), port), held).await {
                    Ok(destination) => return Ok(Target::Described(destination)),
                    Err(error) => error,
                }
            }
            None => ProxyError::BadRequest("the request names no host: send a Host header"),
        };
        let Some(original) = original else { return Err(absent) };
        let address = original.ip().to_string();
        let by_address = match absent {
            // Nobody answers: a second question would only double the wait.
            ProxyError::Undiscovered { .. } => {
                match known(&self.downstream.worker, &address, original.port()) {
                    Some(Entry::Known(destination)) => Ok(destination),
                    Some(Entry::Absent(_)) | None => Err(absent.clone()),
                }
            }
            _ => look_up(&self.downstream.worker, (&address, original.port()), held).await,
        };
        match by_address {
            Ok(destination) => return Ok(Target::Described(destination)),
            Err(error) if matches!(absent, ProxyError::BadRequest(_)) => absent = error,
            Err(_) => {}
        }
        match self.downstream.worker.outbound_mode() {
            OutboundMode::RegistryOnly => Err(absent),
            OutboundMode::AllowAny => Ok(Target::Original(self.passthrough(original))),
        }
    }

    fn passthrough(&self, original: SocketAddr) -> Arc<Upstream> {
        let upstream = self.passthrough.get_or_init(|| {
            let metrics = &self.downstream.worker.metrics;
            let labels = passthrough_labels();
            let cluster = Cluster::plain(single_name(original), Declared::Auto);
            Arc::new(Upstream::single(
                cluster,
                original,
                None,
                metrics.cluster(&labels.cluster),
                metrics.request_stats(&labels),
            ))
        });
        Arc::clone(upstream)
    }
}

/// What is known of a host and port, asking for it if need be; `held` is how long that took.
async fn look_up(
    worker: &Worker,
    (host, port): (&str, u16),
    held: &mut Option<Duration>,
) -> Result<Arc<Destination>, ProxyError> {
    let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) || host.ends_with('.') {
        Cow::Owned(host.trim_end_matches('.').to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    };
    let known = known(worker, &host, port);
    let entry = match known {
        Some(entry) => entry,
        None => {
            let began = Instant::now();
            let found = discover(worker, &host, port).await;
            *held = Some(held.unwrap_or_default() + began.elapsed());
            found?
        }
    };
    match entry {
        Entry::Known(destination) => {
            destination.usage().touch(worker.views.second(Instant::now()));
            Ok(destination)
        }
        Entry::Absent(reason) => Err(ProxyError::UnknownHost(reason)),
    }
}

/// Counts a request as held, also when its client leaves meanwhile.
struct Holding<'a>(&'a Gauge);

impl<'a> Holding<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn known(worker: &Worker, host: &str, port: u16) -> Option<Entry> {
    worker.views.load().entry(host, port).cloned()
}

/// Asks the control task for a host and waits for a view that knows it.
async fn discover(worker: &Worker, host: &str, port: u16) -> Result<Entry, ProxyError> {
    let mut news = worker.views.subscribe();
    let name = Hostname::new(host).map_err(|invalid| ProxyError::UnknownHost(invalid.to_string().into()))?;
    let Some(_held) = worker.demands.ask(Demand { host: name, port }) else {
        return Err(ProxyError::DiscoveryOverflow);
    };
    let proxy = &worker.metrics.proxy;
    proxy.holds.inc();
    let _holding = Holding::new(&proxy.holds_active);
    let deadline = Instant::now() + worker.settings.hold_timeout;
    let found = loop {
        if let Some(entry) = known(worker, host, port) {
            break Some(entry);
        }
        match tokio::time::timeout_at(deadline, news.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break None,
        }
    };
    found.ok_or_else(|| {
        proxy.holds_timed_out.inc();
        ProxyError::Undiscovered {
            host: format!("{host}:{port}").into(),
            waited: worker.settings.hold_timeout,
        }
    })
}

/// Name of a cluster of one address.
fn single_name(address: SocketAddr) -> pillion_policy::name::ClusterName {
    let host = Hostname::new(&address.ip().to_string()).unwrap_or_else(|_| unreachable_host());
    let endpoints = pillion_policy::name::EndpointSetName { service: host, port: address.port() };
    pillion_policy::name::ClusterName { endpoints, subset: None }
}

#[expect(
    clippy::expect_used,
    reason = "the text of an address holds digits, hex letters, dots and colons only"
)]
fn unreachable_host() -> Hostname {
    Hostname::new("address").expect("a plain word is a host name")
}

/// Unknown destinations are counted together: their number is not bounded by policy.
fn passthrough_labels() -> Labels {
    Labels { cluster: "passthrough".into(), ..Labels::default() }
}

#[cfg(test)]
mod tests;
