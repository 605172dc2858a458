//! A certificate of an authority, with the facts about it that are asked for.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest::{SHA256, digest};
use pem::{EncodeConfig, LineEnding, Pem};
use pillion_policy::identity::Identity;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time};

use crate::clock::unix_seconds;

/// A certificate of ours is valid from a minute before it is made: clocks differ.
pub(super) const SKEW: Duration = Duration::from_secs(60);

/// A certificate that could be read.
#[derive(Clone)]
pub(crate) struct Certificate {
    der: CertificateDer<'static>,
    fingerprint: String,
    subject: String,
    issued: SystemTime,
    not_after: SystemTime,
}

/// Why text is no certificate, or certificates do not make a chain.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// Not PEM, or cut off.
    #[error("it is not PEM: {0}")]
    Pem(String),
    /// PEM without a certificate in it.
    #[error("it holds no certificate")]
    Empty,
    /// A section that is no X.509 certificate.
    #[error("certificate {0} cannot be read")]
    Certificate(usize),
}

impl Certificate {
    /// Reads a certificate in DER; nothing when it is none.
    pub(crate) fn new(der: CertificateDer<'static>) -> Option<Self> {
        let parsed = parse(&der)?;
        let not_after = time(parsed.validity().not_after);
        let issued = time(parsed.validity().not_before) + SKEW;
        let subject = parsed.subject().to_string();
        let hash = digest(&SHA256, &der);
        let fingerprint = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Self { fingerprint, subject, issued, not_after, der })
    }

    /// All certificates of a PEM file, in its order.
    pub(crate) fn read_all(pem: &[u8]) -> Result<Vec<Self>, Problem> {
        let mut all = Vec::new();
        for der in CertificateDer::pem_slice_iter(pem) {
            let der = der.map_err(|error| Problem::Pem(error.to_string()))?;
            all.push(Self::new(der).ok_or(Problem::Certificate(all.len() + 1))?);
        }
        if all.is_empty() { Err(Problem::Empty) } else { Ok(all) }
    }

    /// The certificate itself.
    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The certificate as text.
    pub(crate) fn pem(&self) -> String {
        let section = Pem::new("CERTIFICATE", self.der.as_ref());
        pem::encode_config(&section, EncodeConfig::new().set_line_ending(LineEnding::LF))
    }

    /// SHA-256 of the DER form, in lower-case hexadecimal.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Its subject, for people.
    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    /// When it was issued, as the authority here stamps its certificates.
    pub(crate) fn issued(&self) -> SystemTime {
        self.issued
    }

    /// Until when it is valid.
    pub(crate) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The same for people.
    pub(crate) fn expiry(&self) -> String {
        people(self.not_after)
    }

    /// The identity of its holder: the only URI among its names.
    pub(crate) fn identity(&self) -> Option<Identity> {
        let parsed = parse(&self.der)?;
        let names = &parsed.subject_alternative_name().ok()??.value.general_names;
        let mut uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let uri = uris.next()?;
        if uris.next().is_some() { None } else { uri.parse().ok() }
    }

    /// Whether the other one's key signed it.
    pub(super) fn is_signed_by(&self, issuer: &Self) -> bool {
        let (Some(this), Some(issuer)) = (parse(&self.der), parse(&issuer.der)) else { return false };
        this.issuer() == issuer.subject() && this.verify_signature(Some(issuer.public_key())).is_ok()
    }

    /// Whether it is an authority's: it says so, and its key may sign certificates.
    pub(super) fn is_authority(&self) -> bool {
        let Some(parsed) = parse(&self.der) else { return false };
        let usage = parsed.key_usage().ok().flatten();
        parsed.is_ca() && usage.is_none_or(|usage| usage.value.key_cert_sign())
    }

    /// Whether this is its public key, as it stands in a certificate.
    pub(super) fn has_key(&self, public_key: &[u8]) -> bool {
        parse(&self.der).is_some_and(|parsed| *parsed.public_key().subject_public_key.data == *public_key)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("subject", &self.subject)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// A time for people.
pub(super) fn people(time: SystemTime) -> String {
    let seconds = i64::try_from(unix_seconds(time)).unwrap_or(i64::MAX);
    ASN1Time::from_timestamp(seconds).map(|time| time.to_string()).unwrap_or_default()
}

/// Nothing may follow the certificate: what is not looked at must not be passed on.
fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, parsed)| parsed)
}

fn time(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}
