//! Copies of requests sent elsewhere, whose answers are dropped.
//!
//! A mirror never holds the original back: a copy that cannot keep up with the body is broken off, and a mirror that
//! is over its limits gets no copy.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Request};
use http_body::{Frame, SizeHint};
use tokio::{sync::mpsc, time::Instant};

use super::{
    attempt::{self, Hold},
    classify,
    downstream::Downstream,
    hash, head, headers,
    replay::Outgoing,
    route::Found,
    tries::Admission,
};
use crate::{
    body::{Body, BodyError},
    rt::task,
    telemetry::record::Waits,
    upstream::{Upstream, lb::Tried, outcome::Outcome},
    worker::Worker,
};

/// Body frames a copy may lag behind.
const LAG: usize = 64;

/// Most copies under way on one worker: a mirror that hangs costs no more.
const MAX_COPIES: u32 = 256;

/// How long a mirror may take for its answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// A body that is read on behalf of copies, too.
struct Tee {
    body: Body,
    copies: Vec<Copier>,
}

/// The near end of a copy.
struct Copier {
    frames: mpsc::Sender<Frame<Bytes>>,
    is_whole: Rc<Cell<bool>>,
}

/// A copy's place among those under way.
struct Place(Rc<Worker>);

impl Place {
    fn take(worker: &Rc<Worker>) -> Option<Self> {
        let copies = worker.mirroring.get();
        (copies < MAX_COPIES).then(|| {
            worker.mirroring.set(copies + 1);
            Self(Rc::clone(worker))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.mirroring.set(self.0.mirroring.get() - 1);
    }
}

/// The body of a copy: what the original has passed on.
struct Copied {
    frames: mpsc::Receiver<Frame<Bytes>>,
    /// Whether the end of the frames is the end of the body, or the copy was cut off.
    is_whole: Rc<Cell<bool>>,
    size: SizeHint,
}

/// Sends the copies a rule asks for.
pub fn copy(
    downstream: &Rc<Downstream>,
    found: &Found<'_>,
    request: &mut Request<Body>,
    authority: &HeaderValue,
) {
    let worker = &downstream.worker;
    let mut copies = Vec::new();
    for (mirror, upstream) in found.route.mirrors.iter().zip(&found.live.mirrors) {
        let Some(upstream) = upstream else { continue };
        if !mirror.fraction.admits(worker.with_rng(|rng| rng.u32(..1_000_000))) {
            continue;
        }
        let Some(place) = Place::take(worker) else { continue };
        let mut copied = Request::new(Body::Empty);
        *copied.method_mut() = request.method().clone();
        *copied.uri_mut() = request.uri().clone();
        *copied.headers_mut() = request.headers().clone();
        if !http_body::Body::is_end_stream(request.body()) {
            let (sender, frames) = mpsc::channel(LAG);
            let is_whole = Rc::new(Cell::new(false));
            copies.push(Copier { frames: sender, is_whole: Rc::clone(&is_whole) });
            let size = http_body::Body::size_hint(request.body());
            *copied.body_mut() = Body::boxed(Copied { frames, is_whole, size });
        }
        let send =
            send(Rc::clone(worker), Arc::clone(upstream), copied, authority.clone(), downstream.peer.ip());
        task::spawn_local_connection("mirror", send.map(move |()| drop(place)));
    }
    if !copies.is_empty() {
        let body = std::mem::replace(request.body_mut(), Body::Empty);
        *request.body_mut() = Body::boxed(Tee { body, copies });
    }
}

async fn send(
    worker: Rc<Worker>,
    upstream: Arc<Upstream>,
    mut request: Request<Body>,
    authority: HeaderValue,
    peer: std::net::IpAddr,
) {
    let now = Instant::now();
    request.headers_mut().remove(http::header::EXPECT);
    headers::strip_hop_by_hop(request.headers_mut(), false);
    let grpc = headers::is_grpc(request.headers());
    let http2 = upstream.wants_http2(grpc, grpc);
    if head::set_version(&mut request, http2, &authority).is_err() {
        return;
    }
    let policy = &upstream.cluster().balancing.policy;
    let affinity = worker.with_rng(|rng| hash::affinity(policy, &request, peer, rng));
    let Ok(in_flight) = worker.with_rng(|rng| upstream.admit(affinity.hash, Tried::default(), now, rng))
    else {
        return;
    };
    let exchange = async {
        let admission = Admission::plain(in_flight);
        let live = Arc::clone(admission.live());
        let mut outgoing = Outgoing::once(request);
        let (response, line) = match attempt::send(
            &worker,
            (&upstream, &live),
            &mut outgoing,
            http2,
            &mut Waits::default(),
            now,
        )
        .await
        {
            Ok(answer) => answer,
            Err(failed) => {
                admission.report(classify::outcome(&failed.error), Instant::now());
                return None;
            }
        };
        let status = response.status().as_u16();
        let (mut body, mut hold) = (response.into_body(), Hold::new(line, admission));
        while let Some(frame) = std::future::poll_fn(|cx| {
            hold.poll_request(cx);
            http_body::Body::poll_frame(Pin::new(&mut body), cx)
        })
        .await
        {
            frame.ok()?;
        }
        hold.complete(Outcome::Answered { status, grpc_status: None });
        Some(())
    };
    if !matches!(tokio::time::timeout(PATIENCE, exchange).await, Ok(Some(()))) {
        tracing::debug!(cluster = %upstream.name(), "a mirrored request was not answered");
    }
}

impl http_body::Body for Tee {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.copies.retain(|copy| copy.frames.try_send(duplicate(frame)).is_ok());
        }
        if matches!(polled, Poll::Ready(None)) || (polled.is_ready() && self.body.is_end_stream()) {
            for copy in self.copies.drain(..) {
                copy.is_whole.set(true);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Data is shared by reference; trailers are few.
fn duplicate(frame: &Frame<Bytes>) -> Frame<Bytes> {
    match (frame.data_ref(), frame.trailers_ref()) {
        (Some(data), _) => Frame::data(data.clone()),
        (None, Some(trailers)) => Frame::trailers(trailers.clone()),
        (None, None) => Frame::data(Bytes::new()),
    }
}

impl http_body::Body for Copied {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match ready!(self.frames.poll_recv(cx)) {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None if self.is_whole.get() => Poll::Ready(None),
            None => Poll::Ready(Some(Err(BodyError::Unwanted))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}
