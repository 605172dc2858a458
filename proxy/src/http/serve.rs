//! A downstream connection: hyper speaks HTTP, the face answers, drain ends it gracefully.

use std::{convert::Infallible, pin::pin, rc::Rc};

use futures_util::FutureExt;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};

use super::downstream::Downstream;
use crate::{
    body::Body,
    net::{rewind::Io, wire::ServerIo},
    rt::task::LocalExec,
};

/// Bytes a client may send ahead on one stream.
const STREAM_WINDOW: u32 = 256 << 10;

/// Streams a client may have open at the same time on one connection (RFC 9113 §6.5.2 recommends at least 100).
const MAX_STREAMS: u32 = 256;

/// Bytes a client may send ahead on a connection: as much as all its streams together, so that a destination that does
/// not read stops the requests meant for it and no others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS;

/// Serves HTTP/1 until the client leaves, is silent for too long, or the drain is over. While draining every response says `close`; idle
/// connections are left to the client, because closing one races with the request it may just be sending.
pub async fn http1<F, R>(io: Io, downstream: &Rc<Downstream>, handle: F)
where
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<Body>>,
{
    let worker = &downstream.worker;
    let service = service_fn(|request| handle(request).map(Ok::<_, Infallible>));
    let connection = http1::Builder::new()
        .max_headers(worker.settings.max_headers)
        .max_header_size(worker.settings.max_header_bytes)
        .serve_connection(ServerIo::new(io, downstream.line.clone().unwrap_or_default()), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return log_end(ended),
        () = worker.drain.closed() => connection.as_mut().graceful_shutdown(),
        () = downstream.idle() => return,
    }
    tokio::select! {
        biased;
        ended = connection => log_end(ended),
        () = worker.drain.forced() => {}
    }
}

/// Serves HTTP/2 until the client leaves, is silent for too long, or the drain is over. GOAWAY goes out as soon as
/// the drain begins: it loses no request.
pub async fn http2<F, R>(io: Io, downstream: &Rc<Downstream>, handle: F)
where
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<Body>> + 'static,
{
    let worker = &downstream.worker;
    let service = service_fn(|request| handle(request).map(Ok::<_, Infallible>));
    let connection = http2::Builder::new(LocalExec)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(worker.settings.max_header_bytes).unwrap_or(u32::MAX))
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return log_end(ended),
        () = worker.drain.draining() => connection.as_mut().graceful_shutdown(),
        () = downstream.idle() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        biased;
        ended = connection => log_end(ended),
        () = worker.drain.forced() => {}
    }
}

/// Clients leave in many ways; none of them is news.
fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "downstream connection ended");
    }
}
