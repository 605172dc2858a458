//! Accepting connections, and spreading them over the workers.
//!
//! All workers accept from one socket. Whoever accepts keeps the connection, unless another worker has clearly fewer:
//! then it is handed over, so that a few long-lived connections do not all land on one thread. The number of open
//! connections is limited; beyond it they wait in the kernel's queue, which slows clients and fails nobody. When
//! descriptors or memory run out, accepting pauses for a moment instead of spinning.
//!
//! A listener goes on accepting while the process drains, because others learn of it late, and ends when it closes.

use std::{
    io,
    net::{self, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep},
};

use crate::{
    net::socket,
    rt::drain::{self, Drain},
    telemetry::Metrics,
};

/// Pause after an error that will not pass by itself at once.
const PAUSE: Duration = Duration::from_millis(100);
/// At most one complaint about such errors in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// Connections that may wait for a worker to take them over.
const HANDED_OVER: usize = 64;

/// One worker's end of a listener.
#[derive(Debug)]
pub struct Acceptor {
    socket: net::TcpListener,
    worker: usize,
    shared: Arc<Shared>,
    given: mpsc::Receiver<Given>,
}

/// What the workers of a listener share.
#[derive(Debug)]
struct Shared {
    open: Box<[AtomicUsize]>,
    takers: Box<[mpsc::Sender<Given>]>,
    limit: Arc<Semaphore>,
}

/// A connection on its way to another worker.
#[derive(Debug)]
struct Given {
    stream: net::TcpStream,
    peer: SocketAddr,
    open: Open,
}

/// Counts a connection as open until it is dropped: to be kept as long as the connection.
#[derive(Debug)]
pub struct Open {
    shared: Arc<Shared>,
    worker: usize,
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
    _drain: drain::Guard,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(open) = self.shared.open.get(self.worker) {
            open.fetch_sub(1, Relaxed);
        }
        self.metrics.proxy.downstream_connections.dec();
    }
}

/// Divides a listening socket among `workers`; together they serve at most `most` connections at the same time.
pub fn share(socket: &net::TcpListener, workers: usize, most: usize) -> io::Result<Vec<Acceptor>> {
    let (takers, given): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(HANDED_OVER)).unzip();
    let shared = Arc::new(Shared {
        open: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
        takers: takers.into(),
        limit: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
    });
    let acceptor = |(worker, given)| {
        let shared = Arc::clone(&shared);
        socket.try_clone().map(|socket| Acceptor { socket, worker, shared, given })
    };
    given.into_iter().enumerate().map(acceptor).collect()
}

impl Acceptor {
    /// Accepts until the drain closes, and calls `on_connection` for each connection this worker is to serve.
    ///
    /// To be run on the worker whose connections they shall be.
    pub async fn run(
        mut self,
        drain: &Drain,
        metrics: &Arc<Metrics>,
        on_connection: impl Fn(TcpStream, SocketAddr, Open),
    ) -> io::Result<()> {
        let listener = TcpListener::from_std(self.socket)?;
        let mut closed = drain.closed();
        let mut complained = None;
        loop {
            let accepting = accept(&listener, &self.shared.limit, metrics, &mut complained);
            tokio::select! {
                biased;
                () = &mut closed => return Ok(()),
                Some(Given { stream, peer, open }) = self.given.recv() => {
                    if let Ok(stream) = TcpStream::from_std(stream) {
                        on_connection(stream, peer, open);
                    }
                }
                (stream, peer, permit) = accepting => {
                    // Whoever has many connections lets others have a few fewer: handing over costs a wake-up.
                    let worker = self.shared.taker(self.worker);
                    let open = self.shared.open(worker, permit, drain, metrics);
                    if worker == self.worker {
                        on_connection(stream, peer, open);
                    } else if let Some((stream, open)) = self.shared.hand_over(stream, peer, open) {
                        on_connection(stream, peer, open);
                    }
                }
            }
        }
    }
}

impl Shared {
    /// Who should serve the next connection that `accepting` accepts.
    fn taker(&self, accepting: usize) -> usize {
        let count = |worker: usize| self.open.get(worker).map_or(usize::MAX, |open| open.load(Relaxed));
        let mine = count(accepting);
        let least = (0..self.open.len()).min_by_key(|worker| (count(*worker), *worker != accepting));
        match least {
            Some(other) if count(other).saturating_add(mine / 8) < mine => other,
            _ => accepting,
        }
    }

    fn open(
        self: &Arc<Self>,
        worker: usize,
        permit: OwnedSemaphorePermit,
        drain: &Drain,
        metrics: &Arc<Metrics>,
    ) -> Open {
        if let Some(open) = self.open.get(worker) {
            open.fetch_add(1, Relaxed);
        }
        metrics.proxy.downstream_connections.inc();
        Open {
            shared: Arc::clone(self),
            worker,
            metrics: Arc::clone(metrics),
            _permit: permit,
            _drain: drain.guard(),
        }
    }

    /// Hands a connection to the worker it is counted for; gives it back if that one is too busy to take it.
    fn hand_over(&self, stream: TcpStream, peer: SocketAddr, open: Open) -> Option<(TcpStream, Open)> {
        let metrics = Arc::clone(&open.metrics);
        let taker = self.takers.get(open.worker)?;
        let Ok(place) = taker.try_reserve() else { return Some((stream, open)) };
        // An error leaves nothing to serve: the connection is closed.
        if let Ok(stream) = stream.into_std() {
            metrics.proxy.handed_over.inc();
            place.send(Given { stream, peer, open });
        }
        None
    }
}

/// Waits for a connection the limit has room for. Safe to cancel.
async fn accept(
    listener: &TcpListener,
    limit: &Arc<Semaphore>,
    metrics: &Metrics,
    complained: &mut Option<Instant>,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    loop {
        let Ok(permit) = Arc::clone(limit).acquire_owned().await else {
            // The semaphore is never closed.
            return std::future::pending().await;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                socket::accepted(&stream);
                return (stream, peer, permit);
            }
            Err(error) if is_of_the_connection(&error) => metrics.proxy.accept_errors.inc(),
            Err(error) => {
                metrics.proxy.accept_errors.inc();
                let now = Instant::now();
                if complained.is_none_or(|last| now - last >= COMPLAIN_EVERY) {
                    *complained = Some(now);
                    tracing::warn!(%error, "cannot accept connections, they wait");
                }
                sleep(PAUSE).await;
            }
        }
    }
}

/// Whether an error is about the one connection, so that the next may do better at once.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable,
    };
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | HostUnreachable | Interrupted | NetworkUnreachable
    )
}

#[cfg(test)]
mod tests;
