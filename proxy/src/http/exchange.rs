//! The walk of a request, top to bottom. The file to read first.
//!
//! 1. [`Exchange::begin`] opens the account: time, request id, log line.
//! 2. The face (outbound or inbound) finds out where the request belongs.
//! 3. It has [`Exchange::route`] decide by the rules of a destination: cross-origin rules, the first matching rule, then
//!    redirect, respond or forward; for the last: edits, rewrites, copies for mirrors, and one cluster by weight. Where
//!    there is one cluster only, [`Exchange::direct`] prepares the request for that. Neither waits for anything.
//! 4. [`Exchange::carry_out`] does what was decided. To forward, it fixes the deadline and has [`super::tries`] pick an
//!    endpoint under the cluster's limits, send the request, and send it again where that is asked for and does no harm.
//! 5. The way back is in [`super::reply`]: the response is edited and its body handed to [`super::finish`], which
//!    watches it to the end.
//!
//! Whatever fails becomes a [`ProxyError`] and is explained by [`Exchange::refuse`]; nothing else says no.
//!
//! What is held while a request waits is kept small: every connection keeps a place for it. So what does not wait is no
//! `async fn`, and an `async fn` is given references: what it takes by value, it holds twice.

use std::{rc::Rc, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header::TRANSFER_ENCODING};
use http_body::Body as _;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use pillion_policy::{
    retry::Retry,
    route::{Action, Backend, Forward, Route, Target},
};
use tokio::time::Instant;

use super::{
    attempt::Reply,
    cors,
    deadline::{self, Deadline},
    downstream::Downstream,
    expect::{self, Gate},
    fault,
    finish::Finish,
    hash::{self, Affinity},
    head::{self, Asked},
    headers::{self, CARRIED, REQUEST_ID},
    limits::{self, Allowance},
    mirror,
    replay::Outgoing,
    reply::{After, edit_response},
    respond, retry, rewrite, route,
    tries::{self, Tries},
};
use crate::{
    body::Body,
    error::{Flag, ProxyError},
    kin::Fact,
    limit::Limiter,
    telemetry::record::{Decision as Done, Direction},
    upstream::Upstream,
    view::Destination,
};

/// One request on its walk.
#[derive(Debug)]
pub struct Exchange {
    pub(super) downstream: Rc<Downstream>,
    pub(super) finish: Finish,
    asked: Option<Asked>,
    pub(super) http2: bool,
    version: Version,
    pub(super) is_head: bool,
    /// What the policy makes it wait before it goes on.
    delay: Option<Duration>,
    /// What a rate limit has left for the client.
    pub(super) allowance: Option<Box<Allowance>>,
}

/// What rules without a policy of their own do about failed tries.
static SAFE: Retry = Retry::SAFE;

/// What is to be done with a request, or why nothing can be.
pub type Decided = Result<Decision, ProxyError>;

/// What is to be done with a request.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "forwarding is the rule, and a box would cost it an allocation"
)]
pub enum Decision {
    /// The proxy answers by itself.
    Answer(Response<Body>),
    /// An endpoint is to answer.
    Forward(Plan),
}

/// A request on its way out, and what awaits its response.
#[derive(Debug)]
pub struct Plan {
    upstream: Arc<Upstream>,
    outgoing: Outgoing,
    idempotent: bool,
    http2: bool,
    affinity: Affinity,
    deadline: Option<Deadline>,
    gate: Option<Arc<Gate>>,
    upgrade: Option<OnUpgrade>,
    after: After,
}

