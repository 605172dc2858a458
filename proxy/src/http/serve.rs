//! A downstream connection: hyper speaks HTTP, the face answers, drain ends it gracefully.
//!
//! A head that hyper cannot read never becomes a request: hyper answers it and ends the connection. `net::wire` puts the
//! cause into that answer; here it is counted and logged. HTTP/2 has no such end, so there hyper is given twice the limit
//! on header lists, and what is between is refused as any other request.

use std::{convert::Infallible, pin::pin, rc::Rc, time::Duration};

use futures_util::FutureExt;
use http::{Method, Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use tokio::time::sleep;

use super::downstream::Downstream;
use crate::{
    body::Body,
    error::ProxyError,
    net::{rewind::Io, wire::ServerIo},
    rt::{clock, task::LocalExec},
    telemetry::{self, Record},
};

/// Bytes a client may send ahead on one stream.
const STREAM_WINDOW: u32 = 256 << 10;

/// Streams a client may have open at the same time on one connection (RFC 9113 §6.5.2 recommends at least 100).
const MAX_STREAMS: u32 = 256;

/// Bytes a client may send ahead on a connection: as much as all its streams together, so that a destination that does
/// not read stops the requests meant for it and no others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS;

/// How long a connection that is broken off may take to say so to its client.
const PARTING: Duration = Duration::from_secs(1);

/// Serves a connection in the version it was found to speak. What is no HTTP at all gets an HTTP/1 refusal.
///
/// A connection that a new policy is against ends gracefully, for what the client may just be sending is to be refused
/// with the reason, not to vanish. Nothing on it is let in any more, and it does not last beyond [`PARTING`].
pub async fn connection<F, R>(io: Io, http2: bool, downstream: &Rc<Downstream>, handle: F)
where
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<Body>> + 'static,
{
    let serving = async {
        if http2 {
            self::http2(io, downstream, handle).await;
        } else {
            http1(io, downstream, handle).await;
        }
    };
    let overdue = async {
        downstream.broken_off().await;
        tracing::info!(peer = %downstream.peer, "connection broken off: a new policy denies access");
        sleep(PARTING).await;
    };
    tokio::select! {
        biased;
        () = serving => {}
        () = overdue => {}
    }
}

/// Serves HTTP/1 until the client leaves, is silent for too long, or the drain is over. While draining every response says `close`; idle
/// connections are left to the client, because closing one races with the request it may just be sending.
async fn http1<F, R>(io: Io, downstream: &Rc<Downstream>, handle: F)
where
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<Body>>,
{
    let worker = &downstream.worker;
    let service = service_fn(|request| handle(request).map(Ok::<_, Infallible>));
    let line = downstream.line.clone().unwrap_or_default();
    let connection = http1::Builder::new()
        .max_headers(worker.settings.max_headers)
        .max_header_size(worker.settings.max_header_bytes)
        .serve_connection(ServerIo::new(io, line, worker.settings.head_limits()), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return end(downstream, ended),
        () = worker.drain.closed() => connection.as_mut().graceful_shutdown(),
        () = downstream.broken_off() => connection.as_mut().graceful_shutdown(),
        () = downstream.idle() => {
            if !downstream.has_served() {
                silent(downstream);
                // The connection is asked once more, so that it writes what there is to be said.
                let _ended = connection.as_mut().now_or_never();
            }
            return;
        }
    }
    tokio::select! {
        biased;
        ended = connection => end(downstream, ended),
        () = worker.drain.forced() => {}
    }
}

/// Serves HTTP/2 until the client leaves, is silent for too long, or the drain is over. GOAWAY goes out as soon as
/// the drain begins: it loses no request.
async fn http2<F, R>(io: Io, downstream: &Rc<Downstream>, handle: F)
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
        .max_header_list_size(
            u32::try_from(worker.settings.max_header_bytes).map_or(u32::MAX, |bytes| bytes.saturating_mul(2)),
        )
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return log_end(ended),
        () = worker.drain.draining() => connection.as_mut().graceful_shutdown(),
        () = downstream.broken_off() => connection.as_mut().graceful_shutdown(),
        () = downstream.idle() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        biased;
        ended = connection => log_end(ended),
        () = worker.drain.forced() => {}
    }
}

/// Answers a client that has begun to say what it wants and does not end. One that has said nothing may have connected
/// ahead of need, and would take an answer for that to its next request.
fn silent(downstream: &Downstream) {
    let Some(line) = downstream.line.as_ref().filter(|line| line.has_heard()) else { return };
    let error = ProxyError::Silent(downstream.worker.settings.first_request_timeout);
    line.refuse(&error);
    account(downstream, error.status().as_u16(), &error);
}

/// Accounts for a request whose head could not be read: the last thing that happens on a connection.
fn end(downstream: &Downstream, ended: hyper::Result<()>) {
    if let Err(error) = &ended
        && error.is_parse()
    {
        let told = downstream.line.as_ref().and_then(|line| line.refused());
        let status = told.unwrap_or(if error.is_parse_too_large() { 431 } else { 400 });
        account(
            downstream,
            status,
            &ProxyError::unreadable_head(status, downstream.worker.settings.head_limits()),
        );
    }
    log_end(ended);
}

/// Counts and logs what never became a request.
fn account(downstream: &Downstream, status: u16, cause: &ProxyError) {
    let worker = &downstream.worker;
    let outcome = telemetry::Outcome {
        status,
        flag: cause.flag(),
        grpc: false,
        grpc_status: None,
        secured: downstream.secured.is_some(),
        duration: Duration::ZERO,
        request_bytes: 0,
        response_bytes: 0,
    };
    worker.unmatched(downstream.direction).record(&outcome, None);
    let mut record = Record {
        start: clock::now(),
        // No method was read: what logs write for nothing is one by its characters.
        method: Method::from_bytes(b"-").unwrap_or_default(),
        direction: downstream.direction,
        downstream_peer: Some(downstream.peer),
        cause: Some(cause.to_string().into()),
        dice: worker.roll(),
        ..Record::default()
    };
    record.finish(&outcome);
    worker.sinks.take(&mut record, &worker.pen);
}

/// Clients leave in many ways; none of them is news.
fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "downstream connection ended");
    }
}
