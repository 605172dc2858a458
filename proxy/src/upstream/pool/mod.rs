//! Connections to endpoints, kept by the worker that opened them.
//!
//! A checkout takes an idle HTTP/1 connection or a free HTTP/2 stream without waiting. When there is none it waits in
//! line while a connection is opened beside it, and takes whatever comes first: the new connection or one that
//! another request gives back. Opening happens in a task of its own, so a client that leaves does not waste it.
//!
//! `maxConnections` counts over all workers. Whoever may not open one makes others give up idle connections of the
//! cluster and waits, bounded.

mod h1;
mod h2;
mod secure;
mod waiting;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use pillion_policy::cluster::ConnectionPool;
use rustc_hash::FxHashMap;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{
    cluster::{Connected, Pending, State, Upstream},
    endpoint::LiveEndpoint,
    transport::Transport,
};
use crate::{
    error::{Limit, ProxyError},
    net::rewind::Io,
    rt::task,
    telemetry::{Metrics, record::Waits},
    tls::credentials::Wallet,
};

pub use self::{h1::H1Lease, h2::H2Lease};
use self::{
    secure::Carries,
    waiting::{Opening, Waiting},
};

/// How long a request waits for a connection when no more may be opened (Linkerd's fail-fast timeout).
const QUEUE_TIMEOUT: Duration = Duration::from_secs(3);

/// Requests a connection serves while others of its cluster wait for one to be given up.
const FAIR_SHARE: u32 = 32;

/// A connection taken from the pool.
#[derive(Debug)]
pub enum Lease {
    /// An HTTP/1 connection, exclusively.
    H1(H1Lease),
    /// A stream of an HTTP/2 connection.
    H2(H2Lease),
}

/// What connections are opened with; the same for all of a worker.
#[derive(Debug, Clone)]
pub struct Connector {
    /// Largest header list accepted from upstream.
    pub max_header_bytes: usize,
    /// Most header fields accepted from upstream.
    pub max_headers: usize,
    /// Wakes every worker to give up idle connections of starving clusters.
    pub pressure: Arc<[Notify]>,
    /// What the own identity is proved with.
    pub wallet: Arc<Wallet>,
    /// Where handshakes are counted.
    pub metrics: Arc<Metrics>,
}

/// All connections of one worker.
#[derive(Debug)]
pub struct Pools {
    connector: Connector,
    endpoints: RefCell<FxHashMap<u64, Rc<EndpointPool>>>,
}

/// The connections of one worker to one endpoint.
#[derive(Debug)]
pub(crate) struct EndpointPool {
    connector: Connector,
    live: Arc<LiveEndpoint>,
    state: Arc<State>,
    idle_timeout: Cell<Duration>,
    /// The connection being opened, the latest where there are several.
    opening: Cell<Option<Opening>>,
    /// HTTP/1 connections handed on within the own line while others of the cluster starve.
    streak: Cell<u32>,
    h1: RefCell<h1::Pool>,
    h2: RefCell<h2::Pool>,
}

/// Requests in line for a connection of kind `C`, and how many are being opened for them.
#[derive(Debug)]
struct Line<C> {
    waiters: VecDeque<oneshot::Sender<Handed<C>>>,
    dialing: usize,
}

/// What comes to the first in line: a connection or why there is none, and how it was opened unless it was given back.
type Handed<C> = (Result<C, ProxyError>, Option<Opening>);

impl<C> Default for Line<C> {
    fn default() -> Self {
        Self { waiters: VecDeque::new(), dialing: 0 }
    }
}

impl<C> Line<C> {
    /// Hands it to the first who still waits; gives it back when nobody does.
    fn hand(&mut self, mut handed: Handed<C>) -> Option<Result<C, ProxyError>> {
        while let Some(waiter) = self.waiters.pop_front() {
            match waiter.send(handed) {
                Ok(()) => return None,
                Err(unwanted) => handed = unwanted,
            }
        }
        Some(handed.0)
    }

    fn is_empty(&self) -> bool {
        self.waiters.iter().all(oneshot::Sender::is_closed)
    }

    /// How many wait beyond those whom others than the one who asks open connections for, each with so many places.
    fn unserved(&self, places: usize) -> usize {
        self.len().saturating_sub(self.dialing.saturating_sub(1).saturating_mul(places))
    }

    fn len(&self) -> usize {
        self.waiters.iter().filter(|waiter| !waiter.is_closed()).count()
    }
}

impl Pools {
    /// Empty pools.
    pub fn new(connector: Connector) -> Self {
        Self { connector, endpoints: RefCell::default() }
    }

    /// A connection to the endpoint, waiting for one if need be; how long is added to `waits`.
    pub async fn checkout(
        &self,
        upstream: &Arc<Upstream>,
        live: &Arc<LiveEndpoint>,
        http2: bool,
        waits: &mut Waits,
        now: Instant,
    ) -> Result<Lease, ProxyError> {
        let pool = self.endpoint(upstream, live);
        if http2 {
            h2::checkout(&pool, upstream, waits, now).await
        } else {
            h1::checkout(&pool, upstream, waits, now).await
        }
    }

