//! `cargo xtask check`: the house rules, each step a function that returns what is wrong.
//!
//! All steps run even when one fails, so that one run shows everything. The rules that read text
//! (floors, layout, sizes, names, words) are pure functions over file contents and are tested on text
//! that breaks them.

mod floors;
mod layout;
mod manifests;
mod naming;
mod sizes;
mod words;

use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{self, complain, say};
use crate::workspace::Workspace;

/// What is wrong, one line each.
type Problems = Vec<String>;

type Step = (&'static str, fn(&Workspace) -> Result<Problems>);

const STEPS: &[Step] = &[
    ("floors", |workspace| Ok(floors::check(&workspace.sources()?))),
    ("layout", |workspace| Ok(layout::check(&workspace.sources()?))),
    ("manifests", |workspace| Ok(manifests::check(workspace.packages(), &workspace.built()?))),
    ("sizes", |workspace| Ok(sizes::check(&workspace.sources()?))),
    ("names", |workspace| Ok(naming::check(&workspace.sources()?))),
    ("words", |workspace| Ok(words::check(&workspace.sources()?))),
    ("fmt", fmt),
    ("deny", deny),
    ("generated", generated),
    ("clippy", clippy),
];

/// Runs the steps (all of them, or those named) and fails when one found a problem.
pub(crate) fn run(workspace: &Workspace, only: &[String]) -> Result<()> {
    if let Some(unknown) = only.iter().find(|name| STEPS.iter().all(|(step, _)| step != name)) {
        let known: Vec<_> = STEPS.iter().map(|(name, _)| *name).collect();
        bail!("no step is called `{unknown}`; there are {}", known.join(", "));
    }
    let mut n_problems = 0;
    for (name, step) in STEPS.iter().filter(|(name, _)| only.is_empty() || only.iter().any(|o| o == name)) {
        let start = process::now();
        let problems = step(workspace)?;
        for problem in &problems {
            complain(&format!("{name}: {problem}"));
        }
        let verdict = if problems.is_empty() { "ok" } else { "FAILED" };
        say(&format!("check {name:<10} {verdict:<6} {:>6.1}s", start.elapsed().as_secs_f64()));
        n_problems += problems.len();
    }
    if n_problems > 0 {
        bail!("{n_problems} problem(s) found");
    }
    Ok(())
}

fn fmt(workspace: &Workspace) -> Result<Problems> {
    Ok(outcome(workspace.cargo().args(["fmt", "--all", "--check"]), "run `cargo fmt --all`"))
}

fn clippy(workspace: &Workspace) -> Result<Problems> {
    let mut command = workspace.cargo();
    command.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    Ok(outcome(&mut command, "see the lints above"))
}

fn deny(workspace: &Workspace) -> Result<Problems> {
    if !process::succeeds(workspace.cargo().args(["deny", "--version"])) {
        say("cargo-deny is not installed: licences, sources and duplicates are not checked here");
        return Ok(Vec::new());
    }
    let mut command = workspace.cargo();
    command.args(["deny", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"]);
    Ok(outcome(&mut command, "see .deny.toml for the rules and their reasons"))
}

fn generated(workspace: &Workspace) -> Result<Problems> {
    Ok(match crate::codegen(workspace, true) {
        Ok(()) => Vec::new(),
        Err(error) => vec![format!("{error:#}; run `cargo xtask codegen`")],
    })
}

fn outcome(command: &mut Command, advice: &str) -> Problems {
    match process::run(command) {
        Ok(()) => Vec::new(),
        Err(error) => vec![format!("{error:#}; {advice}")],
    }
}
