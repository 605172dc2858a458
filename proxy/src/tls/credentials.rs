//! What this proxy proves its identity with, and whom it believes: a certificate, its key, and the roots.
//!
//! [`Credentials`] are immutable; everything handshakes need is made once from [`Material`]. The [`Wallet`] holds those
//! of the moment: a new certificate is published there and used by the next handshake, while connections that are open
//! go on. A key is never written, printed or handed out.
//!
//! Mesh TLS is version 1.3 only. Sessions are not resumed and there are no tickets, so that no connection outlives the
//! roots and identities it was judged by; connections between sidecars are few and long.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use pillion_policy::identity::{Identity, TrustDomain};
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use tokio::sync::watch;

use super::{
    Alpn,
    judge::Verifier,
    verify::{self, Clients, Servers, Trust},
};
use crate::error::Refusal;

/// What credentials are made of.
pub struct Material {
    /// The own certificate, then those of its issuers.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the own certificate.
    pub key: PrivateKeyDer<'static>,
    /// Whom to believe: during a rotation of roots there are several.
    pub roots: Vec<CertificateDer<'static>>,
    /// Other names of the own trust domain.
    pub trust_domain_aliases: Vec<TrustDomain>,
}

/// A proved identity, and all that handshakes with it need.
#[derive(Debug)]
pub struct Credentials {
    identity: Arc<Identity>,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    trust: Arc<Trust>,
    resolver: Arc<SingleCertAndKey>,
    acceptor: Arc<ServerConfig>,
    /// What connectors are made from; these differ in what they offer and whom they expect.
    connector: ClientConfig,
}

/// Why material makes no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// There is no certificate.
    #[error("there is no certificate")]
    NoCertificate,
    /// There is nobody to believe.
    #[error("there is no root certificate")]
    NoRoot,
    /// The own certificate is none of a workload.
    #[error("the own certificate cannot be used: {0}")]
    Certificate(Refusal),
    /// A root cannot be read.
    #[error("root certificate {number} cannot be used: {cause}")]
    Root {
        /// Which one, from 1.
        number: usize,
        /// What is wrong with it.
        cause: webpki::Error,
    },
    /// Certificate and key do not go together, or the key cannot be read.
    #[error("the private key cannot be used: {0}")]
    Key(rustls::Error),
}

/// The credentials of the moment, shared by all workers and by who renews them.
#[derive(Debug)]
pub struct Wallet {
    is_configured: bool,
    current: ArcSwapOption<Credentials>,
    /// How often credentials were published.
    news: watch::Sender<u64>,
}

/// The cryptography of the mesh: AES-GCM and ChaCha20, and hybrid key exchange first.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::{cipher_suite as suite, kx_group};
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

impl Credentials {
    /// Reads and joins `material`. Whether the certificate is valid at this time is not asked here.
    pub fn new(material: Material) -> Result<Self, CredentialsError> {
        let Material { chain, key, roots, trust_domain_aliases } = material;
        let leaf = chain.first().ok_or(CredentialsError::NoCertificate)?;
        if roots.is_empty() {
            return Err(CredentialsError::NoRoot);
        }
        let identity = verify::claimed(leaf).map_err(CredentialsError::Certificate)?;
        let parsed = verify::parse(leaf).map_err(CredentialsError::Certificate)?;
        let (serial, not_before, not_after) = (
            parsed.raw_serial_as_string().replace(':', ""),
            time(parsed.validity().not_before.timestamp()),
            time(parsed.validity().not_after.timestamp()),
        );
        let own = TrustDomain::new(identity.trust_domain())
            .map_err(|_| CredentialsError::Certificate(Refusal::BadIdentity))?;
        let provider = provider();
        let domains = [own].into_iter().chain(trust_domain_aliases).collect();
        let trust = Arc::new(believe(&roots, domains, &provider)?);
        let certified =
            CertifiedKey::from_der(chain.clone(), key, &provider).map_err(CredentialsError::Key)?;
        let resolver = Arc::new(SingleCertAndKey::from(certified));
        Ok(Self {
            identity: Arc::new(identity),
            serial,
            not_before,
            not_after,
            acceptor: Arc::new(acceptor(&provider, &trust, &resolver).map_err(CredentialsError::Key)?),
            connector: connector(&provider, &trust, &resolver).map_err(CredentialsError::Key)?,
            chain,
            roots,
            trust,
            resolver,
        })
    }

