//! TLS as any other client speaks it, towards destinations outside of the mesh (`SIMPLE` and `MUTUAL`).
//!
//! An [`Originator`] is made with the policy of a cluster and reads its files then, off the request path; [`Kept`] makes
//! another when they change. What cannot be used is no reason to fall back on plain text: connections fail until policy
//! and files are right.

mod kept;

use std::sync::{Arc, LazyLock};

use pillion_policy::cluster::{CertificateFiles, Origination};
use rustls::{
    CertificateError, ClientConfig, Error, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use webpki::EndEntityCert;

pub use self::kept::Kept;
use super::{
    Alpn,
    judge::{JudgeServers, Shown, Verifier},
};

/// The roots of the operating system, read when first needed.
static SYSTEM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::warn!(%error, "roots of the operating system");
    }
    let mut store = RootCertStore::empty();
    let (_added, ignored) = store.add_parsable_certificates(loaded.certs);
    if ignored > 0 {
        tracing::debug!(ignored, "roots of the operating system that cannot be read");
    }
    Arc::new(store)
});

/// What connections to a destination are secured with.
#[derive(Debug)]
pub struct Originator {
    name: ServerName<'static>,
    config: ClientConfig,
}

/// Why TLS settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OriginationError {
    /// A file cannot be read as what it should be.
    #[error("{path}: {cause}")]
    File {
        /// Its path.
        path: String,
        /// What is wrong.
        cause: rustls::pki_types::pem::Error,
    },
    /// Certificate and key do not go together, or cannot be used.
    #[error("{0}")]
    Tls(#[from] Error),
    /// There is nobody to believe.
    #[error("there is no root certificate that can be used")]
    NoRoot,
    /// The name asked for is none.
    #[error("{0:?} is no name to ask for")]
    Name(String),
}

/// Judges a server by the roots, then by the names to accept in place of the one asked for.
#[derive(Debug)]
struct Named {
    /// Absent when any certificate is believed.
    chains: Option<Arc<WebPkiServerVerifier>>,
    names: Vec<String>,
}

impl Originator {
    /// Reads what `policy` names. `service` is asked for where it names no host.
    pub fn new(policy: &Origination, service: &str) -> Result<Self, OriginationError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let name = policy.sni.as_ref().map_or(service, |sni| sni.as_str());
        let name =
            ServerName::try_from(name.to_owned()).map_err(|_| OriginationError::Name(name.to_owned()))?;
        let chains = match (policy.insecure_skip_verify, &policy.roots) {
            (true, _) => None,
            (false, None) => Some(Arc::clone(&SYSTEM)),
            (false, Some(path)) => Some(Arc::new(roots(path)?)),
        };
        let chains = chains.map(|roots| {
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .build()
                .map_err(|_| OriginationError::NoRoot)
        });
        let names = policy.subject_alt_names.clone();
        let verifier = Verifier::new(Named { chains: chains.transpose()?, names }, &provider);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match &policy.client_certificate {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let (chain, key) = client_certificate(files)?;
                builder.with_client_auth_cert(chain, key)?
            }
        };
        Ok(Self { name, config })
    }

    /// The name asked for.
    pub fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// How a connection that is to speak `alpn` is opened.
    pub fn connector(&self, alpn: Option<Alpn>) -> Arc<ClientConfig> {
        let mut config = self.config.clone();
        config.alpn_protocols = alpn.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

fn file(path: &str) -> impl FnOnce(rustls::pki_types::pem::Error) -> OriginationError + '_ {
    move |cause| OriginationError::File { path: path.to_owned(), cause }
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, OriginationError> {
    let read = CertificateDer::pem_file_iter(path).map_err(file(path))?;
    read.collect::<Result<_, _>>().map_err(file(path))
}

fn roots(path: &str) -> Result<RootCertStore, OriginationError> {
    let mut store = RootCertStore::empty();
    for root in certificates(path)? {
        store.add(root)?;
    }
    Ok(store)
}

fn client_certificate(
    files: &CertificateFiles,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), OriginationError> {
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(file(&files.key))?;
    Ok((certificates(&files.chain)?, key))
}

impl JudgeServers for Named {
    fn judge(&self, shown: &Shown<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
        let Some(chains) = &self.chains else { return Ok(()) };
        let Shown { leaf, intermediates, ocsp } = shown;
        match chains.verify_server_cert(leaf, intermediates, name, ocsp, now) {
            // The name is looked at last: all else has been found good.
            Ok(_)
            | Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.names.is_empty() => {
                if self.names.iter().any(|name| carries(leaf, name)) {
                    Ok(())
                } else {
                    Err(Error::InvalidCertificate(CertificateError::NotValidForName))
                }
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Whether a certificate is for a DNS name or carries a URI.
fn carries(leaf: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(certificate) = EndEntityCert::try_from(leaf) else { return false };
    if name.contains("://") {
        return certificate.valid_uri_names().any(|uri| uri == name);
    }
    ServerName::try_from(name).is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}

#[cfg(test)]
mod tests;
