//! Why a TLS handshake came to nothing: one reason each, for logs and metrics.
//!
//! The enum is closed, so that the label of the metric is bounded. What a reason means for a request is the business
//! of [`super::ProxyError`]; a peer is told no more than TLS makes us tell it.

/// Why there is no secured connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[repr(u8)]
pub enum Refusal {
    /// The peer showed nothing.
    #[error("the peer has shown no certificate")]
    NoCertificate,
    /// A certificate of the chain is over.
    #[error("the peer's certificate has expired")]
    Expired,
    /// A certificate of the chain has not begun: clocks may differ.
    #[error("the peer's certificate is not valid yet")]
    NotYetValid,
    /// The chain ends at nobody we believe.
    #[error("the peer's certificate is signed by an unknown authority")]
    UnknownCa,
    /// The certificate is its own authority.
    #[error("the peer's certificate is signed by itself")]
    SelfSigned,
    /// It is somebody else.
    #[error("the peer is not who was expected")]
    WrongIdentity,
    /// It is somebody of another mesh.
    #[error("the peer belongs to another trust domain")]
    ForeignTrustDomain,
    /// More than one URI claims to be the identity.
    #[error("the peer's certificate names several identities")]
    SeveralIdentities,
    /// There is no URI to take for an identity.
    #[error("the peer's certificate names no identity")]
    NoIdentity,
    /// There is a common name only, which proves nothing.
    #[error("the peer's certificate has a common name, but no subject alternative name")]
    CommonNameOnly,
    /// The URI is no SPIFFE identity of a workload.
    #[error("the peer's certificate names no SPIFFE identity of a workload")]
    BadIdentity,
    /// The extended key usage is not for this end of a connection.
    #[error("the peer's certificate is not for this use (extended key usage)")]
    WrongUsage,
    /// More certificates than a chain may have.
    #[error("the peer's certificate chain is too long")]
    ChainTooLong,
    /// A key or signature that can be forged.
    #[error("the peer's certificate has a key or signature that is too weak")]
    WeakKey,
    /// A certificate of an authority is shown as a workload's.
    #[error("the peer shows the certificate of an authority")]
    CaLeaf,
    /// It cannot be read.
    #[error("the peer's certificate is malformed")]
    Malformed,
    /// The peer does not have the key of its certificate.
    #[error("the peer does not hold the key of its certificate")]
    BadSignature,
    /// A version of TLS we do not speak.
    #[error("the peer does not speak TLS 1.3")]
    Version,
    /// No protocol in common.
    #[error("the peer speaks no protocol that is offered here")]
    NoProtocol,
    /// Not TLS at all.
    #[error("the peer does not speak TLS")]
    NotTls,
    /// Too slow.
    #[error("the handshake took too long")]
    Timeout,
    /// The connection ended first.
    #[error("the peer closed the connection during the handshake")]
    Closed,
    /// The peer has refused us.
    #[error("the peer has refused our certificate or handshake")]
    ByPeer,
    /// We have no certificate to show yet.
    #[error("this proxy has no certificate yet")]
    Unready,
    /// Ours is over.
    #[error("this proxy's own certificate has expired")]
    OwnExpired,
    /// What was configured for the connection cannot be used.
    #[error("the TLS settings of the destination cannot be used")]
    BadSettings,
    /// Anything else that breaks the protocol.
    #[error("the handshake broke the TLS protocol")]
    Protocol,
}

impl Refusal {
    /// Every reason; the index of each is its number.
    pub const ALL: [Self; 27] = [
        Self::NoCertificate,
        Self::Expired,
        Self::NotYetValid,
        Self::UnknownCa,
        Self::SelfSigned,
        Self::WrongIdentity,
        Self::ForeignTrustDomain,
        Self::SeveralIdentities,
        Self::NoIdentity,
        Self::CommonNameOnly,
        Self::BadIdentity,
        Self::WrongUsage,
        Self::ChainTooLong,
        Self::WeakKey,
        Self::CaLeaf,
        Self::Malformed,
        Self::BadSignature,
        Self::Version,
        Self::NoProtocol,
        Self::NotTls,
        Self::Timeout,
        Self::Closed,
        Self::ByPeer,
        Self::Unready,
        Self::OwnExpired,
        Self::BadSettings,
        Self::Protocol,
    ];

    /// The reason as a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::UnknownCa => "unknown_ca",
            Self::SelfSigned => "self_signed",
            Self::WrongIdentity => "wrong_identity",
            Self::ForeignTrustDomain => "foreign_trust_domain",
            Self::SeveralIdentities => "several_identities",
            Self::NoIdentity => "no_identity",
            Self::CommonNameOnly => "common_name_only",
            Self::BadIdentity => "bad_identity",
            Self::WrongUsage => "wrong_usage",
            Self::ChainTooLong => "chain_too_long",
            Self::WeakKey => "weak_key",
            Self::CaLeaf => "ca_leaf",
            Self::Malformed => "malformed_certificate",
            Self::BadSignature => "bad_signature",
            Self::Version => "version",
            Self::NoProtocol => "no_protocol",
            Self::NotTls => "not_tls",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::ByPeer => "refused_by_peer",
            Self::Unready => "no_own_certificate",
            Self::OwnExpired => "own_expired",
            Self::BadSettings => "bad_settings",
            Self::Protocol => "protocol",
        }
    }

    /// Whether the fault is on this side: it says nothing about the peer.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Unready | Self::OwnExpired | Self::BadSettings)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reason_has_its_number_and_label() {
        for (number, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, number);
        }
        let labels: HashSet<_> = Refusal::ALL.into_iter().map(Refusal::label).collect();
        assert_eq!(labels.len(), Refusal::ALL.len());
    }
}
