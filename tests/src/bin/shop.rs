//! Runs one sample service of the shop, or any program tied to the life of the caller.
//!
//! `shop serve --role order --version v2 --listen 127.0.1.31:3000` serves until SIGTERM or Ctrl-C
//! and then finishes the requests in flight. `shop tied PID PROGRAM ARGS…` becomes PROGRAM, killed
//! by the kernel when the process that started it dies, however it dies.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use pillion_tests::shop::{App, Front, Identity, serve};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// A sample service of the shop.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    /// Serves one role.
    Serve(Serve),
    /// Sends one GET request and prints the whole answer.
    #[command(hide = true)]
    Get(Get),
    /// Becomes another program that dies with its parent.
    #[command(hide = true)]
    Tied(Tied),
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Api,
    Order,
    Payment,
    Inventory,
    User,
}

#[derive(Args)]
struct Serve {
    /// Which service of the shop this is.
    #[arg(long)]
    role: Role,
    /// The release it says it is.
    #[arg(long, default_value = "v1")]
    version: String,
    /// The instance's name [default: the role and the version].
    #[arg(long)]
    instance: Option<String>,
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// The outbound listener of its sidecar (needed by the role `api`).
    #[arg(long)]
    sidecar: Option<SocketAddr>,
    /// Longest wait for requests in flight when stopping, in seconds.
    #[arg(long, default_value_t = 5)]
    grace: u64,
}

#[derive(Args)]
struct Get {
    /// Where to connect.
    address: SocketAddr,
    /// What `Host` says.
    host: String,
    /// The path.
    path: String,
}

#[derive(Args)]
struct Tied {
    /// The process whose end ends this one.
    parent: i32,
    /// The program to become.
    #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Cmd::Serve(options) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")
            .and_then(|runtime| runtime.block_on(run(options))),
        Cmd::Get(options) => get(&options),
        Cmd::Tied(options) => tied(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "shop: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Serve) -> Result<()> {
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("cannot listen on {}: is another demo running?", options.listen))?;
    let service = match options.role {
        Role::Api => "api",
        Role::Order => "order-service",
        Role::Payment => "payment-service",
        Role::Inventory => "inventory-service",
        Role::User => "user-service",
    };
    let instance = options.instance.unwrap_or_else(|| format!("{service}-{}", options.version));
    let identity = Identity { service: service.to_owned(), version: options.version, instance };
    let app = match (options.role, options.sidecar) {
        (Role::Api, Some(sidecar)) => App::front(identity, Front::new(sidecar)),
        (Role::Api, None) => bail!("the api front needs --sidecar, the outbound address of its sidecar"),
        _ => App::new(identity),
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = stopping.send(true);
    };
    let grace = async {
        let _ = stopped.wait_for(|stopping| *stopping).await;
        tokio::time::sleep(Duration::from_secs(options.grace)).await;
    };
    tokio::select! {
        () = serve(listener, app, shutdown) => {}
        () = grace => {}
    }
    Ok(())
}

fn get(options: &Get) -> Result<()> {
    let Get { address, host, path } = options;
    let mut stream = TcpStream::connect_timeout(address, Duration::from_secs(5))
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    std::io::copy(&mut stream, &mut std::io::stdout())?;
    Ok(())
}

fn tied(options: &Tied) -> Result<()> {
    use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot ask to be ended with the parent")?;
    // The parent may have died before the request was in place.
    if getppid().map(Pid::as_raw_nonzero).map(i32::from) != Some(options.parent) {
        bail!("the process that started this one is gone");
    }
    let Some((program, args)) = options.command.split_first() else { bail!("no program named") };
    Err(Command::new(program).args(args).exec()).with_context(|| format!("cannot run {program}"))
}
