//! `pillion validate`: every mistake by file, line, path and reason, before it is in force.

use anyhow::{Context, Result, ensure};
use pillion_tests::{Policy, process};

const SEED: &str = include_str!("../../k8s/examples/shop/order-routing.yaml");
const SERVICES: &str = include_str!("../../k8s/examples/shop/user-service.yaml");
const SECURITY: &str = include_str!("../../k8s/examples/security.yaml");

/// Validates one file's content: whether it passed, and what was said.
async fn validate(yaml: &str) -> Result<(bool, String)> {
    let policy = Policy::new()?;
    policy.apply("file", yaml)?;
    let path = policy.file("file").display().to_string();
    let (status, stdout, stderr) = process::run("pillion", &["validate", &path]).await?;
    let told = format!("{stdout}{stderr}");
    ensure!(status.code().is_some() && !told.contains("panicked"), "{status}: {told}");
    Ok((status.success(), told))
}

/// The lines of a YAML text that name a field, with the field's name.
fn fields(yaml: &str) -> impl Iterator<Item = (usize, &str)> {
    yaml.lines().enumerate().filter_map(|(line, text)| {
        let name = text.trim_start().trim_start_matches("- ").split(':').next()?;
        let is_field = text.contains(':') && !text.trim_start().starts_with('#') && !name.contains(' ');
        is_field.then_some((line, name))
    })
}

#[tokio::test]
async fn the_seed_files_are_accepted() -> Result<()> {
    for yaml in [SEED, SERVICES, SECURITY] {
        let (accepted, told) = validate(yaml).await?;
        ensure!(accepted, "{told}");
    }
    // What is read but not yet acted on is said, not kept quiet.
    let (_, told) = validate(SEED).await?;
    ensure!(told.contains("outlierDetection"), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_misspelt_copy_of_each_field_is_rejected_by_name() -> Result<()> {
    // Keys a user chooses: labels and header names.
    let free = ["user-type", "version", "app"];
    let lines: Vec<&str> = SEED.lines().collect();
    for (at, name) in fields(SEED).filter(|(_, name)| !free.contains(name)) {
        let misspelt = format!("{name}x");
        let mut copy: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        copy[at] = copy[at].replacen(name, &misspelt, 1);
        let (accepted, told) = validate(&copy.join("\n")).await?;
        ensure!(!accepted, "line {}: {misspelt} was accepted", at + 1);
        // A document without apiVersion or kind is nothing anybody could name a field of.
        ensure!(
            told.contains(&misspelt) || ["apiVersion", "kind"].contains(&name),
            "{misspelt} is not named: {told}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_misspelt_copy_of_each_field_about_identities_is_rejected_by_name() -> Result<()> {
    let lines: Vec<&str> = SECURITY.lines().collect();
    for (at, name) in fields(SECURITY).filter(|(_, name)| !["app", "apiVersion", "kind"].contains(name)) {
        let misspelt = format!("{name}x");
        let mut copy: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        copy[at] = copy[at].replacen(name, &misspelt, 1);
        let (accepted, told) = validate(&copy.join("\n")).await?;
        ensure!(!accepted && told.contains(&misspelt), "line {}: {misspelt} is not named: {told}", at + 1);
    }
    Ok(())
}

#[tokio::test]
async fn an_authorizer_that_nobody_can_ask_is_named() -> Result<()> {
    let (accepted, told) =
        validate(&SECURITY.replace("action: DENY", "action: CUSTOM\n  provider: {name: opa}")).await?;
    ensure!(!accepted && told.contains("spec.action: CUSTOM is not supported"), "{told}");
    Ok(())
}

#[tokio::test]
async fn mistakes_are_told_with_file_line_path_and_reason() -> Result<()> {
    let route = |rules: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: app\nspec:\n  hosts: [app]\n  \
             http:\n{rules}\n"
        )
    };
    let two = "route: [{destination: {host: app}, weight: 0}, {destination: {host: other}, weight: 0}]";
    for (what, yaml, told_of) in [
        ("no YAML", "kind: [Service".to_owned(), &["file.yaml:", "YAML"][..]),
        (
            "an unknown kind of a known group",
            SEED.replace("kind: VirtualService", "kind: VirtualServise"),
            &["VirtualServise"],
        ),
        ("a negative weight", SEED.replace("weight: 90", "weight: -1"), &["file.yaml:", "weight"]),
        ("weights that are all zero", route(&format!("  - {two}")), &["file.yaml:", "weight"]),
        ("a weight that is no number", SEED.replace("weight: 90", "weight: most"), &["file.yaml:", "weight"]),
        (
            "a bad regular expression",
            route("  - match: [{uri: {regex: '['}}]\n    route: [{destination: {host: app}}]"),
            &["file.yaml:", "regex"],
        ),
        (
            "an empty match",
            route("  - match: [{uri: {}}]\n    route: [{destination: {host: app}}]"),
            &["match", "uri"],
        ),
        ("a route to nowhere", route("  - route: []"), &["route"]),
        (
            "a redirect and a route",
            route("  - redirect: {uri: /x}\n    route: [{destination: {host: app}}]"),
            &["redirect"],
        ),
        (
            "a bad duration",
            route("  - timeout: soon\n    route: [{destination: {host: app}}]"),
            &["timeout", "soon"],
        ),
        ("no hosts", route("  - route: [{destination: {host: app}}]").replace("[app]", "[]"), &["hosts"]),
        ("a bad status", route("  - directResponse: {status: 99}"), &["directResponse", "status"]),
        (
            "a policy without a field",
            SEED.replace("  trafficPolicy:\n", "  trafficPolicy: {}\n  notes:\n"),
            &["trafficPolicy"],
        ),
        ("the same object twice", format!("{SEED}---\n{SEED}"), &["order-service"]),
    ] {
        let (accepted, told) = validate(&yaml).await?;
        ensure!(!accepted, "{what} was accepted: {told}");
        for word in told_of {
            ensure!(told.contains(word), "{what}: {word:?} is not told: {told}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_mistake_is_told_at_once() -> Result<()> {
    let yaml = SEED.replace("weight: 90", "weight: -1").replace("maxConnections: 100", "maxConections: 100");
    let (accepted, told) = validate(&yaml).await?;
    ensure!(!accepted && told.contains("weight") && told.contains("maxConections"), "{told}");
    told.contains("maxConnections").then_some(()).context("the right name is not suggested")
}

#[tokio::test]
async fn a_file_that_is_not_there_is_told() -> Result<()> {
    let (status, stdout, stderr) = process::run("pillion", &["validate", "/nonexistent.yaml"]).await?;
    let told = format!("{stdout}{stderr}");
    ensure!(!status.success() && told.contains("/nonexistent.yaml"), "{status}: {told}");
    Ok(())
}
