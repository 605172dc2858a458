//! The demo: a whole mesh on this machine's loopback, with traffic, events and measured results.
//!
//! Starts the control plane, nine pods with a sidecar each and bounded traffic through the
//! shop's API front; then lets things happen (a split, premium users, an instance that leaves, one
//! that crashes, an edited policy, one that turns bad or slow, a service that dies, a call that is denied) and measures what came of them. `--once` ends after that, with
//! exit code 0 only if every claim held and one line of JSON last; otherwise the mesh stays up to be
//! played with. Nothing outlives the demo, however it ends.

mod cast;
mod claims;
mod failure;
mod identity;
mod screen;
mod script;
mod stage;
mod trace;
mod traffic;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::claims::Outcome;
use crate::screen::Screen;
use crate::stage::Stage;
use crate::traffic::Traffic;

/// Shows a service mesh at work on this machine.
#[derive(Parser)]
#[command(name = "pillion-demo", version)]
struct Options {
    /// Run the script of events, then stop; exit code 0 only if every claim held.
    #[arg(long)]
    once: bool,
    /// Requests per second sent to the shop's front by ordinary users.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=2000))]
    rate: u32,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let screen = Screen::new();
    // One thread: the kernel ends the mesh's processes when the thread that started them ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.context("cannot start the runtime").and_then(|runtime| {
        let outcome = runtime.block_on(run(&options, &screen));
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            screen.settle();
            screen.say(&format!("The demo had to stop: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// True if every claim held, or if a mesh that stays up was stopped by its user.
async fn run(options: &Options, screen: &Screen) -> Result<bool> {
    let mut signals = Signals::new()?;
    screen
        .say("Pillion demo: a service mesh on this machine's loopback addresses. Ctrl-C stops everything.\n");
    let mut stage = Stage::new()?;
    let told = tokio::select! {
        told = perform(options, screen, &mut stage) => told,
        () = signals.any() => {
            screen.settle();
            screen.say("\nStopping …");
            stage.stop(&mut signals).await;
            return Ok(!options.once);
        }
    };
    let outcome = match told {
        Ok(outcome) => outcome,
        Err(error) => {
            screen.settle();
            let error = stage.blame(error);
            stage.stop(&mut signals).await;
            return Err(error);
        }
    };
    screen.settle();
    stage.stop(&mut signals).await;
    screen.say(&outcome.summary());
    screen.say(&outcome.json());
    Ok(outcome.held())
}

/// The events, and the table beside them. Returns only with `--once`, or on an error.
async fn perform(options: &Options, screen: &Screen, stage: &mut Stage) -> Result<Outcome> {
    stage.open(screen).await?;
    let traffic = Traffic::start(options.rate);
    let show = async {
        loop {
            traffic.tick().await;
            screen.draw(&traffic.table());
        }
    };
    let events = async {
        let outcome = script::play(stage, &traffic, screen).await?;
        if !options.once {
            screen.say(&outcome.summary());
            screen.say(&stage.invitation());
            std::future::pending::<()>().await;
        }
        Ok(outcome)
    };
    tokio::select! {
        outcome = events => outcome,
        () = show => unreachable!("the table is drawn for ever"),
    }
}

/// The signals that ask the demo to stop.
pub(crate) struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(signal);
        Ok(Self([interrupt?, terminate?, hangup?]))
    }

    /// Waits for any of them.
    pub(crate) async fn any(&mut self) {
        let Self([interrupt, terminate, hangup]) = self;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
