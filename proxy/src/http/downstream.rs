//! The connection requests come in on.

use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderValue, Request};
use tokio::time::{Instant, sleep_until};

use super::{
    head,
    headers::{CARRIED, CLIENT_CERT},
};
use crate::{authz::Guest, net::wire::Line, telemetry::access_log::Direction, tls::Secured, worker::Worker};

/// How long a connection may be unused before it is closed (Envoy's default).
const IDLE: Duration = Duration::from_secs(3600);

/// A client's connection, shared by its requests.
#[derive(Debug)]
pub struct Downstream {
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// Which face it reached.
    pub direction: Direction,
    /// The client.
    pub peer: SocketAddr,
    /// The address the client reached, as far as this process can tell.
    pub local: SocketAddr,
    /// Where the client meant to go, when the connection was redirected here.
    pub original: Option<SocketAddr>,
    /// What mutual TLS has proved of the client; absent on plain text.
    pub secured: Option<Secured>,
    /// The same for the application.
    pub forwarded: Option<HeaderValue>,
    /// Whether the client is a sidecar that may carry requests of HTTP/1.1 in HTTP/2.
    pub carries: bool,
    /// What policy knows it by, where it came in.
    pub guest: Option<Rc<Guest>>,
    /// What HTTP/1 says beside the library.
    pub line: Option<Arc<Line>>,
    active: Cell<u32>,
    served: Cell<bool>,
    used: Cell<Instant>,
}

impl Downstream {
    /// A connection that has just been accepted, from `peer` at `local`. HTTP/1 has a line beside the library.
    pub fn new(
        worker: &Rc<Worker>,
        direction: Direction,
        (peer, local, original): (SocketAddr, SocketAddr, Option<SocketAddr>),
        http2: bool,
    ) -> Self {
        Self {
            worker: Rc::clone(worker),
            direction,
            peer,
            local,
            original,
            secured: None,
            forwarded: None,
            carries: false,
            guest: None,
            line: (!http2).then(Arc::default),
            active: Cell::new(0),
            served: Cell::new(false),
            used: Cell::new(Instant::now()),
        }
    }

    /// Brings a request that came in into the form it had before a sidecar carried it, and tells the application who
    /// sent it. What a client says of either is not believed.
    pub fn receive<B>(&self, request: &mut Request<B>) {
        let carried = request.headers_mut().remove(CARRIED);
        if self.carries && carried.is_some_and(|version| version == "HTTP/1.1") {
            // Without an authority it stays as it is, and is refused for that.
            let _restored = head::restore(request);
        }
        match &self.forwarded {
            Some(forwarded) => drop(request.headers_mut().insert(CLIENT_CERT, forwarded.clone())),
            None => drop(request.headers_mut().remove(CLIENT_CERT)),
        }
    }

    /// Counts the time for the first request from when the connection was made.
    pub fn since(&self, made: Instant) {
        self.used.set(made);
    }

    /// Whether there has been a request on it.
    pub(super) fn has_served(&self) -> bool {
        self.served.get()
    }

    /// A request begins.
    pub(super) fn enter(&self) {
        self.active.set(self.active.get() + 1);
        self.worker.stats.requests.inc();
    }

    /// A request has ended.
    pub(super) fn leave(&self, now: Instant) {
        self.active.set(self.active.get() - 1);
        self.worker.stats.requests.dec();
        self.used.set(now);
        self.served.set(true);
        if let Some(line) = &self.line {
            line.end();
        }
    }

    /// Resolves when a new policy is against the connection.
    pub(super) async fn broken_off(&self) {
        match &self.guest {
            Some(guest) => guest.broken_off().await,
            None => std::future::pending().await,
        }
    }

    /// Resolves when the connection has been unused for too long.
    pub(super) async fn idle(&self) {
        loop {
            let first_request = self.worker.settings.first_request_timeout;
            let due = self.used.get() + if self.served.get() { IDLE } else { first_request };
            let now = Instant::now();
            if self.active.get() > 0 {
                sleep_until(now + IDLE).await;
            } else if now < due {
                sleep_until(due).await;
            } else {
                return;
            }
        }
    }
}
