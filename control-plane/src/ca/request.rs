//! What a caller may ask to be signed.
//!
//! A request must be signed by the key it is for, the key must be strong enough, and what names it holds must be the
//! caller's identity and nothing else. Subject and every other wish are ignored: a certificate gets what the authority
//! gives all of them.

use pillion_policy::identity::Identity;
use rcgen::SubjectPublicKeyInfo;
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION},
    prelude::FromDer,
    public_key::PublicKey,
    x509,
};

/// Longest request, in bytes. One for an RSA key of 16,384 bits has about 5,000.
const MAX_REQUEST: usize = 16 << 10;

/// Smallest RSA key, in bits ([SP 800-57] part 1, table 2: 112 bits of strength).
///
/// [SP 800-57]: https://doi.org/10.6028/NIST.SP.800-57pt1r5
const MIN_RSA: usize = 2048;

/// Why a certificate is not issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// It cannot be read.
    #[error("the request is no certificate signing request in PEM")]
    Malformed,
    /// The caller does not hold the key, or the request was altered.
    #[error("the request is not signed by the key it is for")]
    Signature,
    /// Too weak, or of a kind the mesh does not use.
    #[error("the key is {0}: use ECDSA on P-256 or P-384, or RSA with at least {MIN_RSA} bits")]
    Key(String),
    /// It asks for somebody else's name.
    #[error("the request is for {asked}, but the caller is {caller}")]
    Name {
        /// What it asks for.
        asked: String,
        /// Who asks.
        caller: Identity,
    },
    /// It asks to become an authority.
    #[error("the request is for an authority, and only workloads get certificates")]
    Authority,
    /// Nothing that is signed now would be believed.
    #[error("the certificate of the authority has expired")]
    Expired,
    /// Signing itself failed.
    #[error("the authority cannot sign: {0}")]
    Signing(String),
}

impl Refusal {
    /// A word for it, for metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Signature => "signature",
            Self::Key(_) => "key",
            Self::Name { .. } => "name",
            Self::Authority => "authority",
            Self::Expired => "expired",
            Self::Signing(_) => "signing",
        }
    }
}

/// The key of a request that may be signed for the identity.
pub(super) fn accept(pem: &str, caller: &Identity) -> Result<SubjectPublicKeyInfo, Refusal> {
    if pem.len() > MAX_REQUEST {
        return Err(Refusal::Malformed);
    }
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|_| Refusal::Malformed)?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| Refusal::Malformed)?;
    if !rest.is_empty() {
        return Err(Refusal::Malformed);
    }
    // The key first: a signature by one that is not to be used says nothing.
    let key = &request.certification_request_info.subject_pki;
    strong(key)?;
    request.verify_signature().map_err(|_| Refusal::Signature)?;
    for attribute in request.certification_request_info.iter_attributes() {
        if let ParsedCriAttribute::ExtensionRequest(wishes) = attribute.parsed_attribute() {
            for wish in &wishes.extensions {
                allowed(wish.parsed_extension(), caller)?;
            }
        }
    }
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|error| Refusal::Key(error.to_string()))
}

fn strong(key: &x509::SubjectPublicKeyInfo<'_>) -> Result<(), Refusal> {
    let algorithm = &key.algorithm;
    if algorithm.algorithm == OID_PKCS1_RSAENCRYPTION {
        return match key.parsed() {
            Ok(PublicKey::RSA(key)) if key.key_size() >= MIN_RSA => Ok(()),
            Ok(PublicKey::RSA(key)) => Err(Refusal::Key(format!("RSA with {} bits", key.key_size()))),
            Ok(_) | Err(_) => Err(Refusal::Malformed),
        };
    }
    if algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return Err(Refusal::Key(format!("of the kind {}", algorithm.algorithm)));
    }
    match algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok()) {
        Some(curve) if curve == OID_EC_P256 || curve == OID_NIST_EC_P384 => Ok(()),
        Some(curve) => Err(Refusal::Key(format!("on the curve {curve}"))),
        None => Err(Refusal::Malformed),
    }
}

fn allowed(wish: &ParsedExtension<'_>, caller: &Identity) -> Result<(), Refusal> {
    match wish {
        ParsedExtension::SubjectAlternativeName(names) => {
            let foreign = names.general_names.iter().find(|name| match name {
                GeneralName::URI(uri) => *uri != caller.uri(),
                _ => true,
            });
            match foreign {
                Some(name) => Err(Refusal::Name { asked: name.to_string(), caller: caller.clone() }),
                None => Ok(()),
            }
        }
        ParsedExtension::BasicConstraints(constraints) if constraints.ca => Err(Refusal::Authority),
        // A list of names that cannot be read might hold any name.
        ParsedExtension::ParseError { .. } => Err(Refusal::Malformed),
        _ => Ok(()),
    }
}
