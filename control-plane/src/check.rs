//! Checking files without running anything: what `pillion validate` does.
//!
//! The files go the way they go in the control plane, through the same functions, so the verdict is the same.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use pillion_policy::name::Hostname;

use crate::{
    index::Index,
    naming::Naming,
    problem::{Problem, Severity},
    source::{dir::holds_objects, files::Files},
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

/// Checks files, the files of directories, and standard input for `-`, as one set. An error is about reading them.
pub fn check_files(paths: &[PathBuf], cluster_domain: &Hostname) -> io::Result<Checked> {
    let naming = Naming::new(cluster_domain);
    let mut files = Files::new(naming.clone());
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text)?;
            files.put("-", &text);
        } else {
            add(path, &mut files)
                .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        }
    }
    let update = files.update().unwrap_or_default();
    let mut index = Index::new(naming);
    for event in update.events {
        index.apply(event);
    }
    let mut problems = update.problems;
    problems.extend(validate::check(&index));
    problems.sort_by(|a, b| (&a.file, a.line, &a.path).cmp(&(&b.file, b.line, &b.path)));
    Ok(Checked { objects: index.len(), problems })
}

fn add(path: &Path, files: &mut Files) -> io::Result<()> {
    if !path.is_dir() {
        files.put(&path.to_string_lossy(), &fs::read_to_string(path)?);
        return Ok(());
    }
    let mut entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_dir = entry.path().is_dir() && !name.starts_with('.');
        if is_dir || holds_objects(&name) {
            add(&entry.path(), files)?;
        }
    }
    Ok(())
}
