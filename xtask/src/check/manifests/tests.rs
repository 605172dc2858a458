use super::*;
use crate::workspace::Dependency;

fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
    let dependencies = dependencies
        .iter()
        .map(|(name, kind)| Dependency { name: (*name).to_owned(), kind: kind.map(str::to_owned) })
        .collect();
    Package { name: name.to_owned(), dependencies }
}

#[test]
fn the_model_does_no_input_or_output() {
    assert_eq!(check(&[package("pillion-policy", &[("http", None), ("serde", None)])], ""), Problems::new());
    let found = check(&[package("pillion-policy", &[("tokio", None)])], "");
    assert_eq!(found, ["`pillion-policy` must not depend on `tokio`"]);
}

#[test]
fn development_dependencies_are_free_except_our_own_packages() {
    assert_eq!(check(&[package("pillion-xds", &[("tokio", Some("dev"))])], ""), Problems::new());
    assert_eq!(check(&[package("pillion-control-plane", &[("pillion-proxy", Some("dev"))])], "").len(), 1);
    assert_eq!(check(&[package("xtask", &[("pillion-policy", Some("dev"))])], "").len(), 1);
}

#[test]
fn a_seventh_package_is_reported() {
    assert_eq!(check(&[package("pillion-extra", &[])], "").len(), 1);
}

#[test]
fn banned_packages_are_found_among_what_is_built() {
    assert_eq!(check(&[], "serde\nrustls\n"), Problems::new());
    assert_eq!(check(&[], "serde\nopenssl-sys\n").len(), 1);
}
