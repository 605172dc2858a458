//! The key that signs, the certificates that lead from it to a root, and what it makes of a request.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use pillion_policy::{identity::Identity, mesh::Trust};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, string::Ia5String,
};
use rustls::pki_types::CertificateDer;

use super::{
    certificate::{Certificate, SKEW},
    request::{self, Refusal},
};

/// For how long a root made here is valid.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Length of serial numbers in bytes; RFC 5280 allows 20, CAs are expected to use at least 8 random ones.
const SERIAL: usize = 16;

/// Signs certificates of workloads.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The certificate of the key, then its issuer's and so on; the root is last.
    chain: Vec<Certificate>,
    /// Every root that is to be believed, the one that signs first.
    roots: Vec<Certificate>,
}

/// A certificate that was signed.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    /// The certificate, those of the authority, and the root last.
    pub(crate) chain: Vec<Certificate>,
    /// Its serial number, in hexadecimal.
    pub(crate) serial: String,
    /// Until when it is valid.
    pub(crate) not_after: SystemTime,
}

impl Issued {
    /// The certificate itself.
    pub(crate) fn leaf(&self) -> &Certificate {
        #[expect(clippy::expect_used, reason = "what is issued begins with the certificate")]
        self.chain.first().expect("a certificate")
    }
}

/// Why key and certificates do not make an authority.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    /// The file begins with something else.
    #[error("the first certificate ({0}) is not the one of the key")]
    Key(String),
    /// It must not sign.
    #[error("{0} is not the certificate of an authority")]
    NoAuthority(String),
    /// The order is wrong or one is missing.
    #[error("{0} is not signed by the next certificate: begin with the one of the key and end with the root")]
    Chain(String),
    /// The chain does not end.
    #[error("{0} is not a root: append the certificates up to one that signed itself")]
    NoRoot(String),
    /// The library does not understand it.
    #[error("{0} cannot be used: {1}")]
    Unusable(String, rcgen::Error),
}

impl Authority {
    /// Puts an authority together: its key, the certificate of the key with those up to a root, and after it any number
    /// of further roots to be believed.
    pub(crate) fn new(key: KeyPair, certificates: Vec<Certificate>) -> Result<Self, Unfit> {
        let mut roots = Vec::new();
        let mut chain: Vec<Certificate> = Vec::new();
        for certificate in certificates {
            let subject = || certificate.subject().to_owned();
            if !certificate.is_authority() {
                return Err(Unfit::NoAuthority(subject()));
            }
            let is_root = certificate.is_signed_by(&certificate);
            if roots.is_empty() {
                match chain.last() {
                    Some(before) if !before.is_signed_by(&certificate) => {
                        return Err(Unfit::Chain(before.subject().to_owned()));
                    }
                    None if !certificate.has_key(key.public_key_raw()) => return Err(Unfit::Key(subject())),
                    _ => chain.push(certificate.clone()),
                }
            } else if !is_root {
                return Err(Unfit::NoRoot(subject()));
            }
            if is_root {
                roots.push(certificate);
            }
        }
        let (Some(first), Some(last)) = (chain.first(), chain.last()) else {
            return Err(Unfit::NoRoot("nothing".to_owned()));
        };
        if roots.is_empty() {
            return Err(Unfit::NoRoot(last.subject().to_owned()));
        }
        let issuer = Issuer::from_ca_cert_der(first.der(), key)
            .map_err(|error| Unfit::Unusable(first.subject().to_owned(), error))?;
        Ok(Self { issuer, chain, roots })
    }

    /// Makes a root: a certificate that its key signs itself, and that may sign those of workloads only.
    pub(crate) fn root(key: &KeyPair, now: SystemTime) -> Result<Certificate, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Pillion root");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        params.not_before = (now - SKEW).into();
        params.not_after = (now + ROOT_LIFETIME).into();
        let made = params.self_signed(key)?;
        Certificate::new(made.into()).ok_or(rcgen::Error::CouldNotParseCertificate)
    }

    /// What proxies have to believe.
    pub(crate) fn trust(&self) -> Trust {
        Trust {
            roots: self.roots.iter().map(Certificate::pem).collect(),
            signer: self.signer().fingerprint().to_owned(),
        }
    }

    /// Every root that is to be believed, the one that signs first.
    pub(crate) fn roots(&self) -> &[Certificate] {
        &self.roots
    }

    /// The certificates between workloads and the root.
    pub(crate) fn intermediates(&self) -> &[Certificate] {
        self.chain.split_last().map_or(&[], |(_, intermediates)| intermediates)
    }

    /// The root that certificates chain to.
    pub(crate) fn signer(&self) -> &Certificate {
        #[expect(clippy::expect_used, reason = "an authority without a root is never made")]
        self.roots.first().expect("a root")
    }

    /// Signs what a caller who has proved to be `identity` asks for, if it may have that.
    pub(crate) fn sign(
        &self,
        request: &str,
        identity: &Identity,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, Refusal> {
        let key = request::accept(request, identity)?;
        self.issue(&key, vec![uri(identity)?], lifetime, now)
    }

    /// Signs a key of this process, which serves under the identity and further names.
    pub(crate) fn sign_own(
        &self,
        key: &KeyPair,
        identity: &Identity,
        names: &Names,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, Refusal> {
        let mut all = vec![uri(identity)?];
        for name in &names.dns {
            all.push(SanType::DnsName(ascii(name)?));
        }
        all.extend(names.ip.iter().copied().map(SanType::IpAddress));
        self.issue(key, all, lifetime, now)
    }

    /// No certificate outlives one that it depends on.
    fn issue(
        &self,
        key: &impl PublicKeyData,
        names: Vec<SanType>,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, Refusal> {
        let end = self.chain.iter().map(Certificate::not_after).min().unwrap_or(now);
        if end <= now {
            return Err(Refusal::Expired);
        }
        let number = serial().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - SKEW).into();
        params.not_after = (now + lifetime).min(end).into();
        params.serial_number = Some(number.clone());
        let der: CertificateDer<'static> = params.signed_by(key, &self.issuer).map_err(failed)?.into();
        let leaf = Certificate::new(der).ok_or_else(|| failed(rcgen::Error::CouldNotParseCertificate))?;
        let not_after = leaf.not_after();
        let serial = number.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let chain = [leaf].into_iter().chain(self.chain.iter().cloned()).collect();
        Ok(Issued { chain, serial, not_after })
    }
}

/// What the control plane is called by those who connect to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    /// DNS names.
    pub(crate) dns: Vec<String>,
    /// Addresses.
    pub(crate) ip: Vec<IpAddr>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("chain", &self.chain)
            .field("roots", &self.roots)
            .finish_non_exhaustive()
    }
}

fn failed(error: rcgen::Error) -> Refusal {
    Refusal::Signing(error.to_string())
}

fn uri(identity: &Identity) -> Result<SanType, Refusal> {
    ascii(identity.uri()).map(SanType::URI)
}

fn ascii(name: &str) -> Result<Ia5String, Refusal> {
    Ia5String::try_from(name).map_err(failed)
}

/// A random serial number, positive and not zero.
fn serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0; SERIAL];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}
