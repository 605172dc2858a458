//! Whether an inbound request is let in: its tokens first, then the policies of the workload.
//!
//! Who is refused learns that policy is against it and no more; which policy that was stands in the access log. A request
//! that is let in is kept in the sight of [`crate::authz`], so that a later policy may still break it off. Without a policy
//! that is all there is.

use std::sync::Arc;

use futures_util::FutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use pillion_policy::authorization::{self, Asked, Authorization, Token, Verdict};

use super::{exchange::Exchange, respond, tokens};
use crate::{
    authz::{Guest, Visit},
    body::Body,
    error::ProxyError,
    telemetry::metrics::Metrics,
    upstream::Upstream,
    view::LiveWorkload,
};

impl Exchange {
    /// Lets a request to the application in, or answers it.
    pub async fn admitted(
        mut self,
        own: Option<&LiveWorkload>,
        upstream: &Upstream,
        request: &mut Request<Incoming>,
    ) -> Result<Self, Response<Body>> {
        let judged = match own {
            Some(own) => self.judge(own, request).await,
            None => Ok(None),
        };
        match judged.and_then(|token| self.enter(token, request)) {
            Ok(()) => Ok(self),
            Err(error) => {
                self.finish.stats = Some(Arc::clone(upstream.requests()));
                Err(self.refuse(&error))
            }
        }
    }

    /// Keeps a request that is let in where policy sees it. Nothing enters by a connection that is broken off.
    fn enter(&mut self, token: Option<Arc<Token>>, request: &Request<Incoming>) -> Result<(), ProxyError> {
        let Some(guest) = &self.downstream.guest else { return Ok(()) };
        let stay = guest.stay(Visit {
            method: request.method().clone(),
            uri: request.uri().clone(),
            authority: self.asked().map(|asked| asked.value().clone()),
            token,
        });
        let is_late = stay.is_broken_off();
        self.finish.stay = Some(stay);
        if is_late { Err(ProxyError::Denied { policy: None }) } else { Ok(()) }
    }

    /// What the request's token has proved, if it has one, or why the request is not let in.
    async fn judge(
        &mut self,
        own: &LiveWorkload,
        request: &mut Request<Incoming>,
    ) -> Result<Option<Arc<Token>>, ProxyError> {
        let token = match own.issuers() {
            Some(issuers) => {
                if let Some(uri) = tokens::redacted(issuers, request.uri()) {
                    self.finish.note(|record| record.uri = uri);
                }
                let worker = &self.downstream.worker;
                tokens::authenticate(issuers, (&worker.tokens, &worker.metrics.access), request).await?
            }
            None => None,
        };
        if let Some(guest) = self.downstream.guest.clone()
            && !own.authorization().is_empty()
        {
            self.authorize(own.authorization(), &guest, request, token.as_deref())?;
        }
        Ok(token)
    }

    /// What the client gets once a new policy is against its request. None where policy cannot be.
    pub fn denied(&self) -> Option<impl Future<Output = Response<Body>> + use<>> {
        let (broken_off, grpc) = (self.finish.stay.as_ref()?.broken_off(), self.finish.grpc);
        Some(broken_off.map(move |()| respond::error(&ProxyError::Denied { policy: None }, grpc)))
    }

    fn authorize(
        &mut self,
        policies: &Authorization,
        guest: &Guest,
        request: &Request<Incoming>,
        token: Option<&Token>,
    ) -> Result<(), ProxyError> {
        let asked = Asked::Request(authorization::Request {
            method: request.method().as_str(),
            authority: self.asked().map_or("", |asked| asked.authority()),
            path: request.uri().path(),
            headers: Some(request.headers()),
            token,
        });
        let subject = guest.subject(asked);
        let metrics = &self.downstream.worker.metrics;
        let audit = policies.audit(&subject);
        let judged = judge(policies.decide(&subject), metrics);
        if !audit.is_empty() {
            metrics.access.audited.inc();
            let names: Vec<&str> = audit.iter().map(|name| &***name).collect();
            self.finish.note(|record| record.audit = Some(names.join(",").into()));
        }
        judged
    }
}

/// Lets an opaque connection in, or not.
pub fn admits_bytes(own: Option<&LiveWorkload>, guest: &Guest, metrics: &Metrics) -> bool {
    let Some(policies) = own.map(LiveWorkload::authorization).filter(|all| !all.is_empty()) else {
        return true;
    };
    let subject = guest.subject(Asked::Bytes);
    let peer = subject.peer.map(tracing::field::display);
    for policy in policies.audit(&subject) {
        metrics.access.audited.inc();
        tracing::info!(%policy, source = %subject.source, peer, "opaque connection audited");
    }
    match judge(policies.decide(&subject), metrics) {
        Ok(()) => true,
        Err(error) => {
            tracing::info!(reason = error.in_full(), source = %subject.source, peer, "opaque connection refused");
            false
        }
    }
}

fn judge(verdict: Verdict<'_>, metrics: &Metrics) -> Result<(), ProxyError> {
    let (counter, error) = match verdict {
        Verdict::Allowed => (&metrics.access.allowed, None),
        Verdict::Denied { policy } => (&metrics.access.denied, Some(Some(Arc::clone(policy)))),
        Verdict::DeniedByDefault => (&metrics.access.denied_by_default, Some(None)),
    };
    counter.inc();
    error.map_or(Ok(()), |policy| Err(ProxyError::Denied { policy }))
}
