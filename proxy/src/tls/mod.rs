//! Who is at the other end of a connection, and who this process is.
//!
//! [`credentials`] holds what the own identity is proved with, [`verify`] judges the certificates of peers, for
//! rustls by way of `judge`; [`accept`] and [`connect`] are the two ends of a handshake, [`hello`] listens to the
//! beginning of one without taking part. What a port accepts and whom an endpoint must prove to be is policy and is
//! decided by the faces and by `upstream`; no plain text stands in for a handshake that failed.

pub mod accept;
pub mod connect;
pub mod credentials;
pub mod hello;
pub(crate) mod judge;
pub mod origination;
#[cfg(test)]
pub(crate) mod testing;
pub mod verify;

use std::sync::Arc;

use pillion_policy::identity::Identity;

/// What a connection over mutual TLS has proved of its peer.
#[derive(Debug, Clone)]
pub struct Secured {
    /// Who the peer is.
    pub peer: Arc<Identity>,
    /// The name the peer asked for, where it named one.
    pub sni: Option<Arc<str>>,
}

/// What a connection of the mesh carries, as its handshake says (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP between sidecars: HTTP/2, of which requests may have been HTTP/1.1.
    Mesh,
    /// Opaque bytes between sidecars.
    MeshTcp,
    /// HTTP/1.1 between sidecars: connections that change their protocol.
    MeshHttp1,
    /// HTTP/2.
    Http2,
    /// HTTP/1.1.
    Http1,
}

impl Alpn {
    /// All that are accepted, the most wanted first.
    pub const ALL: [Self; 5] = [Self::Mesh, Self::MeshTcp, Self::MeshHttp1, Self::Http2, Self::Http1];

    /// The name in handshakes.
    pub fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Mesh => b"pillion/1",
            Self::MeshTcp => b"pillion-tcp/1",
            Self::MeshHttp1 => b"pillion-http/1.1",
            Self::Http2 => b"h2",
            Self::Http1 => b"http/1.1",
        }
    }

    /// The protocol of that name.
    pub fn from_bytes(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| alpn.as_bytes() == name)
    }

    /// Whether it is spoken between sidecars only.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Mesh | Self::MeshTcp | Self::MeshHttp1)
    }
}
