//! The walk of a request, top to bottom. The file to read first.
//!
//! 1. [`Exchange::begin`] opens the account: time, request id, log line.
//! 2. The face (outbound or inbound) finds out where the request belongs and calls [`Exchange::route`] with a
//!    destination, or [`Exchange::direct`] with the one cluster there is.
//! 3. [`Exchange::decide`] is synchronous: cross-origin rules, the first matching rule, then redirect, respond or
//!    forward; for the last: edits, rewrites, copies for mirrors, and one cluster by weight.
//! 4. [`Exchange::forward`] fixes the deadline, picks an endpoint under the cluster's limits and tries it.
//! 5. [`Exchange::pass_on`] edits the response and hands its body to [`super::finish`], which watches it to the end.
//!
//! Whatever fails becomes a [`ProxyError`] and is explained by [`Exchange::refuse`]; nothing else says no.

use std::{rc::Rc, sync::Arc};

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header::TRANSFER_ENCODING};
use http_body::Body as _;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use pillion_policy::route::{Action, Backend, Cors, Forward, Route, Target};
use tokio::time::Instant;

use super::{
    attempt::{self, Hold, Reply},
    cors,
    deadline::{self, Deadline},
    downstream::Downstream,
    expect::{self, Gate},
    finish::{Finish, Watched},
    hash::{self, Affinity},
    head::{self, Asked},
    headers::{self, REQUEST_ID},
    mirror, respond, rewrite, route, upgrade,
};
use crate::{
    body::Body,
    error::{Flag, ProxyError},
    rt::rng,
    upstream::{Upstream, cluster::InFlight},
    view::Destination,
};

/// One request on its walk.
#[derive(Debug)]
pub struct Exchange {
    downstream: Rc<Downstream>,
    finish: Finish,
    asked: Option<Asked>,
    http2: bool,
    version: Version,
    is_head: bool,
}

/// What is to be done with a request.
#[expect(
    clippy::large_enum_variant,
    reason = "forwarding is the rule, and a box would cost it an allocation"
)]
enum Decision {
    Answer(Response<Body>),
    Forward(Plan),
}

/// A request on its way out, and what awaits its response.
struct Plan {
    upstream: Arc<Upstream>,
    request: Request<Body>,
    http2: bool,
    affinity: Affinity,
    gate: Option<Arc<Gate>>,
    upgrade: Option<OnUpgrade>,
    after: After,
}

/// What happens to the response: which rule and backend it belongs to.
#[derive(Default)]
struct After {
    destination: Option<(Arc<Destination>, usize, usize)>,
    origin: Option<HeaderValue>,
}

