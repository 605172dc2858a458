//! Who is at the other end of a connection, and who this process is.

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
