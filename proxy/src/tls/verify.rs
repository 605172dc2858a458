//! Whether a peer is who it must be: its certificates judged by one function, for both ends of a connection.
//!
//! [`Trust::identify`] is pure: certificates, roots and the time in, an identity or one reason out. Chains are built
//! and signatures checked by rustls-webpki; beyond that a workload's certificate has exactly one URI as subject
//! alternative name, which is a SPIFFE identity of the own trust domain or an alias of it, is for the use it is put to,
//! is no authority's, and has a key that is not weak. A common name proves nothing. There is no revocation:
//! certificates live for hours.

use std::sync::Arc;

use pillion_policy::identity::{Identity, TrustDomain};
use rustls::{
    CertificateError, Error, OtherError, PeerIncompatible,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime},
};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    oid_registry::{self, Oid},
    prelude::FromDer,
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

use super::judge::{JudgeClients, JudgeServers, Shown};
use crate::error::Refusal;

/// Most certificates a peer may show: a leaf, three intermediates and the root, which some send along.
const MAX_CHAIN: usize = 5;

/// Shortest RSA key, in bits (NIST SP 800-131A).
const MIN_RSA_BITS: usize = 2048;

/// What a peer shows its certificate for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It has connected to us.
    Client,
    /// We have connected to it.
    Server,
}

/// Whom we believe.
#[derive(Debug)]
pub struct Trust {
    anchors: Box<[TrustAnchor<'static>]>,
    /// The own trust domain and its aliases.
    domains: Box<[TrustDomain]>,
    provider: Arc<CryptoProvider>,
}

/// Judges clients.
#[derive(Debug)]
pub(super) struct Clients(pub(super) Arc<Trust>);

/// Judges servers, one of which must be among those expected; nobody expected is anybody of the trust domain.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) trust: Arc<Trust>,
    pub(super) expected: Arc<[Identity]>,
}

impl Trust {
    /// Trust in `roots` to speak for `domains`.
    pub fn new(
        roots: &[CertificateDer<'static>],
        domains: Box<[TrustDomain]>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, webpki::Error> {
        let anchors = roots.iter().map(|root| webpki::anchor_from_trusted_cert(root).map(|it| it.to_owned()));
        Ok(Self { anchors: anchors.collect::<Result<_, _>>()?, domains, provider })
    }

    /// Who the owner of `leaf` is, or why that is not proved at `now`.
    pub fn identify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<Identity, Refusal> {
        if intermediates.len() >= MAX_CHAIN {
            return Err(Refusal::ChainTooLong);
        }
        let parsed = parse(leaf)?;
        check_key(parsed.public_key())?;
        let end_entity = EndEntityCert::try_from(leaf).map_err(|error| explain(&error))?;
        let (usage, is_meant) = match role {
            Role::Client => (KeyUsage::client_auth(), uses(&parsed)?.0),
            Role::Server => (KeyUsage::server_auth(), uses(&parsed)?.1),
        };
        let algorithms = self.provider.signature_verification_algorithms.all;
        let path =
            end_entity.verify_for_usage(algorithms, &self.anchors, intermediates, now, usage, None, None);
        match path.map_err(|error| explain(&error)) {
            Ok(_path) => {}
            Err(Refusal::UnknownCa) if parsed.subject() == parsed.issuer() => {
                return Err(Refusal::SelfSigned);
            }
            Err(refusal) => return Err(refusal),
        }
        // webpki takes a certificate without that extension to be for every use.
        if !is_meant {
            return Err(Refusal::WrongUsage);
        }
        let identity = identity(&parsed)?;
        if !self.domains.iter().any(|domain| domain.as_str() == identity.trust_domain()) {
            return Err(Refusal::ForeignTrustDomain);
        }
        Ok(identity)
    }

    /// Whether somebody who has proved to be `proved` is one of those expected. Aliases of the trust domain are taken
    /// for the domain itself.
    fn is_among(&self, proved: &Identity, expected: &[Identity]) -> bool {
        let is = |expected: &Identity| {
            expected == proved
                || (expected.namespace() == proved.namespace()
                    && expected.service_account() == proved.service_account()
                    && self.domains.iter().any(|domain| domain.as_str() == expected.trust_domain()))
        };
        expected.is_empty() || expected.iter().any(is)
    }
}

/// Who a certificate says its owner is, which is not proved by that.
pub(super) fn claimed(leaf: &CertificateDer<'_>) -> Result<Identity, Refusal> {
    identity(&parse(leaf)?)
}

/// Reads a certificate; bytes after it are no part of one.
pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Refusal> {
    match X509Certificate::from_der(der) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) | Err(_) => Err(Refusal::Malformed),
    }
}

