//! How a connection comes in: in plain text, or secured, as the policy of its port says.
//!
//! PERMISSIVE takes both, told apart by the first bytes. TLS is ours when its ClientHello offers a protocol of ours, or
//! when the port is declared to speak HTTP; other TLS is the application's own and passes untouched. STRICT takes nothing
//! but mutual TLS: not a byte of plain text is looked at. DISABLE leaves all TLS to the application. A proxy without an
//! identity cannot take TLS; under STRICT it then takes nothing.

use std::{io, net::SocketAddr};

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use pillion_policy::{authentication::PeerTls, cluster::Protocol as Declared};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::{
    error::Refusal,
    net::{
        detect::{self, How, Protocol},
        rewind::Io,
    },
    rt::clock,
    telemetry::access_log::Direction,
    tls::{
        Alpn, Secured,
        accept::{self, HANDSHAKE},
        hello::{Hello, Listening, Offer},
    },
    worker::Worker,
};

/// What a connection was meant for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// The port of the workload.
    pub(super) port: u16,
    /// What it is declared to speak.
    pub(super) declared: Declared,
    /// Whether the kernel has turned the connection here.
    pub(super) is_redirected: bool,
}

/// A connection that may come in.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) io: Io,
    /// What it speaks, inside TLS where there is any.
    pub(super) protocol: Protocol,
    /// What was proved of the client; absent on plain text.
    pub(super) client: Option<Client>,
}

/// A client that has proved who it is.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) secured: Secured,
    pub(super) forwarded: HeaderValue,
    pub(super) alpn: Option<Alpn>,
}

/// A connection that may not.
#[derive(Debug)]
pub(super) enum Refused {
    /// It ended before it said anything.
    Ended(io::Error),
    /// It could not be secured.
    Unsecured(Refusal),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Unsecured(refusal)
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Ended(error)
    }
}

impl Refused {
    /// Tells operators; the client has been told what TLS tells it.
    pub(super) fn report(self, worker: &Worker, peer: SocketAddr, port: u16) {
        match self {
            Self::Ended(error) => tracing::debug!(%peer, %error, "connection ended before it said anything"),
            Self::Unsecured(refusal) => {
                worker.metrics.tls.failed(Direction::Inbound, refusal);
                tracing::info!(%peer, port, reason = refusal.label(), "inbound connection refused: {refusal}");
            }
        }
    }
}

/// Lets a connection in by the policy of its port.
pub(super) async fn enter(worker: &Worker, mut stream: TcpStream, asked: Asked) -> Result<Entered, Refused> {
    let Asked { port, declared, is_redirected } = asked;
    let takes_tls = match mode(worker, port) {
        PeerTls::Strict => return strictly(worker, stream, asked).await,
        PeerTls::Permissive => worker.wallet.is_configured(),
        PeerTls::Disable => false,
    };
    if declared == Declared::Tcp && !takes_tls {
        return Ok(Entered { io: Io::new(stream), protocol: Protocol::Opaque, client: None });
    }
    // A client of an opaque port may wait for the server to speak first.
    let first_request = worker.settings.first_request_timeout;
    let patience = detect::patience(is_redirected || declared == Declared::Tcp, first_request);
    let detected = worker.detect(Direction::Inbound, &mut stream, patience).await?;
    let mut bytes = detected.bytes;
    // Whoever begins TLS slowly is not taken for somebody who speaks something else.
    let may_be_tls =
        detected.protocol == Protocol::Tls || (detected.how == How::TimedOut && detect::may_be_tls(&bytes));
    if takes_tls && may_be_tls {
        let heard = timeout(HANDSHAKE, listen(&mut stream, bytes)).await;
        let (all, offer) = heard.map_err(|_elapsed| Refusal::Timeout)??;
        if offer.is_some_and(|offer| is_ours(&offer, declared)) {
            return secure(worker, Io::rewound(stream, all), asked).await;
        }
        bytes = all;
    }
    // The policy may have changed while the client thought about what to say.
    if mode(worker, port) == PeerTls::Strict {
        return Err(Refusal::NotTls.into());
    }
    let protocol = match (declared, detected.protocol) {
        (Declared::Tcp, _) | (_, Protocol::Tls | Protocol::Opaque) => Protocol::Opaque,
        (_, http) => http,
    };
    Ok(Entered { io: Io::rewound(stream, bytes), protocol, client: None })
}

/// Takes nothing but TLS. Whoever speaks something else is not answered, not even with an alert.
async fn strictly(worker: &Worker, mut stream: TcpStream, asked: Asked) -> Result<Entered, Refused> {
    let heard = timeout(HANDSHAKE, listen(&mut stream, Bytes::new())).await;
    let (bytes, offer) = heard.map_err(|_elapsed| Refusal::Timeout)??;
    match offer {
        Some(_) => secure(worker, Io::rewound(stream, bytes), asked).await,
        None if bytes.is_empty() => Err(Refusal::Closed.into()),
        None => Err(Refusal::NotTls.into()),
    }
}

/// What a port takes at this moment.
fn mode(worker: &Worker, port: u16) -> PeerTls {
    worker.views.load().workload.as_ref().map(|own| own.policy().peer_tls(port)).unwrap_or_default()
}

/// Reads a ClientHello to its end, or until it is none. The bytes are kept.
async fn listen(stream: &mut TcpStream, front: Bytes) -> io::Result<(Bytes, Option<Offer>)> {
    let mut listening = Listening::default();
    let mut bytes = BytesMut::from(front);
    let mut heard = 0;
    loop {
        match listening.hear(bytes.get(heard..).unwrap_or_default()) {
            Hello::NeedMore => heard = bytes.len(),
            Hello::NotTls => return Ok((bytes.freeze(), None)),
            Hello::Is(offer) => return Ok((bytes.freeze(), Some(offer))),
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok((bytes.freeze(), None));
        }
    }
}

/// Whether TLS is meant for the proxy and not for the application.
fn is_ours(offer: &Offer, declared: Declared) -> bool {
    matches!(declared, Declared::Http1 | Declared::Http2)
        || offer.alpn.iter().any(|name| Alpn::from_bytes(name).is_some_and(Alpn::is_ours))
}

/// Takes the handshake, and finds out what the connection carries.
async fn secure(worker: &Worker, io: Io, asked: Asked) -> Result<Entered, Refused> {
    let credentials = worker.wallet.ready(clock::now())?;
    let accepted = accept::accept(&credentials, io).await?;
    worker.metrics.tls.done(Direction::Inbound);
    let accept::Accepted { mut io, secured, alpn, forwarded } = accepted;
    let protocol = match alpn {
        Some(Alpn::Mesh | Alpn::Http2) => Protocol::Http2,
        Some(Alpn::MeshHttp1 | Alpn::Http1) => Protocol::Http1,
        Some(Alpn::MeshTcp) => Protocol::Opaque,
        None if asked.declared == Declared::Tcp => Protocol::Opaque,
        None => {
            let patience = detect::patience(asked.is_redirected, worker.settings.first_request_timeout);
            let detected = worker.detect(Direction::Inbound, &mut io, patience).await?;
            io = io.put_back(detected.bytes);
            match detected.protocol {
                Protocol::Tls => Protocol::Opaque,
                other => other,
            }
        }
    };
    Ok(Entered { io, protocol, client: Some(Client { secured, forwarded, alpn }) })
}
