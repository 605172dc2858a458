//! The floor table of the proxy: a module imports only from floors below its own.
//!
//! rustc keeps crates apart but lets the modules of one crate import each other at will; this
//! check is the missing rule. It reads every path that starts at `crate::`, or leaves its module
//! by `super::`, in the code proper (not in comments, strings or test files) and compares
//! the top-level modules on both ends. Modules on one floor never import each other. `lib.rs` and
//! `main.rs` stand above the table.

use std::collections::BTreeSet;

use super::Problems;
use crate::workspace::Source;

const CRATE: &str = "proxy/src/";

/// The table; ARCHITECTURE.md says what each floor is for. Moving a module is a commit of its own.
const FLOORS: &[(u8, &[&str])] = &[
    (10, &["app"]),
    (9, &["inbound", "outbound"]),
    (8, &["http", "tcp", "control", "admin"]),
    (7, &["worker"]),
    (6, &["view"]),
    (5, &["upstream", "authz", "jwt"]),
    (4, &["tls", "listener"]),
    (3, &["body", "net", "telemetry", "limit", "kin"]),
    (2, &["error"]),
    (1, &["rt", "config"]),
];

/// Checks the proxy's sources against the table.
pub(super) fn check(sources: &[Source]) -> Problems {
    let files = sources.iter().filter(|source| source.is_rust() && !source.is_test());
    let mut problems = Vec::new();
    for source in files {
        let Some(path) = source.path.strip_prefix(CRATE) else { continue };
        let segments = module_path(path);
        let Some(&module) = segments.first() else { continue };
        let Some(floor) = floor_of(module) else {
            problems.push(format!("{}: module `{module}` has no floor in the table", source.path));
            continue;
        };
        for import in imports(&source.text, &segments) {
            if import == module {
                continue;
            }
            match floor_of(&import) {
                None => problems.push(format!("{}: imports `crate::{import}`, which has no floor", source.path)),
                Some(other) if other >= floor => problems.push(format!(
                    "{}: `{module}` (floor {floor}) imports `{import}` (floor {other}); only lower floors may be imported",
                    source.path
                )),
                Some(_) => {}
            }
        }
    }
    problems
}

fn floor_of(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, modules)| modules.contains(&module)).map(|(floor, _)| *floor)
}

/// `http/exchange.rs` is the module `["http", "exchange"]`, the crate's root is `[]`.
fn module_path(path: &str) -> Vec<&str> {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if matches!(path, "lib" | "main") { Vec::new() } else { path.split('/').collect() }
}

/// The top-level modules that a file of the module `segments` names.
fn imports(text: &str, segments: &[&str]) -> BTreeSet<String> {
    // Tests stand last in a file and may import what they like.
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code = without_comments_and_strings(code);
    let tokens = tokens(&code);
    let mut found = BTreeSet::new();
    for (index, token) in tokens.iter().enumerate() {
        let previous_is_path = index > 0 && tokens.get(index - 1).is_some_and(|t| *t == "::");
        let rest = tokens.get(index + 1..).unwrap_or_default();
        if previous_is_path || rest.first() != Some(&"::") {
            continue;
        }
        let rest = rest.get(1..).unwrap_or_default();
        match *token {
            "crate" => first_segments(rest, &mut found),
            "super" => {
                let extra = rest.chunks(2).take_while(|pair| *pair == ["super", "::"]).count();
                if extra + 1 == segments.len() {
                    first_segments(rest.get(2 * extra..).unwrap_or_default(), &mut found);
                }
            }
            _ => {}
        }
    }
    found
}

/// Adds `a` for `a::b`, and `a`, `c` for `{a::{b}, c}`.
fn first_segments(tokens: &[&str], found: &mut BTreeSet<String>) {
    let Some((&first, rest)) = tokens.split_first() else { return };
    if first != "{" {
        found.insert(first.trim_start_matches("r#").to_owned());
        return;
    }
    let mut depth = 1;
    let mut at_start = true;
    for token in rest {
        match *token {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => at_start = true,
            name if depth == 1 && at_start => {
                found.insert(name.trim_start_matches("r#").to_owned());
                at_start = false;
            }
            _ => {}
        }
        if depth == 0 {
            return;
        }
    }
}

/// Words, `::`, and single other characters.
fn tokens(code: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '#';
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (token, tail) = rest.split_at(end);
        tokens.push(token);
        rest = tail.trim_start();
    }
    tokens
}

/// The text with comments and the insides of strings blanked out.
fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if c == '"' {
            string_length(rest)
        } else if rest.starts_with("r\"") || rest.starts_with("r#\"") || rest.starts_with("r##\"") {
            raw_string_length(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else {
            0
        };
        if skip == 0 {
            code.push(c);
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
        } else {
            code.push(' ');
            rest = rest.get(skip..).unwrap_or_default();
        }
    }
    code
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (index, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string_length(text: &str) -> usize {
    let hashes = text.chars().skip(1).take_while(|c| *c == '#').count();
    let end = format!("\"{}", "#".repeat(hashes));
    let start = 2 + hashes;
    text.get(start..).and_then(|body| body.find(&end)).map_or(text.len(), |at| start + at + end.len())
}

#[cfg(test)]
mod tests;
