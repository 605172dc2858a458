//! `pillion`: the command line of the mesh.
//!
//! Files are checked and keys are used here; everything else the control plane is asked ([`ask`]). What proxies tell of
//! their traffic is shown by [`explain`], [`tap`] and [`stat`], each of which can also hand on the JSON it is made of.

mod ask;
mod explain;
mod stat;
mod table;
mod tap;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use pillion_control_plane::{
    Phase, StatusReport, WaitFor, check_files, crds, create_certificate, create_token, lifetime,
    request_root, rotation,
};
use pillion_policy::{
    identity::TrustDomain,
    name::{Hostname, Label},
};
use tokio::time::{Duration, sleep};

use self::ask::From;

/// How often it is looked how a change of the root goes on.
const ROTATION_INTERVAL: Duration = Duration::from_secs(1);

/// The command line of the Pillion service mesh.
#[derive(Debug, Parser)]
#[command(name = "pillion", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check files of Kubernetes and Istio objects as the control plane would; exit code 1 when one has an error
    Validate {
        /// Files, directories, or - for standard input
        #[arg(required = true)]
        files: Vec<PathBuf>,

        /// DNS domain of the cluster
        #[arg(long, env = "PILLION_CLUSTER_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
        cluster_domain: Hostname,
    },
    /// Print the CustomResourceDefinitions of the mesh's own kinds, for kubectl apply -f -
    Crds,
    /// Show the objects in force, what is wrong with them, and the connected proxies
    Status {
        #[command(flatten)]
        from: From,

        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make tokens by which workloads prove who they are before they have a certificate
    #[command(subcommand)]
    Token(Token),
    /// Look after the certificate authority of a control plane
    #[command(subcommand)]
    Ca(Ca),
    /// Make certificates for what takes part in the mesh without a sidecar
    #[command(subcommand)]
    Certificate(Certificate),
    /// Show, as JSON, what proxies have subscribed to
    Config {
        #[command(flatten)]
        from: From,
    },
    /// Tell the story of a request, hop by hop; without an id, why requests have failed lately all over the mesh
    ///
    /// Proxies remember requests that have failed, slow ones and a sample of the others, the newest few hundred of each.
    Explain(explain::Args),
    /// Show requests as they end, live
    Tap(tap::Args),
    /// Show how many requests there are, how many succeed and how long they take, live
    Stat(stat::Args),
}

#[derive(Debug, Subcommand)]
enum Token {
    /// Print a token for a service account, signed by the key in the state directory of the control plane
    Create {
        /// The namespace of the service account
        #[arg(long, value_name = "NS")]
        namespace: Label,

        /// The service account
        #[arg(long, value_name = "SA")]
        service_account: Label,

        /// What the control plane has as its --state-dir
        #[arg(long, env = "PILLION_STATE_DIR", value_name = "DIR")]
        state_dir: PathBuf,

        /// For how long the token is good
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = lifetime)]
        ttl: Duration,
    },
}

#[derive(Debug, Subcommand)]
enum Ca {
    /// Change the root: tell the new one to every proxy, sign with it, and give up the old one; shows how it goes on
    ///
    /// The control plane does it, and goes on when this command is interrupted or the control plane is restarted. To be
    /// safe for proxies that are away, telling and giving up take as long as a certificate lives (--leaf-lifetime), each. A
    /// root that has expired is replaced at once.
    Rotate {
        /// What the control plane has as its --state-dir
        #[arg(long, env = "PILLION_STATE_DIR", value_name = "DIR")]
        state_dir: PathBuf,

        /// Wait for connected proxies only: one that is away may need the new root.pem as its --root-file; also hurries a
        /// change that is under way
        #[arg(long)]
        connected_only: bool,

        #[command(flatten)]
        from: From,
    },
}

