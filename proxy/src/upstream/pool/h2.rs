//! HTTP/2 connections: many requests at a time on few connections.
//!
//! A further connection is opened only when all open ones carry as many streams as the peer or the policy allows:
//! a stream that waits for flow control can then not hold up all others for ever. Several are opened at once where one
//! could not carry all who wait.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use h2::client::SendRequest;
use pillion_policy::cluster::ConnectionPool;
use tokio::{sync::oneshot, time::Instant};

use super::{
    Carries, EndpointPool, FAIR_SHARE, Lease, Line, spawn_dial, wait,
    waiting::{Opening, Waiting},
};
use crate::{
    error::ProxyError,
    net::rewind::Io,
    rt::task,
    telemetry::record::Waits,
    upstream::{cluster::Connected, cluster::Upstream},
};

/// Bytes a peer may send ahead on one stream: full speed over a 2 ms path at 1 Gbit/s.
const STREAM_WINDOW: u32 = 256 << 10;

/// Most streams on one connection, whatever the peer allows.
const MAX_STREAMS: u32 = 128;

/// Bytes a peer may send ahead on a connection: as much as all its streams together, so that clients who do not read
/// stop their own streams and never those of others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS;

/// The HTTP/2 connections of one worker to one endpoint.
#[derive(Debug, Default)]
pub(super) struct Pool {
    connections: Vec<Rc<Connection>>,
    line: Line<H2Lease>,
}

#[derive(Debug)]
pub(super) struct Connection {
    send: RefCell<SendRequest<Bytes>>,
    /// Streams under way, and how many the policy allows.
    active: Cell<u32>,
    max_active: u32,
    /// Requests it may still carry; `None` is no limit.
    left: Cell<Option<u32>>,
    /// When it has lived long enough.
    until: Option<Instant>,
    idle_since: Cell<Instant>,
    /// Requests taken while others of the cluster waited for a connection to be given up.
    streak: Cell<u32>,
    /// Set when the connection has ended or the peer has said that it will.
    closed: Rc<Cell<bool>>,
}

/// One stream's place on a connection.
#[derive(Debug)]
pub struct H2Lease {
    connection: Rc<Connection>,
    pool: Rc<EndpointPool>,
}

/// Takes a place on a connection or waits for one.
pub(super) async fn checkout(
    pool: &Rc<EndpointPool>,
    upstream: &Arc<Upstream>,
    waits: &mut Waits,
    now: Instant,
) -> Result<Lease, ProxyError> {
    let free = pool.take_free_h2(now);
    let lease = match free {
        Some(connection) => H2Lease { connection, pool: Rc::clone(pool) },
        None => enqueue(pool, upstream, waits).await?,
    };
    Ok(Lease::H2(lease))
}

async fn enqueue(
    pool: &Rc<EndpointPool>,
    upstream: &Arc<Upstream>,
    waits: &mut Waits,
) -> Result<H2Lease, ProxyError> {
    let place = upstream.wait_in_line()?;
    let (waiting, places) = (Waiting::begin(pool, waits), places(&upstream.cluster().pool));
    let (sender, receiver) = oneshot::channel();
    let must_dial = {
        let mut h2 = pool.h2.borrow_mut();
        // Those who have left must not gather while no connection may be opened.
        while h2.line.waiters.front().is_some_and(oneshot::Sender::is_closed) {
            h2.line.waiters.pop_front();
        }
        h2.line.waiters.push_back(sender);
        let must_dial = h2.line.waiters.len() > h2.line.dialing * places;
        h2.line.dialing += usize::from(must_dial);
        must_dial
    };
    if must_dial {
        spawn_dial(dial(Rc::clone(pool), Arc::clone(upstream), places));
    }
    wait(upstream, place, waiting, receiver).await
}

/// How many of those who wait one more connection is for.
fn places(limits: &ConnectionPool) -> usize {
    let streams = limits.max_concurrent_streams.min(MAX_STREAMS);
    let requests = limits.max_requests_per_connection;
    let places = if requests > 0 { streams.min(requests) } else { streams };
    usize::try_from(places).unwrap_or(usize::MAX).max(1)
}

/// Opens connections, one after the other, until nobody waits for whom no other is being opened.
async fn dial(pool: Rc<EndpointPool>, upstream: Arc<Upstream>, places: usize) {
    let wanted = || pool.h2.borrow().line.unserved(places) > 0;
    while wanted() {
        let Some(connected) = pool.permission(&upstream, wanted).await else { break };
        match open(&pool, &upstream, connected).await {
            (Ok(connection), opening) => {
                pool.h2.borrow_mut().connections.push(connection);
                pool.serve_line(opening);
            }
            (Err(error), opening) => {
                let mut h2 = pool.h2.borrow_mut();
                for _ in 0..h2.line.unserved(places) {
                    h2.line.hand((Err(error.clone()), opening));
                }
            }
        }
    }
    pool.h2.borrow_mut().line.dialing -= 1;
}

