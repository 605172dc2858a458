//! Root and keys on disk.
//!
//! ```text
//!   root.pem            every root that is to be believed: what a proxy is given as --root-file   0644
//!   root-key.pem        key of the root that signs                                                0600
//!   token-key.pem       key by which tokens for workloads are signed, made on first use           0600
//!   admin.token         what must be shown by who wants to be told of traffic, made on first use  0600
//!   next-root-key.pem   while the root is changed: key of the one that will sign                  0600
//!   retiring.pem        while the root is changed: the one that has signed                        0644
//!   connected-only      while the root is changed: nobody who is away is waited for               0644
//! ```
//!
//! A file appears whole or not at all: it is written beside, flushed to disk, and then given its name. A file that is
//! missing beside another, or cannot be read, is an error and never made anew: whoever believes in a root would be cut
//! off by a new one without notice.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, bail};
use aws_lc_rs::rand;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

use super::{authority::Authority, certificate::Certificate, rotation::Phase};

const ROOTS: &str = "root.pem";
const ROOT_KEY: &str = "root-key.pem";
const TOKEN_KEY: &str = "token-key.pem";
const ADMIN_TOKEN: &str = "admin.token";
const NEXT_KEY: &str = "next-root-key.pem";
const RETIRING: &str = "retiring.pem";
const CONNECTED_ONLY: &str = "connected-only";

pub(super) const PUBLIC: u32 = 0o644;
pub(super) const SECRET: u32 = 0o600;

/// A directory that holds the state of an authority.
#[derive(Debug, Clone)]
pub(crate) struct StateDir(PathBuf);

impl StateDir {
    /// Opens the directory; makes one that nobody else may enter when there is none.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("cannot make the directory {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    /// The directory of a control plane that has been started before.
    fn existing(path: &Path) -> Result<Self> {
        let state = Self(path.to_owned());
        if !exists(&state.0.join(ROOT_KEY))? {
            bail!(
                "{} holds no root: only one that was made in a --state-dir can be changed there",
                path.display()
            );
        }
        Ok(state)
    }

    /// The authority kept here; on first use, one with a new root.
    pub(crate) fn authority(&self, now: SystemTime) -> Result<Authority> {
        let (roots, key) = (self.0.join(ROOTS), self.0.join(ROOT_KEY));
        match (exists(&roots)?, exists(&key)?) {
            (false, false) => self.make_root(now)?,
            (true, true) => {}
            (true, false) => bail!("{} is there, but {} is not: {RESTORE}", roots.display(), key.display()),
            (false, true) => bail!("{} is there, but {} is not: {RESTORE}", key.display(), roots.display()),
        }
        let key = read_key(&key, Access::Private)?;
        let mut roots_read = read_certificates(&roots)?;
        // Whose key it is signs; the others are there to be believed.
        let Some(position) = roots_read.iter().position(|root| root.has_key(key.public_key_raw())) else {
            bail!("{ROOT_KEY} is the key of no certificate in {}: {RESTORE}", roots.display());
        };
        roots_read.swap(0, position);
        Authority::new(key, roots_read).with_context(|| format!("{}: {RESTORE}", roots.display()))
    }

    /// The key by which tokens are signed and verified; made on first use, by whoever comes first.
    pub(crate) fn token_key(&self) -> Result<KeyPair> {
        let path = self.0.join(TOKEN_KEY);
        if !exists(&path)? {
            self.create(TOKEN_KEY, &new_key()?.serialize_pem(), SECRET)?;
        }
        read_key(&path, Access::Private)
    }

    /// The token by which people are told of traffic; made on first use.
    pub(crate) fn admin_token(&self) -> Result<String> {
        let path = self.0.join(ADMIN_TOKEN);
        if !exists(&path)? {
            let mut random = [0; 32];
            rand::fill(&mut random).ok().context("there is no randomness for a token")?;
            let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
            self.create(ADMIN_TOKEN, &(token + "\n"), SECRET)?;
        }
        token_in(&path, Access::Private)
    }

    /// Where a change of the root stands.
    pub(crate) fn phase(&self) -> Result<Phase> {
        Ok(match (exists(&self.0.join(NEXT_KEY))?, exists(&self.0.join(RETIRING))?) {
            (true, _) => Phase::Distribute,
            (false, true) => Phase::Sign,
            (false, false) => Phase::Settled,
        })
    }