#[derive(Debug, Subcommand)]
enum Certificate {
    /// Write chain.pem, key.pem and root.pem for a service account, signed by the authority in the state directory
    Create {
        /// The namespace of the service account
        #[arg(long, value_name = "NS")]
        namespace: Label,

        /// The service account
        #[arg(long, value_name = "SA")]
        service_account: Label,

        /// What the control plane has as its --state-dir
        #[arg(long, env = "PILLION_STATE_DIR", value_name = "DIR")]
        state_dir: PathBuf,

        /// Where the files go; those that are there are replaced
        #[arg(long, value_name = "DIR")]
        out: PathBuf,

        /// For how long the certificate is good; nobody renews it
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = lifetime)]
        ttl: Duration,

        /// Trust domain of workload identities
        #[arg(long, env = "PILLION_TRUST_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
        trust_domain: TrustDomain,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Validate { files, cluster_domain } => validate(&files, &cluster_domain),
        Command::Crds => crds().context("cannot write YAML").and_then(print),
        Command::Token(Token::Create { namespace, service_account, state_dir, ttl }) => {
            create_token(&state_dir, &namespace, &service_account, ttl).and_then(|token| print(token + "\n"))
        }
        Command::Ca(Ca::Rotate { state_dir, connected_only, from }) => {
            let wait_for = if connected_only { WaitFor::Connected } else { WaitFor::Everybody };
            rotate(&state_dir, wait_for, &from)
        }
        Command::Certificate(Certificate::Create {
            namespace,
            service_account,
            state_dir,
            out,
            ttl,
            trust_domain,
        }) => create_certificate(&state_dir, &trust_domain, (&namespace, &service_account), ttl, &out)
            .map(|()| ExitCode::SUCCESS),
        Command::Status { from, json } => status(&from, json),
        Command::Config { from } => from.fetch("/config_dump").and_then(print),
        Command::Explain(args) => explain::run(&args),
        Command::Tap(args) => tap::run(&args),
        Command::Stat(args) => stat::run(&args),
    };
    result.unwrap_or_else(|error| {
        // The exit code says it too.
        drop(writeln!(io::stderr(), "pillion: {error:#}"));
        ExitCode::from(2)
    })
}

fn validate(files: &[PathBuf], cluster_domain: &Hostname) -> Result<ExitCode> {
    let checked = check_files(files, cluster_domain);
    let mut text = String::new();
    for problem in &checked.problems {
        text.push_str(&format!("{problem}\n"));
    }
    print(text)?;
    let verdict = if checked.has_errors() { "not valid" } else { "valid" };
    writeln!(
        io::stderr(),
        "{verdict}: {} objects used, {} remarks",
        checked.objects,
        checked.problems.len()
    )?;
    Ok(if checked.has_errors() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn status(from: &From, json: bool) -> Result<ExitCode> {
    let text = from.fetch("/status")?;
    if json {
        return print(text);
    }
    let report: StatusReport =
        serde_json::from_str(&text).context("the control plane's answer is of another version")?;
    print(report.to_string())
}

/// Asks for a new root and watches until it is in force.
fn rotate(state_dir: &Path, wait_for: WaitFor, from: &From) -> Result<ExitCode> {
    request_root(state_dir, wait_for)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut last = String::new();
    while rotation(state_dir)? != Phase::Settled {
        let report = from.fetch("/status").and_then(|text| Ok(serde_json::from_str::<StatusReport>(&text)?));
        let said = match report {
            Ok(report) => report.authority.and_then(|authority| authority.rotation),
            Err(error) => Some(format!("{error:#}; it goes on once the control plane is there")),
        };
        if let Some(said) = said.filter(|said| *said != last) {
            print(format!("{said}\n"))?;
            last = said;
        }
        runtime.block_on(async { sleep(ROTATION_INTERVAL).await });
    }
    print("the new root is in force, the old one is not believed any more\n".to_owned())
}

fn print(text: String) -> Result<ExitCode> {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        result => Ok(result.map(|()| ExitCode::SUCCESS)?),
    }
}
