//! One try: a connection from the pool, the request on it, the head of the response or the reason there is none.
//!
//! A request is sent a second time only when it cannot have reached the application: the connection turned out to be
//! closed before the request was written, or the peer says it has not looked at it. A reused connection that closes
//! under a request without a body and with an idempotent method is the one further case (RFC 9110 §9.2.2): this is
//! the race between a server that gives up an idle connection and a client that picks it up.

use std::{
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::SendStream;
use http::{Method, Request, Response};
use http_body::Body as _;
use tokio::time::Instant;

use crate::{
    body::Body,
    error::ProxyError,
    upstream::{
        Upstream,
        cluster::InFlight,
        pool::{H1Lease, H2Lease, Lease},
    },
    worker::Worker,
};

/// How many connections may turn out to be closed before a request gives up.
const MAX_STALE: usize = 3;

/// A response head, and what must be held until its body is complete.
#[derive(Debug)]
pub struct Reply {
    /// The response, its body still on the connection.
    pub response: Response<Body>,
    /// What keeps the connection and its place.
    pub hold: Hold,
}

/// What an exchange holds while it lasts. Dropped, it breaks the exchange off; [`Hold::complete`] ends it well.
pub struct Hold {
    lease: Lease,
    /// The request body, where it is still being sent while the response already comes.
    sending: Option<Sending>,
    in_flight: InFlight,
}

type Sending = Pin<Box<dyn Future<Output = ()>>>;

/// A try that brought no response.
#[expect(
    clippy::large_enum_variant,
    reason = "lives for one match on a rare path; a box would cost every send"
)]
enum Failed {
    /// The request is untouched: another connection may be tried.
    Unsent(Request<Body>),
    /// It is spent.
    Spent(ProxyError),
}

impl Hold {
    /// The response is complete: the connection can serve others.
    pub fn complete(self) {
        match self.lease {
            Lease::H1(lease) => lease.finish(Instant::now()),
            Lease::H2(_) => {}
        }
    }

    /// The endpoint at the other end.
    pub fn endpoint(&self) -> SocketAddr {
        self.in_flight.live().address()
    }

    /// Goes on sending the request body.
    pub fn poll_request(&mut self, cx: &mut Context<'_>) {
        if let Some(sending) = &mut self.sending
            && sending.as_mut().poll(cx).is_ready()
        {
            self.sending = None;
        }
    }
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hold").field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// Sends the request to the endpoint that admitted it.
pub async fn send(
    worker: &Rc<Worker>,
    upstream: &Arc<Upstream>,
    in_flight: InFlight,
    mut request: Request<Body>,
    http2: bool,
    now: Instant,
) -> Result<Reply, ProxyError> {
    let endpoint = in_flight.live().address();
    for _ in 0..MAX_STALE {
        let lease = worker.pools.checkout(upstream, in_flight.live(), http2, now).await?;
        let tried = match lease {
            Lease::H1(lease) => http1(lease, request, endpoint).await,
            Lease::H2(lease) => self::http2(lease, request, endpoint).await,
        };
        match tried {
            Ok((response, lease, sending)) => {
                return Ok(Reply { response, hold: Hold { lease, sending, in_flight } });
            }
            Err(Failed::Unsent(again)) => request = again,
            Err(Failed::Spent(error)) => return Err(error),
        }
    }
    Err(ProxyError::UpstreamClosed { endpoint })
}

type Tried = Result<(Response<Body>, Lease, Option<Sending>), Failed>;

async fn http1(mut lease: H1Lease, request: Request<Body>, endpoint: SocketAddr) -> Tried {
    let spare = (lease.is_reused() && may_repeat(&request)).then(|| copy_of_head(&request));
    let Some(sender) = lease.sender() else {
        return Err(Failed::Unsent(request));
    };
    match sender.try_send_request(request).await {
        Ok(response) => Ok((response.map(Body::Incoming), Lease::H1(lease), None)),
        Err(mut error) => {
            if let Some(unsent) = error.take_message() {
                lease.close_idle();
                return Err(Failed::Unsent(unsent));
            }
            let error = error.into_error();
            match spare {
                Some(spare) if is_close(&error) => {
                    // Its siblings have most likely been closed with it.
                    lease.close_idle();
                    Err(Failed::Unsent(spare))
                }
                Some(_) | None => Err(Failed::Spent(explain_h1(&error, endpoint))),
            }
        }
    }
}

async fn http2(lease: H2Lease, request: Request<Body>, endpoint: SocketAddr) -> Tried {
    let Ok(mut sender) = lease.sender().ready().await else {
        lease.close();
        return Err(Failed::Unsent(request));
    };
    let (parts, body) = request.into_parts();
    let is_empty = body.is_end_stream();
    let spare = is_empty.then(|| parts.clone());
    let failed = |error: h2::Error, spare: Option<http::request::Parts>| match spare {
        Some(parts) if is_unprocessed(&error) => Failed::Unsent(Request::from_parts(parts, Body::Empty)),
        Some(_) | None => Failed::Spent(explain_h2(&error, endpoint)),
    };
    let (response, stream) = match sender.send_request(Request::from_parts(parts, ()), is_empty) {
        Ok(sent) => sent,
        Err(error) => {
            lease.close();
            return Err(failed(error, spare));
        }
    };
    let mut sending: Option<Sending> = if is_empty { None } else { Some(Box::pin(pump(body, stream))) };
    let mut response = std::pin::pin!(response);
    let response = std::future::poll_fn(|cx| {
        if let Some(pumping) = &mut sending
            && pumping.as_mut().poll(cx).is_ready()
        {
            sending = None;
        }
        response.as_mut().poll(cx)
    })
    .await;
    match response {
        Ok(response) => Ok((response.map(Body::Stream), Lease::H2(lease), sending)),
        Err(error) => {
            if error.is_go_away() || error.is_io() {
                lease.close();
            }
            Err(failed(error, spare))
        }
    }
}

/// Moves a request body onto a stream, as fast as the peer's window allows.
async fn pump(mut body: Body, mut stream: SendStream<Bytes>) {
    loop {
        let frame = std::future::poll_fn(|cx| {
            // A peer that has had enough resets the stream; the response says why.
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            Pin::new(&mut body).poll_frame(cx)
        });
        match frame.await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let last = body.is_end_stream();
                    if send_data(&mut stream, data, last).await.is_none() || last {
                        return;
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        // Fails only when the stream is gone, which the response reports.
                        let _ = stream.send_trailers(trailers);
                        return;
                    }
                }
            },
            Some(Err(_)) => {
                stream.send_reset(h2::Reason::CANCEL);
                return;
            }
            None => {
                let _ = stream.send_data(Bytes::new(), true);
                return;
            }
        }
    }
}

