//! Where things are: the root, the target directory, the packages, the files git knows.
//!
//! All of it is asked of cargo and git, nothing is guessed from the layout. Paths handed out are
//! relative to the root, so that messages read the same on every machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::process;

/// The open workspace.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
    packages: Vec<Package>,
}

/// A member of the workspace, as `cargo metadata` describes it.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) dependencies: Vec<Dependency>,
}

/// A direct dependency of a member; `kind` is `None` for a normal one, else `dev` or `build`.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) kind: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
    workspace_root: PathBuf,
}

impl Workspace {
    /// Asks cargo for the workspace that this program was compiled in.
    pub(crate) fn open() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let json = process::output(
            Command::new(cargo_program())
                .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
                .arg(manifest),
        )?;
        let metadata: Metadata = serde_json::from_str(&json).context("cannot read `cargo metadata`")?;
        Ok(Self {
            root: metadata.workspace_root,
            target: metadata.target_directory,
            packages: metadata.packages,
        })
    }

    /// A cargo command that runs in the root.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(cargo_program());
        command.current_dir(&self.root);
        command
    }

    /// A file by its path from the root.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    /// The members.
    pub(crate) fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// The names of all packages that are built on any platform, one a line.
    pub(crate) fn built(&self) -> Result<String> {
        let mut command = self.cargo();
        command.args(["tree", "--workspace", "--edges", "normal,build", "--target", "all"]);
        let tree = process::output(command.args(["--prefix", "none", "--format", "{p}"]))?;
        Ok(tree.lines().filter_map(|line| line.split(' ').next()).collect::<Vec<_>>().join("\n"))
    }

    /// Writes a generated file, or only verifies that the checked-in one is fresh.
    pub(crate) fn keep(&self, file: &str, text: &str, check: bool) -> Result<()> {
        let path = self.path(file);
        if check {
            let is_fresh = std::fs::read_to_string(&path).is_ok_and(|present| present == text);
            ensure!(is_fresh, "{file} is not what its source says");
            return Ok(());
        }
        path.parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .with_context(|| format!("cannot create {file}"))?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {file}"))
    }

    /// A built binary, in the directory of its profile.
    pub(crate) fn binary(&self, profile: &str, name: &str) -> PathBuf {
        self.target.join(profile).join(name)
    }

    /// A directory for files that live as long as the build does.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = self.target.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }

    /// Every text file that is, or could be, committed: path from the root, and content.
    pub(crate) fn sources(&self) -> Result<Vec<Source>> {
        let listing = process::output(Command::new("git").current_dir(&self.root).args([
            "ls-files",
            "-co",
            "--exclude-standard",
        ]))?;
        let mut paths: Vec<&str> = listing.lines().collect();
        paths.sort_unstable();
        paths.dedup();
        // A file that was deleted but not yet committed is still listed; one that is no text is skipped.
        Ok(paths
            .into_iter()
            .filter_map(|path| {
                let text = std::fs::read_to_string(self.root.join(path)).ok()?;
                Some(Source { path: path.to_owned(), text })
            })
            .collect())
    }
}

/// A text file of the repository.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Path from the root, with slashes.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    /// Says whether this is Rust text.
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Says whether this file holds tests only: `x/tests.rs`, or anything below a `tests/tests/`.
    pub(crate) fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// Says whether a program wrote this file, or it only includes such files.
    pub(crate) fn is_generated(&self) -> bool {
        self.path.contains("/generated/")
            || self.path.ends_with("/generated.rs")
            || self.path.ends_with("Cargo.lock")
    }
}

fn cargo_program() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}
