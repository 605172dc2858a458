//! Reading `/metrics` as a scraper does, strictly: what is not valid text format is an error.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};

use crate::client::Client;

/// One scrape.
#[derive(Clone, Debug)]
pub struct Metrics {
    samples: Vec<Sample>,
    /// Each family's declared type.
    pub types: BTreeMap<String, String>,
}

/// One line of a scrape.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Metrics {
    /// Scrapes an admin port.
    pub async fn scrape(admin: SocketAddr) -> Result<Self> {
        let reply = Client::http1(admin).get(&format!("http://{admin}/metrics")).send().await?.expect(200)?;
        Self::parse(&reply.text())
    }

    /// Reads the text format.
    pub fn parse(text: &str) -> Result<Self> {
        let mut types = BTreeMap::new();
        let mut samples = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                let (name, kind) = declared.split_once(' ').with_context(|| format!("bad line: {line}"))?;
                ensure!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} is declared twice");
            } else if !line.starts_with('#') {
                samples.push(sample(line).with_context(|| format!("bad line: {line}"))?);
            }
        }
        Ok(Self { samples, types })
    }

    /// All samples.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The sum of a metric over all samples whose labels contain these.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let matching = self.samples.iter().filter(|sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
        });
        matching.map(|sample| sample.value).sum()
    }

    /// True if there is any sample of this name.
    pub fn has(&self, name: &str) -> bool {
        self.samples.iter().any(|sample| sample.name == name)
    }
}

fn sample(line: &str) -> Result<Sample> {
    let (series, value) = match line.split_once('}') {
        Some((series, value)) => (series, value.trim()),
        None => line.split_once(' ').context("no value")?,
    };
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    ensure!(
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':'),
        "not a metric's name: {name:?}"
    );
    let value = value.split(' ').next().unwrap_or("").parse().context("the value is no number")?;
    Ok(Sample { name: name.to_owned(), labels: parse_labels(labels)?, value })
}

fn parse_labels(mut text: &str) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").context("a label without value")?;
        let Some(end) = closing_quote(rest) else { bail!("a label's value does not end") };
        let (value, rest) = rest.split_at(end);
        ensure!(labels.insert(name.to_owned(), value.to_owned()).is_none(), "label {name} twice");
        text = rest.trim_start_matches('"').trim_start_matches(',');
    }
    Ok(labels)
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let found = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        found.then_some(at)
    })
}
