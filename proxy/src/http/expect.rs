//! Interim responses, and `Expect: 100-continue`: the client's body is read only once the upstream wants it.
//!
//! hyper tells the client to continue when its body is first read, so holding back that read passes the upstream's
//! decision on. An upstream that ignores the expectation gets the body after a second, as RFC 9110 §10.1.1 asks of
//! clients.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{HeaderMap, Request, StatusCode, header::EXPECT};
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

use crate::{
    body::{Body, BodyError},
    net::wire::Line,
};

/// How long the upstream may think about it (curl's default).
const PATIENCE: Duration = Duration::from_secs(1);

const HELD: u8 = 0;
const OPEN: u8 = 1;
const ANSWERED: u8 = 2;
const SETTLED: u8 = 3;

/// Holds a request body back.
#[derive(Debug, Default)]
pub struct Gate {
    state: AtomicU8,
    reader: AtomicWaker,
}

/// A body behind a gate.
struct Gated {
    body: Body,
    gate: Arc<Gate>,
    patience: Pin<Box<Sleep>>,
}

/// Where interim responses of an upstream go: 100 opens the gate before a body that is held back, others are sent as they
/// are to an HTTP/1 client at the end of a line.
#[derive(Debug, Clone)]
pub struct Interim {
    gate: Option<Arc<Gate>>,
    line: Option<Arc<Line>>,
}

/// Prepares a request for interim responses. Over HTTP/2 no body is held back: it can be broken off at any time, and
/// neighbours of ours that speak HTTP/2 cannot say 100.
pub fn await_interim(
    request: &mut Request<Body>,
    line: Option<Arc<Line>>,
    http2: bool,
) -> (Option<Arc<Gate>>, Option<Interim>) {
    let gate = if http2 { None } else { Gate::install(request) };
    let interim = (gate.is_some() || line.is_some()).then(|| Interim { gate: gate.clone(), line });
    (gate, interim)
}

/// Has hyper tell of the interim responses to a request that leaves as HTTP/1.
pub fn hooked(mut request: Request<Body>, interim: Option<&Interim>) -> Request<Body> {
    if let Some(interim) = interim.cloned() {
        hyper::ext::on_informational(&mut request, move |said| interim.tell(said.status(), said.headers()));
    }
    request
}

impl Interim {
    /// Lets a body go that is held back: who is to say 100 is further on than where this request is sent as HTTP/2.
    pub fn release(&self) {
        if let Some(gate) = &self.gate {
            gate.advance(HELD, OPEN);
        }
    }

    /// Passes an interim response on.
    pub fn tell(&self, status: StatusCode, headers: &HeaderMap) {
        match (status, &self.gate, &self.line) {
            (StatusCode::CONTINUE, Some(gate), _) => gate.advance(HELD, OPEN),
            (StatusCode::CONTINUE, None, _) | (_, _, None) => {}
            (status, _, Some(line)) => line.say(status, headers),
        }
    }
}

impl Gate {
    /// Puts a gate before the body of a request that expects to be told to continue.
    fn install(request: &mut Request<Body>) -> Option<Arc<Self>> {
        let expects = request.headers().get(EXPECT)?.as_bytes().eq_ignore_ascii_case(b"100-continue");
        if !expects || http_body::Body::is_end_stream(request.body()) {
            return None;
        }
        let gate = Arc::new(Self::default());
        let body = std::mem::replace(request.body_mut(), Body::Empty);
        let patience = Box::pin(tokio::time::sleep(PATIENCE));
        *request.body_mut() = Body::boxed(Gated { body, gate: Arc::clone(&gate), patience });
        Some(gate)
    }

    /// The upstream has answered: a body that is still held back is not wanted. It is held on while the response is
    /// read, because hyper gives up both when one breaks off.
    pub fn answer(&self) {
        self.advance(HELD, ANSWERED);
    }

    /// The response is complete: a body that is still held back breaks off.
    pub fn settle(&self) {
        self.advance(ANSWERED, SETTLED);
    }

    fn advance(&self, from: u8, to: u8) {
        // Once open it stays open.
        let _ = self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        self.reader.wake();
    }
}

impl http_body::Body for Gated {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.gate.reader.register(cx.waker());
        match self.gate.state.load(Ordering::Acquire) {
            OPEN => {}
            ANSWERED => return Poll::Pending,
            SETTLED => return Poll::Ready(Some(Err(BodyError::Unwanted))),
            _ => {
                ready!(self.patience.as_mut().poll(cx));
                self.gate.advance(HELD, OPEN);
            }
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