    /// Begins [`Phase::Distribute`]: the new root is believed beside the old one. Doing it again changes nothing.
    pub(crate) fn distribute(&self, now: SystemTime) -> Result<()> {
        let key = read_key(&self.0.join(NEXT_KEY), Access::Private)?;
        let mut roots = read_certificates(&self.0.join(ROOTS))?;
        if roots.iter().any(|root| root.has_key(key.public_key_raw())) {
            return Ok(());
        }
        roots.push(Authority::root(&key, now).context("cannot make a root certificate")?);
        self.replace(ROOTS, &all(&roots))
    }

    /// Begins [`Phase::Sign`]. The key of the old root is gone from then on.
    pub(crate) fn switch(&self, signer: &Certificate) -> Result<()> {
        let next = read_key(&self.0.join(NEXT_KEY), Access::Private)?;
        if !read_certificates(&self.0.join(ROOTS))?.iter().any(|root| root.has_key(next.public_key_raw())) {
            bail!("{NEXT_KEY} in {} is the key of no root that was told to anybody", self.0.display());
        }
        self.replace(RETIRING, &signer.pem())?;
        let (from, to) = (self.0.join(NEXT_KEY), self.0.join(ROOT_KEY));
        let moved = fs::rename(&from, &to).and_then(|()| self.flush());
        moved.with_context(|| format!("cannot put {} in the place of {}", from.display(), to.display()))
    }

    /// Since when this phase holds: since the new root is told, or since it signs.
    pub(crate) fn since(&self, phase: Phase) -> Result<SystemTime> {
        let path = self.0.join(if phase == Phase::Sign { RETIRING } else { ROOTS });
        let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
        modified.with_context(|| format!("cannot look at {}", path.display()))
    }

    /// In [`Phase::Sign`], the root that has signed before.
    pub(crate) fn retiring(&self) -> Result<Certificate> {
        read_certificates(&self.0.join(RETIRING))?.into_iter().next().context("there is no old root")
    }

    /// Who is waited for while the root is changed.
    pub(crate) fn waits_for(&self) -> Result<WaitFor> {
        let is_in_a_hurry = exists(&self.0.join(CONNECTED_ONLY))?;
        Ok(if is_in_a_hurry { WaitFor::Connected } else { WaitFor::Everybody })
    }

    /// Ends the change: the old root is not believed any more.
    pub(crate) fn retire(&self) -> Result<()> {
        let path = self.0.join(RETIRING);
        let retiring = read_certificates(&path)?;
        let mut roots = read_certificates(&self.0.join(ROOTS))?;
        roots.retain(|root| retiring.iter().all(|other| other.fingerprint() != root.fingerprint()));
        self.replace(ROOTS, &all(&roots))?;
        self.forget_hurry()?;
        let removed = fs::remove_file(&path).and_then(|()| self.flush());
        removed.with_context(|| format!("cannot remove {}", path.display()))
    }

