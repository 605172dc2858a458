//! The end of an exchange: the one place where its metrics and its log line are written.
//!
//! A [`Finish`] travels with the exchange and then with the response body. However that ends (complete, broken off by
//! the upstream, abandoned by the client, out of time) dropping it settles the account.

use std::{
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use pillion_policy::identity::Identity;
use tokio::time::{Instant, Sleep};

use super::{attempt::Hold, downstream::Downstream, expect::Gate, headers};
use crate::{
    authz::Stay,
    body::{Body, BodyError},
    error::{Flag, ProxyError},
    kin::Story,
    rt::{clock, drain::Phase, pulse::Pulse},
    telemetry::{
        self, Record, RequestStats, RouteStats,
        record::{Decision, Direction, Verdict, Waits},
        trace::{SpanContext, propagation},
    },
    upstream::outcome::Outcome,
};

/// The account of an exchange.
#[derive(Debug)]
pub struct Finish {
    /// When the request head had been read.
    pub start: Instant,
    /// Status sent; 0 until there is one.
    pub status: u16,
    /// What is to be remarked.
    pub flag: Flag,
    /// Whether gRPC is spoken.
    pub grpc: bool,
    /// The gRPC status, from the head or the trailers.
    pub grpc_status: Option<u8>,
    /// Whether it travels over mutual TLS.
    pub secured: bool,
    /// Size of the request body, as far as it is known.
    pub request_bytes: u64,
    /// Bytes of response body passed on.
    pub response_bytes: u64,
    /// Where it is counted: the cluster, once one is chosen.
    pub stats: Option<Arc<RequestStats>>,
    /// Where else: the rule, once there is one.
    pub route: Option<Arc<RouteStats>>,
    /// How often the request was sent again.
    pub repeated: u32,
    /// What keeps it in the sight of policy, where it came in.
    pub stay: Option<Stay>,
    /// What ties it to the calls it belongs to.
    pub story: Story,
    /// Whether it moves.
    pub pulse: Rc<Pulse>,
    /// Whether the rest of the request may still be on its way when it is answered.
    pub ends_connection: bool,
    /// Before a request body that waits for the upstream to ask for it.
    pub gate: Option<Arc<Gate>>,
    /// Its story, filled as the exchange goes on; there until it is told.
    record: Option<Box<Record>>,
    downstream: Rc<Downstream>,
}

impl Finish {
    /// Opens the account of a request that has just been read, and gives it its place in its trace.
    pub fn new<B: http_body::Body>(
        request: &mut Request<B>,
        downstream: Rc<Downstream>,
        id: &HeaderValue,
        start: Instant,
    ) -> Self {
        downstream.enter();
        let worker = &downstream.worker;
        let pulse = worker.pulse();
        let most = worker.settings.max_body_bytes.unwrap_or(u64::MAX);
        pulse.begin(start, !request.body().is_end_stream(), most);
        let mut record = worker.record();
        begin(&mut record, request, id, &downstream);
        let tracer = &worker.sinks.tracer;
        // Before it is asked what story this belongs to: a trace that begins here ties the calls of the application to it.
        record.trace =
            worker.with_rng(|rng| tracer.enter(request.headers_mut(), rng, |text| worker.mint(text)));
        tracer.note(request.headers(), &mut record);
        Self {
            secured: downstream.secured.is_some(),
            downstream,
            start,
            status: 0,
            flag: Flag::None,
            grpc: headers::is_grpc(request.headers()),
            grpc_status: None,
            request_bytes: 0,
            response_bytes: 0,
            stats: None,
            route: None,
            repeated: 0,
            stay: None,
            story: Story::of(request.headers()),
            pulse,
            ends_connection: false,
            gate: None,
            record: Some(record),
        }
    }

    /// Adds to the story.
    pub fn note(&mut self, note: impl FnOnce(&mut Record)) {
        if let Some(record) = &mut self.record {
            note(record);
        }
    }

    /// Gives the try that begins a span, where the request has one. Outbound it becomes the parent of what the callee
    /// does; inbound the application goes on below the exchange.
    pub(super) fn enter_attempt(&mut self, headers: Option<&mut HeaderMap>) {
        let worker = &self.downstream.worker;
        let Some(record) = &mut self.record else { return };
        let Some(context) = record.trace.filter(SpanContext::is_own) else { return };
        let span_id = worker.with_rng(propagation::span_id);
        if let Some(attempt) = record.last_attempt() {
            attempt.span_id = span_id;
        }
        if let (Some(headers), Direction::Outbound) = (headers, self.downstream.direction) {
            propagation::hand_over(headers, &context, span_id, |text| worker.mint(text));
        }
    }

    /// Adds a decision to the story.
    pub fn decided(&mut self, what: Decision) {
        let at = self.start.elapsed();
        self.note(|record| record.event(at, what));
    }

    /// Notes the endpoint that a try had ejected, if it did.
    pub(super) fn ejected(&mut self, endpoint: Option<SocketAddr>) {
        if let Some(endpoint) = endpoint {
            self.decided(Decision::Ejected(endpoint));
        }
    }

    /// Notes how a try has ended: with a response head, or without.
    pub(super) fn tried(&mut self, result: Result<&Response<Body>, &ProxyError>, waits: Waits, now: Instant) {
        let (since, grpc) = (now.saturating_duration_since(self.start), self.grpc);
        let Some(attempt) = self.record.as_mut().and_then(|record| record.last_attempt()) else { return };
        attempt.took = since.saturating_sub(attempt.began);
        (attempt.verdict, attempt.waits) = (Verdict::Final, waits);
        match result {
            Ok(response) => {
                attempt.status = response.status().as_u16();
                attempt.grpc_status = headers::grpc_status(response.headers()).filter(|_| grpc);
            }
            Err(error) => attempt.error = Some(error.clone()),
        }
    }

    /// Notes what becomes of the last try, and how long it is waited before the next.
    pub(super) fn judged(&mut self, verdict: Verdict, backoff: Duration) {
        if let Some(attempt) = self.record.as_mut().and_then(|record| record.last_attempt()) {
            (attempt.verdict, attempt.backoff) = (verdict, backoff);
        }
    }

    /// Notes what of a response's fields somebody wants to tell of.
    pub(super) fn answered(&mut self, headers: &HeaderMap) {
        let worker = &self.downstream.worker;
        if let Some(record) = &mut self.record {
            worker.sinks.access_log.note_response(headers, record);
        }
    }

    /// Notes that it goes over mutual TLS, and to whom.
    pub fn secured(&mut self, destination: Option<&Identity>) {
        // What was proved of a client is told of what comes in; outbound, of what goes out.
        self.secured = true;
        let own = self.downstream.worker.wallet.load();
        self.note(|record| {
            record.source = own.map(|own| Arc::clone(own.identity()));
            record.destination = destination.cloned().map(Arc::new);
        });
    }

    /// Notes that a new policy has broken the exchange off.
    fn broken_off(&mut self) {
        let error = ProxyError::Denied { policy: None };
        self.flag = error.flag();
        if self.status == 0 {
            self.status = error.status().as_u16();
        }
        self.note(|record| record.cause = Some("broken off: a new policy denies access".into()));
    }

    /// Notes how the exchange failed, and what decision that was, if it was one.
    pub fn failed(&mut self, error: &ProxyError) {
        self.flag = error.flag();
        self.ends_connection = error.ends_connection();
        if let Some(decision) = decision(error) {
            self.decided(decision);
        }
        self.note(|record| record.error = Some(error.clone()));
    }

    /// How long nothing has moved, if that is too long.
    fn poll_silent(&self, cx: &mut Context<'_>) -> Poll<Duration> {
        match self.downstream.worker.settings.stream_idle_timeout {
            Some(limit) => self.pulse.poll_silent(cx, limit).map(|()| limit),
            None => Poll::Pending,
        }
    }

    /// Notes that nobody waits for the rest: the client has left, or the process ends with all that is under way.
    fn abandoned(&mut self) {
        if self.downstream.worker.drain.phase() == Phase::Forced {
            self.failed(&ProxyError::Draining);
        } else {
            self.flag = Flag::Dc;
        }
    }
}

/// Begins the story of a request.
fn begin<B>(record: &mut Record, request: &Request<B>, id: &HeaderValue, downstream: &Downstream) {
    let own = downstream.secured.as_ref().and_then(|_| downstream.worker.wallet.load());
    let own = own.map(|credentials| Arc::clone(credentials.identity()));
    record.start = clock::now();
    record.method = request.method().clone();
    record.uri = request.uri().clone();
    record.host = request.headers().get(http::header::HOST).cloned();
    record.version = request.version();
    record.request_id = Some(id.clone());
    record.direction = downstream.direction;
    record.downstream_peer = Some(downstream.peer);
    record.source = downstream.secured.as_ref().map(|secured| Arc::clone(&secured.peer));
    record.destination = own;
    record.policy_revision = downstream.worker.views.revision();
    downstream.worker.sinks.access_log.note_request(request.headers(), record);
}

/// The decision behind a refusal; `None` where something went wrong instead.
fn decision(error: &ProxyError) -> Option<Decision> {
    match error {
        ProxyError::RateLimited { .. } => Some(Decision::RateLimited),
        ProxyError::Injected(_) => Some(Decision::FaultAbort),
        ProxyError::Denied { policy } => Some(Decision::Denied(policy.clone())),
        ProxyError::BadToken(_) => Some(Decision::BadToken),
        ProxyError::BreakerOpen { breaker, .. } => Some(Decision::BreakerOpen(Arc::clone(breaker))),
        _ => None,
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        let now = Instant::now();
        let duration = now.saturating_duration_since(self.start);
        if self.stay.as_ref().is_some_and(Stay::is_broken_off) {
            self.broken_off();
        }
        if self.status == 0 && matches!(self.flag, Flag::None | Flag::Di) {
            self.abandoned();
        }
        let outcome = telemetry::Outcome {
            status: self.status,
            flag: self.flag,
            grpc: self.grpc,
            grpc_status: self.grpc_status,
            secured: self.secured,
            duration,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
        };
        if let Some(stats) = &self.stats {
            let trace = self.record.as_ref().and_then(|record| record.trace);
            stats.record(&outcome, trace.filter(|trace| trace.sampled).map(|trace| trace.trace_id));
        }
        if let Some(route) = &self.route {
            route.record(&outcome, self.repeated);
        }
        if let Some(mut record) = self.record.take() {
            record.repeated = self.repeated;
            record.finish(&outcome);
            let worker = &self.downstream.worker;
            worker.sinks.take(&mut record, &worker.pen);
            worker.recycle(record);
        }
        if let Some(gate) = &self.gate {
            gate.settle();
        }
        self.downstream.worker.rest(&self.pulse);
        self.downstream.leave(now);
    }
}

/// A response body that is watched to its end.
#[derive(Debug)]
pub struct Watched {
    body: Body,
    deadline: Option<Pin<Box<Sleep>>>,
    finish: Finish,
    hold: Option<Hold>,
}

impl Watched {
    /// Watches `body`. What `hold` keeps is let go when the body is complete; before that, dropping it breaks the
    /// exchange off.
    pub fn wrap(body: Body, finish: Finish, hold: Option<Hold>, deadline: Option<Instant>) -> Body {
        let deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at)));
        let mut watched = Self { body, deadline, finish, hold };
        if http_body::Body::is_end_stream(&watched.body) {
            watched.complete();
            return Body::Empty;
        }
        Body::boxed(watched)
    }

    fn complete(&mut self) {
        self.finish.stay = None;
        if let Some(hold) = self.hold.take() {
            let (status, grpc_status) = (self.finish.status, self.finish.grpc_status);
            self.finish.ejected(hold.complete(Outcome::Answered { status, grpc_status }));
        }
    }

    fn observe(&mut self, frame: &Frame<Bytes>) {
        self.finish.pulse.beat(Instant::now());
        if let Some(data) = frame.data_ref() {
            self.finish.response_bytes += data.len() as u64;
        } else if let Some(trailers) = frame.trailers_ref()
            && self.finish.grpc
        {
            self.finish.grpc_status = headers::grpc_status(trailers).or(self.finish.grpc_status);
        }
    }

    /// Whether a new policy is against what is not complete yet.
    fn is_denied<T>(&self, polled: &Poll<Option<T>>, cx: &mut Context<'_>) -> bool {
        self.finish.stay.as_ref().is_some_and(|stay| match polled {
            Poll::Pending => stay.poll_broken_off(cx).is_ready(),
            Poll::Ready(Some(_)) => stay.is_broken_off() && !http_body::Body::is_end_stream(&self.body),
            Poll::Ready(None) => false,
        })
    }

    fn break_off(&mut self, flag: Flag, outcome: Outcome) {
        self.finish.flag = flag;
        self.let_go(outcome);
    }

    fn let_go(&mut self, outcome: Outcome) {
        if let Some(hold) = self.hold.take() {
            self.finish.ejected(hold.fail(outcome));
        }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(hold) = &mut this.hold {
            hold.poll_request(cx);
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if this.is_denied(&polled, cx) {
            // What policy does says nothing about the endpoint.
            this.break_off(Flag::Authz, Outcome::Cancelled);
            return Poll::Ready(Some(Err(BodyError::Denied)));
        }
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                this.observe(frame);
                if this.body.is_end_stream() {
                    this.complete();
                }
            }
            Poll::Ready(None) => this.complete(),
            Poll::Ready(Some(Err(_))) if this.finish.pulse.is_too_long() => {
                this.finish.failed(&ProxyError::BodyTooLarge(this.finish.pulse.most()));
                this.let_go(Outcome::Cancelled);
            }
            Poll::Ready(Some(Err(error))) => {
                let cause = format!("the response broke off after its head: {error}");
                this.finish.note(|record| record.cause = Some(cause.into()));
                this.break_off(Flag::Ubo, Outcome::Broken);
            }
            Poll::Pending => {
                if let Some(deadline) = &mut this.deadline
                    && deadline.as_mut().poll(cx).is_ready()
                {
                    let cause = "the response was not complete in time: the rest of it was cut off";
                    this.finish.note(|record| record.cause = Some(cause.into()));
                    this.break_off(Flag::Ut, Outcome::TimedOut);
                    return Poll::Ready(Some(Err(BodyError::Timeout)));
                }
                if let Poll::Ready(after) = this.finish.poll_silent(cx) {
                    let of_client = !this.finish.pulse.is_complete();
                    this.finish.failed(&ProxyError::Idle { after, of_client });
                    this.let_go(if of_client { Outcome::Cancelled } else { Outcome::TimedOut });
                    return Poll::Ready(Some(Err(BodyError::Idle)));
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.hold.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Not complete and nothing else remarked.
        if self.hold.is_some() && matches!(self.finish.flag, Flag::None | Flag::Di) {
            self.finish.abandoned();
        }
    }
}
