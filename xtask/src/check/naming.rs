//! Nothing a user can see goes unnamed: every metric and every flag appears in a test or a document.
//!
//! A metric is a name such as `pillion_…` or `istio_…` in a string of the proxy or the control
//! plane; a flag is a field with `#[arg(long)]` in one of the `config.rs` files. Where the two are
//! named is every test file, everything in the `tests` package, and every Markdown document.

use std::collections::BTreeSet;

use super::Problems;
use crate::workspace::Source;

const CODE: &[&str] = &["proxy/src/", "control-plane/src/"];
const CONFIGS: &[&str] = &["proxy/src/config.rs", "control-plane/src/config.rs"];
const METRIC_PREFIXES: &[&str] = &["pillion_", "istio_"];

/// Checks that each metric and each flag is named somewhere.
pub(super) fn check(sources: &[Source]) -> Problems {
    let witnesses: Vec<&str> = sources
        .iter()
        .filter(|source| {
            source.is_test() || source.path.starts_with("tests/") || source.path.ends_with(".md")
        })
        .map(|source| source.text.as_str())
        .collect();
    let mut problems = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust() && !source.is_test()) {
        if CODE.iter().any(|prefix| source.path.starts_with(prefix)) {
            for metric in metrics(&source.text) {
                if !witnesses.iter().any(|text| names(text, &metric)) {
                    problems
                        .push(format!("{}: no test or document names the metric `{metric}`", source.path));
                }
            }
        }
        if CONFIGS.contains(&source.path.as_str()) {
            for flag in flags(&source.text) {
                if !witnesses.iter().any(|text| names(text, &flag)) {
                    problems.push(format!("{}: no test or document names the flag `{flag}`", source.path));
                }
            }
        }
    }
    problems
}

/// Says whether the text holds the name as a whole: `--workers` is not named by `--workers-max`.
/// A metric's name may go on with the endings that Prometheus gives it.
fn names(text: &str, name: &str) -> bool {
    const ENDINGS: &[&str] = &["", "_total", "_bucket", "_sum", "_count"];
    text.match_indices(name).any(|(at, _)| {
        let rest = text.get(at + name.len()..).unwrap_or_default();
        let word_end =
            rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).unwrap_or(rest.len());
        let ending = rest.get(..word_end).unwrap_or_default();
        ENDINGS.contains(&ending) || ending.starts_with("--")
    })
}

/// String literals of the code that are metric names.
fn metrics(code: &str) -> BTreeSet<String> {
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .filter(|literal| {
            METRIC_PREFIXES.iter().any(|prefix| literal.len() > prefix.len() && literal.starts_with(prefix))
                && literal.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        })
        // The crates' own names begin the same way where they appear in log filters.
        .filter(|literal| {
            !matches!(*literal, "pillion_proxy" | "pillion_control_plane" | "pillion_xds" | "pillion_policy")
        })
        .map(str::to_owned)
        .collect()
}

/// The long flags of clap's derive: `#[arg(long)]` or `#[arg(long = "name")]`, then a field.
fn flags(code: &str) -> Vec<String> {
    let mut flags = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find("#[arg(") {
        let (attribute, tail) = split_attribute(rest.get(start..).unwrap_or_default());
        rest = tail;
        let mut parts = attribute.split([',', '(']).map(str::trim);
        let Some(long) =
            parts.find(|part| *part == "long" || part.starts_with("long ") || part.starts_with("long="))
        else {
            continue;
        };
        let name = match long.split_once('=') {
            Some((_, name)) => {
                Some(name.trim().trim_matches(|c| c == '"' || c == ')' || c == ']').to_owned())
            }
            None => field_name(tail).map(|field| field.replace('_', "-")),
        };
        flags.extend(name.map(|name| format!("--{name}")));
    }
    flags
}

/// Splits after the `]` that closes the attribute at the start of the text.
fn split_attribute(text: &str) -> (&str, &str) {
    let mut depth = 0_usize;
    let mut in_string = false;
    for (index, c) in text.char_indices() {
        match c {
            '"' => in_string = !in_string,
            '[' if !in_string => depth += 1,
            ']' if !in_string => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return text.split_at(index + 1);
                }
            }
            _ => {}
        }
    }
    (text, "")
}

/// The first field after an attribute, past further attributes and comments.
fn field_name(text: &str) -> Option<&str> {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with(['#', '/']))?;
    let (name, _) = line.split_once(':')?;
    name.split_whitespace().last()
}

#[cfg(test)]
mod tests;