/// Connects and hands the connection to a task that drives it; the task holds the place among open connections.
async fn open(
    pool: &Rc<EndpointPool>,
    upstream: &Upstream,
    connected: Connected,
) -> (Result<Rc<Connection>, ProxyError>, Option<Opening>) {
    let (io, opening) = pool.connect(upstream, Carries::Http2).await;
    let connection = match io {
        Ok(io) => drive(pool, upstream, connected, io).await,
        Err(error) => Err(error),
    };
    (connection, opening)
}

async fn drive(
    pool: &Rc<EndpointPool>,
    upstream: &Upstream,
    connected: Connected,
    io: Io,
) -> Result<Rc<Connection>, ProxyError> {
    let endpoint = pool.live.address();
    let (send, connection) = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(pool.connector.max_header_bytes).unwrap_or(u32::MAX))
        .handshake::<_, Bytes>(io)
        .await
        .map_err(|error| ProxyError::ConnectFailed { endpoint, reason: error.to_string().into() })?;
    let closed = Rc::new(Cell::new(false));
    let ended = Rc::clone(&closed);
    task::spawn_local_connection("upstream http/2", async move {
        let _connected = connected;
        if let Err(error) = connection.await {
            tracing::debug!(%endpoint, %error, "upstream connection ended");
        }
        ended.set(true);
    });
    let limits = &upstream.cluster().pool;
    let left = limits.max_requests_per_connection;
    let now = Instant::now();
    Ok(Rc::new(Connection {
        send: RefCell::new(send),
        active: Cell::new(0),
        max_active: limits.max_concurrent_streams.min(MAX_STREAMS),
        left: Cell::new((left > 0).then_some(left)),
        until: limits.max_connection_duration.map(|limit| now + limit),
        idle_since: Cell::new(now),
        streak: Cell::new(0),
        closed,
    }))
}

impl Pool {
    /// A place on the first connection that has one; connections that take no more are let go.
    fn take_free(&mut self, now: Instant, starving: bool) -> Option<Rc<Connection>> {
        self.connections.retain(|connection| connection.is_usable(now) && !connection.is_unfair(starving));
        let connection = self.connections.iter().find(|connection| connection.has_room())?;
        connection.enter();
        Some(Rc::clone(connection))
    }

    pub(super) fn expire(&mut self, keep: impl Fn(Instant) -> bool) {
        self.connections.retain(|connection| {
            !connection.closed.get() && (connection.active.get() > 0 || keep(connection.idle_since.get()))
        });
    }

    /// Lets go of every connection; those in use end with their last stream.
    pub(super) fn close_idle(&mut self) {
        self.connections.clear();
    }

    /// Closes one connection that carries nothing.
    pub(super) fn give_up_one(&mut self) -> bool {
        let idle = self.connections.iter().position(|connection| connection.active.get() == 0);
        idle.map(|index| self.connections.remove(index)).is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.line.dialing == 0 && self.line.is_empty()
    }
}

impl Connection {
    fn is_usable(&self, now: Instant) -> bool {
        !self.closed.get() && self.left.get() != Some(0) && self.until.is_none_or(|until| now < until)
    }

    /// Whether it has served its share while others starve: with its last stream it then makes room for them.
    fn is_unfair(&self, starving: bool) -> bool {
        let streak = if starving { self.streak.get() + 1 } else { 0 };
        self.streak.set(streak);
        streak > FAIR_SHARE
    }

    fn has_room(&self) -> bool {
        let peer = u32::try_from(self.send.borrow().current_max_send_streams()).unwrap_or(u32::MAX);
        self.active.get() < self.max_active.min(peer).max(1)
    }

    fn enter(&self) {
        self.active.set(self.active.get() + 1);
        self.left.set(self.left.get().map(|left| left.saturating_sub(1)));
    }
}

impl EndpointPool {
    fn take_free_h2(&self, now: Instant) -> Option<Rc<Connection>> {
        self.h2.borrow_mut().take_free(now, self.state.is_starving())
    }

    /// Gives free places to those in line, as leases: one that is not picked up gives its place back. A connection that
    /// was opened for them comes with how.
    fn serve_line(self: &Rc<Self>, opening: Option<Opening>) {
        loop {
            let mut h2 = self.h2.borrow_mut();
            if h2.line.is_empty() {
                return;
            }
            let Some(connection) = h2.take_free(Instant::now(), self.state.is_starving()) else { return };
            let unwanted = h2.line.hand((Ok(H2Lease { connection, pool: Rc::clone(self) }), opening));
            // Dropping a lease looks at the line again.
            drop(h2);
            drop(unwanted);
        }
    }
}

impl H2Lease {
    /// A handle to send one request with.
    pub fn sender(&self) -> SendRequest<Bytes> {
        self.connection.send.borrow().clone()
    }

    /// The peer takes no further requests on this connection.
    pub fn close(&self) {
        self.connection.closed.set(true);
    }
}

impl Drop for H2Lease {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.active.set(connection.active.get() - 1);
        if connection.active.get() == 0 {
            let now = Instant::now();
            connection.idle_since.set(now);
            if !self.pool.keeps() || !connection.is_usable(now) {
                connection.closed.set(true);
            }
        }
        if !self.pool.h2.borrow().line.waiters.is_empty() {
            self.pool.serve_line(None);
        }
    }
}
