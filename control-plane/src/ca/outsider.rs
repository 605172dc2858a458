//! Certificates made by hand: for what takes part in the mesh without a sidecar, such as another proxy or a test.
//!
//! Key, chain and roots are written as files, and nobody renews them. The state directory is used where it lies, so only
//! who may read the key of the authority can do this; the control plane need not run, and does not hear of it.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use pillion_policy::{
    identity::{Identity, TrustDomain},
    name::Label,
};

use super::{
    authority::Names,
    certificate::Certificate,
    state_dir::{PUBLIC, SECRET, StateDir, new_key, write},
};
use crate::clock;

/// Writes `chain.pem` (the certificate first), `key.pem` (mode 0600) and `root.pem` into `out`, in place of what is there.
/// Fails when the state directory holds no usable authority, or when a file cannot be written.
pub fn create_certificate(
    state_dir: &Path,
    trust_domain: &TrustDomain,
    (namespace, service_account): (&Label, &Label),
    ttl: Duration,
    out: &Path,
) -> Result<()> {
    let now = clock::now();
    let authority = StateDir::open(state_dir)?.authority(now)?;
    let identity = Identity::new(trust_domain, namespace, service_account);
    let key = new_key()?;
    let issued = authority
        .sign_own(&key, &identity, &Names::default(), ttl, now)
        .with_context(|| format!("cannot sign a certificate for {identity}"))?;
    let pem = |certificates: &[Certificate]| certificates.iter().map(Certificate::pem).collect::<String>();
    let (_root, chain) = issued.chain.split_last().context("the authority gave no chain")?;
    let files = [
        ("key.pem", key.serialize_pem(), SECRET),
        ("chain.pem", pem(chain), PUBLIC),
        ("root.pem", pem(authority.roots()), PUBLIC),
    ];
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the directory {}", out.display()))?;
    for (name, content, mode) in files {
        let path = out.join(name);
        write(&path, &content, mode).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
