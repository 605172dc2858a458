//! Whether the server at the other end is the control plane.
//!
//! Either its certificate is for the host of the URL, as for any server on the web, or it has the SPIFFE identity of
//! the control plane. Workloads have certificates of the same roots, but these are for no host, and for another
//! identity.

use std::{error::Error as StdError, sync::Arc};

use pillion_policy::identity::{Identity, TrustDomain};
use rustls::{
    Error, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::tls::{
    judge::{JudgeServers, Shown},
    verify::{Role, Trust},
};

/// Judges control planes.
#[derive(Debug)]
pub(super) struct ControlPlane {
    trust: Trust,
    identity: Identity,
    by_name: Arc<WebPkiServerVerifier>,
}

impl ControlPlane {
    /// Believes `roots`, and takes `identity` in one of `domains` for the control plane whatever its host.
    pub(super) fn new(
        roots: &[CertificateDer<'static>],
        domains: Box<[TrustDomain]>,
        identity: Identity,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Box<dyn StdError + Send + Sync>> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone())?;
        }
        let by_name =
            WebPkiServerVerifier::builder_with_provider(store.into(), Arc::clone(provider)).build()?;
        Ok(Self { trust: Trust::new(roots, domains, Arc::clone(provider))?, identity, by_name })
    }

    /// Whether somebody who has proved to be `proved` is the control plane, in whichever domain of ours.
    fn is_meant(&self, proved: &Identity) -> bool {
        (proved.namespace(), proved.service_account())
            == (self.identity.namespace(), self.identity.service_account())
    }
}

impl JudgeServers for ControlPlane {
    fn judge(&self, shown: &Shown<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
        let Shown { leaf, intermediates, ocsp } = shown;
        match self.trust.identify(leaf, intermediates, Role::Server, now) {
            Ok(proved) if self.is_meant(&proved) => Ok(()),
            Ok(_) | Err(_) => self.by_name.verify_server_cert(leaf, intermediates, name, ocsp, now).map(drop),
        }
    }
}
