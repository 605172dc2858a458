//! One request for a certificate: a key of its own, and whether what comes back may be used with it.
//!
//! The key is made in memory for this one certificate and never leaves it. An answer is not believed because of who
//! has sent it: it must be for this key and this identity, be valid now, for clients and servers both, and go back to a
//! root that is known or that it brings along.

use std::{fmt, time::SystemTime};

use pillion_policy::identity::{Identity, TrustDomain};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

use super::trust;
use crate::{
    error::Refusal,
    tls::{
        credentials,
        verify::{Role, Trust},
    },
};

/// A request that has not been answered.
pub(super) struct Request {
    identity: Identity,
    key: KeyPair,
}

/// A certificate with its issuers, and its key.
pub(super) struct Leaf {
    /// The certificate, then those of its issuers.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

/// Why an answer is of no use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    /// It holds no certificates.
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
    /// The certificate is for another key.
    #[error("the certificate is for another key")]
    OtherKey,
    /// The certificate is for somebody else.
    #[error("the certificate is for {0}")]
    OtherIdentity(Identity),
    /// Peers would not take it.
    #[error("the certificate would be refused: {0}")]
    Refused(Refusal),
    /// There is no root to go back to.
    #[error("there is no root certificate that the certificate could go back to")]
    NoRoot,
}

impl Request {
    /// A request for a certificate of this identity.
    pub(super) fn new(identity: &Identity) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok(Self { identity: identity.clone(), key })
    }

    /// What is sent (PKCS #10 in PEM), signed with the key: proof of having it.
    pub(super) fn csr(&self) -> Result<String, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(self.identity.uri().try_into()?)];
        params.serialize_request(&self.key)?.pem()
    }

    /// Takes an answer, leaf first, each text one certificate or several in PEM.
    pub(super) fn accept(
        self,
        answer: &[String],
        roots: &[CertificateDer<'static>],
        now: SystemTime,
    ) -> Result<Leaf, Unusable> {
        let chain = trust::certificates(answer.join("\n").as_bytes()).map_err(Unusable::Unreadable)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let certified = CertifiedKey::from_der(chain.clone(), key.clone_key(), &credentials::provider());
        certified.map_err(|_| Unusable::OtherKey)?;
        let leaf = Leaf { chain, key };
        leaf.check(&self.identity, roots, now)?;
        Ok(leaf)
    }
}

impl Leaf {
    /// Whether peers that believe the same roots will take it for `identity` now.
    fn check(
        &self,
        identity: &Identity,
        roots: &[CertificateDer<'static>],
        now: SystemTime,
    ) -> Result<(), Unusable> {
        let known: Vec<_> = roots.iter().chain(trust::own_root(&self.chain)).cloned().collect();
        if known.is_empty() {
            return Err(Unusable::NoRoot);
        }
        let own = TrustDomain::new(identity.trust_domain()).into_iter().collect();
        let trust = Trust::new(&known, own, credentials::provider()).map_err(|_| Unusable::NoRoot)?;
        let (leaf, issuers) = self.chain.split_first().ok_or(Unusable::NoRoot)?;
        for role in [Role::Client, Role::Server] {
            let proved = trust.identify(leaf, issuers, role, trust::unix(now));
            let proved = proved.map_err(Unusable::Refused)?;
            if proved != *identity {
                return Err(Unusable::OtherIdentity(proved));
            }
        }
        Ok(())
    }
}

impl Clone for Leaf {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
