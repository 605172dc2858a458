//! HTTP/1 connections: one request at a time, reused last in first out so that the surplus can expire.

use std::{rc::Rc, sync::Arc};

use hyper::client::conn::http1::{self, SendRequest};
use tokio::{sync::oneshot, time::Instant};

use super::{
    Carries, EndpointPool, FAIR_SHARE, Lease, Line, spawn_dial, wait,
    waiting::{Opening, Waiting},
};
use crate::{
    body::Body,
    error::ProxyError,
    net::{
        idle::{ClientIo, Look},
        rewind::Io,
    },
    rt::task,
    telemetry::record::Waits,
    upstream::{cluster::Connected, cluster::Upstream},
};

/// The HTTP/1 connections of one worker to one endpoint.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Vec<Idle>,
    line: Line<Connection>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// An open connection that no request is using.
#[derive(Debug)]
pub(super) struct Connection {
    send: SendRequest<Body>,
    look: Look,
    /// Requests it may still carry; `None` is no limit.
    left: Option<u32>,
    /// When it has lived long enough.
    until: Option<Instant>,
    used: bool,
    /// The place among open connections. The driving task has it, too: a connection that changes its protocol
    /// outlives that task.
    _place: Rc<Connected>,
}

/// A connection taken for one exchange. Unless it is given back with [`H1Lease::finish`] it is closed.
#[derive(Debug)]
pub struct H1Lease {
    connection: Option<Connection>,
    pool: Rc<EndpointPool>,
}

/// Takes a connection or waits for one.
pub(super) async fn checkout(
    pool: &Rc<EndpointPool>,
    upstream: &Arc<Upstream>,
    waits: &mut Waits,
    now: Instant,
) -> Result<Lease, ProxyError> {
    let idle = pool.h1.borrow_mut().take_idle(now);
    let connection = match idle {
        Some(connection) => connection,
        None => enqueue(pool, upstream, waits).await?,
    };
    Ok(Lease::H1(H1Lease { connection: Some(connection), pool: Rc::clone(pool) }))
}

/// Waits in line while a connection is opened.
async fn enqueue(
    pool: &Rc<EndpointPool>,
    upstream: &Arc<Upstream>,
    waits: &mut Waits,
) -> Result<Connection, ProxyError> {
    let place = upstream.wait_in_line()?;
    let waiting = Waiting::begin(pool, waits);
    let (sender, receiver) = oneshot::channel();
    let must_dial = {
        let mut h1 = pool.h1.borrow_mut();
        h1.line.waiters.retain(|waiter| !waiter.is_closed());
        h1.line.waiters.push_back(sender);
        let must_dial = h1.line.dialing < h1.line.waiters.len();
        h1.line.dialing += usize::from(must_dial);
        must_dial
    };
    if must_dial {
        spawn_dial(dial(Rc::clone(pool), Arc::clone(upstream)));
    }
    wait(upstream, place, waiting, receiver).await
}

async fn dial(pool: Rc<EndpointPool>, upstream: Arc<Upstream>) {
    // Fewer waiters than dials under way: this one is no longer needed.
    let wanted = || {
        let h1 = pool.h1.borrow();
        h1.line.len() >= h1.line.dialing
    };
    let opened = match pool.permission(&upstream, wanted).await {
        Some(connected) => Some(open(&pool, &upstream, connected).await),
        None => None,
    };
    pool.h1.borrow_mut().line.dialing -= 1;
    match opened {
        Some((Ok(connection), opening)) => pool.put_h1(connection, opening),
        Some((Err(error), opening)) => {
            pool.h1.borrow_mut().line.hand((Err(error), opening));
        }
        None => {}
    }
}

