//! Who may depend on whom: the rules between packages, and packages nobody may bring in.
//!
//! The policy model and xtask are held to a list of what they may use; the others to a list of
//! what they must not. Development dependencies are free except for our own packages. What
//! arrives through others is seen in what is built (the lock file also names optional packages that
//! nobody turns on); `.deny.toml` has the full set of such rules.

use super::Problems;
use crate::workspace::Package;

enum Rule {
    Only(&'static [&'static str]),
    Never(&'static [&'static str]),
}

const KUBERNETES: &[&str] = &["kube", "k8s-openapi", "gateway-api", "pillion-control-plane", "pillion-tests"];

const PACKAGES: &[(&str, Rule)] = &[
    (
        "pillion-policy",
        Rule::Only(&["http", "serde", "thiserror", "ipnet", "regex", "rustc-hash", "proptest"]),
    ),
    (
        "pillion-xds",
        Rule::Never(&["tokio", "hyper", "kube", "pillion-proxy", "pillion-control-plane", "pillion-tests"]),
    ),
    ("pillion-proxy", Rule::Never(KUBERNETES)),
    ("pillion-control-plane", Rule::Never(&["pillion-proxy", "pillion-tests"])),
    ("pillion-tests", Rule::Never(&["xtask"])),
    ("xtask", Rule::Only(&["anyhow", "clap", "serde", "serde_json"])),
];

/// One TLS library, one provider of cryptography, pure Rust around them.
const NOWHERE: &[&str] = &["openssl", "openssl-sys", "native-tls", "ring"];

/// Checks the members' manifests, and the names of all packages that are built.
pub(super) fn check(packages: &[Package], built: &str) -> Problems {
    let mut problems = Vec::new();
    for package in packages {
        let Some((_, rule)) = PACKAGES.iter().find(|(name, _)| *name == package.name) else {
            problems.push(format!("package `{}` is not one of the six of the plan", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            let is_ours = name.starts_with("pillion-") || name == "xtask";
            if dependency.kind.as_deref() == Some("dev") && (!is_ours || name == package.name) {
                continue;
            }
            let broken = match rule {
                Rule::Only(names) => !names.contains(&name),
                Rule::Never(names) => names.contains(&name),
            };
            if broken {
                problems.push(format!("`{}` must not depend on `{name}`", package.name));
            }
        }
    }
    for name in NOWHERE.iter().filter(|banned| built.lines().any(|name| name == **banned)) {
        problems.push(format!("`{name}` is built, which .deny.toml bans: see `cargo tree --invert {name}`"));
    }
    problems
}

#[cfg(test)]
mod tests;
