//! Dashboards and alert rules under `k8s/`: every metric and label they name is one that a running mesh tells.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pillion_tests::{Mesh, Metrics};
use serde_json::Value;

/// Labels that Prometheus adds.
const ADDED: [&str; 3] = ["instance", "job", "le"];

/// What an expression names.
#[derive(Debug, Default, PartialEq)]
struct Names {
    metrics: BTreeSet<String>,
    labels: BTreeSet<String>,
}

/// What a mesh tells.
#[derive(Debug, Default)]
struct Told {
    metrics: BTreeSet<String>,
    labels: BTreeSet<String>,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':')
}

/// Reads an expression of PromQL as far as its names go.
fn names(expression: &str) -> Names {
    let mut names = Names::default();
    let (mut rest, mut in_matchers, mut in_labels, mut labels_follow) = (expression, false, false, false);
    while let Some(c) = rest.chars().next() {
        match c {
            '"' => {
                let mut escaped = false;
                let end = rest.char_indices().skip(1).find(|(_, c)| {
                    let ends = *c == '"' && !escaped;
                    escaped = *c == '\\' && !escaped;
                    ends
                });
                rest = end.map_or("", |(at, _)| &rest[at + 1..]);
                continue;
            }
            '[' => {
                rest = rest.split_once(']').map_or("", |(_, after)| after);
                continue;
            }
            '$' => {
                rest = rest[1..].trim_start_matches(|c| is_word(c) || matches!(c, '{' | '}'));
                continue;
            }
            '0'..='9' => {
                rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.');
                continue;
            }
            c if is_word(c) => {
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                let next = after.trim_start();
                rest = after;
                if in_matchers || in_labels {
                    names.labels.insert(word.to_owned());
                } else if matches!(word, "by" | "without" | "on" | "ignoring" | "group_left" | "group_right")
                {
                    labels_follow = true;
                } else if !matches!(word, "and" | "or" | "unless" | "bool" | "offset")
                    && !next.starts_with('(')
                    && !["by ", "without "].iter().any(|clause| next.starts_with(clause))
                {
                    names.metrics.insert(word.to_owned());
                }
                continue;
            }
            '{' => in_matchers = true,
            '}' => in_matchers = false,
            '(' => in_labels = std::mem::take(&mut labels_follow),
            ')' => in_labels = false,
            _ => {}
        }
        rest = &rest[c.len_utf8()..];
    }
    names
}

/// The labels a template names, as in `{{direction}}` and `{{ $labels.direction }}`.
fn template(text: &str) -> impl Iterator<Item = String> {
    let inside = text.split("{{").skip(1).filter_map(|part| part.split_once("}}"));
    inside.filter_map(|(name, _)| {
        let name = name.trim();
        let word = match name.strip_prefix('$') {
            Some(variable) => variable.strip_prefix("labels.")?,
            None => name,
        };
        Some(word.split(' ').next().unwrap_or_default().to_owned())
    })
}

fn files(folder: &str, ending: &str) -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s").join(folder);
    let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let paths: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    let found: Vec<_> = paths.into_iter().filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    ensure!(!found.is_empty(), "there is nothing in {}", folder.display());
    Ok(found)
}

/// A mesh with all there is to tell of: an authority, two sidecars, a call between them.
async fn told() -> Result<Told> {
    let mut mesh = Mesh::secure(&[])?;
    let (_app, callee) = mesh.serve_meshed("app", "v1").await?;
    let (caller, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    let mut told = Told::default();
    for metrics in [caller.metrics().await?, callee.metrics().await?, mesh.control_plane()?.metrics().await?]
    {
        told.take(&metrics);
    }
    // Of what has not happened there are families without samples.
    told.labels.extend(ADDED.into_iter().chain(["reason"]).map(str::to_owned));
    Ok(told)
}

impl Told {
    fn take(&mut self, metrics: &Metrics) {
        for (name, kind) in &metrics.types {
            if kind == "histogram" {
                self.metrics.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
            } else {
                self.metrics.insert(name.clone());
            }
        }
        self.labels.extend(metrics.samples().iter().flat_map(|sample| sample.labels.keys().cloned()));
    }

    fn check(&self, at: &str, expression: &str) -> Result<()> {
        let names = names(expression);
        for metric in &names.metrics {
            ensure!(self.metrics.contains(metric), "{at}: nobody tells {metric}: {expression}");
        }
        ensure!(!names.metrics.is_empty(), "{at}: no metric in {expression}");
        self.check_labels(at, names.labels)
    }

    fn check_labels(&self, at: &str, labels: impl IntoIterator<Item = String>) -> Result<()> {
        for label in labels {
            ensure!(self.labels.contains(&label), "{at}: nobody has the label {label}");
        }
        Ok(())
    }
}

/// A text of a JSON value.
fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str> {
    value.get(field).and_then(Value::as_str).with_context(|| format!("no {field} in {value}"))
}

fn list<'a>(value: &'a Value, pointer: &str) -> Result<&'a Vec<Value>> {
    value.pointer(pointer).and_then(Value::as_array).with_context(|| format!("no {pointer}"))
}

