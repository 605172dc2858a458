//! What `/status` says of the certificate authority.

use std::{fmt, time::SystemTime};

use pillion_policy::mesh::Trust;
use serde::{Deserialize, Serialize};

use crate::{
    ca::{Authority, Certificate},
    clock::unix_seconds,
};

/// What proxies and people are told of an authority.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// For proxies.
    pub(crate) trust: Trust,
    roots: Vec<Certificate>,
    intermediates: Vec<Certificate>,
    rotation: Option<String>,
}

/// What a certificate of the authority is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The end of every chain: what others believe.
    Root,
    /// It signs, and is signed by a root.
    Intermediate,
}

/// The authority and its certificates.
#[derive(Debug, Serialize, Deserialize)]
pub struct AuthorityStatus {
    /// SHA-256 of the root that certificates chain to from now on.
    pub signer: String,
    /// How a change of the root stands, while there is one.
    pub rotation: Option<String>,
    /// Roots and intermediates.
    pub certificates: Vec<CertificateStatus>,
}

/// A certificate of the authority.
#[derive(Debug, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// What it is there for.
    pub role: Role,
    /// Its subject.
    pub subject: String,
    /// SHA-256 of its DER form.
    pub fingerprint: String,
    /// Until when it is valid, in seconds since 1970.
    pub not_after: u64,
    /// Whole days until then; 0 when it has expired.
    pub days_left: u64,
}

impl Facts {
    pub(crate) fn of(authority: &Authority, rotation: Option<String>) -> Self {
        Self {
            trust: authority.trust(),
            roots: authority.roots().to_vec(),
            intermediates: authority.intermediates().to_vec(),
            rotation,
        }
    }

    /// Every certificate of the authority.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = (Role, &Certificate)> {
        let roots = self.roots.iter().map(|root| (Role::Root, root));
        roots.chain(self.intermediates.iter().map(|certificate| (Role::Intermediate, certificate)))
    }

    pub(crate) fn status(&self, now: SystemTime) -> AuthorityStatus {
        let certificates = self.certificates().map(|(role, certificate)| CertificateStatus {
            role,
            subject: certificate.subject().to_owned(),
            fingerprint: certificate.fingerprint().to_owned(),
            not_after: unix_seconds(certificate.not_after()),
            days_left: certificate.not_after().duration_since(now).unwrap_or_default().as_secs() / 86_400,
        });
        AuthorityStatus {
            signer: self.trust.signer.clone(),
            rotation: self.rotation.clone(),
            certificates: certificates.collect(),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
        })
    }
}

impl fmt::Display for AuthorityStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "certificate authority:")?;
        for certificate in &self.certificates {
            let CertificateStatus { role, subject, fingerprint, days_left, .. } = certificate;
            let warning = match days_left {
                0 => ", EXPIRED or about to",
                1..=7 => ", RENEW NOW",
                8..=30 => ", renew soon",
                _ => "",
            };
            let signs = if *fingerprint == self.signer { ", signs" } else { "" };
            writeln!(f, "  {role} {subject}: {days_left} days left{warning}{signs}, sha256 {fingerprint}")?;
        }
        match &self.rotation {
            Some(rotation) => writeln!(f, "  changing the root: {rotation}"),
            None => Ok(()),
        }
    }
}