impl Exchange {
    /// Opens the account of a request, and brings the request into one form. A request that no proxy should pass on
    /// is answered here.
    #[expect(clippy::result_large_err, reason = "the refusal is the response itself")]
    pub fn begin(
        downstream: Rc<Downstream>,
        request: &mut Request<Incoming>,
    ) -> Result<Self, Response<Body>> {
        let worker = &downstream.worker;
        let id = match request.headers().get(REQUEST_ID) {
            Some(id) => id.clone(),
            None => {
                let id = worker.request_id();
                request.headers_mut().insert(REQUEST_ID, id.clone());
                id
            }
        };
        let mut finish = Finish::new(request, Rc::clone(&downstream), &id, Instant::now());
        finish.request_bytes = request.body().size_hint().exact().unwrap_or(0);
        if downstream.direction == Direction::Inbound && tries::is_marked(request.headers()) {
            let second = worker.views.second(finish.start);
            worker.kin.note(Fact::Repeated, &finish.story, second);
        }
        let version = request.version();
        let is_head = *request.method() == Method::HEAD;
        let http2 = version == Version::HTTP_2;
        let conflicts = downstream.line.as_ref().is_some_and(|line| line.begin());
        let coded = request.headers().contains_key(TRANSFER_ENCODING);
        let normalized = if conflicts && coded {
            Err(ProxyError::BadRequest("the request has both Content-Length and Transfer-Encoding"))
        } else if coded && !headers::is_only_chunked(request.headers()) {
            Err(ProxyError::BadRequest("the request has a transfer coding other than chunked"))
        } else if downstream.line.is_none()
            && headers::exceed(request.headers(), worker.settings.head_limits())
        {
            Err(ProxyError::HeadersTooLarge(worker.settings.head_limits()))
        } else if finish.request_bytes > finish.pulse.most() {
            Err(ProxyError::BodyTooLarge(finish.pulse.most()))
        } else {
            head::normalize(request)
        };
        match normalized {
            Ok(asked) => {
                Ok(Self { downstream, finish, asked, http2, version, is_head, delay: None, allowance: None })
            }
            Err(error) => {
                let exchange = Self {
                    downstream,
                    finish,
                    asked: None,
                    http2,
                    version,
                    is_head,
                    delay: None,
                    allowance: None,
                };
                Err(exchange.refuse(&error))
            }
        }
    }

    /// Whom the request is for; `None` when an HTTP/1.0 client names nobody.
    pub fn asked(&self) -> Option<&Asked> {
        self.asked.as_ref()
    }

    /// Notes that the request has waited for its destination to be looked up.
    pub fn held(&mut self, waited: Duration) {
        self.finish.decided(Done::Held(waited));
    }

    /// The connection the request came in on.
    pub fn downstream(&self) -> &Rc<Downstream> {
        &self.downstream
    }

    /// Lets a request to a cluster through a limit before it, or answers it.
    #[expect(clippy::result_large_err, reason = "the refusal is the response itself")]
    pub fn limited(
        mut self,
        limiter: &Arc<Limiter>,
        upstream: &Upstream,
        request: &Request<Incoming>,
    ) -> Result<Self, Response<Body>> {
        self.finish.stats = Some(Arc::clone(upstream.requests()));
        match self.limit(Some(limiter), request) {
            Ok(allowance) => Ok(Self { allowance, ..self }),
            Err(error) => Err(self.refuse(&error)),
        }
    }

    /// Decides by the rules of a destination.
    pub fn route(&mut self, destination: &Arc<Destination>, request: Request<Incoming>) -> Decided {
        self.finish.stats = Some(Arc::clone(destination.requests()));
        let head = head::view(&request, self.asked.as_ref());
        let Some(found) = route::find(destination, &head) else {
            return Err(ProxyError::NoRoute(destination.policy().name().to_string().into()));
        };
        let rule = found.route;
        self.finish.note(|record| record.route = Some(Arc::clone(&rule.name)));
        self.finish.route = Some(Arc::clone(&found.live.stats));
        self.allowance = self.limit(found.live.limiter.as_ref(), &request)?;
        let injected;
        (self.delay, injected) = self.inject(rule);
        injected?;
        let mut origin = None;
        if let Some(policy) = &rule.cors {
            match cors::judge(policy, &request) {
                cors::Verdict::Answered(response) => return Ok(Decision::Answer(response)),
                cors::Verdict::Allowed(allowed) => origin = Some(allowed),
                cors::Verdict::Unconcerned => {}
            }
        }
        let edited = |mut response: Response<Body>| {
            edit_response(response.headers_mut(), rule, None, origin.as_ref());
            Ok(Decision::Answer(response))
        };
        match &rule.action {
            Action::Redirect(redirect) => {
                let port = self.port();
                let location = rewrite::location(redirect, &head, found.matched, port);
                edited(respond::redirect(redirect.code, location)?)
            }
            Action::Respond(response) => edited(respond::direct(response)),
            Action::Forward(forward) => {
                self.plan(destination, &found, forward, request, origin).map(Decision::Forward)
            }
        }
    }

    /// Decides for a cluster as it is: the application beside the proxy, or where the request was meant for.
    pub fn direct(&mut self, upstream: Arc<Upstream>, request: Request<Incoming>) -> Decided {
        self.finish.stats = Some(Arc::clone(upstream.requests()));
        let mut request = request.map(|body| self.body(body));
        let authority = self.authority(None);
        let plan = self.prepare(&mut request, upstream, After::default(), &authority)?;
        Ok(Decision::Forward(plan(request)))
    }

