//! The tries of one request: pick, send, judge, and send again or not.
//!
//! Everything that is counted for a try hangs on its [`Admission`], and every try is reported once: here when it brought
//! no response or one that is not used, else by [`super::finish`] when the response is complete or breaks off.

use std::{
    collections::VecDeque,
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use pillion_policy::retry::{Retry, RetryOn, RetrySet};
use tokio::time::Instant;

use super::{
    attempt::{self, Failed, Hold, Line, Progress, Reply},
    classify,
    deadline::{self, Deadline},
    finish::Finish,
    headers,
    replay::Outgoing,
    retry::{self, Facts, Stop, Verdict},
};
use crate::{
    body::{Body, BodyError},
    error::{Flag, ProxyError},
    kin::Fact,
    rt::{clock, pulse::Pulse},
    telemetry::record::{self, Waits},
    upstream::{
        Upstream,
        breaker::{Breaker, Permit},
        budget::Retrying,
        bulkhead::Place,
        cluster::InFlight,
        endpoint::LiveEndpoint,
        lb::Tried,
        outcome::Outcome,
    },
    worker::Worker,
};

/// Which try of a request this is, from the second on.
const ATTEMPT: HeaderName = HeaderName::from_static("x-pillion-attempt");
/// The same, by Envoy's name.
const ENVOY_ATTEMPT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// Whether a caller says that it sends this again.
pub fn is_marked(headers: &HeaderMap) -> bool {
    headers.contains_key(ATTEMPT) || headers.get(ENVOY_ATTEMPT).is_some_and(|count| count != "1")
}

/// Takes off what a caller has said about its tries.
pub fn unmark(headers: &mut HeaderMap) {
    headers.remove(ATTEMPT);
    headers.remove(ENVOY_ATTEMPT);
}

/// A wait that is worth telling: what comes and goes at once did not wait.
const NOTABLE: Duration = Duration::from_millis(1);

/// Frames of an unused response that are read so that its connection can be kept.
const DISCARDED_FRAMES: usize = 16;

const GRPC_CONDITIONS: RetrySet = RetrySet::of(&[
    RetryOn::Cancelled,
    RetryOn::DeadlineExceeded,
    RetryOn::ResourceExhausted,
    RetryOn::Internal,
    RetryOn::Unavailable,
]);

/// How a request is tried.
#[derive(Debug, Clone, Copy)]
pub struct Tries<'a> {
    /// Where it goes.
    pub upstream: &'a Arc<Upstream>,
    /// The breaker of its rule.
    pub breaker: Option<&'a Arc<Breaker>>,
    /// When it is sent again.
    pub policy: &'a Retry,
    /// Whether it leaves as HTTP/2.
    pub http2: bool,
    /// Which endpoint it would like.
    pub hash: Option<u64>,
    /// Whether it may be carried out twice.
    pub idempotent: bool,
    /// When all must be over.
    pub deadline: Option<Deadline>,
}

/// What a try is counted by. Dropped without a report, it was broken off and says nothing about anybody.
#[derive(Debug)]
pub struct Admission {
    in_flight: InFlight,
    permits: [Option<Permit>; 2],
    place: Option<Place>,
    budget: Option<Retrying>,
}

impl Admission {
    /// Asks breakers and balancing for a try; what they count is given back with it.
    fn ask(
        tries: &Tries<'_>,
        tried: Tried<'_>,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Result<Self, ProxyError> {
        let permits = tries.permits(now)?;
        let tried = if tries.policy.avoid_previous { tried } else { Tried::default() };
        let in_flight = tries.upstream.admit(tries.hash, tried, now, rng)?;
        Ok(Self { in_flight, permits, place: None, budget: None })
    }

    /// A try that stands under no breaker.
    pub fn plain(in_flight: InFlight) -> Self {
        Self { in_flight, permits: [None, None], place: None, budget: None }
    }

    /// The endpoint that was picked.
    pub fn live(&self) -> &Arc<LiveEndpoint> {
        self.in_flight.live()
    }

    /// The request's place in the bulkhead.
    pub fn take_place(&mut self) -> Option<Place> {
        self.place.take()
    }

