//! The way back of an exchange: what is passed on, what the proxy says itself, and what every response gets.

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, Version, header::TRANSFER_ENCODING};
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;
use pillion_policy::{
    resilience::Fallback,
    route::{Action, Backend, Cors, Route},
};
use tokio::time::Instant;

use super::{
    attempt::Hold, classify::PEER_SAYS, cors, deadline::Deadline, exchange::Exchange, finish::Watched,
    headers, respond, upgrade,
};
use crate::{
    body::Body,
    error::{Fault, Limit, ProxyError},
    kin::Fact,
    telemetry::record::{Decision, Direction},
    upstream::{Upstream, outcome::Outcome},
    view::{Destination, LiveRoute},
};

/// What happens to the response: which rule and backend it belongs to.
#[derive(Debug, Default)]
pub(super) struct After {
    pub(super) destination: Option<(Arc<Destination>, usize, usize)>,
    pub(super) origin: Option<HeaderValue>,
}

impl After {
    pub(super) fn route(&self) -> Option<(&Route, Option<&Backend>)> {
        let (destination, route, backend) = self.destination.as_ref()?;
        let route = destination.policy().routes().get(*route)?;
        let backend = match &route.action {
            Action::Forward(forward) => forward.backends.all().get(*backend),
            Action::Redirect(_) | Action::Respond(_) => None,
        };
        Some((route, backend))
    }

    /// The living side of the rule.
    pub(super) fn live(&self) -> Option<&LiveRoute> {
        let (destination, route, _) = self.destination.as_ref()?;
        destination.routes().get(*route)
    }
}

impl Exchange {
    /// Says no.
    pub fn refuse(mut self, error: &ProxyError) -> Response<Body> {
        self.finish.failed(error);
        if self.finish.stats.is_none() {
            let unmatched = self.downstream.worker.unmatched(self.downstream.direction);
            self.finish.stats = Some(Arc::clone(unmatched));
        }
        let mut response = respond::error(error, self.finish.grpc);
        self.finish.grpc_status = headers::grpc_status(response.headers());
        if self.is_inbound() && error.is_unsent() {
            response.headers_mut().insert(PEER_SAYS, HeaderValue::from_static("unsent"));
        }
        self.answer(response)
    }

    /// Says that no try has brought a response, or what the policy has ready for that.
    pub(super) fn give_up(
        mut self,
        error: &ProxyError,
        upstream: &Upstream,
        after: &After,
    ) -> Response<Body> {
        let of_rule = after.route().and_then(|(route, _)| route.resilience.fallback.as_ref());
        let fallback = of_rule.or(upstream.cluster().resilience.fallback.as_ref());
        let Some(fallback) = fallback.filter(|fallback| stands_in(fallback, error)) else {
            return self.refuse(error);
        };
        if self.finish.grpc && !headers::is_grpc(&respond::fields(&fallback.headers)) {
            return self.refuse(error);
        }
        self.finish.failed(error);
        self.finish.decided(Decision::Fallback);
        let response = respond::fallback(fallback, error);
        self.finish.grpc_status = headers::grpc_status(response.headers());
        self.answer(response)
    }

    /// Hands a response on.
    pub(super) fn pass_on(
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
            let error = ProxyError::UpstreamProtocol { endpoint: hold.endpoint(), reason };
            self.finish.ejected(hold.fail(Outcome::Broken));
            return self.refuse(&error);
        }
        headers::strip_hop_by_hop(headers, false);
        if self.finish.grpc {
            self.finish.grpc_status = headers::grpc_status(headers);
        }
        headers.remove(PEER_SAYS);
        if self.is_inbound() && self.is_repeated_here(response.status()) {
            response.headers_mut().insert(PEER_SAYS, HeaderValue::from_static("no"));
        }
        let headers = response.headers_mut();
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
    pub(super) fn switch(
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

    fn is_inbound(&self) -> bool {
        self.downstream.direction == Direction::Inbound
    }

    /// Whether a response is a failure behind which a call of the application has failed, too, and was repeated.
    fn is_repeated_here(&self, status: StatusCode) -> bool {
        let worker = &self.downstream.worker;
        let failed =
            status.is_server_error() || self.finish.grpc_status.is_some_and(|grpc_status| grpc_status != 0);
        failed && worker.kin.knows(Fact::CallFailed, &self.finish.story, worker.views.second(Instant::now()))
    }

    /// Sends an answer of the proxy's own.
    pub(super) fn answer(mut self, mut response: Response<Body>) -> Response<Body> {
        self.seal(&mut response);
        // hyper sees to this on HTTP/1 alone.
        if self.is_head || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return response.map(|_| Body::Empty);
        }
        self.finish.response_bytes = response.body().size_hint().exact().unwrap_or(0);
        response
    }

    /// What every response gets: its status in the account, a version, and a farewell while draining.
    pub(super) fn seal(&mut self, response: &mut Response<Body>) {
        self.finish.status = response.status().as_u16();
        self.finish.answered(response.headers());
        if let Some(allowance) = &self.allowance {
            allowance.tell(response.headers_mut());
        }
        if self.downstream.line.is_none() {
            *response.version_mut() = Version::HTTP_2;
            return;
        }
        *response.version_mut() = Version::HTTP_11;
        if self.downstream.worker.drain.is_draining() || self.finish.ends_connection {
            response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// Whether a fallback is for this failure: a breaker or bulkhead that refuses, or, if it says so, any of the
/// destination's.
fn stands_in(fallback: &Fallback, error: &ProxyError) -> bool {
    match error {
        ProxyError::BreakerOpen { .. }
        | ProxyError::Overflow { limit: Limit::MaxPending | Limit::QueueTimeout, .. } => true,
        other => fallback.on_failure && other.fault() == Fault::Upstream,
    }
}

/// Edits of the rule, then of the backend, then what a page may read.
pub(super) fn edit_response(
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
