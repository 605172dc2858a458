//! What stands at the top of the repository: a fixed set, so that a newcomer sees the house and nothing else.
//!
//! Files whose names begin with a dot are configuration of tools and free.

use std::collections::BTreeSet;

use super::Problems;
use crate::workspace::Source;

const TOP: &[&str] =
    &["Cargo.lock", "Cargo.toml", "LICENSE", "README.md", "control-plane", "k8s", "proxy", "tests", "xtask"];

/// Checks that nothing else stands there.
pub(super) fn check(sources: &[Source]) -> Problems {
    let tops: BTreeSet<&str> = sources.iter().filter_map(|source| source.path.split('/').next()).collect();
    let strays = tops.into_iter().filter(|top| !top.starts_with('.') && !TOP.contains(top));
    strays
        .map(|top| format!("`{top}` does not belong to the top of the repository: move or delete it"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(paths: &[&str]) -> Problems {
        let file = |path: &&str| Source { path: (*path).to_owned(), text: String::new() };
        check(&paths.iter().map(file).collect::<Vec<_>>())
    }

    #[test]
    fn the_house_is_as_it_should_be() {
        assert_eq!(problems(&["README.md", ".ci/run", ".deny.toml", "proxy/src/lib.rs"]), Problems::new());
    }

    #[test]
    fn a_stray_is_found_once() {
        let found = problems(&["notes/a.txt", "notes/b.txt", "check.log"]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("`check.log`"), "{found:?}");
    }
}
