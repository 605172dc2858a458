//! The load: two existing generators, each for what it is good at, and idle connections.
//!
//! `h2load` drives full load: it speaks both versions, is written in C and leaves the CPU to the
//! proxies. `oha` drives the fixed rate: its one schedule spreads requests evenly over all
//! connections, and it measures from the time a request was due, not from when it could be sent,
//! which corrects for coordinated omission. (h2load's rate timers run per connection and fall into
//! step, so that requests come in bursts; it does not correct.) Every run is bounded in time.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::process;

/// Requests per second of the fixed-rate runs.
pub(super) const RATE: u32 = 2_000;

/// What every request is addressed to; the listeners are reached at their addresses.
const URL: &str = "http://bench/";

/// The HTTP version between client and proxy, with how the load is spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// 64 connections, one request at a time on each.
    Http1,
    /// 8 connections with 32 streams, without TLS and upgrade.
    Http2,
}

impl Protocol {
    const fn n_connections(self) -> &'static str {
        match self {
            Self::Http1 => "64",
            Self::Http2 => "8",
        }
    }

    const fn n_streams(self) -> &'static str {
        match self {
            Self::Http1 => "1",
            Self::Http2 => "32",
        }
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub(super) n_succeeded: u64,
    pub(super) n_failed: u64,
    pub(super) seconds: f64,
    /// Of a fixed-rate run.
    pub(super) latency: Option<Latency>,
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
}

/// Says whether one request to the port is answered with success.
pub(super) fn probe(protocol: Protocol, port: u16) -> bool {
    let text = process::output(h2load(protocol, port).args(["-n", "1", "-c", "1", "-N", "2s", URL]));
    text.and_then(|text| parse_h2load(&text)).is_ok_and(|outcome| outcome.n_succeeded == 1)
}

/// As many requests as go through in the time.
pub(super) fn full(protocol: Protocol, port: u16, seconds: u32) -> Result<Outcome> {
    let mut command = h2load(protocol, port);
    command.args(["-c", protocol.n_connections(), "-m", protocol.n_streams()]);
    parse_h2load(&process::output(command.args(["-t", "1", "-D", &seconds.to_string(), URL]))?)
}

/// `RATE` requests per second, evenly spaced, from the program `oha`.
pub(super) fn fixed(oha: &Path, protocol: Protocol, port: u16, seconds: u32) -> Result<Outcome> {
    let mut command = Command::new(oha);
    command.args(["--no-tui", "--output-format", "json", "--latency-correction", "--disable-compression"]);
    command.args(["-t", "5s", "-q", &RATE.to_string(), "-n", &(RATE * seconds).to_string()]);
    command.args(["-c", protocol.n_connections(), "-p", protocol.n_streams()]);
    command.args(["--connect-to", &format!("bench:80:127.0.0.1:{port}")]);
    if protocol == Protocol::Http2 {
        command.arg("--http2");
    }
    parse_oha(&process::output(command.arg(URL))?)
}

/// Opens connections that have served one request each and then stay idle.
pub(super) fn idle_connections(port: u16, n: usize) -> Result<Vec<TcpStream>> {
    (0..n).map(|_| idle_connection(port)).collect()
}

fn idle_connection(port: u16) -> Result<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.ends_with(super::BODY.as_bytes()) {
        let n = stream.read(&mut buffer).context("an idle connection got no answer")?;
        if n == 0 {
            bail!("an idle connection was closed: {}", String::from_utf8_lossy(&answer));
        }
        answer.extend_from_slice(buffer.get(..n).unwrap_or_default());
    }
    Ok(stream)
}

fn h2load(protocol: Protocol, port: u16) -> Command {
    let mut command = Command::new("h2load");
    command.arg(format!("--connect-to=127.0.0.1:{port}"));
    command.args(["-p", if protocol == Protocol::Http1 { "http/1.1" } else { "h2c" }]);
    command
}

/// Reads `finished in 3.01s, …` and `requests: … done, 5 succeeded, 0 failed, …`.
fn parse_h2load(text: &str) -> Result<Outcome> {
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    let finished = line("finished in ").context("h2load printed no summary")?;
    let (seconds, _) = finished.split_once(',').context("h2load printed no time")?;
    let requests = line("requests: ").context("h2load printed no counts")?;
    let count = |name: &str| -> Result<u64> {
        let value = requests.split(", ").find_map(|part| part.strip_suffix(name)?.strip_suffix(' '));
        value
            .with_context(|| format!("h2load counted no `{name}`"))?
            .parse()
            .context("h2load counted no number")
    };
    Ok(Outcome {
        n_succeeded: count("succeeded")?,
        n_failed: count("failed")?,
        seconds: parse_seconds(seconds)?,
        latency: None,
    })
}

fn parse_seconds(text: &str) -> Result<f64> {
    let (number, scale) = match (text.strip_suffix("us"), text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), ..) => (number, 1e-6),
        (_, Some(number), _) => (number, 1e-3),
        (.., Some(number)) => (number, 1.0),
        _ => bail!("`{text}` is no time"),
    };
    Ok(number.parse::<f64>()? * scale)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OhaReport {
    summary: OhaSummary,
    latency_percentiles: OhaPercentiles,
    status_code_distribution: std::collections::BTreeMap<u16, u64>,
    error_distribution: std::collections::BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct OhaSummary {
    total: f64,
}

#[derive(Deserialize)]
struct OhaPercentiles {
    p50: f64,
    p99: f64,
    #[serde(rename = "p99.9")]
    p999: f64,
}

fn parse_oha(text: &str) -> Result<Outcome> {
    let report: OhaReport = serde_json::from_str(text).context("cannot read the report of oha")?;
    let n_succeeded = report.status_code_distribution.get(&200).copied().unwrap_or_default();
    let n_answered: u64 = report.status_code_distribution.values().sum();
    let n_errors: u64 = report.error_distribution.values().sum();
    let percentiles = &report.latency_percentiles;
    Ok(Outcome {
        n_succeeded,
        n_failed: n_answered - n_succeeded + n_errors,
        seconds: report.summary.total,
        latency: Some(Latency {
            p50: percentiles.p50 * 1e3,
            p99: percentiles.p99 * 1e3,
            p999: percentiles.p999 * 1e3,
        }),
    })
}

#[cfg(test)]
mod tests;