/// Sends one piece within the window; `None` when the stream is gone.
async fn send_data(stream: &mut SendStream<Bytes>, mut data: Bytes, last: bool) -> Option<()> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let granted = match stream.capacity() {
            0 => std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?,
            granted => granted,
        };
        let piece = data.split_to(granted.min(data.len()));
        let ends = last && data.is_empty();
        stream.send_data(piece, ends).ok()?;
        if ends {
            return Some(());
        }
    }
    if last { stream.send_data(Bytes::new(), true).ok() } else { Some(()) }
}

/// Whether sending twice does no harm and is possible.
fn may_repeat(request: &Request<Body>) -> bool {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    );
    idempotent && request.body().is_end_stream()
}

fn copy_of_head(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Body::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Whether the connection ended without a byte of a response.
fn is_close(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_canceled() || error.is_closed() || is_connection_loss(error)
}

fn is_connection_loss(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|io| {
        use std::io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof,
        };
        matches!(io.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
    })
}

fn explain_h1(error: &hyper::Error, endpoint: SocketAddr) -> ProxyError {
    if error.is_user() {
        // The only thing of ours hyper can fail on is the request body: its sender broke off.
        return ProxyError::ClientClosed;
    }
    if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
        return ProxyError::UpstreamProtocol { endpoint, reason: error.to_string().into() };
    }
    ProxyError::UpstreamClosed { endpoint }
}

/// Whether the peer says that it has not looked at the request (RFC 9113 §8.7).
fn is_unprocessed(error: &h2::Error) -> bool {
    (error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM))
        || (error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR))
}

fn explain_h2(error: &h2::Error, endpoint: SocketAddr) -> ProxyError {
    let reason = || error.reason().map_or_else(|| error.to_string(), |reason| reason.to_string()).into();
    if error.is_reset() && error.is_remote() {
        ProxyError::UpstreamReset { endpoint, reason: reason() }
    } else if error.is_reset() {
        // We reset a stream only when its request body breaks off.
        ProxyError::ClientClosed
    } else if error.is_io() || error.is_go_away() {
        ProxyError::UpstreamClosed { endpoint }
    } else {
        ProxyError::UpstreamProtocol { endpoint, reason: reason() }
    }
}
