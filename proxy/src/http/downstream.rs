//! The connection requests come in on.

use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::{net::wire::Line, telemetry::access_log::Direction, tls::Secured, worker::Worker};

/// How long a connection may be unused before it is closed (Envoy's default).
const IDLE: Duration = Duration::from_secs(3600);

/// How long a connection may take for its first request head.
const FIRST_HEAD: Duration = Duration::from_secs(60);

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
            line: (!http2).then(Arc::default),
            active: Cell::new(0),
            served: Cell::new(false),
            used: Cell::new(Instant::now()),
        }
    }

    /// A request begins.
    pub(super) fn enter(&self) {
        self.active.set(self.active.get() + 1);
    }

    /// A request has ended.
    pub(super) fn leave(&self, now: Instant) {
        self.active.set(self.active.get() - 1);
        self.used.set(now);
        self.served.set(true);
        if let Some(line) = &self.line {
            line.end();
        }
    }

    /// Resolves when the connection has been unused for too long.
    pub(super) async fn idle(&self) {
        loop {
            let due = self.used.get() + if self.served.get() { IDLE } else { FIRST_HEAD };
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
