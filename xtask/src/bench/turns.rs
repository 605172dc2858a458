//! Peers side by side: shows differences of a few per cent on a noisy machine.
//!
//! All peers of a scenario run at the same time and take turns under load. What disturbs the machine disturbs
//! neighbours in time alike, so the ratio to the first peer in the same turn says more than figures that are minutes
//! apart. The true median of the ratios is inside the interval in 95 of 100 cases: it ends at the order
//! statistics n/2 ± 0.98·√n (the sign test's interval, in its normal approximation).

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::load::{self, Outcome, Protocol};
use super::peers::{Backend, Kind, Peer, Programs, Running};
use super::report::{machine, median};
use super::{SCENARIOS, Scenario, costed, peers, per_request};
use crate::process::{complain, say};

/// What a turn is under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Load {
    /// As many requests as go through.
    Full,
    /// 2,000 requests per second: the proxy sleeps between them.
    Fixed,
}

impl Load {
    /// How long a turn lasts: at the fixed rate, long enough that opening the connections costs little.
    const fn seconds(self) -> u32 {
        match self {
            Self::Full => 1,
            Self::Fixed => 2,
        }
    }

    fn title(self) -> String {
        match self {
            Self::Full => "full load".to_owned(),
            Self::Fixed => format!("{} req/s", load::RATE),
        }
    }

    /// Puts it on the port for a turn.
    fn run(self, programs: &Programs, protocol: Protocol, port: u16) -> Result<Outcome> {
        match self {
            Self::Full => load::full(protocol, port, self.seconds()),
            Self::Fixed => {
                let oha = programs.oha.as_ref();
                let oha =
                    oha.context("the fixed rate comes from oha: `cargo xtask bench --install` gets it")?;
                load::fixed(oha, protocol, port, self.seconds())
            }
        }
    }
}

/// A peer that runs, and what a request has cost in each of its turns, in microseconds of CPU.
struct Player {
    peer: Peer,
    running: Running,
    costs: Vec<f64>,
}

/// How a peer compares to the first.
#[derive(Debug, PartialEq)]
struct Ratio {
    median: f64,
    /// Of the median; none where there are too few turns for one.
    interval: Option<(f64, f64)>,
}

/// Lets the peers of each scenario take that many turns, and prints what came out.
pub(super) fn run(
    pairs: &[(Scenario, Peer)],
    programs: &Programs,
    (n_turns, load): (u32, Load),
    directory: &Path,
    as_json: bool,
) -> Result<()> {
    let mut entries = Vec::new();
    for &scenario in SCENARIOS {
        let peers = pairs.iter().filter(|(s, peer)| *s == scenario && peer.kind != Kind::Direct);
        let peers: Vec<Peer> = peers.map(|(_, peer)| *peer).collect();
        if peers.is_empty() {
            continue;
        }
        if load == Load::Fixed && !scenario.bears_fixed_rate() {
            complain(&format!("{} are left out: a core cannot do so many", scenario.name()));
            continue;
        }
        let players = play(scenario, &peers, programs, (n_turns, load), directory)?;
        let first = players.first().map(|first| first.costs.clone()).unwrap_or_default();
        let rows: Vec<_> = players.iter().map(|player| (player, ratio(&player.costs, &first))).collect();
        if as_json {
            entries.extend(rows.iter().map(|(player, ratio)| entry(scenario, player, ratio.as_ref())));
            continue;
        }
        say(&format!(
            "\n{}\n{}; {n_turns} turns of {} s at {}; x = ratio to the first",
            scenario.title(),
            machine(),
            load.seconds(),
            load.title(),
        ));
        for (player, ratio) in rows {
            let cost = median(&player.costs).unwrap_or_default();
            let ratio = ratio.map(|ratio| ratio.to_string()).unwrap_or_default();
            say(&format!("{:<17}{cost:>7.1} CPU us  {ratio}", player.peer.name()));
        }
    }
    if as_json {
        let document = json!({
            "machine": machine(),
            "turns": n_turns,
            "load": load.title(),
            "seconds": load.seconds(),
            "results": entries,
        });
        say(&serde_json::to_string_pretty(&document)?);
    }
    Ok(())
}

fn play(
    scenario: Scenario,
    peers: &[Peer],
    programs: &Programs,
    (n_turns, load): (u32, Load),
    directory: &Path,
) -> Result<Vec<Player>> {
    let directory = peers::fresh(&directory.join("run"))?;
    let backend = Backend::start(programs, &peers::fresh(&directory.join("backend"))?)?;
    let mut players = Vec::new();
    for &peer in peers {
        let home = peers::fresh(&directory.join(peer.name()))?;
        let running = peers::start(peer, scenario, programs, &backend, &home)?;
        load.run(programs, scenario.downstream(), running.port)?;
        players.push(Player { peer, running, costs: Vec::new() });
    }
    for turn in 1..=n_turns {
        complain(&format!("turn {turn}/{n_turns} {}", scenario.name()));
        // Nobody always follows the same neighbour.
        let at = turn as usize % players.len();
        let (before, after) = players.split_at_mut(at);
        for player in after.iter_mut().chain(before) {
            let Player { peer, running, costs } = player;
            let (outcome, cpu) =
                costed(&running.proxies, || load.run(programs, scenario.downstream(), running.port))?;
            ensure!(outcome.n_failed == 0, "{} failed {} requests", peer.name(), outcome.n_failed);
            costs.push(per_request(cpu, &outcome).with_context(|| format!("{} did nothing", peer.name()))?);
        }
    }
    Ok(players)
}

/// How the costs compare to others of the same turns.
fn ratio(costs: &[f64], others: &[f64]) -> Option<Ratio> {
    let mut ratios: Vec<f64> = costs.iter().zip(others).map(|(cost, other)| cost / other).collect();
    ratios.sort_by(f64::total_cmp);
    let interval = || {
        // 0.98·√n, rounded up, in whole numbers.
        let distance = (1..).find(|distance| distance * distance * 10_000 >= 9_604 * ratios.len())?;
        let low = (ratios.len() / 2).checked_sub(distance + 1)?;
        Some((*ratios.get(low)?, *ratios.iter().rev().nth(low)?))
    };
    Some(Ratio { median: median(&ratios)?, interval: interval() })
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} x", self.median)?;
        self.interval.map_or(Ok(()), |(low, high)| write!(f, " ({low:.3} to {high:.3})"))
    }
}

fn entry(scenario: Scenario, player: &Player, ratio: Option<&Ratio>) -> Value {
    json!({
        "scenario": scenario.name(),
        "peer": player.peer.name(),
        "cpu_us": player.costs,
        "ratio": ratio.map(|ratio| json!({ "median": ratio.median, "interval": ratio.interval })),
    })
}

#[cfg(test)]
mod tests;
