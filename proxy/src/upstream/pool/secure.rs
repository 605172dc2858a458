//! Opening a connection to an endpoint: TCP, and the TLS its transport asks for, within one limit of time.

use std::sync::{Arc, atomic::Ordering};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{EndpointPool, waiting::Opening};
use crate::{
    error::{ProxyError, Refusal},
    net::{
        rewind::Io,
        socket::{self, ConnectError},
    },
    rt::clock,
    telemetry::access_log::Direction,
    tls::{Alpn, connect},
    upstream::{cluster::Upstream, transport::Transport},
};

/// What a connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carries {
    /// One HTTP/1.1 exchange at a time.
    Http1,
    /// HTTP/2.
    Http2,
    /// Opaque bytes.
    Opaque,
}

/// How a connection is to be secured.
struct Securing {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    /// What the peer must have agreed to speak.
    must: Option<Alpn>,
}

impl EndpointPool {
    /// Opens a connection to the endpoint, and says how long which part of that took.
    pub(super) async fn connect(
        &self,
        upstream: &Upstream,
        carries: Carries,
    ) -> (Result<Io, ProxyError>, Option<Opening>) {
        let mut opening = Opening::begin(Instant::now());
        self.opening.set(Some(opening));
        let result = self.opened(upstream, carries, &mut opening).await;
        self.opening.set(None);
        (result, Some(opening))
    }

    async fn opened(
        &self,
        upstream: &Upstream,
        carries: Carries,
        opening: &mut Opening,
    ) -> Result<Io, ProxyError> {
        let pool = &upstream.cluster().pool;
        let endpoint = self.live.address();
        // What cannot be secured for a lack of ours is no fault of the endpoint's.
        let securing = self.securing(upstream, carries).map_err(|refusal| self.refused(refusal))?;
        let deadline = Instant::now() + pool.connect_timeout;
        let (keepalive, source) = (pool.keepalive.as_ref(), self.state.source());
        let connected = socket::connect(endpoint, pool.connect_timeout, keepalive, source).await;
        let stream = connected.map_err(|error| {
            self.unreached(match error {
                ConnectError::Timeout => ProxyError::ConnectTimeout { endpoint, after: pool.connect_timeout },
                other => ProxyError::ConnectFailed { endpoint, reason: other.to_string().into() },
            })
        })?;
        opening.connected(Instant::now());
        let io = match securing {
            None => Io::new(stream),
            Some(securing) => {
                self.opening.set(Some(*opening));
                let secured = Box::pin(timeout_at(deadline, secure(securing, stream))).await;
                opening.secured(Instant::now());
                let io = secured.unwrap_or(Err(Refusal::Timeout)).map_err(|refusal| self.refused(refusal))?;
                self.connector.metrics.tls.done(Direction::Outbound);
                io
            }
        };
        self.live.reachable();
        Ok(io)
    }

    /// Whether, and how, a connection is to be secured.
    fn securing(&self, upstream: &Upstream, carries: Carries) -> Result<Option<Securing>, Refusal> {
        let wallet = &self.connector.wallet;
        let foreign = match carries {
            Carries::Http1 => Some(Alpn::Http1),
            Carries::Http2 => Some(Alpn::Http2),
            Carries::Opaque => None,
        };
        let service = upstream.cluster().name.endpoints.service.as_str();
        let name = || connect::server_name(service, self.live.address());
        Ok(Some(match self.live.transport() {
            Transport::Plain => return Ok(None),
            transport @ Transport::Sidecar { expected, .. } => {
                if !transport.is_sidecar(wallet) {
                    return Ok(None);
                }
                let alpn = match carries {
                    Carries::Http1 => Alpn::MeshHttp1,
                    Carries::Http2 => Alpn::Mesh,
                    Carries::Opaque => Alpn::MeshTcp,
                };
                let config = wallet.ready(clock::now())?.connector(Some(alpn), Arc::clone(expected));
                Securing { config, name: name(), must: Some(alpn) }
            }
            Transport::Mutual { expected } => {
                let config = wallet.ready(clock::now())?.connector(foreign, Arc::clone(expected));
                Securing { config, name: name(), must: None }
            }
            Transport::Originate(_) => {
                let originator = upstream.originator().ok_or(Refusal::BadSettings)?;
                Securing { config: originator.connector(foreign), name: originator.name(), must: None }
            }
        }))
    }

    /// A connection that could not be secured, noted everywhere.
    fn refused(&self, refusal: Refusal) -> ProxyError {
        self.connector.metrics.tls.failed(Direction::Outbound, refusal);
        let endpoint = self.live.address();
        tracing::info!(%endpoint, reason = refusal.label(), "upstream connection not secured: {refusal}");
        let error = ProxyError::Handshake { endpoint, refusal };
        if !refusal.is_ours() {
            return self.unreached(error);
        }
        self.state.gauges().connect_failures.fetch_add(1, Ordering::Relaxed);
        error
    }

    /// An endpoint that could not be reached, noted everywhere.
    fn unreached(&self, error: ProxyError) -> ProxyError {
        let reason = match &error {
            ProxyError::ConnectFailed { reason, .. } => Arc::clone(reason),
            ProxyError::Handshake { refusal, .. } => refusal.to_string().into(),
            _ => ConnectError::Timeout.to_string().into(),
        };
        self.live.unreachable(&reason, Instant::now());
        self.state.gauges().connect_failures.fetch_add(1, Ordering::Relaxed);
        error
    }
}

/// The handshake; a protocol that was not agreed on is not spoken.
async fn secure(securing: Securing, stream: TcpStream) -> Result<Io, Refusal> {
    let Securing { config, name, must } = securing;
    let (io, alpn) = connect::connect(config, name, Io::new(stream)).await?;
    if must.is_some() && alpn != must { Err(Refusal::NoProtocol) } else { Ok(io) }
}
