//! Medians, tables and JSON of a comparison.
//!
//! A ratio compares with Envoy at the same number of workers, in the same scenario of the same run.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::peers::{Kind, Peer};
use super::{Results, SCENARIOS, Samples, Scenario, load};
use crate::process::say;

/// Prints the results.
pub(super) fn print(results: &Results, as_json: bool, repeat: u32, seconds: u32) -> Result<()> {
    if as_json {
        say(&serde_json::to_string_pretty(&document(results, repeat, seconds))?);
        return Ok(());
    }
    say(&format!(
        "\n{}; medians of {repeat} x {seconds} s; x = ratio to envoy with as many workers",
        machine()
    ));
    for &scenario in SCENARIOS {
        for line in table(results, scenario) {
            say(&line);
        }
    }
    Ok(())
}

/// The figures of one peer in one scenario.
struct Row<'a> {
    samples: &'a Samples,
    envoy: Option<&'a Samples>,
}

impl Row<'_> {
    fn value(&self, measure: &str) -> Option<f64> {
        self.samples.get(measure).and_then(|values| median(values))
    }

    fn ratio(&self, measure: &str) -> Option<f64> {
        let base = median(self.envoy?.get(measure)?)?;
        Some(self.value(measure)? / base).filter(|ratio| ratio.is_finite())
    }
}

fn row<'a>(results: &'a Results, scenario: Scenario, peer: Peer, samples: &'a Samples) -> Row<'a> {
    let base = Peer { kind: Kind::Envoy, ..peer };
    let envoy = results.iter().find(|(s, p, _)| *s == scenario && *p == base).map(|(.., samples)| samples);
    Row { samples, envoy }
}

fn table(results: &Results, scenario: Scenario) -> Vec<String> {
    let rows = results.iter().filter(|(s, ..)| *s == scenario);
    let mut lines = Vec::new();
    for (_, peer, samples) in rows {
        if lines.is_empty() {
            lines.push(format!("\n{}", scenario.title()));
            lines.push(format!(
                "{:<14}|{:^28}|{:^41}|{:^23}|",
                "",
                "full load",
                format!("at {} req/s", load::RATE),
                "RSS MiB"
            ));
            lines.push(format!(
                "{:<14}|{:>8} {:>6} {:>10}  |{:>8} {:>6} {:>7} {:>7} {:>6}  |{:>6} {:>7} {:>7} |{:>7}",
                "",
                "CPU us",
                "x",
                "req/s",
                "CPU us",
                "x",
                "p50 ms",
                "p99",
                "p99.9",
                "idle",
                "1000 c",
                "after",
                "failed"
            ));
        }
        let row = row(results, scenario, *peer, samples);
        let cell = |measure, digits| show(row.value(measure), digits);
        lines.push(format!(
            "{:<14}|{:>8} {:>6} {:>10}  |{:>8} {:>6} {:>7} {:>7} {:>6}  |{:>6} {:>7} {:>7} |{:>7}",
            peer.name(),
            cell("full_cpu_us", 1),
            show(row.ratio("full_cpu_us"), 2),
            cell("full_rps", 0),
            cell("fixed_cpu_us", 1),
            show(row.ratio("fixed_cpu_us"), 2),
            cell("fixed_p50_ms", 2),
            cell("fixed_p99_ms", 2),
            cell("fixed_p999_ms", 2),
            cell("rss_idle_mib", 1),
            cell("rss_1000_connections_mib", 1),
            cell("rss_after_load_mib", 1),
            cell("failed", 0),
        ));
    }
    lines
}

fn document(results: &Results, repeat: u32, seconds: u32) -> Value {
    let entries: Vec<Value> = results
        .iter()
        .map(|(scenario, peer, samples)| {
            let row = row(results, *scenario, *peer, samples);
            let medians: Map<String, Value> =
                samples.keys().map(|measure| ((*measure).to_owned(), json!(row.value(measure)))).collect();
            let ratios: Map<String, Value> = samples
                .keys()
                .filter_map(|measure| Some(((*measure).to_owned(), json!(row.ratio(measure)?))))
                .collect();
            json!({
                "scenario": scenario.name(),
                "peer": peer.name(),
                "workers": peer.n_workers,
                "median": medians,
                "ratio_to_envoy": ratios,
                "samples": samples,
            })
        })
        .collect();
    json!({
        "machine": machine(),
        "repeat": repeat,
        "seconds": seconds,
        "fixed_rate": load::RATE,
        "results": entries,
    })
}

pub(super) fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let n_cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{} x {n_cpus}", model.map_or("unknown CPU", |(_, name)| name))
}

fn show(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests;
