//! Settings that follow their files: certificates of destinations outside of the mesh are renewed by somebody else.
//!
//! What the files look like from outside is noted before they are read. When that is another, they are read again, all
//! of them; what does not go together, such as a new certificate with the old key, leaves the last good settings in force
//! until the rest is there, too. Handshakes take what is in force and never see a file. Open connections stay.

use std::{fs, os::unix::fs::MetadataExt, sync::Arc};

use arc_swap::ArcSwap;
use pillion_policy::cluster::Origination;

use super::{OriginationError, Originator};

/// Settings by a policy, as its files are at the moment.
#[derive(Debug)]
pub struct Kept {
    policy: Origination,
    service: Box<str>,
    current: ArcSwap<Current>,
}

/// What is in force, and the files it was judged by.
#[derive(Debug)]
struct Current {
    /// Absent as long as the files have never been usable.
    originator: Option<Arc<Originator>>,
    stamps: Vec<Option<Stamp>>,
}

/// By what another content of a file is told: device, inode, size, and time of the last change in seconds and nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

impl Kept {
    /// Reads what `policy` names; `service` is asked for where it names no host. An error says why no connection can be
    /// made as yet.
    pub fn new(policy: &Origination, service: &str) -> (Self, Option<OriginationError>) {
        let stamps = stamps(policy);
        let (originator, error) = match Originator::new(policy, service) {
            Ok(originator) => (Some(Arc::new(originator)), None),
            Err(error) => (None, Some(error)),
        };
        let current = ArcSwap::from_pointee(Current { originator, stamps });
        (Self { policy: policy.clone(), service: service.into(), current }, error)
    }

    /// The settings in force.
    pub fn load(&self) -> Option<Arc<Originator>> {
        self.current.load().originator.clone()
    }

    /// Reads the files again if they have changed; says whether other settings are in force now. Only one task calls
    /// this, and none that serves requests.
    pub fn look(&self) -> Result<bool, OriginationError> {
        let (old, stamps) = (self.current.load(), stamps(&self.policy));
        if stamps == old.stamps {
            return Ok(false);
        }
        let read = Originator::new(&self.policy, &self.service);
        let (originator, result) = match read {
            Ok(originator) => (Some(Arc::new(originator)), Ok(true)),
            Err(error) => (old.originator.clone(), Err(error)),
        };
        self.current.store(Arc::new(Current { originator, stamps }));
        result
    }
}

/// The files of a policy, as they look from outside.
fn stamps(policy: &Origination) -> Vec<Option<Stamp>> {
    let own = policy.client_certificate.iter().flat_map(|files| [&files.chain, &files.key]);
    own.chain(&policy.roots)
        .map(|path| {
            let seen = fs::metadata(path).ok()?;
            Some((seen.dev(), seen.ino(), seen.size(), seen.mtime(), seen.mtime_nsec()))
        })
        .collect()
}