#[tokio::test]
async fn dashboards_ask_for_what_is_told() -> Result<()> {
    let told = told().await?;
    let mut uids = BTreeSet::new();
    for path in files("dashboards", ".json")? {
        let name = path.display().to_string();
        let dashboard: Value =
            serde_json::from_str(&std::fs::read_to_string(&path)?).context(name.clone())?;
        ensure!(uids.insert(text(&dashboard, "uid")?.to_owned()), "{name}: its uid is another's");
        for variable in list(&dashboard, "/templating/list")? {
            if text(variable, "type")? == "query" {
                let query = variable.pointer("/query/query").and_then(Value::as_str).context("no query")?;
                let asked = query.strip_prefix("label_values(").and_then(|query| query.strip_suffix(')'));
                let (metric, label) =
                    asked.and_then(|asked| asked.split_once(", ")).context(query.to_owned())?;
                told.check(&name, &format!("sum by ({label}) ({metric})"))?;
            }
        }
        let mut ids = BTreeSet::new();
        let mut asked = 0;
        for panel in list(&dashboard, "/panels")? {
            let at = format!("{name}: {}", text(panel, "title")?);
            ensure!(ids.insert(panel["id"].as_u64()), "{at}: its id is another's");
            for target in panel.get("targets").and_then(Value::as_array).into_iter().flatten() {
                told.check(&at, text(target, "expr")?)?;
                told.check_labels(&at, template(text(target, "legendFormat")?))?;
                assert_eq!(target.pointer("/datasource/uid"), Some(&Value::from("${datasource}")), "{at}");
                asked += 1;
            }
        }
        ensure!(asked > 20, "{name}: {asked} queries");
    }
    Ok(())
}

#[tokio::test]
async fn alerts_are_about_what_is_told() -> Result<()> {
    let told = told().await?;
    let mut alerts = BTreeSet::new();
    for path in files("alerts", ".yaml")? {
        let rules: Value = serde_saphyr::from_str(&std::fs::read_to_string(&path)?)?;
        for group in list(&rules, "/groups")? {
            for rule in list(group, "/rules")? {
                let name = text(rule, "alert")?;
                ensure!(alerts.insert(name.to_owned()), "{name} is there twice");
                told.check(name, text(rule, "expr")?)?;
                let annotations = rule.get("annotations").context("no annotations")?;
                for field in ["summary", "description"] {
                    told.check_labels(name, template(text(annotations, field)?))?;
                }
                let severity = rule.pointer("/labels/severity").and_then(Value::as_str);
                ensure!(matches!(severity, Some("critical" | "warning" | "info")), "{name}: {severity:?}");
            }
        }
    }
    ensure!(alerts.len() > 15, "{alerts:?}");
    Ok(())
}

#[test]
fn names_are_found_where_they_stand() {
    let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
    for (expression, metrics, labels) in [
        ("a_total", &["a_total"][..], &[][..]),
        (
            r#"sum by (x, y) (rate(a_total{b="c{d\"",e!~"f"}[$__rate_interval])) / 2.5e3"#,
            &["a_total"],
            &["x", "y", "b", "e"],
        ),
        (
            "histogram_quantile(0.99, sum by (le) (rate(a_bucket[5m]))) > 1 and on (i) b offset 5m",
            &["a_bucket", "b"],
            &["le", "i"],
        ),
        ("sum(a) / on () group_left () count(max by (c) (b) == 2) or vector(0)", &["a", "b"], &["c"]),
        ("sum (a) by (b) + time()", &["a"], &["b"]),
        (r#"a{b=~"$c[:|].*"} - ${d} * $e"#, &["a"], &["b"]),
    ] {
        assert_eq!(names(expression), Names { metrics: set(metrics), labels: set(labels) }, "{expression}");
    }
    assert_eq!(template("{{ a }} b {{$labels.c}} {{ $value | d }}").collect::<Vec<_>>(), ["a", "c"]);
}
