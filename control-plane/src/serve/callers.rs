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
    /// The trust domain and its other names, in one of which an identity is.
    pub(super) domains: Arc<[TrustDomain]>,
    /// Replaced when an issuer has new keys.
    pub(super) tokens: watch::Receiver<Arc<Verifier>>,
    pub(super) metrics: Metrics,
}

/// Who a caller has proved to be, and by what.
#[derive(Debug)]
pub(super) struct Proved {
    pub(super) identity: Identity,
    /// The validity of the certificate that proves it; absent where a token does.
    pub(super) validity: Option<Validity>,
}

/// From when and until when a certificate counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Validity {
    pub(super) issued: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Callers {
    /// The identity that the caller has proved.
    pub(super) fn identify<T>(&self, request: &Request<T>) -> Result<Proved, Status> {
        let proved = match self.by_certificate(request) {
            Some(proved) => Ok(proved),
            None => self.by_token(request).map(|identity| Proved { identity, validity: None }),
        };
        proved.inspect_err(|status| {
            let peer = request.remote_addr().map(|peer| peer.to_string()).unwrap_or_default();
            tracing::warn!(peer, error = status.message(), "a caller has not proved who it is");
        })
    }

    /// The handshake has verified the chain; but that may be long ago.
    fn by_certificate<T>(&self, request: &Request<T>) -> Option<Proved> {
        let tls = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>()?;
        let certificate = Certificate::new(tls.peer_certs()?.first()?.clone())?;
        let identity = certificate.identity()?;
        let is_ours = self.domains.iter().any(|domain| domain.as_str() == identity.trust_domain());
        let validity = Validity { issued: certificate.issued(), not_after: certificate.not_after() };
        let is_valid = is_ours && validity.not_after > clock::now();
        is_valid.then_some(Proved { identity, validity: Some(validity) })
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