    fn endpoint(&self, upstream: &Upstream, live: &Arc<LiveEndpoint>) -> Rc<EndpointPool> {
        let mut endpoints = self.endpoints.borrow_mut();
        let pool = endpoints.entry(live.id()).or_insert_with(|| {
            Rc::new(EndpointPool {
                connector: self.connector.clone(),
                live: Arc::clone(live),
                state: Arc::clone(upstream.state()),
                idle_timeout: Cell::new(Duration::ZERO),
                opening: Cell::new(None),
                streak: Cell::new(0),
                h1: RefCell::default(),
                h2: RefCell::default(),
            })
        });
        pool.idle_timeout.set(idle_timeout(&upstream.cluster().pool));
        Rc::clone(pool)
    }

    /// Closes what has been idle for too long, what leads to endpoints that are gone, and one idle connection for
    /// each cluster that starves.
    pub fn sweep(&self, now: Instant) {
        self.endpoints.borrow_mut().retain(|_, pool| {
            let keep = |since: Instant| {
                let limit = pool.idle_timeout.get();
                limit.is_zero() || now.saturating_duration_since(since) < limit
            };
            let retired = pool.live.is_retired();
            let mut h1 = pool.h1.borrow_mut();
            let mut h2 = pool.h2.borrow_mut();
            if retired {
                h1.close_idle();
                h2.close_idle();
            }
            h1.expire(keep);
            h2.expire(keep);
            if pool.state.is_starving() && !h1.give_up_one() {
                h2.give_up_one();
            }
            !(h1.is_empty() && h2.is_empty() && Rc::strong_count(pool) == 1)
        });
    }

    /// Whether connections to an endpoint are mutual TLS with a sidecar, which takes all HTTP as HTTP/2.
    pub fn is_to_sidecar(&self, live: &LiveEndpoint) -> bool {
        live.transport().is_sidecar(&self.connector.wallet)
    }

    /// Whether the endpoint proves an identity of the mesh.
    pub fn is_mutual(&self, live: &LiveEndpoint) -> bool {
        live.transport().is_mutual(&self.connector.wallet)
    }

    /// Whether connections to an endpoint are secured at all.
    pub fn is_secured(&self, live: &LiveEndpoint) -> bool {
        self.is_mutual(live) || matches!(live.transport(), Transport::Originate(_))
    }

    /// Opens a connection for opaque bytes, which nobody else will use.
    pub async fn open(
        &self,
        upstream: &Upstream,
        live: &Arc<LiveEndpoint>,
    ) -> Result<(Io, Connected), ProxyError> {
        let pool = self.endpoint(upstream, live);
        let connected = upstream.open_connection();
        let connected = connected.ok_or_else(|| upstream.overflow(Limit::MaxConnections))?;
        Ok((pool.connect(upstream, Carries::Opaque).await.0?, connected))
    }

    /// What the own identity is proved with.
    pub fn wallet(&self) -> &Arc<Wallet> {
        &self.connector.wallet
    }

    /// Whether no connection is kept.
    pub fn is_empty(&self) -> bool {
        self.endpoints.borrow().is_empty()
    }
}

impl EndpointPool {
    /// Waits until a connection may be opened; `None` when nobody waits for one any more.
    async fn permission(&self, upstream: &Upstream, wanted: impl Fn() -> bool) -> Option<Connected> {
        if let Some(connected) = upstream.open_connection() {
            return Some(connected);
        }
        let _starving = upstream.starve();
        loop {
            // Registered before the next look, so that a place freed in between is not missed.
            let freed = self.state.freed();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if !wanted() {
                return None;
            }
            if let Some(connected) = upstream.open_connection() {
                return Some(connected);
            }
            for worker in self.connector.pressure.iter() {
                worker.notify_one();
            }
            let _ = tokio::time::timeout(QUEUE_TIMEOUT, freed).await;
        }
    }

    /// Whether a connection that is given back may be kept.
    fn keeps(&self) -> bool {
        !self.live.is_retired() && !self.state.is_starving()
    }
}

/// Waits in line for what `receiver` brings. Opening a connection has its own limit; waiting for others to give one
/// up is bounded here.
async fn wait<C>(
    upstream: &Upstream,
    _place: Pending,
    waiting: Waiting<'_>,
    receiver: oneshot::Receiver<Handed<C>>,
) -> Result<C, ProxyError> {
    let limit = QUEUE_TIMEOUT + upstream.cluster().pool.connect_timeout;
    match tokio::time::timeout(limit, receiver).await {
        Ok(Ok((result, opened))) => {
            waiting.end(opened);
            result
        }
        Ok(Err(_)) | Err(_) => Err(upstream.overflow(Limit::MaxConnections)),
    }
}

/// How long an unused connection is kept: an idle HTTP connection is an idle TCP connection too, so the shorter limit
/// holds. Zero is none.
fn idle_timeout(pool: &ConnectionPool) -> Duration {
    match (pool.idle_timeout, pool.tcp_idle_timeout) {
        (Duration::ZERO, tcp) => tcp,
        (http, Duration::ZERO) => http,
        (http, tcp) => http.min(tcp),
    }
}

/// Opens a connection in a task of its own.
fn spawn_dial(dial: impl Future<Output = ()> + 'static) {
    task::spawn_local_connection("upstream dial", dial);
}
