//! `pillion`: the command line of the mesh.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use http::{Request, Uri, header::HOST};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use pillion_control_plane::{
    Phase, StatusReport, check_files, crds, create_certificate, create_token, lifetime, request_root,
    rotation,
};
use pillion_policy::{
    identity::TrustDomain,
    name::{Hostname, Label},
};
use tokio::{
    net::TcpStream,
    time::{Duration, sleep, timeout},
};

/// How long the control plane may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// The control plane does it, and goes on when this command is interrupted or the control plane is restarted.
    Rotate {
        /// What the control plane has as its --state-dir
        #[arg(long, env = "PILLION_STATE_DIR", value_name = "DIR")]
        state_dir: PathBuf,

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

#[derive(Debug, clap::Args)]
struct From {
    /// The admin port of the control plane
    #[arg(
        long,
        env = "PILLION_CONTROL_PLANE_ADMIN",
        value_name = "URL",
        default_value = "http://127.0.0.1:15014"
    )]
    control_plane_admin: Uri,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Validate { files, cluster_domain } => validate(&files, &cluster_domain),
        Command::Crds => crds().context("cannot write YAML").and_then(print),
        Command::Token(Token::Create { namespace, service_account, state_dir, ttl }) => {
            create_token(&state_dir, &namespace, &service_account, ttl).and_then(|token| print(token + "\n"))
        }
        Command::Ca(Ca::Rotate { state_dir, from }) => rotate(&state_dir, &from.control_plane_admin),
        Command::Certificate(Certificate::Create {
            namespace,
            service_account,
            state_dir,
            out,
            ttl,
            trust_domain,
        }) => create_certificate(&state_dir, &trust_domain, (&namespace, &service_account), ttl, &out)
            .map(|()| ExitCode::SUCCESS),
        Command::Status { from, json } => status(&from.control_plane_admin, json),
        Command::Config { from } => fetch(&from.control_plane_admin, "/config_dump").and_then(print),
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

fn status(admin: &Uri, json: bool) -> Result<ExitCode> {
    let text = fetch(admin, "/status")?;
    if json {
        return print(text);
    }
    let report: StatusReport =
        serde_json::from_str(&text).context("the control plane's answer is of another version")?;
    print(report.to_string())
}

/// Asks for a new root and watches until it is in force.
fn rotate(state_dir: &Path, admin: &Uri) -> Result<ExitCode> {
    request_root(state_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut last = String::new();
    while rotation(state_dir)? != Phase::Settled {
        let report =
            fetch(admin, "/status").and_then(|text| Ok(serde_json::from_str::<StatusReport>(&text)?));
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

/// Gets a page of the admin port.
fn fetch(admin: &Uri, path: &str) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let page = runtime.block_on(async { timeout(ANSWER_TIMEOUT, get(admin, path)).await });
    page.context("it did not answer in time").and_then(|page| page).with_context(|| {
        format!("cannot ask the control plane at {admin}; give its admin address as --control-plane-admin")
    })
}

async fn get(admin: &Uri, path: &str) -> Result<String> {
    if admin.scheme_str() != Some("http") {
        bail!("the address must start with http://");
    }
    let host = admin.host().context("the address has no host")?;
    let port = admin.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let authority = admin.authority().map(ToString::to_string).unwrap_or_default();
    let request = Request::get(path).header(HOST, authority).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        if !status.is_success() {
            bail!("{status}: {}", text.trim());
        }
        Ok(text)
    };
    tokio::pin!(connection);
    tokio::select! {
        // The connection makes no progress unless polled; it ends only after the exchange, or by failing.
        answer = exchange => answer,
        ended = &mut connection => {
            ended?;
            bail!("the connection ended without an answer")
        }
    }
}
