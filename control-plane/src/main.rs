//! The control plane of Pillion.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use pillion_control_plane::{Config, run};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let config = Config::parse();
    let filter = match EnvFilter::try_new(&config.log) {
        Ok(filter) => filter,
        Err(error) => return fail(&format!("--log {:?} is not a filter: {error}", config.log)),
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(config)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}")),
    }
}

/// One line that says what to do; if even that cannot be written, the exit code has to do.
fn fail(reason: &str) -> ExitCode {
    drop(writeln!(io::stderr(), "pillion-control-plane: {reason}"));
    ExitCode::FAILURE
}