    /// The body of the request, watched as it comes.
    fn body(&self, body: Incoming) -> Body {
        if body.is_end_stream() {
            Body::Incoming(body)
        } else {
            Body::Request(body, Rc::clone(&self.finish.pulse))
        }
    }

    /// Asks the rate limit, where there is one.
    fn limit(
        &self,
        limiter: Option<&Arc<Limiter>>,
        request: &Request<Incoming>,
    ) -> Result<Option<Box<Allowance>>, ProxyError> {
        let Some(limiter) = limiter else { return Ok(None) };
        let peer = self.downstream.peer.ip();
        let asked = limits::ask(limiter, request.headers(), peer, self.finish.start);
        if asked.is_err() {
            self.downstream.worker.metrics.proxy.rate_limited.inc();
        }
        asked.map(|allowance| Some(Box::new(allowance)))
    }

    /// Throws the dice of failures the rule wants: a wait, then an answer in place of the application's.
    fn inject(&self, rule: &Route) -> (Option<Duration>, Result<(), ProxyError>) {
        let fault = &rule.resilience.fault;
        if fault.delay.is_none() && fault.abort.is_none() {
            return (None, Ok(()));
        }
        let worker = &self.downstream.worker;
        let injected = worker.with_rng(|rng| fault::decide(fault, rng));
        // A request that would be over before the wait is answered when it is over.
        let delay = injected.delay.map(|delay| rule.timeout.map_or(delay, |timeout| delay.min(timeout)));
        if delay.is_some() {
            worker.metrics.proxy.faults_delayed.inc();
        }
        let aborted = match injected.abort {
            None => Ok(()),
            Some(status) => {
                worker.metrics.proxy.faults_aborted.inc();
                Err(ProxyError::Injected(status))
            }
        };
        (delay, aborted)
    }

    /// Turns the request into the one that leaves: cluster, edits, path, authority, copies.
    fn plan(
        &mut self,
        destination: &Arc<Destination>,
        found: &route::Found<'_>,
        forward: &Forward,
        request: Request<Incoming>,
        origin: Option<HeaderValue>,
    ) -> Result<Plan, ProxyError> {
        let worker = Rc::clone(&self.downstream.worker);
        let chosen = match forward.backends.all().len() {
            1 => 0,
            _ => forward.backends.pick(worker.with_rng(|rng| rng.u64(..forward.backends.total()))),
        };
        let backend = forward.backends.all().get(chosen);
        let upstream = match found.live.backends.get(chosen) {
            Some(Some(upstream)) => Arc::clone(upstream),
            Some(None) | None => return Err(ProxyError::NoCluster(missing(backend))),
        };
        self.finish.stats = Some(Arc::clone(upstream.requests()));
        self.finish.note(|record| record.cluster = Some(Arc::clone(upstream.name())));
        let mut request = request.map(|body| self.body(body));
        if let Some(rewrite) = &forward.path {
            let path = rewrite::path(rewrite, request.uri().path(), found.matched);
            head::set_path(&mut request, &path)?;
        }
        found.route.request_headers.apply(request.headers_mut());
        if let Some(backend) = backend {
            backend.request_headers.apply(request.headers_mut());
        }
        let index = destination.policy().routes().iter().position(|route| std::ptr::eq(route, found.route));
        let after =
            After { destination: index.map(|index| (Arc::clone(destination), index, chosen)), origin };
        let rewritten = backend.and_then(|backend| backend.authority.as_ref()).or(forward.authority.as_ref());
        let authority = self.authority(rewritten.map(|field| &field.value));
        let plan = self.prepare(&mut request, upstream, after, &authority)?;
        mirror::copy(&self.downstream, found, &mut request, &authority);
        Ok(plan(request))
    }

