//! Who calls: what a client certificate or a token proves.
//!
//! A certificate that is valid now counts before a token. A caller that proves nothing is turned away, and told why in
//! words that help who runs it and nobody else.

use std::{sync::Arc, time::SystemTime};

use pillion_policy::identity::{Identity, TrustDomain};
use tokio::sync::watch;
use tonic::{
    Request, Status,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};

use crate::{ca::Certificate, clock, metrics::Metrics, token::Verifier};

/// How the value of `authorization` begins.
const BEARER: &str = "Bearer ";

/// Finds out who calls.
#[derive(Debug, Clone)]
pub(crate) struct Callers {
    pub(super) trust_domain: TrustDomain,
    /// Replaced when an issuer has new keys.
    pub(super) tokens: watch::Receiver<Arc<Verifier>>,
    pub(super) metrics: Metrics,
}

impl Callers {
    /// The identity that the caller has proved, and when the certificate was issued that proves it.
    pub(super) fn identify<T>(&self, request: &Request<T>) -> Result<(Identity, Option<SystemTime>), Status> {
        let proved = match self.by_certificate(request) {
            Some((identity, issued)) => Ok((identity, Some(issued))),
            None => self.by_token(request).map(|identity| (identity, None)),
        };
        proved.inspect_err(|status| {
            let peer = request.remote_addr().map(|peer| peer.to_string()).unwrap_or_default();
            tracing::warn!(peer, error = status.message(), "a caller has not proved who it is");
        })
    }

    /// The handshake has verified the chain; but that may be long ago.
    fn by_certificate<T>(&self, request: &Request<T>) -> Option<(Identity, SystemTime)> {
        let tls = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>()?;
        let certificate = Certificate::new(tls.peer_certs()?.first()?.clone())?;
        let identity = certificate.identity()?;
        let is_ours = identity.trust_domain() == self.trust_domain.as_str();
        (is_ours && certificate.not_after() > clock::now()).then(|| (identity, certificate.issued()))
    }

    fn by_token<T>(&self, request: &Request<T>) -> Result<Identity, Status> {
        let refuse = |label, reason: String| {
            self.metrics.unauthenticated(label);
            Status::unauthenticated(reason)
        };
        let header = request
            .metadata()
            .get("authorization")
            .ok_or_else(|| refuse("none", "give a client certificate or a bearer token".to_owned()))?;
        let token = header.to_str().ok().and_then(|header| header.strip_prefix(BEARER));
        let token = token.ok_or_else(|| refuse("malformed", "give a token as Bearer TOKEN".to_owned()))?;
        let verifier = self.tokens.borrow().clone();
        verifier
            .verify(token.trim(), clock::now())
            .map_err(|invalid| refuse(invalid.label(), invalid.to_string()))
    }
}