impl After {
    fn route(&self) -> Option<(&Route, Option<&Backend>)> {
        let (destination, route, backend) = self.destination.as_ref()?;
        let route = destination.policy().routes().get(*route)?;
        let backend = match &route.action {
            Action::Forward(forward) => forward.backends.all().get(*backend),
            Action::Redirect(_) | Action::Respond(_) => None,
        };
        Some((route, backend))
    }
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
                let id = worker.with_rng(rng::uuid_v4);
                let id = HeaderValue::from_bytes(&id).unwrap_or(HeaderValue::from_static("unknown"));
                request.headers_mut().insert(REQUEST_ID, id.clone());
                id
            }
        };
        let mut finish = Finish::new(request, Rc::clone(&downstream), &id, Instant::now());
        finish.request_bytes = request.body().size_hint().exact().unwrap_or(0);
        let version = request.version();
        let is_head = *request.method() == Method::HEAD;
        let http2 = version == Version::HTTP_2;
        let conflicts = downstream.line.as_ref().is_some_and(|line| line.begin());
        let coded = request.headers().contains_key(TRANSFER_ENCODING);
        let normalized = if conflicts && coded {
            Err(ProxyError::BadRequest("the request has both Content-Length and Transfer-Encoding"))
        } else if coded && !headers::is_only_chunked(request.headers()) {
            Err(ProxyError::BadRequest("the request has a transfer coding other than chunked"))
        } else {
            head::normalize(request)
        };
        match normalized {
            Ok(asked) => Ok(Self { downstream, finish, asked, http2, version, is_head }),
            Err(error) => {
                let exchange = Self { downstream, finish, asked: None, http2, version, is_head };
                Err(exchange.refuse(&error))
            }
        }
    }

    /// Whom the request is for; `None` when an HTTP/1.0 client names nobody.
    pub fn asked(&self) -> Option<&Asked> {
        self.asked.as_ref()
    }

    /// The connection the request came in on.
    pub fn downstream(&self) -> &Rc<Downstream> {
        &self.downstream
    }

    /// Handles a request by the rules of a destination.
    pub async fn route(
        mut self,
        destination: Arc<Destination>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        self.finish.stats = Some(Arc::clone(destination.requests()));
        match self.decide(&destination, request) {
            Ok(Decision::Answer(response)) => self.answer(response),
            Ok(Decision::Forward(plan)) => self.forward(plan).await,
            Err(error) => self.refuse(&error),
        }
    }

    /// Sends a request to a cluster as it is: to the application beside the proxy, or to where it was meant for.
    pub async fn direct(mut self, upstream: Arc<Upstream>, request: Request<Incoming>) -> Response<Body> {
        self.finish.stats = Some(Arc::clone(upstream.requests()));
        let mut request = request.map(Body::Incoming);
        let authority = self.authority(None);
        match self.prepare(&mut request, upstream, After::default(), &authority) {
            Ok(plan) => self.forward(plan(request)).await,
            Err(error) => self.refuse(&error),
        }
    }

    /// Says no.
    pub fn refuse(mut self, error: &ProxyError) -> Response<Body> {
        self.finish.failed(error);
        if self.finish.stats.is_none() {
            let unmatched = self.downstream.worker.unmatched(self.downstream.direction);
            self.finish.stats = Some(Arc::clone(unmatched));
        }
        let response = respond::error(error, self.finish.grpc);
        self.finish.grpc_status = headers::grpc_status(response.headers());
        self.answer(response)
    }

    fn decide(
        &mut self,
        destination: &Arc<Destination>,
        request: Request<Incoming>,
    ) -> Result<Decision, ProxyError> {
        let head = head::view(&request, self.asked.as_ref());
        let Some(found) = route::find(destination, &head) else {
            return Err(ProxyError::NoRoute(destination.policy().name().to_string().into()));
        };
        let rule = found.route;
        self.finish.note(|record| record.route = Some(Arc::clone(&rule.name)));
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
        let mut request = request.map(Body::Incoming);
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
        let authority = self.authority(forward.authority.as_ref().map(|field| &field.value));
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
        let http2 = !upgrades && upstream.wants_http2(self.http2, self.finish.grpc);
        let balancer = &upstream.cluster().balancing.policy;
        let peer = self.downstream.peer.ip();
        let affinity = self.downstream.worker.with_rng(|rng| hash::affinity(balancer, request, peer, rng));
        head::set_version(request, http2, authority)?;
        let upgrade = upgrades.then(|| hyper::upgrade::on(&mut *request));
        let line = self.downstream.line.clone().filter(|_| self.version == Version::HTTP_11);
        Ok(move |mut request: Request<Body>| {
            let gate = if http2 { None } else { expect::pass_on(&mut request, line.as_ref()) };
            Plan { upstream, request, http2, affinity, gate, upgrade, after }
        })
    }

    /// Tries an endpoint, within the time the rule gives.
    async fn forward(mut self, plan: Plan) -> Response<Body> {
        let Plan { upstream, mut request, http2, affinity, gate, upgrade, after } = plan;
        let start = self.finish.start;
        let rule = after.route().and_then(|(route, _)| route.timeout);
        let deadline = deadline::fix(start, rule, self.finish.grpc, request.headers());
        if let Some(deadline) = deadline {
            deadline::forward(deadline, Instant::now(), request.headers_mut());
        }
        let worker = Rc::clone(&self.downstream.worker);
        let in_flight = match worker.with_rng(|rng| upstream.admit(affinity.hash, &[], start, rng)) {
            Ok(in_flight) => in_flight,
            Err(error) => return self.refuse(&error),
        };
        self.note_endpoint(&in_flight);
        let attempt = attempt::send(&worker, &upstream, in_flight, request, http2, start);
        let tried = match deadline {
            None => attempt.await,
            Some(Deadline { at, limit }) => match tokio::time::timeout_at(at, attempt).await {
                Ok(tried) => tried,
                Err(_) => Err(ProxyError::Timeout { after: limit }),
            },
        };
        // A response means that the request is judged: a body still held back is not wanted.
        if let Some(gate) = &gate {
            gate.answer();
        }
        self.finish.gate = gate;
        match tried {
            Ok(Reply { response, hold }) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                self.switch(response, hold, upgrade, &after)
            }
            Ok(Reply { response, hold }) => self.pass_on(response, hold, &after, affinity.cookie, deadline),
            Err(error) => self.refuse(&error),
        }
    }

    /// Hands a response on.
    fn pass_on(
        mut self,
        mut response: Response<Body>,
        hold: Hold,
        after: &After,
        cookie: Option<HeaderValue>,
        deadline: Option<Deadline>,
    ) -> Response<Body> {
        let start = self.finish.start;
        self.finish.note(|record| record.first_byte = Some(start.elapsed()));
        let headers = response.headers_mut();
        if headers.contains_key(TRANSFER_ENCODING) && !headers::is_only_chunked(headers) {
            let reason = "it has a transfer coding other than chunked".into();
            return self.refuse(&ProxyError::UpstreamProtocol { endpoint: hold.endpoint(), reason });
        }
        headers::strip_hop_by_hop(headers, false);
        if self.finish.grpc {
            self.finish.grpc_status = headers::grpc_status(headers);
        }
        if let Some((route, backend)) = after.route() {
            edit_response(headers, route, backend, after.origin.as_ref());
        }
        if let Some(cookie) = cookie {
            headers.append(http::header::SET_COOKIE, cookie);
        }
        self.seal(&mut response);
        let (parts, body) = response.into_parts();
        Response::from_parts(
            parts,
            Watched::wrap(body, self.finish, Some(hold), deadline.map(|deadline| deadline.at)),
        )
    }

    /// Hands the connection over to the protocol both ends have agreed on.
    fn switch(
        mut self,
        mut response: Response<Body>,
        hold: Hold,
        upgrade: Option<OnUpgrade>,
        after: &After,
    ) -> Response<Body> {
        let Some(client) = upgrade else {
            let endpoint = hold.endpoint();
            let reason = "it switched protocols unasked".into();
            return self.refuse(&ProxyError::UpstreamProtocol { endpoint, reason });
        };
        let server = hyper::upgrade::on(&mut response);
        headers::strip_hop_by_hop(response.headers_mut(), true);
        if let Some((route, backend)) = after.route() {
            edit_response(response.headers_mut(), route, backend, after.origin.as_ref());
        }
        self.finish.status = response.status().as_u16();
        upgrade::splice(&self.downstream.worker, client, server, self.finish, hold);
        response.map(|_| Body::Empty)
    }

    /// Sends an answer of the proxy's own.
    fn answer(mut self, mut response: Response<Body>) -> Response<Body> {
        self.seal(&mut response);
        if self.is_head {
            return response.map(|_| Body::Empty);
        }
        self.finish.response_bytes = response.body().size_hint().exact().unwrap_or(0);
        response
    }

    /// What every response gets: its status in the account, a version, and a farewell while draining.
    fn seal(&mut self, response: &mut Response<Body>) {
        self.finish.status = response.status().as_u16();
        if self.http2 {
            *response.version_mut() = Version::HTTP_2;
            return;
        }
        *response.version_mut() = Version::HTTP_11;
        if self.downstream.worker.drain.is_draining() || self.finish.flag == Flag::Dpe {
            response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        }
    }

    fn note_endpoint(&mut self, in_flight: &InFlight) {
        let address = in_flight.live().address();
        self.finish.note(|record| record.upstream = Some(address));
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

/// Edits of the rule, then of the backend, then what a page may read.
fn edit_response(
    headers: &mut http::HeaderMap,
    route: &Route,
    backend: Option<&Backend>,
    origin: Option<&HeaderValue>,
) {
    route.response_headers.apply(headers);
    if let Some(backend) = backend {
        backend.response_headers.apply(headers);
    }
    if let (Some(cors), Some(origin)) = (route.cors.as_ref() as Option<&Cors>, origin) {
        cors::mark(cors, origin, headers);
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
