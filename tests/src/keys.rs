//! The secrets of a secure mesh: what a control plane signs with, and what sidecars are given to start.
//!
//! All are files in a directory that is removed when it is dropped, made by the real binaries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::process;

/// The keys of one certificate authority, and tokens it believes.
#[derive(Debug)]
pub struct Keys(TempDir);

impl Keys {
    /// None yet: the control plane makes them.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("pillion-keys-").tempdir();
        Ok(Self(dir.context("cannot make a directory for keys")?))
    }

    /// Where the control plane keeps its own.
    pub fn state_dir(&self) -> PathBuf {
        self.0.path().join("state")
    }

    /// What sidecars believe the control plane by; there once it has been started.
    pub fn root_file(&self) -> PathBuf {
        self.state_dir().join("root.pem")
    }

    /// A file with a token for a service account of the namespace `default`.
    pub fn token_file(&self, account: &str) -> Result<PathBuf> {
        let path = self.0.path().join(format!("token-{account}"));
        fs::write(&path, self.token(account)?).context("cannot write a token")?;
        Ok(path)
    }

    /// A directory with a certificate of a service account of the namespace `default` in a trust domain: `chain.pem`,
    /// `key.pem` and `root.pem`.
    pub fn certificate(&self, account: &str, trust_domain: &str) -> Result<PathBuf> {
        let out = self.file(&format!("certificate-{account}"));
        let out_dir = out.display().to_string();
        let further = ["--out", &out_dir, "--trust-domain", trust_domain];
        self.create("certificate", account, &further)?;
        Ok(out)
    }

    /// A token for a service account of the namespace `default`.
    fn token(&self, account: &str) -> Result<Vec<u8>> {
        self.create("token", account, &[])
    }

    /// Has something made for a service account, as an operator does.
    fn create(&self, what: &str, account: &str, further: &[&str]) -> Result<Vec<u8>> {
        let made = Command::new(process::binary("pillion")?)
            .env_clear()
            .args([what, "create", "--namespace", "default", "--service-account", account, "--state-dir"])
            .arg(self.state_dir())
            .args(further)
            .stdin(Stdio::null())
            .output()
            .context("cannot run pillion")?;
        ensure!(made.status.success(), "no {what}: {}", String::from_utf8_lossy(&made.stderr));
        Ok(made.stdout)
    }

    /// A file of the directory, to be written by a test.
    pub fn file(&self, name: &str) -> PathBuf {
        Path::new(self.0.path()).join(name)
    }
}
