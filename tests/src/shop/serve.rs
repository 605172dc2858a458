//! Serving a handler over HTTP/1.1 and HTTP/2 prior knowledge, with a graceful end.
//!
//! When `shutdown` resolves the listener closes, HTTP/2 clients get GOAWAY and HTTP/1.1 ones
//! `connection: close`; requests in flight finish. Upgraded connections are served too.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

use super::Stats;
use crate::body::Body;
use crate::task;

/// Largest request head a sample service takes: above the proxy's own limit, so that the proxy's is the one seen.
pub const HEADER_LIMIT: usize = 256 * 1024;

/// Something that answers requests.
pub trait Service: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn call(&self, req: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;

    /// Where connections are counted.
    fn stats(&self) -> &Stats;
}

/// Serves until `shutdown` resolves and the requests in flight have ended.
pub async fn serve(listener: TcpListener, service: impl Service, shutdown: impl Future<Output = ()>) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).max_headers(1024).max_buf_size(2 * HEADER_LIMIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(HEADER_LIMIT).unwrap_or(u32::MAX))
        .max_concurrent_streams(1024);
    let graceful = GracefulShutdown::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let Ok((stream, _peer)) = accepted else {
            // Out of descriptors, most likely: give connections a moment to end.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let handler = service.clone();
        let service = service.clone();
        let connection = builder
            .serve_connection_with_upgrades(
                TokioIo::new(stream),
                service_fn(move |req| {
                    let service = handler.clone();
                    async move { Ok::<_, Infallible>(service.call(req).await) }
                }),
            )
            .into_owned();
        let watched = graceful.watch(connection);
        task::detach(async move {
            let _open = service.stats().connection();
            // A broken connection is the client's matter; its requests are what tests look at.
            let _ = watched.await;
        });
    }
    drop(listener);
    graceful.shutdown().await;
}
