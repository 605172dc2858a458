//! The identity of this proxy: a certificate, its key, and whom it believes, kept fresh in the [`Wallet`].
//!
//! A certificate is issued by an authority ([`authority`]) or kept in files by somebody else ([`files`]). A [`Holder`]
//! joins it with the roots of the mesh, which change without it, and publishes both together; connections that are
//! open go on. Every failure leaves what was there in use, is logged and counted, and is tried again.

pub mod authority;
pub mod files;
mod request;
mod schedule;
pub mod status;
pub(super) mod trust;

#[cfg(test)]
pub(super) mod tests;

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use pillion_policy::{identity::Identity, mesh::MeshConfig};
use rustls::pki_types::CertificateDer;

use self::{
    authority::FromAuthority,
    files::{Files, FilesError, FromFiles},
    request::Leaf,
    status::{Renewal, Status},
};
use super::access::Access;
use crate::{
    rt::clock::{self, Rfc3339},
    telemetry::metrics::Metrics,
    tls::credentials::{Credentials, CredentialsError, Material, Wallet},
    view::Views,
};

/// How long before its end a certificate that lives long is warned of.
const WARNING: Duration = Duration::from_secs(7 * 86_400);

/// The part of its life before the end of which one that lives shortly is: a renewal is long due by then.
const LAST_QUARTER: u32 = 4;

/// The task that keeps the identity.
#[derive(Debug)]
pub enum Keeper {
    /// An authority issues it.
    Authority(Box<FromAuthority>),
    /// It is in files.
    Files(Box<FromFiles>),
}

/// What a keeper works with.
#[derive(Debug)]
pub struct Parts {
    /// Where the identity goes.
    pub wallet: Arc<Wallet>,
    /// Where the mesh says whom it believes.
    pub views: Arc<Views>,
    /// Where renewals are counted.
    pub metrics: Arc<Metrics>,
}

/// The certificate held, joined with whom the mesh believes.
#[derive(Debug)]
struct Holder {
    wallet: Arc<Wallet>,
    views: Arc<Views>,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    mesh: Option<Arc<MeshConfig>>,
    leaf: Option<Leaf>,
    /// Roots beside those of the mesh and the one the certificate brings along.
    given: Vec<CertificateDer<'static>>,
    /// How near its end the certificate was last seen.
    stage: Stage,
    /// The failure that was last logged, where it goes on the same.
    failing: Option<String>,
}

/// How near its end a certificate is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Good,
    Ending,
    Over,
}

impl Keeper {
    /// Has the identity issued by the authority that `access` leads to.
    pub fn authority(
        identity: Identity,
        access: Arc<Access>,
        parts: Parts,
        rng: fastrand::Rng,
    ) -> (Self, Arc<Status>) {
        let (holder, status) = Holder::new(parts, "authority");
        (Self::Authority(Box::new(FromAuthority::new(identity, access, holder, rng))), status)
    }

    /// Takes the identity from files, which must be usable now.
    pub fn files(files: Files, parts: Parts) -> Result<(Self, Arc<Status>), FilesError> {
        let (holder, status) = Holder::new(parts, "files");
        Ok((Self::Files(Box::new(FromFiles::start(files, holder)?)), status))
    }

    /// Keeps it for the life of the process.
    pub async fn run(self) -> Infallible {
        match self {
            Self::Authority(authority) => authority.run().await,
            Self::Files(files) => files.run().await,
        }
    }
}

impl Holder {
    fn new(parts: Parts, source: &'static str) -> (Self, Arc<Status>) {
        let Parts { wallet, views, metrics } = parts;
        let status = Arc::new(Status::new(Arc::clone(&wallet), source));
        let holder = Self {
            wallet,
            views,
            metrics,
            status: Arc::clone(&status),
            mesh: None,
            leaf: None,
            given: Vec::new(),
            stage: Stage::Good,
            failing: None,
        };
        (holder, status)
    }

