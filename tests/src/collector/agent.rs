//! A real collector, where one is installed, that hands on what it gets.
//!
//! `PILLION_TEST_COLLECTOR` names its executable; otherwise `otelcol`, `otelcol-contrib` or `rotel-agent` are looked for on the PATH.

use std::{
    env,
    ffi::OsStr,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

use crate::eventually;

const NAMES: [&str; 3] = ["otelcol", "otelcol-contrib", "rotel-agent"];

/// A running collector of somebody else's; it ends when dropped.
#[derive(Debug)]
pub struct Agent {
    /// Where it takes OTLP over gRPC.
    pub grpc: SocketAddr,
    /// Where it takes OTLP over HTTP.
    pub http: SocketAddr,
    /// Which one it is.
    pub program: PathBuf,
    _child: Child,
    _dir: TempDir,
}

impl Agent {
    pub(super) async fn start(next: SocketAddr) -> Result<Option<Self>> {
        let Some(program) = installed() else { return Ok(None) };
        let dir = tempfile::tempdir()?;
        let (grpc, http) = (free().await?, free().await?);
        let mut command = Command::new(&program);
        if program.file_name().is_some_and(|name| name.to_string_lossy().contains("rotel")) {
            rotel(&mut command, dir.path(), (grpc, http), next);
        } else {
            otelcol(&mut command, dir.path(), (grpc, http), next)?;
        }
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        eventually("the collector listens", || async { Ok(TcpStream::connect(grpc).await.map(drop)?) })
            .await?;
        eventually("the collector listens", || async { Ok(TcpStream::connect(http).await.map(drop)?) })
            .await?;
        Ok(Some(Self { grpc, http, program, _child: child, _dir: dir }))
    }
}

fn installed() -> Option<PathBuf> {
    let named = env::var_os("PILLION_TEST_COLLECTOR").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let found = || {
        let dirs: Vec<PathBuf> = env::split_paths(&path).collect();
        NAMES.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name))).find(|path| path.is_file())
    };
    named.or_else(found)
}

async fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?)
}

fn rotel(command: &mut Command, dir: &Path, (grpc, http): (SocketAddr, SocketAddr), next: SocketAddr) {
    command.arg("start");
    for (flag, value) in [
        ("--otlp-grpc-endpoint", grpc.to_string().as_ref()),
        ("--otlp-http-endpoint", http.to_string().as_ref()),
        ("--exporter", OsStr::new("otlp")),
        ("--otlp-exporter-protocol", OsStr::new("grpc")),
        ("--otlp-exporter-endpoint", format!("http://{next}").as_ref()),
        ("--pid-file", dir.join("pid").as_os_str()),
        ("--log-file", dir.join("log").as_os_str()),
    ] {
        command.arg(flag).arg(value);
    }
}

fn otelcol(
    command: &mut Command,
    dir: &Path,
    (grpc, http): (SocketAddr, SocketAddr),
    next: SocketAddr,
) -> Result<()> {
    let config = format!(
        "receivers: {{otlp: {{protocols: {{grpc: {{endpoint: \"{grpc}\"}}, http: {{endpoint: \"{http}\"}}}}}}}}\n\
         exporters: {{otlp: {{endpoint: \"{next}\", tls: {{insecure: true}}}}}}\n\
         service:\n  telemetry: {{metrics: {{level: none}}}}\n  pipelines:\n\
         \x20   traces: {{receivers: [otlp], exporters: [otlp]}}\n\
         \x20   logs: {{receivers: [otlp], exporters: [otlp]}}\n\
         \x20   metrics: {{receivers: [otlp], exporters: [otlp]}}\n"
    );
    let path = dir.join("config.yaml");
    std::fs::write(&path, config)?;
    command.arg("--config").arg(path);
    Ok(())
}