/// The one URI among the subject's alternative names.
fn identity(parsed: &X509Certificate<'_>) -> Result<Identity, Refusal> {
    let names = parsed.subject_alternative_name().map_err(|_| Refusal::Malformed)?;
    let Some(names) = names else {
        let has_common_name = parsed.subject().iter_common_name().next().is_some();
        return Err(if has_common_name { Refusal::CommonNameOnly } else { Refusal::NoIdentity });
    };
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (None, _) => Err(Refusal::NoIdentity),
        (Some(_), Some(_)) => Err(Refusal::SeveralIdentities),
        (Some(uri), None) => uri.parse().map_err(|_| Refusal::BadIdentity),
    }
}

/// Whether a certificate says that it is for clients, and for servers.
fn uses(parsed: &X509Certificate<'_>) -> Result<(bool, bool), Refusal> {
    let usage = parsed.extended_key_usage().map_err(|_| Refusal::Malformed)?;
    Ok(usage.map_or((false, false), |usage| (usage.value.client_auth, usage.value.server_auth)))
}

/// RSA from 2048 bits, ECDSA on NIST's curves from 256 bits, Ed25519.
fn check_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), Refusal> {
    let is_curve = |curve: &Oid<'_>| {
        [oid_registry::OID_EC_P256, oid_registry::OID_NIST_EC_P384, oid_registry::OID_NIST_EC_P521]
            .contains(curve)
    };
    let is_strong = match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => rsa.key_size() >= MIN_RSA_BITS,
        Ok(PublicKey::EC(_)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
            curve.is_some_and(|curve| is_curve(&curve))
        }
        Ok(_) => key.algorithm.algorithm == oid_registry::OID_SIG_ED25519,
        Err(_) => return Err(Refusal::Malformed),
    };
    if is_strong { Ok(()) } else { Err(Refusal::WeakKey) }
}

fn explain(error: &webpki::Error) -> Refusal {
    use webpki::Error as E;
    match error {
        E::CertExpired { .. } | E::InvalidCertValidity => Refusal::Expired,
        E::CertNotValidYet { .. } => Refusal::NotYetValid,
        E::CaUsedAsEndEntity => Refusal::CaLeaf,
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Refusal::WrongUsage,
        E::MaximumPathBuildCallsExceeded
        | E::MaximumPathDepthExceeded
        | E::MaximumSignatureChecksExceeded
        | E::PathLenConstraintViolated => Refusal::ChainTooLong,
        E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Refusal::WeakKey,
        // An authority of the same name with another key is another authority.
        E::UnknownIssuer | E::InvalidSignatureForPublicKey | E::EndEntityUsedAsCa => Refusal::UnknownCa,
        _ => Refusal::Malformed,
    }
}

/// A reason in the form in which rustls carries it; [`refusal`] gets it back.
fn refuse(refusal: Refusal) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
}

/// Why rustls gave a handshake up.
pub fn refusal(error: &Error) -> Refusal {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref::<Refusal>().copied().unwrap_or(Refusal::Malformed)
        }
        Error::InvalidCertificate(error) => match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Refusal::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Refusal::NotYetValid
            }
            CertificateError::UnknownIssuer => Refusal::UnknownCa,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Refusal::WrongIdentity
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Refusal::WrongUsage
            }
            CertificateError::BadSignature => Refusal::BadSignature,
            _ => Refusal::Malformed,
        },
        Error::NoCertificatesPresented => Refusal::NoCertificate,
        Error::NoApplicationProtocol => Refusal::NoProtocol,
        Error::AlertReceived(_) => Refusal::ByPeer,
        Error::InvalidMessage(_) => Refusal::NotTls,
        Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => Refusal::Version,
        _ => Refusal::Protocol,
    }
}

impl JudgeClients for Clients {
    fn judge(&self, shown: &Shown<'_>, now: UnixTime) -> Result<(), Error> {
        let identified = self.0.identify(shown.leaf, shown.intermediates, Role::Client, now);
        identified.map(drop).map_err(refuse)
    }
}

impl JudgeServers for Servers {
    fn judge(&self, shown: &Shown<'_>, _: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
        let identified = self.trust.identify(shown.leaf, shown.intermediates, Role::Server, now);
        let identity = identified.map_err(refuse)?;
        if self.trust.is_among(&identity, &self.expected) {
            Ok(())
        } else {
            Err(refuse(Refusal::WrongIdentity))
        }
    }
}

#[cfg(test)]
mod tests;
