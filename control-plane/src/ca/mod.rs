//! The certificate authority of the mesh: keys, roots and the signing of workload certificates.
//!
//! [`Authority`] holds the key that signs and the certificates that lead from it to a root; what it signs is decided by
//! `request` (what a caller may ask for) and by the identity it is given (what a caller has proved). [`StateDir`] keeps
//! root and keys on disk. Nothing here knows of callers, streams or the network, and time is always an argument.
//!
//! Invariants: a private key leaves this module neither as text nor in a `Debug` output; a certificate names exactly the
//! identity it was asked to be signed for; what is on disk is either whole or refused, and never replaced unasked.
//!
//! The forms are those of SPIFFE ([X.509-SVID]) and of Istio's certificate service.
//!
//! [X.509-SVID]: https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md

mod authority;
mod certificate;
mod expiry;
mod outsider;
mod pace;
mod request;
mod rotation;
mod state_dir;

pub use self::outsider::create_certificate;
pub(crate) use self::{
    authority::{Authority, Issued, Names},
    certificate::Certificate,
    expiry::Expiry,
    pace::Pace,
    request::Refusal,
    rotation::{Customer, DWELL, Renewals, Standing, acknowledged, nobody_away, renewed},
    state_dir::{Given, StateDir},
};
pub use self::{
    rotation::Phase,
    state_dir::{WaitFor, admin_token, read_token, request_root, rotation},
};

#[cfg(test)]
mod tests;
