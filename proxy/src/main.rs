//! The sidecar proxy: reads its command line and runs until it is told to stop.
//!
//! Ends with 0 after a drain, with 1 and one line on standard error when it cannot run, and with 2 when a flag is
//! wrong.

use std::{
    io::{Write, stderr, stdout},
    process::ExitCode,
};

use pillion_proxy::{
    app,
    config::{Config, ConfigError},
};

fn main() -> ExitCode {
    let config = match Config::from_args(std::env::args_os()) {
        Ok(config) => config,
        Err(ConfigError::Answer(text)) => return tell(stdout(), &text, 0),
        Err(ConfigError::Usage(mistake)) => return tell(stderr(), &format!("pillion-proxy: {mistake}\n"), 2),
    };
    match app::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        // The whole chain on one line.
        Err(error) => tell(stderr(), &format!("pillion-proxy: {error:#}\n"), 1),
    }
}

fn tell(mut to: impl Write, text: &str, code: u8) -> ExitCode {
    // Nobody can be told that nobody can be told.
    let _closed = to.write_all(text.as_bytes());
    ExitCode::from(code)
}
