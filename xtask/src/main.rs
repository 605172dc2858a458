//! Developer commands of Pillion: `cargo xtask check | test | demo | bench | codegen`.
//!
//! This program decides in which order other programs run and what counts as a failure of the
//! house rules (`check`). It depends on no crate of the workspace, so that it builds in seconds
//! and works while the rest does not compile. Everything else — compiling, testing, generating
//! code, loading a proxy — is left to the tools that do it for a living.

mod bench;
mod check;
mod crds;
mod flags;
mod process;
mod workspace;

use std::{process::ExitCode, thread::available_parallelism};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::process::say;
use crate::workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands of Pillion", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Verify format, lints, dependencies, floors, sizes, names and generated files.
    Check {
        /// Run only the steps with these names.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// Build the binaries, then run all tests (with cargo-nextest where present).
    Test {
        /// Passed on to the test runner.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Start a mesh of sample services on loopback, drive traffic, show what happens.
    Demo {
        /// Passed on to the demo; `--once` runs the script of events and exits.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure Pillion side by side with Envoy, HAProxy and nginx.
    Bench(bench::Options),
    /// Compile the wire contract into checked-in Rust, the types of policies into definitions for Kubernetes, and the texts of
    /// flags into their page.
    Codegen {
        /// Only verify that the checked-in files are fresh.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            process::complain(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let workspace = Workspace::open()?;
    match &cli.command {
        Command::Check { only } => check::run(&workspace, only),
        Command::Test { args } => test(&workspace, args),
        Command::Demo { args } => demo(&workspace, args),
        Command::Bench(options) => bench::run(&workspace, options),
        Command::Codegen { check } => codegen(&workspace, *check),
    }
}

/// Runs all tests; the harness finds the binaries of the mesh next to the test executables.
fn test(workspace: &Workspace, args: &[String]) -> Result<()> {
    // With `--tests`, dependencies get the features that the tests need, and are compiled once.
    process::run(workspace.cargo().args(["build", "--workspace", "--bins", "--tests"]))?;
    if process::succeeds(workspace.cargo().args(["nextest", "--version"])) {
        let shares = format!("--test-threads={}", shares()?);
        process::run(workspace.cargo().args(["nextest", "run", "--workspace", &shares]).args(args))?;
    } else {
        say("cargo-nextest is not installed: using cargo test");
        process::run(
            workspace.cargo().args(["test", "--workspace", "--lib", "--bins", "--tests"]).args(args),
        )?;
    }
    if args.is_empty() {
        process::run(workspace.cargo().args(["test", "--workspace", "--doc", "--quiet"]))?;
    }
    Ok(())
}

/// How many shares tests have of this machine: five for each core, and one for each of four that mostly wait
/// (`.config/nextest.toml` says what takes how many).
fn shares() -> Result<usize> {
    Ok(available_parallelism().context("cannot count the cores")?.get() * 5 + 4)
}

/// Builds the mesh and becomes the demo, so that signals and the exit code are the demo's own.
fn demo(workspace: &Workspace, args: &[String]) -> Result<()> {
    process::run(workspace.cargo().args(["build", "--workspace", "--bins"]))?;
    let program = workspace.binary("debug", "pillion-demo");
    let error = process::become_program(&program, args);
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}

/// Has `pillion-xds` compile its own contract: the compiler of it is a dev-dependency over there.
fn codegen(workspace: &Workspace, check: bool) -> Result<()> {
    // `--workspace` gives dependencies the features they have in the tests: compiled once for both.
    process::run(workspace.cargo().args(["build", "--workspace", "--example", "codegen"]))?;
    let mut command = std::process::Command::new(workspace.binary("debug", "examples/codegen"));
    if check {
        command.arg("--check");
    }
    process::run(&mut command)?;
    crds::codegen(workspace, check)?;
    flags::codegen(workspace, check)
}
