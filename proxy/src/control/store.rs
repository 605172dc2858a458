//! Resources as files: what a proxy runs on without a control plane, and what it held before a restart.
//!
//! Both are lists of the same resources that travel on the wire, as JSON or YAML. The snapshot is written beside its
//! place and renamed, so a crash leaves the old one or the new one, never half of one.

use std::{
    io,
    path::{Path, PathBuf},
};

use pillion_policy::{Resource, Snapshot};

/// Why a file of resources could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It does not hold resources.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
}

/// Reads a file of resources.
pub fn read(path: &Path) -> Result<Vec<Resource>, StoreError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| StoreError::Io { path: path.to_owned(), error })?;
    parse(&text).map_err(|reason| StoreError::Invalid { path: path.to_owned(), reason })
}

/// Strictly, JSON is not a part of YAML: control characters that need no escape in the one are refused in the other.
fn parse(text: &str) -> Result<Vec<Resource>, String> {
    if let Ok(resources) = serde_json::from_str(text) {
        return Ok(resources);
    }
    serde_saphyr::from_str(text).map_err(|error| first_line(&error.to_string()))
}

/// What a parser says without the excerpt it may draw below.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// Writes all of a snapshot.
pub fn write(path: &Path, snapshot: &Snapshot) -> Result<(), StoreError> {
    let failed = |error: io::Error| StoreError::Io { path: path.to_owned(), error };
    let resources: Vec<Resource> = snapshot.resources().collect();
    let text = serde_json::to_vec(&resources).map_err(|error| failed(error.into()))?;
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use pillion_policy::testing::any_resource;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(resource in any_resource()) {
            let resources = vec![resource];
            prop_assert_eq!(parse(&serde_json::to_string(&resources).unwrap()), Ok(resources));
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        let reason = parse("- mesh: {clusterDomain: a}\n").unwrap_err();
        assert!(reason.contains("trustDomain") && !reason.contains('\n'), "{reason}");
    }
}