    /// How it ended. Returns the endpoint if that had it ejected.
    pub fn report(mut self, outcome: Outcome, now: Instant) -> Option<SocketAddr> {
        let was_ejected = self.live().is_ejected();
        for permit in self.permits.into_iter().flatten() {
            permit.report(outcome, now);
        }
        self.in_flight.report(outcome, now);
        let live = self.in_flight.live();
        (!was_ejected && live.is_ejected()).then(|| live.address())
    }
}

impl Tries<'_> {
    /// Tries until there is a response to pass on or nothing more to be done.
    pub async fn run(
        &self,
        worker: &Rc<Worker>,
        outgoing: &mut Outgoing,
        finish: &mut Finish,
    ) -> Result<Reply, ProxyError> {
        let gauges = self.upstream.gauges();
        let (mut place, mut now) = self.enter(finish).await?;
        let (mut ids, mut is_gone) = (Vec::new(), false);
        let mut budget = None;
        self.upstream.budget().note_request(now);
        loop {
            let tried = Tried { ids: &ids, is_gone };
            let mut admission = worker.with_rng(|rng| Admission::ask(self, tried, now, rng))?;
            let endpoint = admission.live().address();
            let began = now.saturating_duration_since(finish.start);
            finish.note(|record| record.attempt(endpoint, began));
            finish.enter_attempt(outgoing.headers_mut());
            if worker.pools.is_mutual(admission.live()) {
                finish.secured(admission.live().transport().expected());
            }
            admission.budget = budget.take();
            let mut waits = Waits::default();
            let (result, trouble) =
                match self.once(worker, &admission, outgoing, (&finish.pulse, &mut waits), now).await {
                    Ok((mut response, line)) => {
                        admission.place = place.take();
                        let grpc = self.grpc_status(&mut response, finish.grpc);
                        let hold = Hold::new(line, admission);
                        let status = response.status();
                        let trouble =
                            classify::response(self.policy, status, response.headers(), grpc, clock::now);
                        (Ok(Reply { response, hold }), trouble)
                    }
                    Err(Failed { error, progress }) => {
                        ids.push(admission.live().id());
                        finish.ejected(admission.report(classify::outcome(&error), Instant::now()));
                        let trouble = classify::failure(&error, progress);
                        (Err(error), trouble)
                    }
                };
            now = Instant::now();
            finish.tried(result.as_ref().map(|reply| &reply.response), waits, now);
            let Some(trouble) = trouble else {
                outgoing.settle();
                if result.is_ok() && finish.repeated > 0 {
                    gauges.retry_successes.fetch_add(1, Relaxed);
                }
                return result;
            };
            let facts = self.facts(worker, outgoing, result.is_ok(), finish, now);
            let grant = || self.upstream.budget().try_retry(now, self.upstream.under_way());
            let decide = |rng: &mut _| retry::decide(self.policy, &trouble, &facts, grant, rng);
            match worker.with_rng(decide) {
                Verdict::Again { wait, budget: granted } => {
                    budget = Some(granted);
                    is_gone = trouble.unsent;
                    if let Ok(reply) = result {
                        ids.push(reply.hold.endpoint_id());
                        place = discard(reply, finish);
                    }
                    finish.repeated += 1;
                    finish.judged(record::Verdict::Retried, wait);
                    gauges.retries.fetch_add(1, Relaxed);
                    if !wait.is_zero() {
                        tokio::time::sleep(wait).await;
                        now = Instant::now();
                    }
                    self.mark(outgoing, finish.repeated, now);
                }
                Verdict::Stop(stop) => {
                    outgoing.settle();
                    self.stopped(worker, stop, result.is_ok(), finish, now);
                    return result;
                }
            }
        }
    }

    /// Takes the request's place in the bulkhead, where there is one; says what time it is then.
    async fn enter(&self, finish: &mut Finish) -> Result<(Option<Place>, Instant), ProxyError> {
        let asked = Instant::now();
        let Some(bulkhead) = self.upstream.bulkhead() else { return Ok((None, asked)) };
        // A breaker that is open says no at once, also while the bulkhead is full.
        drop(self.permits(asked)?);
        let entered = self.in_time(bulkhead.enter(self.upstream.gauges())).await;
        let now = Instant::now();
        let waited = now.saturating_duration_since(asked);
        if waited >= NOTABLE {
            finish.decided(record::Decision::Queued(waited));
        }
        let place = entered?.map_err(|limit| self.upstream.overflow(limit))?;
        Ok((Some(place), now))
    }

    fn permits(&self, now: Instant) -> Result<[Option<Permit>; 2], ProxyError> {
        let permit = |breaker: Option<&Arc<Breaker>>| breaker.map(|breaker| breaker.admit(now)).transpose();
        Ok([permit(self.breaker)?, permit(self.upstream.breaker())?])
    }

    /// Waits no longer than the whole request may take.
    async fn in_time<T>(&self, waiting: impl Future<Output = T>) -> Result<T, ProxyError> {
        match self.deadline {
            None => Ok(waiting.await),
            Some(Deadline { at, limit }) => {
                tokio::time::timeout_at(at, waiting).await.map_err(|_| ProxyError::Timeout { after: limit })
            }
        }
    }

    /// Sends the request once, within the time of a try and what is left of all, as long as anything moves.
    async fn once(
        &self,
        worker: &Rc<Worker>,
        admission: &Admission,
        outgoing: &mut Outgoing,
        (pulse, waits): (&Pulse, &mut Waits),
        now: Instant,
    ) -> Result<(Response<Body>, Line), Failed> {
        let live = admission.live();
        outgoing.begin();
        pulse.beat(now);
        // Only what can be copied is kept while it waits.
        let of_try = self.policy.per_try_timeout.map(|limit| (now + limit, limit, true));
        let of_all = self.deadline.map(|Deadline { at, limit }| (at, limit, false));
        let first = match (of_try, of_all) {
            (Some(of_try), Some(of_all)) => Some(if of_try.0 < of_all.0 { of_try } else { of_all }),
            (one, other) => one.or(other),
        };
        let answer = {
            let mut sending =
                pin!(attempt::send(worker, (self.upstream, live), outgoing, self.http2, waits, now));
            let while_moving =
                poll_fn(|cx| match (sending.as_mut().poll(cx), worker.settings.stream_idle_timeout) {
                    (Poll::Ready(answer), _) => Poll::Ready(Ok(answer)),
                    (Poll::Pending, Some(after)) => pulse
                        .poll_silent(cx, after)
                        .map(|()| Err(ProxyError::Idle { after, of_client: !pulse.is_complete() })),
                    (Poll::Pending, None) => Poll::Pending,
                });
            match first {
                None => while_moving.await,
                Some((at, after, is_of_try)) => match tokio::time::timeout_at(at, while_moving).await {
                    Ok(answer) => answer,
                    Err(_) if is_of_try => Err(ProxyError::TryTimeout { endpoint: live.address(), after }),
                    Err(_) => Err(ProxyError::Timeout { after }),
                },
            }
        };
        let answer = answer.unwrap_or_else(|error| {
            // It may have waited for a connection all the time.
            let progress = if outgoing.is_taken() { Progress::Sent } else { Progress::Unsent };
            Err(Failed { error, progress })
        });
        if pulse.is_too_long()
            && let Err(Failed { error: ProxyError::ClientClosed, progress }) = answer
        {
            return Err(Failed { error: ProxyError::BodyTooLarge(pulse.most()), progress });
        }
        // A fast failure must not make an endpoint look attractive.
        if answer.as_ref().is_ok_and(|(response, _)| !response.status().is_server_error()) {
            let answered = Instant::now();
            admission.in_flight.observe(answered.saturating_duration_since(now), answered);
        }
        answer
    }

    /// The gRPC status of a response, also from trailers that came with its head.
    fn grpc_status(&self, response: &mut Response<Body>, grpc: bool) -> Option<u8> {
        if !grpc {
            return None;
        }
        let of_head = headers::grpc_status(response.headers());
        if of_head.is_some() || !self.policy.on.meets(GRPC_CONDITIONS) {
            return of_head;
        }
        Peeked::look(response.body_mut())
    }

    /// What speaks for and against sending the request again.
    fn facts(
        &self,
        worker: &Worker,
        outgoing: &Outgoing,
        responded: bool,
        finish: &Finish,
        now: Instant,
    ) -> Facts {
        Facts {
            idempotent: self.idempotent,
            repeatable: outgoing.is_repeatable(),
            complete: outgoing.is_complete() || !(responded || finish.grpc),
            repeated: finish.repeated,
            caller_repeats: worker.kin.knows(Fact::Repeated, &finish.story, worker.views.second(now)),
            left: self.deadline.map(|deadline| deadline.at.saturating_duration_since(now)),
        }
    }

    /// Prepares the next try.
    fn mark(&self, outgoing: &mut Outgoing, repeated: u32, now: Instant) {
        let Some(headers) = outgoing.headers_mut() else { return };
        let number = HeaderValue::from(repeated + 1);
        headers.insert(ATTEMPT, number.clone());
        headers.insert(ENVOY_ATTEMPT, number);
        if let Some(deadline) = self.deadline {
            deadline::forward(deadline, now, headers);
        }
    }

    /// Remarks that there will be no further try, and why.
    fn stopped(&self, worker: &Worker, stop: Stop, responded: bool, finish: &mut Finish, now: Instant) {
        let gauges = self.upstream.gauges();
        finish.note(|record| record.not_retried = Some(stop.as_str()));
        finish.judged(record::Verdict::Stopped(stop.as_str()), Duration::ZERO);
        match stop {
            Stop::Exhausted => {
                gauges.retries_exhausted.fetch_add(1, Relaxed);
            }
            Stop::Budget => {
                finish.decided(record::Decision::BudgetSpent);
                gauges.retries_denied.fetch_add(1, Relaxed);
            }
            _ => {}
        }
        if responded {
            finish.flag = match stop {
                Stop::Exhausted => Flag::Urx,
                Stop::Budget => Flag::Bud,
                _ => finish.flag,
            };
        }
        if stop.is_spent() {
            worker.kin.note(Fact::CallFailed, &finish.story, worker.views.second(now));
        }
    }
}

