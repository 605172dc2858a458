//! Whom to believe: root certificates from files and from the mesh, and what they have signed.
//!
//! What cannot be a root is left out of those of the mesh, so that one bad entry does not take the others with it; a
//! file is used whole or not at all.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use pillion_policy::{identity::TrustDomain, mesh::MeshConfig};
use rustls::{
    crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
    pki_types::{CertificateDer, UnixTime, pem, pem::PemObject},
};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::tls::credentials;

/// Most certificates that are taken from a file or an answer.
const MAX_CERTIFICATES: usize = 64;

/// Why a file of certificates or of a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It does not hold what it should.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
}

impl FileError {
    /// A file that does not hold what it should.
    pub(super) fn invalid(path: &Path, reason: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), reason: reason.into() }
    }
}

/// The root certificates of a file.
pub(in crate::control) fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let text = fs::read(path).map_err(|error| FileError::Io { path: path.to_owned(), error })?;
    roots(path, &text)
}

/// The root certificates in the content of a file.
pub(super) fn roots(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let roots = certificates(text).map_err(|reason| FileError::invalid(path, reason))?;
    match roots.iter().find_map(|root| webpki::anchor_from_trusted_cert(root).err()) {
        Some(error) => Err(FileError::invalid(path, format!("not a root certificate: {error}"))),
        None => Ok(roots),
    }
}

/// All certificates in a text, of which there must be one at least.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(pem).take(MAX_CERTIFICATES + 1).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error: pem::Error| format!("not PEM: {error}"))?;
    match found.len() {
        0 => Err("no certificate in it".to_owned()),
        1..=MAX_CERTIFICATES => Ok(found),
        _ => Err(format!("more than {MAX_CERTIFICATES} certificates in it")),
    }
}

/// All names of the mesh's trust domain, as far as it has been heard of. An identity may be in one that the mesh had
/// before: its owner believes those who have moved on.
pub(in crate::control) fn domains(mesh: Option<&MeshConfig>) -> Vec<TrustDomain> {
    let named = mesh.map(|mesh| [&mesh.trust_domain].into_iter().chain(&mesh.trust_domain_aliases));
    named.into_iter().flatten().cloned().collect()
}

/// The roots of the mesh; none where it has no authority or has not been heard of.
pub(in crate::control) fn of_mesh(mesh: Option<&MeshConfig>) -> Vec<CertificateDer<'static>> {
    let trust = mesh.and_then(|mesh| mesh.trust.as_ref());
    let texts = trust.into_iter().flat_map(|trust| &trust.roots);
    let read = texts.filter_map(|text| match certificates(text.as_bytes()) {
        Ok(found) => Some(found),
        Err(reason) => {
            tracing::warn!(reason, "a root certificate of the mesh is left out");
            None
        }
    });
    read.flatten().filter(|root| webpki::anchor_from_trusted_cert(root).is_ok()).collect()
}

/// The root that a chain ends in, if it says so itself.
pub(super) fn own_root<'a>(chain: &'a [CertificateDer<'static>]) -> Option<&'a CertificateDer<'static>> {
    let last = chain.last().filter(|_| chain.len() > 1)?;
    let (_, parsed) = X509Certificate::from_der(last).ok()?;
    (parsed.is_ca() && parsed.subject() == parsed.issuer()).then_some(last)
}

/// Whether the first certificate of a chain goes back to `root`.
pub(super) fn is_signed_by(
    chain: &[CertificateDer<'static>],
    root: &CertificateDer<'static>,
    now: SystemTime,
) -> bool {
    let Some((leaf, intermediates)) = chain.split_first() else { return false };
    let (Ok(leaf), Ok(anchor)) = (EndEntityCert::try_from(leaf), webpki::anchor_from_trusted_cert(root))
    else {
        return false;
    };
    let algorithms = credentials::provider().signature_verification_algorithms.all;
    let usage = KeyUsage::client_auth();
    leaf.verify_for_usage(algorithms, &[anchor], intermediates, unix(now), usage, None, None).is_ok()
}

/// A time of day as certificates are checked at.
pub(super) fn unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// SHA-256 of a certificate, in lower-case hexadecimal: what people compare, and what the mesh names its signer by.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let suite = TLS13_AES_128_GCM_SHA256.tls13();
    let digest = suite.map(|suite| suite.common.hash_provider.hash(certificate));
    let digest = digest.as_ref().map(AsRef::as_ref).unwrap_or_default();
    digest.iter().map(|byte: &u8| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