    /// The last steps every forwarded request takes: hop-by-hop fields, version, affinity.
    fn prepare(
        &self,
        request: &mut Request<Body>,
        upstream: Arc<Upstream>,
        after: After,
        authority: &HeaderValue,
    ) -> Result<impl FnOnce(Request<Body>) -> Plan + use<>, ProxyError> {
        let upgrades = self.version == Version::HTTP_11 && headers::asks_for_upgrade(request.headers());
        headers::strip_hop_by_hop(request.headers_mut(), upgrades);
        if self.downstream.direction == Direction::Outbound {
            // What counts is whether this hop tries again; an application may have copied what it was told.
            tries::unmark(request.headers_mut());
            request.headers_mut().remove(&CARRIED);
        }
        let http2 = !upgrades && upstream.wants_http2(self.http2, self.finish.grpc);
        let balancer = &upstream.cluster().balancing.policy;
        let peer = self.downstream.peer.ip();
        let affinity = self.downstream.worker.with_rng(|rng| hash::affinity(balancer, request, peer, rng));
        head::set_version(request, http2, authority)?;
        let upgrade = upgrades.then(|| hyper::upgrade::on(&mut *request));
        let line = self.downstream.line.clone().filter(|_| self.version == Version::HTTP_11);
        let may_become_http2 = http2 || self.downstream.worker.wallet.is_configured();
        let (start, grpc) = (self.finish.start, self.finish.grpc);
        Ok(move |mut request: Request<Body>| {
            let (gate, interim) = expect::await_interim(&mut request, line, http2);
            let rule = after.route().map(|(route, _)| route);
            let deadline =
                deadline::fix(start, rule.and_then(|route| route.timeout), grpc, request.headers());
            let idempotent = retry::is_idempotent(request.method(), request.headers());
            let is_single = gate.is_some() || upgrade.is_some();
            let is_asked = rule.is_some_and(|route| route.resilience.retry.is_some());
            let mut outgoing =
                if !is_single && (is_asked || may_become_http2 || request.body().is_end_stream()) {
                    Outgoing::repeatable(request)
                } else {
                    Outgoing::once(request)
                };
            outgoing.tell_interim(interim);
            Plan { upstream, outgoing, idempotent, http2, affinity, deadline, gate, upgrade, after }
        })
    }

    /// Answers as was decided, or tries endpoints within the time the rule gives.
    #[expect(clippy::manual_async_fn, reason = "an async fn would hold twice what it is given")]
    pub fn carry_out(mut self, mut decided: Decided) -> impl Future<Output = Response<Body>> {
        async move {
            if let Some(delay) = self.delay {
                self.finish.decided(Done::FaultDelay(delay));
                self.finish.flag = Flag::Di;
                tokio::time::sleep(delay).await;
            }
            let plan = match &mut decided {
                Ok(Decision::Forward(plan)) => plan,
                Ok(Decision::Answer(response)) => return self.answer(std::mem::take(response)),
                Err(error) => return self.refuse(error),
            };
            let tries = Tries {
                upstream: &plan.upstream,
                breaker: plan.after.live().and_then(|live| live.breaker.as_ref()),
                policy: plan
                    .after
                    .route()
                    .and_then(|(rule, _)| rule.resilience.retry.as_ref())
                    .unwrap_or(&SAFE),
                http2: plan.http2,
                hash: plan.affinity.hash,
                idempotent: plan.idempotent,
                deadline: plan.deadline,
            };
            if let (Some(deadline), Some(headers)) = (plan.deadline, plan.outgoing.headers_mut()) {
                deadline::forward(deadline, Instant::now(), headers);
            }
            let tried = tries.run(&self.downstream.worker, &mut plan.outgoing, &mut self.finish).await;
            self.arrive(plan, tried)
        }
    }

    /// The way back of what the tries have brought.
    fn arrive(mut self, plan: &mut Plan, tried: Result<Reply, ProxyError>) -> Response<Body> {
        let Plan { upstream, affinity, deadline, gate, upgrade, after, .. } = plan;
        // A response means that the request is judged: a body still held back is not wanted.
        if let Some(gate) = gate {
            gate.answer();
        }
        self.finish.gate = gate.take();
        match tried {
            Ok(Reply { response, hold }) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                self.switch(response, hold, upgrade.take(), after)
            }
            Ok(Reply { response, hold }) => {
                self.pass_on(response, hold, after, affinity.cookie.take(), *deadline)
            }
            Err(error) => self.give_up(&error, upstream, after),
        }
    }

    /// The authority the request leaves with.
    fn authority(&self, rewritten: Option<&HeaderValue>) -> HeaderValue {
        match (rewritten, &self.asked) {
            (Some(value), _) => value.clone(),
            (None, Some(asked)) => asked.value().clone(),
            (None, None) => HeaderValue::from_str(&self.downstream.local.to_string())
                .unwrap_or(HeaderValue::from_static("localhost")),
        }
    }

    /// The port the client addressed.
    fn port(&self) -> u16 {
        let written = self.asked.as_ref().and_then(Asked::port);
        written.or(self.downstream.original.map(|original| original.port())).unwrap_or(80)
    }
}

/// Why a backend has no cluster.
fn missing(backend: Option<&Backend>) -> Arc<str> {
    match backend.map(|backend| &backend.target) {
        Some(Target::Missing(reason)) => Arc::clone(reason),
        Some(Target::Cluster(name)) => format!("cluster {name} is not known").into(),
        None => "the rule names no destination".into(),
    }
}