    /// Publishes another certificate; where it cannot be used, the old one stays.
    fn hold(&mut self, leaf: Leaf, given: Vec<CertificateDer<'static>>) -> Result<(), CredentialsError> {
        let credentials = self.join(&leaf, &given)?;
        tracing::info!(
            identity = %credentials.identity(), serial = credentials.serial(),
            not_after = %Rfc3339(credentials.not_after()), "certificate in use"
        );
        self.metrics.identity.expires(credentials.not_after());
        self.wallet.publish(credentials);
        (self.leaf, self.given, self.stage) = (Some(leaf), given, Stage::Good);
        Ok(())
    }

    /// Takes up whom the mesh believes; says whether that has changed.
    fn follow_mesh(&mut self) -> bool {
        let mesh = self.views.load().mesh.clone();
        let believed = |mesh: &Option<Arc<MeshConfig>>| {
            mesh.as_ref().map(|mesh| (mesh.trust.clone(), trust::domains(Some(mesh))))
        };
        let is_same = match (&mesh, &self.mesh) {
            (Some(new), Some(old)) => Arc::ptr_eq(new, old) || believed(&mesh) == believed(&self.mesh),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.mesh = mesh;
        let Some(leaf) = self.leaf.as_ref().filter(|_| !is_same) else { return !is_same };
        match self.join(leaf, &self.given) {
            Ok(credentials) => {
                tracing::info!(roots = credentials.roots().len(), "the roots of the mesh are taken up");
                self.wallet.publish(credentials);
            }
            Err(error) => tracing::warn!(%error, "the roots of the mesh are not used; the old ones are"),
        }
        true
    }

    fn join(&self, leaf: &Leaf, given: &[CertificateDer<'static>]) -> Result<Credentials, CredentialsError> {
        let Leaf { chain, key } = leaf.clone();
        let mut roots = trust::of_mesh(self.mesh.as_deref());
        for root in given.iter().chain(trust::own_root(&chain)) {
            if !roots.contains(root) {
                roots.push(root.clone());
            }
        }
        let trust_domain_aliases = trust::domains(self.mesh.as_deref());
        Credentials::new(Material { chain, key, roots, trust_domain_aliases })
    }

    /// The roots that are known without a certificate.
    fn roots(&self) -> Vec<CertificateDer<'static>> {
        trust::of_mesh(self.mesh.as_deref())
    }

    /// The root that signs now, with its fingerprint, as far as the mesh tells.
    fn signer(&self) -> Option<(String, CertificateDer<'static>)> {
        let signer = &self.mesh.as_ref()?.trust.as_ref()?.signer;
        let root = self.roots().into_iter().find(|root| trust::fingerprint(root) == *signer)?;
        Some((signer.clone(), root))
    }

    fn leaf(&self) -> Option<&Leaf> {
        self.leaf.as_ref()
    }

    fn not_after(&self) -> Option<SystemTime> {
        Some(self.wallet.load()?.not_after())
    }

    /// Notes how a renewal went: counted each time, logged when something is new.
    fn renewed(&mut self, renewal: Renewal) {
        match &renewal.error {
            None => self.metrics.identity.renewed.inc(),
            Some(error) => {
                self.metrics.identity.failed.inc();
                if self.failing.as_ref() != Some(error) {
                    tracing::warn!(%error, failures = renewal.failures, "certificate not renewed; trying again");
                }
            }
        }
        self.failing = renewal.error.clone();
        self.status.note(renewal);
    }

    /// Says once when the certificate nears its end, and once when that has come.
    fn watch_expiry(&mut self) {
        let Some(credentials) = self.wallet.load() else { return };
        let (not_before, not_after) = (credentials.not_before(), credentials.not_after());
        let stage = Stage::of(not_before, not_after, clock::now());
        if stage > self.stage {
            let (not_after, error) = (Rfc3339(not_after), self.failing.as_deref().unwrap_or("unknown"));
            match stage {
                Stage::Good => {}
                Stage::Ending => tracing::warn!(%not_after, error, "the certificate is about to expire"),
                Stage::Over => tracing::error!(%not_after, error, "the certificate has expired"),
            }
        }
        self.stage = stage;
    }
}

impl Stage {
    fn of(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> Self {
        let left = not_after.duration_since(now).unwrap_or_default();
        let life = not_after.duration_since(not_before).unwrap_or_default();
        if left.is_zero() {
            Self::Over
        } else if left < WARNING.min(life / LAST_QUARTER) {
            Self::Ending
        } else {
            Self::Good
        }
    }
}
