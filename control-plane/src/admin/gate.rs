//! Who may be told of traffic.
//!
//! What proxies remember of requests is more than metrics: paths, addresses, identities. Where the control plane has a
//! state directory, only who can read a file of it may ask; elsewhere, only who is on the same machine. A refusal says
//! what would help, and nothing of the token.

#[cfg(test)]
mod tests;

use std::{fmt, net::SocketAddr, path::Path, sync::Arc};

use anyhow::Result;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::{HeaderMap, StatusCode, header::AUTHORIZATION};

use crate::ca::StateDir;

/// How the value of `authorization` begins.
const BEARER: &str = "Bearer ";

/// Decides who may be told of traffic.
#[derive(Debug, Clone)]
pub(crate) enum Gate {
    /// Who shows this token.
    Token(Token),
    /// Who calls from the same machine.
    Local,
}

/// A token of the state directory.
#[derive(Clone)]
pub(crate) struct Token(Arc<str>);

/// Why somebody is told nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The status that says so.
    pub(crate) status: StatusCode,
    /// In words.
    pub(crate) reason: &'static str,
}

impl Gate {
    /// The gate of a control plane with this state directory, where the token is made unless it is there.
    pub(crate) fn open(state_dir: Option<&Path>) -> Result<Self> {
        let Some(state_dir) = state_dir else { return Ok(Self::Local) };
        let token = StateDir::open(state_dir)?.admin_token()?;
        Ok(Self::Token(Token(token.into())))
    }

    /// Whether somebody with this address and these headers may be told of traffic.
    pub(crate) fn admit(&self, peer: SocketAddr, headers: &HeaderMap) -> Result<(), Refusal> {
        match self {
            Self::Token(token) => token.check(headers),
            Self::Local if peer.ip().to_canonical().is_loopback() => Ok(()),
            Self::Local => Err(Refusal {
                status: StatusCode::FORBIDDEN,
                reason: "this tells of traffic, and without --state-dir only who is on the machine of the control plane \
                         may ask for that",
            }),
        }
    }
}

impl Token {
    fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let reason = match shown.and_then(|value| value.strip_prefix(BEARER)) {
            Some(shown) if verify_slices_are_equal(shown.trim().as_bytes(), self.0.as_bytes()).is_ok() => {
                return Ok(());
            }
            Some(_) => "the token is not the one in admin.token of the control plane's --state-dir",
            None => {
                "this tells of traffic: show the token in admin.token of the control plane's --state-dir, as pillion does \
                 with --state-dir DIR or --admin-token-file FILE"
            }
        };
        Err(Refusal { status: StatusCode::UNAUTHORIZED, reason })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}
