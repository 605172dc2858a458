//! A certificate that somebody else keeps in files, in place of one that is asked for.
//!
//! The files are looked at every two seconds and used when what is in them has changed, all three together: a
//! certificate whose key is still the old one is not used, and the old pair serves on.

use std::{
    convert::Infallible,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::time::sleep;

use super::{
    Holder,
    request::Leaf,
    status::Renewal,
    trust::{self, FileError},
};
use crate::tls::credentials::CredentialsError;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// The files.
#[derive(Debug)]
pub struct Files {
    /// Root certificates, of those we believe.
    pub root_file: PathBuf,
    /// The own certificate and those of its issuers.
    pub certificate_file: PathBuf,
    /// The key of the own certificate.
    pub key_file: PathBuf,
}

/// What is in the files.
#[derive(PartialEq, Eq)]
struct Content {
    roots: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Why the files give no identity.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// They do not go together.
    #[error("{}: {error}", path.display())]
    Credentials {
        /// The file of the certificate.
        path: PathBuf,
        /// What is wrong.
        error: CredentialsError,
    },
}

/// Keeps the identity of files in the wallet.
pub struct FromFiles {
    files: Files,
    holder: Holder,
    /// What was seen last, or why nothing was.
    seen: Result<Content, String>,
}

impl FromFiles {
    /// Reads the files for the first time; what is in them must be usable.
    pub(super) fn start(files: Files, mut holder: Holder) -> Result<Self, FilesError> {
        let seen = files.read()?;
        files.take(&seen, &mut holder)?;
        Ok(Self { files, holder, seen: Ok(seen) })
    }

    /// Watches the files, and whom the mesh believes, for the life of the process.
    pub async fn run(mut self) -> Infallible {
        let mut news = self.holder.views.subscribe();
        loop {
            tokio::select! {
                _ = news.changed() => {}
                () = sleep(LOOK) => self.look(),
            }
            self.holder.follow_mesh();
            self.holder.watch_expiry();
        }
    }

    fn look(&mut self) {
        let read = self.files.read().map_err(|error| error.to_string());
        if read == self.seen {
            return;
        }
        let taken = match &read {
            Ok(read) => self.files.take(read, &mut self.holder).map_err(|error| error.to_string()),
            Err(error) => Err(error.clone()),
        };
        self.seen = read;
        self.holder.renewed(Renewal { due: None, failures: u32::from(taken.is_err()), error: taken.err() });
    }
}

impl Files {
    fn read(&self) -> Result<Content, FileError> {
        let read =
            |path: &Path| fs::read(path).map_err(|error| FileError::Io { path: path.to_owned(), error });
        Ok(Content {
            roots: read(&self.root_file)?,
            certificate: read(&self.certificate_file)?,
            key: read(&self.key_file)?,
        })
    }

    fn take(&self, content: &Content, holder: &mut Holder) -> Result<(), FilesError> {
        let roots = trust::roots(&self.root_file, &content.roots)?;
        let chain: Vec<CertificateDer<'static>> = trust::certificates(&content.certificate)
            .map_err(|reason| FileError::invalid(&self.certificate_file, reason))?;
        // What the parser says could quote the key.
        let key = PrivateKeyDer::from_pem_slice(&content.key)
            .map_err(|_| FileError::invalid(&self.key_file, "no private key in PEM in it"))?;
        holder
            .hold(Leaf { chain, key }, roots)
            .map_err(|error| FilesError::Credentials { path: self.certificate_file.clone(), error })
    }
}

impl std::fmt::Debug for FromFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FromFiles").field("files", &self.files).finish_non_exhaustive()
    }
}