/// Reads what is at hand of a response that is not used. If that is all, its connection can be kept.
fn discard(reply: Reply, finish: &mut Finish) -> Option<Place> {
    let Reply { response, mut hold } = reply;
    let (place, grpc) = (hold.take_place(), finish.grpc);
    let status = response.status().as_u16();
    let mut grpc_status = if grpc { headers::grpc_status(response.headers()) } else { None };
    let mut body = response.into_body();
    for _ in 0..DISCARDED_FRAMES {
        if body.is_end_stream() {
            break;
        }
        match body.frame().now_or_never() {
            Some(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref().filter(|_| grpc) {
                    grpc_status = headers::grpc_status(trailers).or(grpc_status);
                }
            }
            Some(None) => {
                finish.ejected(hold.complete(Outcome::Answered { status, grpc_status }));
                return place;
            }
            Some(Some(Err(_))) | None => break,
        }
    }
    let outcome = Outcome::Answered { status, grpc_status };
    finish.ejected(if body.is_end_stream() { hold.complete(outcome) } else { hold.fail(outcome) });
    place
}

/// A body of which the first frames were read to see whether trailers are among them.
struct Peeked {
    front: VecDeque<Result<Frame<Bytes>, BodyError>>,
    rest: Body,
}

impl Peeked {
    /// Looks at what came with the head: the gRPC status, if the response is over already.
    fn look(body: &mut Body) -> Option<u8> {
        let mut front = VecDeque::new();
        let mut status = None;
        for _ in 0..2 {
            let Some(Some(frame)) = body.frame().now_or_never() else { break };
            status = frame.as_ref().ok().and_then(Frame::trailers_ref).and_then(headers::grpc_status);
            let is_last = status.is_some() || frame.is_err();
            front.push_back(frame);
            if is_last {
                break;
            }
        }
        if !front.is_empty() {
            let rest = std::mem::replace(body, Body::Empty);
            *body = Body::boxed(Self { front, rest });
        }
        status
    }
}

impl http_body::Body for Peeked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.front.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.front.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.front.is_empty() { self.rest.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests;