/// Connects and hands the connection to a task that drives it; the task holds the place among open connections.
async fn open(
    pool: &Rc<EndpointPool>,
    upstream: &Upstream,
    connected: Connected,
) -> (Result<Connection, ProxyError>, Option<Opening>) {
    let (io, opening) = pool.connect(upstream, Carries::Http1).await;
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
) -> Result<Connection, ProxyError> {
    let endpoint = pool.live.address();
    let (io, look) = ClientIo::new(io);
    let (send, connection) = http1::Builder::new()
        .max_headers(pool.connector.max_headers)
        .max_header_size(pool.connector.max_header_bytes)
        .handshake::<_, Body>(io)
        .await
        .map_err(|error| ProxyError::ConnectFailed { endpoint, reason: error.to_string().into() })?;
    let place = Rc::new(connected);
    let driven = Rc::clone(&place);
    task::spawn_local_connection("upstream http/1", async move {
        let _place = driven;
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%endpoint, %error, "upstream connection ended");
        }
    });
    let limits = &upstream.cluster().pool;
    let left = limits.max_requests_per_connection;
    Ok(Connection {
        send,
        look,
        left: (left > 0).then_some(left),
        until: limits.max_connection_duration.map(|limit| Instant::now() + limit),
        used: false,
        _place: place,
    })
}

impl Pool {
    fn take_idle(&mut self, now: Instant) -> Option<Connection> {
        while let Some(idle) = self.idle.pop() {
            if idle.connection.is_usable(now) && idle.connection.send.is_ready() {
                return Some(idle.connection);
            }
        }
        None
    }

    pub(super) fn expire(&mut self, keep: impl Fn(Instant) -> bool) {
        self.idle.retain(|idle| keep(idle.since) && !idle.connection.send.is_closed());
    }

    pub(super) fn close_idle(&mut self) {
        self.idle.clear();
    }

    /// Closes the connection that has been idle longest.
    pub(super) fn give_up_one(&mut self) -> bool {
        let any = !self.idle.is_empty();
        if any {
            self.idle.remove(0);
        }
        any
    }

    pub(super) fn is_empty(&self) -> bool {
        self.idle.is_empty() && self.line.dialing == 0 && self.line.is_empty()
    }
}

impl Connection {
    fn is_usable(&self, now: Instant) -> bool {
        !self.send.is_closed() && self.left != Some(0) && self.until.is_none_or(|until| now < until)
    }
}

impl EndpointPool {
    /// Gives a ready connection, with how it was opened if it is new, to the first in line, or keeps it.
    fn put_h1(&self, connection: Connection, opening: Option<Opening>) {
        let streak = if self.state.is_starving() { self.streak.get() + 1 } else { 0 };
        self.streak.set(streak % (FAIR_SHARE + 1));
        if streak > FAIR_SHARE {
            // Those in line here have asked for connections, too, and compete for the place that becomes free.
            return;
        }
        let mut h1 = self.h1.borrow_mut();
        if let Some(Ok(connection)) = h1.line.hand((Ok(connection), opening))
            && self.keeps()
        {
            h1.idle.push(Idle { connection, since: Instant::now() });
        }
    }
}

impl H1Lease {
    /// The connection to send on.
    pub fn sender(&mut self) -> Option<&mut SendRequest<Body>> {
        self.connection.as_mut().map(|connection| &mut connection.send)
    }

    /// Whether it has carried a request before, so that the peer may be closing it just now.
    pub fn is_reused(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.used)
    }

    /// Has the connection looked at before it is written to: whether the peer has closed it.
    pub fn look_once_more(&self) {
        if let Some(connection) = &self.connection {
            connection.look.once_more();
        }
    }

    /// Closes the idle connections to the same endpoint: the peer was found to be closing.
    pub fn close_idle(&self) {
        self.pool.h1.borrow_mut().close_idle();
    }

    /// The exchange is complete: the connection serves the next one.
    pub fn finish(mut self, now: Instant) {
        let Some(mut connection) = self.connection.take() else { return };
        connection.used = true;
        connection.left = connection.left.map(|left| left.saturating_sub(1));
        if !connection.is_usable(now) {
            return;
        }
        if connection.send.is_ready() {
            self.pool.put_h1(connection, None);
            return;
        }
        // The response is complete but the request is still being sent, or the connection task has not run since.
        let pool = Rc::clone(&self.pool);
        task::spawn_local_connection("upstream http/1 return", async move {
            if connection.send.ready().await.is_ok() {
                pool.put_h1(connection, None);
            }
        });
    }
}
