//! Checking files without running anything: what `pillion validate` does.
//!
//! The files go the way they go in the control plane, through the same functions, so the verdict is the same.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use pillion_policy::name::Hostname;

use crate::{
    index::Index,
    naming::Naming,
    problem::{self, Problem, Severity},
    source::{dir, files::Files},
    validate,
};

/// The verdict on a set of files.
#[derive(Debug)]
pub struct Checked {
    /// How many objects could be used.
    pub objects: usize,
    /// Everything found, in the order of files and lines.
    pub problems: Vec<Problem>,
}

impl Checked {
    /// Whether anything found is an error.
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }
}

/// Checks files, the files of directories, and standard input for `-`, as one set. What cannot be read is a problem.
pub fn check_files(paths: &[PathBuf], cluster_domain: &Hostname) -> Checked {
    let naming = Naming::new(cluster_domain);
    let mut files = Files::new(naming.clone());
    for path in paths {
        add(path, &mut files);
    }
    let update = files.update().unwrap_or_default();
    let mut index = Index::new(naming);
    for event in update.events {
        index.apply(event);
    }
    let mut problems = update.problems;
    problems.extend(validate::check(&index));
    problem::sort(&mut problems);
    Checked { objects: index.len(), problems }
}

fn add(path: &Path, files: &mut Files) {
    if path.is_dir() {
        let listing = dir::list(path);
        for file in listing.files.keys() {
            add(Path::new(file), files);
        }
        for (dir, reason) in &listing.unlisted {
            files.unreadable(&dir.to_string_lossy(), reason);
        }
        return;
    }
    let content = if path.as_os_str() == "-" { standard_input() } else { dir::read(path) };
    let name = path.to_string_lossy();
    match content {
        Ok(content) => files.put(&name, content),
        Err(error) => files.unreadable(&name, &error.to_string()),
    }
}

fn standard_input() -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    io::stdin().read_to_end(&mut content)?;
    Ok(content)
}