    fn forget_hurry(&self) -> Result<()> {
        match fs::remove_file(self.0.join(CONNECTED_ONLY)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {CONNECTED_ONLY} in {}", self.0.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn make_root(&self, now: SystemTime) -> Result<()> {
        let key = new_key()?;
        let root = Authority::root(&key, now).context("cannot make a root certificate")?;
        if !self.create(ROOT_KEY, &key.serialize_pem(), SECRET)? {
            bail!("another process is using {}: each control plane needs one of its own", self.0.display());
        }
        self.create(ROOTS, &root.pem(), PUBLIC)?;
        tracing::info!(root = root.fingerprint(), dir = %self.0.display(), "made a root certificate");
        Ok(())
    }

    /// Writes a file that is not there yet. When somebody else was faster, theirs stays, and the answer is no.
    fn create(&self, name: &str, content: &str, mode: u32) -> Result<bool> {
        let (beside, path) = (self.beside(name), self.0.join(name));
        let result = write(&beside, content, mode).and_then(|()| match fs::hard_link(&beside, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            result => result.map(|()| true),
        });
        // Left behind it would do no harm: it is overwritten by the next one.
        drop(fs::remove_file(&beside));
        let created = result.and_then(|created| self.flush().map(|()| created));
        created.with_context(|| format!("cannot write {}", path.display()))
    }

    /// Puts a public file in the place of the one that is there.
    fn replace(&self, name: &str, content: &str) -> Result<()> {
        let (beside, path) = (self.beside(name), self.0.join(name));
        let result = write(&beside, content, PUBLIC).and_then(|()| fs::rename(&beside, &path));
        result.and_then(|()| self.flush()).with_context(|| format!("cannot write {}", path.display()))
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.0.join(format!(".{name}.{}", std::process::id()))
    }

    fn flush(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

/// Who must be ready before a change of the root goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// Also proxies that are away, for as long as a certificate lives.
    Everybody,
    /// Who is connected. Who is away and knows the old root only has to be given the new one by hand.
    Connected,
}

/// Asks the control plane that has this state directory to change its root. When it is doing so already, it may still be
/// told to hurry.
pub fn request_root(state_dir: &Path, wait_for: WaitFor) -> Result<()> {
    let state = StateDir::existing(state_dir)?;
    let is_settled = state.phase()? == Phase::Settled;
    match wait_for {
        WaitFor::Connected => drop(state.create(CONNECTED_ONLY, "", PUBLIC)?),
        // One that is left from a change that was never begun.
        WaitFor::Everybody if is_settled => state.forget_hurry()?,
        WaitFor::Everybody => {}
    }
    if is_settled {
        state.create(NEXT_KEY, &new_key()?.serialize_pem(), SECRET)?;
    }
    Ok(())
}

/// Where the change of the root stands in a state directory.
pub fn rotation(state_dir: &Path) -> Result<Phase> {
    StateDir::existing(state_dir)?.phase()
}

const RESTORE: &str = "restore it, or empty the directory to begin with a new root";

/// Who may read a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// We wrote it: others must not be able to read it.
    Private,
    /// Somebody else's, who decides about it. A mounted Secret can be read by everybody in the container.
    Given,
}

/// Files of somebody else's who runs the root: the key, and its certificate with those up to the root.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) certificates: PathBuf,
    pub(crate) key: PathBuf,
}

impl Given {
    /// The authority they make.
    pub(crate) fn authority(&self) -> Result<Authority> {
        let key = read_key(&self.key, Access::Given)?;
        Authority::new(key, read_certificates(&self.certificates)?)
            .with_context(|| format!("{} cannot be used", self.certificates.display()))
    }

    /// The certificates as they stand in the file now.
    pub(crate) fn certificates(&self) -> Result<Vec<u8>> {
        fs::read(&self.certificates).with_context(|| format!("cannot read {}", self.certificates.display()))
    }
}

fn all(certificates: &[Certificate]) -> String {
    certificates.iter().map(Certificate::pem).collect()
}

pub(super) fn new_key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key")
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().with_context(|| format!("cannot look at {}", path.display()))
}

/// The token for people that asks of traffic in the state directory of a control plane.
pub fn admin_token(state_dir: &Path) -> Result<String> {
    token_in(&state_dir.join(ADMIN_TOKEN), Access::Private)
        .context("the control plane makes the token when it is started with this --state-dir")
}

/// Reads a token for people from a file of theirs. No error shows what was read.
pub fn read_token(path: &Path) -> Result<String> {
    token_in(path, Access::Given)
}

fn token_in(path: &Path, access: Access) -> Result<String> {
    let text = read_secret(path, access)?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("{0} holds no token: remove it and start the control plane again", path.display());
    }
    Ok(token.to_owned())
}

/// Reads a private key. No error shows what was read.
fn read_key(path: &Path, access: Access) -> Result<KeyPair> {
    let text = read_secret(path, access)?;
    KeyPair::from_pem(&text)
        .ok()
        .with_context(|| format!("{} holds no private key: {RESTORE}", path.display()))
}

/// Reads what others must not know.
fn read_secret(path: &Path, access: Access) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode()).unwrap_or_default();
    // Of the group's rights nothing is said: volumes are given to a group, keys and all.
    if access == Access::Private && mode & 0o007 != 0 {
        bail!("everybody can read {0}: say chmod 600 {0}", path.display());
    }
    Ok(text)
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate>> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Certificate::read_all(&text).with_context(|| format!("cannot use {}", path.display()))
}

pub(super) fn write(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    // One left behind may have been made with other rights, and the mode above is subject to the umask.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content.as_bytes())?;
    file.sync_all()
}
