//! Ceilings: a file, a crate, a document, the lock file.
//!
//! Lines count as they stand, documentation included; test files and generated files do not
//! count. The length of functions is clippy's (`too_many_lines`). Raising a ceiling is a commit
//! that says why.

use super::Problems;
use crate::workspace::Source;

const FILE: usize = 500;
const ARCHITECTURE: usize = 200;
const LOCKED_PACKAGES: usize = 300;

/// Lines of code and documentation per source tree; a longer prefix wins over a shorter one.
const CRATES: &[(&str, usize)] = &[
    ("proxy/policy/", 6_000),
    ("proxy/xds/", 4_200),
    ("proxy/", 31_500),
    ("control-plane/", 18_500),
    ("xtask/", 2_500),
    ("tests/", 6_800),
];

/// Measures everything against its ceiling.
pub(super) fn check(sources: &[Source]) -> Problems {
    let mut problems = Vec::new();
    let mut totals = vec![0; CRATES.len()];
    for source in sources.iter().filter(|source| !source.is_generated()) {
        let n_lines = source.text.lines().count();
        if source.path.ends_with("ARCHITECTURE.md") && n_lines > ARCHITECTURE {
            problems.push(format!("{} has {n_lines} lines, more than {ARCHITECTURE}", source.path));
        }
        if !source.is_rust() || source.is_test() {
            continue;
        }
        if n_lines > FILE {
            problems.push(format!("{} has {n_lines} lines, more than {FILE}", source.path));
        }
        let home = CRATES.iter().position(|(prefix, _)| source.path.starts_with(prefix));
        if let Some(total) = home.and_then(|index| totals.get_mut(index)) {
            *total += n_lines;
        }
    }
    for ((prefix, ceiling), total) in CRATES.iter().zip(totals) {
        if total > *ceiling {
            problems.push(format!("{prefix} has {total} lines, more than its ceiling of {ceiling}"));
        }
    }
    if let Some(lock) = sources.iter().find(|source| source.path == "Cargo.lock") {
        let n_packages = lock.text.lines().filter(|line| *line == "[[package]]").count();
        if n_packages > LOCKED_PACKAGES {
            problems.push(format!("Cargo.lock holds {n_packages} packages, more than {LOCKED_PACKAGES}"));
        }
    }
    problems
}

#[cfg(test)]
mod tests;
