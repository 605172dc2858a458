//! Serving a handler over HTTP/1.1 and HTTP/2 prior knowledge, with a graceful end and a sudden one.
//!
//! When `shutdown` resolves the listener closes, HTTP/2 clients get GOAWAY and HTTP/1.1 ones
//! `connection: close`; requests in flight finish. Upgraded connections are served too. When the
//! service dies ([`Service::deaths`]) the listener closes and all connections are reset.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::Stats;
use super::faults::Abandoned;
use super::line::Line;
use crate::body::Body;
use crate::task;

/// Largest request head a sample service takes: above the proxy's own limit, so that the proxy's is the one seen.
pub const HEADER_LIMIT: usize = 256 * 1024;

/// Something that answers requests.
pub trait Service: Clone + Send + Sync + 'static {
    /// Answers one request, or gives up its connection.
    fn call(&self, req: Request<Incoming>) -> impl Future<Output = Result<Response<Body>, Abandoned>> + Send;

    /// Where connections are counted.
    fn stats(&self) -> &Stats;

    /// Changes when the service dies.
    fn deaths(&self) -> watch::Receiver<()>;
}

/// Serves until the service dies, or `shutdown` resolves and the requests in flight have ended.
pub async fn serve(listener: TcpListener, service: impl Service, shutdown: impl Future<Output = ()>) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).max_headers(1024).max_buf_size(2 * HEADER_LIMIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(HEADER_LIMIT).unwrap_or(u32::MAX))
        .max_concurrent_streams(1024);
    let builder = Arc::new(builder);
    let graceful = GracefulShutdown::new();
    let mut deaths = service.deaths();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
            _ = deaths.changed() => return reset_arrivals(listener, &service),
        };
        let Ok((stream, _peer)) = accepted else {
            // Out of descriptors, most likely: give connections a moment to end.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let live = Live { builder: builder.clone(), watcher: graceful.watcher(), deaths: deaths.clone() };
        task::detach(connection(stream, service.clone(), live));
    }
    drop(listener);
    graceful.shutdown().await;
}

/// What a connection lives by.
struct Live {
    builder: Arc<auto::Builder<TokioExecutor>>,
    watcher: Watcher,
    deaths: watch::Receiver<()>,
}

async fn connection(stream: TcpStream, service: impl Service, live: Live) {
    let Live { builder, watcher, mut deaths } = live;
    let _ = stream.set_nodelay(true);
    let resets = Arc::new(AtomicBool::new(false));
    let _open = service.stats().connection();
    let line = Line::new(stream, resets.clone(), service.stats().unread());
    let (handler, reset) = (service.clone(), &resets);
    let answer = service_fn(move |req| {
        let (service, resets) = (handler.clone(), reset.clone());
        async move {
            let answer = service.call(req).await;
            if let Err(Abandoned { reset: true }) = answer {
                resets.store(true, Ordering::Relaxed);
            }
            answer
        }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(line), answer).into_owned();
    let death = async {
        let _ = deaths.changed().await;
        resets.store(true, Ordering::Relaxed);
    };
    tokio::select! {
        // A broken connection is the client's matter; its requests are what tests look at.
        _ = watcher.watch(connection) => {}
        () = death => {}
    }
}

/// Treats connections nobody has accepted yet like those in use.
fn reset_arrivals(listener: TcpListener, service: &impl Service) {
    // Not by way of the runtime, which may not have noticed yet that there are any.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, _peer)) = listener.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        let resets = Arc::new(AtomicBool::new(true));
        drop(stream.map(|stream| Line::new(stream, resets, service.stats().unread())));
    }
}
