//! The far end of TLS: a server is believed when it has proved to be one of those expected.
//!
//! Under TLS 1.3 a client is through with the handshake before the server has judged the client's certificate. Where
//! the server speaks first, as in HTTP/2, its first bytes are awaited: after them it is certain that both sides
//! believe each other, and a connection that was refused has carried nothing.

use std::{net::SocketAddr, sync::Arc};

use bytes::BytesMut;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::io::AsyncReadExt;
use tokio_rustls::{TlsConnector, TlsStream};

use super::{Alpn, accept::explain};
use crate::{error::Refusal, net::rewind::Io};

/// First bytes of a server that are read ahead: the settings of HTTP/2.
const SETTINGS: usize = 256;

/// Secures a connection. The caller limits the time.
pub async fn connect(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    io: Io,
) -> Result<(Io, Option<Alpn>), Refusal> {
    let stream = TlsConnector::from(config).connect(name, io).await.map_err(|error| {
        tracing::debug!(%error, "handshake failed");
        explain(&error)
    })?;
    let alpn = stream.get_ref().1.alpn_protocol().and_then(Alpn::from_bytes);
    let mut io = Io::secured(TlsStream::from(stream));
    if matches!(alpn, Some(Alpn::Mesh | Alpn::Http2)) {
        let mut front = BytesMut::with_capacity(SETTINGS);
        match io.read_buf(&mut front).await {
            Ok(0) => return Err(Refusal::Closed),
            Ok(_) => io = io.put_back(front.freeze()),
            Err(error) => return Err(explain(&error)),
        }
    }
    Ok((io, alpn))
}

/// The name asked for: that of the service, for the server's log, or nothing but an address.
pub fn server_name(service: &str, endpoint: SocketAddr) -> ServerName<'static> {
    ServerName::try_from(service.to_owned()).unwrap_or(ServerName::IpAddress(endpoint.ip().into()))
}
