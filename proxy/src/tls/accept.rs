//! The near end of mutual TLS: a client is let in when it has proved who it is.
//!
//! A handshake has [`HANDSHAKE`] and rustls' bound on the size of messages (64 KiB). What it comes to is one
//! [`Accepted`] or one reason; nothing a client sends before that is passed on.

use std::{fmt::Write as _, io, sync::Arc, time::Duration};

use http::HeaderValue;
use pillion_policy::identity::Identity;
use rustls::{crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256, pki_types::CertificateDer};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::{Alpn, Secured, credentials::Credentials, verify};
use crate::{error::Refusal, net::rewind::Io};

/// How long a handshake may take. On a busy machine it takes milliseconds.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// A client that has proved who it is.
#[derive(Debug)]
pub struct Accepted {
    /// The connection, secured.
    pub io: Io,
    /// Who it is.
    pub secured: Secured,
    /// What it speaks, where both sides have said so.
    pub alpn: Option<Alpn>,
    /// The same for the application: the value of `x-forwarded-client-cert`.
    pub forwarded: HeaderValue,
}

/// Lets a client in.
pub async fn accept(credentials: &Credentials, io: Io) -> Result<Accepted, Refusal> {
    let accepting = TlsAcceptor::from(credentials.acceptor()).accept(io);
    let stream = match timeout(HANDSHAKE, accepting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "handshake failed");
            return Err(explain(&error));
        }
        Err(_elapsed) => return Err(Refusal::Timeout),
    };
    let connection = stream.get_ref().1;
    let leaf = connection.peer_certificates().and_then(<[_]>::first).ok_or(Refusal::NoCertificate)?;
    let peer = Arc::new(verify::claimed(leaf)?);
    let forwarded = forwarded(credentials.identity(), leaf, &peer);
    let alpn = connection.alpn_protocol().and_then(Alpn::from_bytes);
    let secured = Secured { peer, sni: connection.server_name().map(Arc::from) };
    Ok(Accepted { io: Io::secured(TlsStream::from(stream)), secured, alpn, forwarded })
}

/// Why a handshake failed.
pub(super) fn explain(error: &io::Error) -> Refusal {
    match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        Some(error) => verify::refusal(error),
        None => Refusal::Closed,
    }
}

/// What Envoy puts into `x-forwarded-client-cert`: who was called, and whose certificate called.
fn forwarded(own: &Identity, leaf: &CertificateDer<'_>, peer: &Identity) -> HeaderValue {
    let mut value = format!("By={};Hash=", own.uri());
    if let Some(suite) = TLS13_AES_128_GCM_SHA256.tls13() {
        for byte in suite.common.hash_provider.hash(leaf).as_ref() {
            // Writing to a string cannot fail.
            let _infallible = write!(value, "{byte:02x}");
        }
    }
    let _infallible = write!(value, ";Subject=\"\";URI={}", peer.uri());
    // Identities are of letters, digits and a few signs.
    HeaderValue::from_maybe_shared(bytes::Bytes::from(value)).unwrap_or(HeaderValue::from_static(""))
}