    /// Whose they are.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Since when the certificate is valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when it is.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Its serial number, in lower-case hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The own certificate, then those of its issuers.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Whom they believe.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// What shows the certificate in a handshake of another kind, as to the control plane.
    pub fn resolver(&self) -> &Arc<SingleCertAndKey> {
        &self.resolver
    }

    /// How connections of the mesh are accepted: clients must prove an identity of the trust domain.
    pub fn acceptor(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.acceptor)
    }

    /// How connections of the mesh are opened: servers must prove to be one of those `expected`, or anybody of the trust
    /// domain where none is. `alpn` is what is offered to speak.
    pub fn connector(&self, alpn: Option<Alpn>, expected: Arc<[Identity]>) -> Arc<ClientConfig> {
        let mut config = self.connector.clone();
        config.alpn_protocols = alpn.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
        let servers = Servers { trust: Arc::clone(&self.trust), expected };
        config.dangerous().set_certificate_verifier(Verifier::new(servers, self.connector.crypto_provider()));
        Arc::new(config)
    }
}

fn believe(
    roots: &[CertificateDer<'static>],
    domains: Box<[TrustDomain]>,
    provider: &Arc<CryptoProvider>,
) -> Result<Trust, CredentialsError> {
    for (index, root) in roots.iter().enumerate() {
        if let Err(cause) = webpki::anchor_from_trusted_cert(root) {
            return Err(CredentialsError::Root { number: index + 1, cause });
        }
    }
    Trust::new(roots, domains, Arc::clone(provider))
        .map_err(|cause| CredentialsError::Root { number: 0, cause })
}

fn acceptor(
    provider: &Arc<CryptoProvider>,
    trust: &Arc<Trust>,
    resolver: &Arc<SingleCertAndKey>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Verifier::new(Clients(Arc::clone(trust)), provider))
        .with_cert_resolver(Arc::clone(resolver) as _);
    config.alpn_protocols = Alpn::ALL.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn connector(
    provider: &Arc<CryptoProvider>,
    trust: &Arc<Trust>,
    resolver: &Arc<SingleCertAndKey>,
) -> Result<ClientConfig, rustls::Error> {
    let servers = Servers { trust: Arc::clone(trust), expected: Arc::from([]) };
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Verifier::new(servers, provider))
        .with_client_cert_resolver(Arc::clone(resolver) as _);
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Times before 1970 are 1970: they are over in any case.
fn time(unix: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(unix).unwrap_or_default())
}

impl Wallet {
    /// A proxy without an identity: it speaks plain text.
    pub fn none() -> Self {
        Self { is_configured: false, current: ArcSwapOption::empty(), news: watch::Sender::new(0) }
    }

    /// A proxy that will have an identity, and does nothing in plain text until then that it should do in its name.
    pub fn awaiting() -> Self {
        Self { is_configured: true, ..Self::none() }
    }

    /// Whether there is or will be an identity.
    pub fn is_configured(&self) -> bool {
        self.is_configured
    }

    /// The credentials of the moment.
    pub fn load(&self) -> Option<Arc<Credentials>> {
        self.current.load_full()
    }

    /// The credentials of the moment, if they can be shown at `now`.
    pub fn ready(&self, now: SystemTime) -> Result<Arc<Credentials>, Refusal> {
        let credentials = self.load().ok_or(Refusal::Unready)?;
        if now > credentials.not_after { Err(Refusal::OwnExpired) } else { Ok(credentials) }
    }

    /// Puts in others, for handshakes from now on.
    pub fn publish(&self, credentials: Credentials) {
        self.current.store(Some(Arc::new(credentials)));
        self.news.send_modify(|times| *times += 1);
    }

    /// Tells of every publication from now on, with how many there were.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }
}

impl Default for Wallet {
    fn default() -> Self {
        Self::none()
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
