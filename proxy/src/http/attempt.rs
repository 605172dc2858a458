//! One try: a connection from the pool, the request on it, the head of the response or the reason there is none.
//!
//! Within a try another connection to the same endpoint is taken only when that cannot do harm: the request is untouched,
//! or the peer was going away and says it has not looked at it. A reused connection that closes under a request without
//! a body and with an idempotent method is the one further case (RFC 9110 §9.2.2): this is the race between a server
//! that gives up an idle connection and a client that picks it up. All else is for [`super::tries`] to decide.

use std::{
    future::{poll_fn, ready},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::Either};
use h2::{
    SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{Method, Request, Response, Version};
use http_body::Body as _;
use hyper::client::conn::TrySendError;
use tokio::time::Instant;

use super::{
    expect::{self, Interim},
    head,
    replay::Outgoing,
    tries::Admission,
};
use crate::{
    body::Body,
    error::{HeadLimits, ProxyError, Refusal},
    telemetry::record::Waits,
    upstream::{
        Upstream,
        bulkhead::Place,
        endpoint::LiveEndpoint,
        outcome::Outcome,
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
#[derive(Debug)]
pub struct Hold {
    line: Line,
    admission: Admission,
}

/// The connection a response comes on.
pub struct Line {
    lease: Lease,
    /// The request body, where it is still being sent while the response already comes.
    sending: Option<Sending>,
}

type Sending = Pin<Box<dyn Future<Output = ()>>>;

/// A try that brought no response.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: ProxyError,
    /// How far it came.
    pub progress: Progress,
}

/// How far a request has come that was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing of it was written.
    Unsent,
    /// The peer says that it has not looked at it.
    Unprocessed,
    /// It may have been carried out.
    Sent,
}

/// Why a connection brought no response.
enum Broken {
    /// The request is untouched: another connection may be tried.
    Untouched(Request<Body>),
    /// The peer was closing the connection: what cannot do harm may be sent on another.
    Stale(ProxyError, Progress),
    /// There is no point in another connection.
    Failed(ProxyError, Progress),
}

impl Hold {
    /// What keeps `line` and is accounted for by `admission`.
    pub fn new(line: Line, admission: Admission) -> Self {
        Self { line, admission }
    }

    /// The response is complete: the connection can serve others. Returns the endpoint if that had it ejected.
    pub fn complete(self, outcome: Outcome) -> Option<SocketAddr> {
        let now = Instant::now();
        let ejected = self.admission.report(outcome, now);
        match self.line.lease {
            Lease::H1(lease) => lease.finish(now),
            Lease::H2(_) => {}
        }
        ejected
    }

    /// The response will not be complete, and not because of the client: the connection is given up. Returns the endpoint
    /// if that had it ejected.
    pub fn fail(self, outcome: Outcome) -> Option<SocketAddr> {
        self.admission.report(outcome, Instant::now())
    }

    /// The endpoint at the other end.
    pub fn endpoint(&self) -> SocketAddr {
        self.admission.live().address()
    }

    /// Unique for the life of the process.
    pub fn endpoint_id(&self) -> u64 {
        self.admission.live().id()
    }

    /// The request's place in the bulkhead, to be kept for another try.
    pub fn take_place(&mut self) -> Option<Place> {
        self.admission.take_place()
    }

    /// Goes on sending the request body.
    pub fn poll_request(&mut self, cx: &mut Context<'_>) {
        if let Some(sending) = &mut self.line.sending
            && sending.as_mut().poll(cx).is_ready()
        {
            self.line.sending = None;
        }
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// Sends the request to an endpoint. How long it waits for connections is added to `waits`.
pub async fn send(
    worker: &Rc<Worker>,
    (upstream, live): (&Arc<Upstream>, &Arc<LiveEndpoint>),
    outgoing: &mut Outgoing,
    http2: bool,
    waits: &mut Waits,
    now: Instant,
) -> Result<(Response<Body>, Line), Failed> {
    let endpoint = live.address();
    let is_carried = worker.pools.is_to_sidecar(live) && !outgoing.changes_protocol();
    let http2 = http2 || is_carried;
    let limits = worker.settings.head_limits();
    let mut last = (ProxyError::UpstreamClosed { endpoint }, Progress::Unsent);
    for _ in 0..MAX_STALE {
        let lease = match worker.pools.checkout(upstream, live, http2, waits, now).await {
            Ok(lease) => lease,
            Err(error) => return Err(Failed { error, progress: Progress::Unsent }),
        };
        let Some(request) = outgoing.take() else { break };
        let (request, may_repeat) = match suit(request, http2, is_carried, outgoing.interim()) {
            Ok(suited) => suited,
            Err(error) => return Err(Failed { error, progress: Progress::Unsent }),
        };
        let tried = match lease {
            Lease::H1(lease) => {
                let request = expect::hooked(request, outgoing.interim());
                http1(lease, request, may_repeat, endpoint, limits).await
            }
            Lease::H2(lease) => self::http2(lease, request, outgoing.interim(), endpoint).await,
        };
        match tried {
            Ok(answer) => return Ok(answer),
            Err(Broken::Untouched(request)) => outgoing.put_back(request),
            Err(Broken::Stale(error, progress)) => {
                last = (error, progress);
                if progress == Progress::Sent && !may_repeat {
                    break;
                }
            }
            Err(Broken::Failed(error, progress)) => return Err(Failed { error, progress }),
        }
    }
    let (error, progress) = last;
    Err(Failed { error, progress })
}

/// Gives a request the version that this endpoint takes, which may differ from that of the one tried before; says whether
/// it may be sent twice.
fn suit(
    mut request: Request<Body>,
    http2: bool,
    is_carried: bool,
    interim: Option<&Interim>,
) -> Result<(Request<Body>, bool), ProxyError> {
    match (request.version(), http2) {
        (Version::HTTP_2, false) => head::restore(&mut request)?,
        (Version::HTTP_2, true) => {}
        (_, _) if is_carried => {
            if let Some(interim) = interim {
                interim.release();
            }
            head::carry(&mut request)?;
        }
        (_, _) => {}
    }
    let may_repeat = may_repeat(&request);
    Ok((request, may_repeat))
}

type Tried = Result<(Response<Body>, Line), Broken>;

/// Sends a request on a connection of its own. What waits holds the lease and the way of the answer, not the request.
#[expect(clippy::result_large_err, reason = "an untouched request comes back as it is")]
fn http1(
    mut lease: H1Lease,
    request: Request<Body>,
    may_repeat: bool,
    endpoint: SocketAddr,
    limits: HeadLimits,
) -> impl Future<Output = Tried> {
    if !may_repeat {
        // It could not be repeated: it must not be written to a connection that has ended.
        lease.look_once_more();
    }
    let Some(sender) = lease.sender() else {
        return Either::Left(ready(Err(Broken::Untouched(request))));
    };
    let answer = sender.try_send_request(request);
    Either::Right(answer.map(move |answer| match answer {
        Ok(response) => Ok((response.map(Body::Incoming), Line { lease: Lease::H1(lease), sending: None })),
        Err(error) => Err(broken_h1(&lease, error, endpoint, limits)),
    }))
}

fn broken_h1(
    lease: &H1Lease,
    mut error: TrySendError<Request<Body>>,
    endpoint: SocketAddr,
    limits: HeadLimits,
) -> Broken {
    if let Some(unsent) = error.take_message() {
        lease.close_idle();
        return Broken::Untouched(unsent);
    }
    let error = error.into_error();
    let explained = explain_h1(&error, endpoint, limits);
    if matches!(explained, ProxyError::Handshake { .. }) {
        return Broken::Failed(explained, Progress::Unprocessed);
    }
    if lease.is_reused() && is_close(&error) {
        // Its siblings have most likely been closed with it.
        lease.close_idle();
        return Broken::Stale(explained, Progress::Sent);
    }
    Broken::Failed(explained, Progress::Sent)
}

/// Sends a request on a stream.
#[expect(clippy::manual_async_fn, reason = "an async fn would hold twice what it is given")]
fn http2(
    lease: H2Lease,
    request: Request<Body>,
    interim: Option<&Interim>,
    endpoint: SocketAddr,
) -> impl Future<Output = Tried> {
    async move {
        let begun = match lease.sender().ready().await {
            Ok(sender) => Stream::begin(sender, request),
            Err(_ended) => {
                lease.close();
                return Err(Broken::Untouched(request));
            }
        };
        let mut stream = match begun {
            Ok(stream) => stream,
            Err(error) => {
                lease.close();
                return Err(broken_h2(&error, endpoint));
            }
        };
        match poll_fn(|cx| stream.poll_answer(interim, cx)).await {
            Ok(response) => {
                let line = Line { lease: Lease::H2(lease), sending: stream.sending };
                Ok((response.map(Body::Stream), line))
            }
            Err(error) => {
                if error.is_go_away() || error.is_io() {
                    lease.close();
                }
                Err(broken_h2(&error, endpoint))
            }
        }
    }
}

/// A request on its stream.
struct Stream {
    answer: ResponseFuture,
    sending: Option<Sending>,
}

impl Stream {
    fn begin(mut sender: SendRequest<Bytes>, request: Request<Body>) -> Result<Self, h2::Error> {
        let (parts, body) = request.into_parts();
        let is_empty = body.is_end_stream();
        let (answer, stream) = sender.send_request(Request::from_parts(parts, ()), is_empty)?;
        let sending: Option<Sending> = if is_empty { None } else { Some(Box::pin(pump(body, stream))) };
        Ok(Self { answer, sending })
    }

    /// Waits for the head of the answer, while the body is sent and interim responses are passed on.
    fn poll_answer(
        &mut self,
        interim: Option<&Interim>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<h2::RecvStream>, h2::Error>> {
        while let Poll::Ready(Some(Ok(said))) = self.answer.poll_informational(cx) {
            if let Some(interim) = interim {
                interim.tell(said.status(), said.headers());
            }
        }
        if let Some(pumping) = &mut self.sending
            && pumping.as_mut().poll(cx).is_ready()
        {
            self.sending = None;
        }
        Pin::new(&mut self.answer).poll(cx)
    }
}

/// Moves a request body onto a stream, as fast as the peer's window allows.
async fn pump(mut body: Body, mut stream: SendStream<Bytes>) {
    loop {
        let frame = poll_fn(|cx| {
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
            0 => poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?,
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

/// Whether the connection ended without a byte of a response.
fn is_close(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_canceled() || error.is_closed() || is_connection_loss(error)
}

fn io_error(error: &hyper::Error) -> Option<&std::io::Error> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref())
}

/// Whether the server has told us in TLS that it does not believe us. It does so before it looks at a request.
fn is_refusal(error: &hyper::Error) -> bool {
    let cause = io_error(error).and_then(|error| error.get_ref());
    let cause = cause.and_then(|cause| cause.downcast_ref::<rustls::Error>());
    cause.is_some_and(|error| matches!(error, rustls::Error::AlertReceived(_)))
}

fn is_connection_loss(error: &hyper::Error) -> bool {
    io_error(error).is_some_and(|io| {
        use std::io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof,
        };
        matches!(io.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
    })
}

fn explain_h1(error: &hyper::Error, endpoint: SocketAddr, limits: HeadLimits) -> ProxyError {
    if error.is_user() {
        // The only thing of ours hyper can fail on is the request body: its sender broke off.
        return ProxyError::ClientClosed;
    }
    if is_refusal(error) {
        return ProxyError::Handshake { endpoint, refusal: Refusal::ByPeer };
    }
    if error.is_parse_too_large() {
        return ProxyError::ResponseTooLarge { endpoint, limits };
    }
    if error.is_parse() || error.is_parse_status() {
        return ProxyError::UpstreamProtocol { endpoint, reason: error.to_string().into() };
    }
    ProxyError::UpstreamClosed { endpoint }
}

/// A peer that goes away says which streams it has not looked at, and one that refuses a stream has not looked at that
/// (RFC 9113 §8.7). Only the first is a matter of the connection.
fn broken_h2(error: &h2::Error, endpoint: SocketAddr) -> Broken {
    let explained = explain_h2(error, endpoint);
    if error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR) {
        return Broken::Stale(explained, Progress::Unprocessed);
    }
    let refused = error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    Broken::Failed(explained, if refused { Progress::Unprocessed } else { Progress::Sent })
}

fn explain_h2(error: &h2::Error, endpoint: SocketAddr) -> ProxyError {
    let reason = || error.reason().map_or_else(|| error.to_string(), |reason| reason.to_string()).into();
    if error.is_reset() && error.is_remote() {
        ProxyError::UpstreamReset { endpoint, reason: reason() }
    } else if error.is_reset() && !error.is_library() {
        // We reset a stream only when its request body breaks off; the library does when the response breaks the rules.
        ProxyError::ClientClosed
    } else if error.is_io() || error.is_go_away() {
        ProxyError::UpstreamClosed { endpoint }
    } else {
        ProxyError::UpstreamProtocol { endpoint, reason: reason() }
    }
}
