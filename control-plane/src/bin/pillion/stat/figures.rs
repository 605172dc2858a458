//! The arithmetic of `pillion stat`: differences, sums and quantiles.
//!
//! A request is told by two proxies: the caller's and that of whom was called. The caller's counts, since it has seen
//! what never arrived; the other one's is for callers without a proxy, of destinations that no proxy calls.

use std::collections::{BTreeMap, BTreeSet};

use pillion_control_plane::Counts;
use pillion_xds::figures::{Bucket, Counted, Traffic};

use super::By;

/// What a line of the table is made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Line {
    /// What it stands for: two columns, the second of which may be empty.
    pub(super) key: (String, String),
    /// The requests of the time.
    pub(super) counted: Counted,
    /// Requests sent again in that time.
    pub(super) retries: u64,
    /// Breakers that are open at its end.
    pub(super) open_breakers: u64,
}

/// What tells one figure of a proxy from another.
type Source<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str);

/// What a proxy has counted under one of them.
struct Figure<'a> {
    counted: &'a Counted,
    retries: u64,
    open_breakers: u64,
}

/// What has happened between two counts, in the order of names.
pub(super) fn between(by: Option<By>, before: &Counts, now: &Counts) -> Vec<Line> {
    let (before, now) = (figures(by, before), figures(by, now));
    let mut lines: BTreeMap<(String, String), Line> = BTreeMap::new();
    for (source, figure) in &now {
        let (_, _, from, to, detail) = *source;
        let key = match by {
            None => (named(from), named(to)),
            Some(By::Source) => (named(from), String::new()),
            Some(By::Destination) => (named(to), String::new()),
            Some(By::Route) => (named(to), detail.to_owned()),
        };
        let line = lines.entry(key.clone()).or_insert_with(|| Line { key, ..Line::default() });
        let earlier = before.get(source);
        add(&mut line.counted, &difference(figure.counted, earlier.map(|earlier| earlier.counted)));
        line.retries += since(figure.retries, earlier.map(|earlier| earlier.retries));
        line.open_breakers += figure.open_breakers;
    }
    lines.into_values().collect()
}

fn figures(by: Option<By>, counts: &Counts) -> BTreeMap<Source<'_>, Figure<'_>> {
    let mut figures = BTreeMap::new();
    if by == Some(By::Route) {
        for proxy in &counts.proxies {
            for routed in &proxy.figures.routes {
                let source = (&*proxy.proxy, "", "", &*routed.destination, &*routed.route);
                let (retries, open_breakers) = (routed.retries, routed.open_breakers);
                figures.insert(source, Figure { counted: &routed.counted, retries, open_breakers });
            }
        }
        return figures;
    }
    let all =
        counts.proxies.iter().flat_map(|proxy| proxy.figures.traffic.iter().map(move |line| (proxy, line)));
    let called: BTreeSet<&str> =
        all.clone().filter(|(_, line)| is_of_caller(line)).map(|(_, line)| &*line.destination).collect();
    for (proxy, line) in all {
        if is_of_caller(line) || (line.source.is_empty() && !called.contains(&*line.destination)) {
            let source = (&*proxy.proxy, &*line.reporter, &*line.source, &*line.destination, &*line.cluster);
            let (retries, open_breakers) = (line.retries, line.open_breakers);
            figures.insert(source, Figure { counted: &line.counted, retries, open_breakers });
        }
    }
    figures
}

fn is_of_caller(line: &Traffic) -> bool {
    line.reporter == "source"
}

fn named(name: &str) -> String {
    if name.is_empty() { "unknown".to_owned() } else { name.to_owned() }
}

/// What has been added since; a count that is lower than before began anew.
fn since(now: u64, before: Option<u64>) -> u64 {
    now.checked_sub(before.unwrap_or(0)).unwrap_or(now)
}

fn difference(now: &Counted, before: Option<&Counted>) -> Counted {
    let Some(before) = before.filter(|before| before.requests <= now.requests) else { return now.clone() };
    let durations = now.durations.iter().enumerate().map(|(index, bucket)| {
        let earlier = before.durations.get(index).map(|bucket| bucket.count);
        Bucket { count: since(bucket.count, earlier), ..*bucket }
    });
    Counted {
        requests: since(now.requests, Some(before.requests)),
        failures: since(now.failures, Some(before.failures)),
        durations: durations.collect(),
    }
}

fn add(sum: &mut Counted, counted: &Counted) {
    sum.requests += counted.requests;
    sum.failures += counted.failures;
    for bucket in &counted.durations {
        match sum.durations.iter_mut().find(|known| known.up_to_ms == bucket.up_to_ms) {
            Some(known) => known.count += bucket.count,
            None => sum.durations.push(*bucket),
        }
    }
}

impl Line {
    /// The share of requests that have not failed; nothing when there were none.
    pub(super) fn success(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a share is rounded")]
        let (requests, failures) = (self.counted.requests as f64, self.counted.failures as f64);
        (self.counted.requests > 0).then(|| 1.0 - failures / requests)
    }

    /// How many milliseconds that share of the requests took at most, as well as buckets know; nothing when there were
    /// none. What took longer than all bounds counts as the largest.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let durations = &self.counted.durations;
        #[expect(clippy::cast_precision_loss, reason = "a quantile is rounded")]
        let total = durations.iter().map(|bucket| bucket.count).sum::<u64>() as f64;
        if total == 0.0 {
            return None;
        }
        let (mut below, mut from) = (0.0, 0.0);
        for bucket in durations {
            let Some(up_to) = bucket.up_to_ms else { break };
            #[expect(clippy::cast_precision_loss, reason = "a quantile is rounded")]
            let count = bucket.count as f64;
            if count > 0.0 && below + count >= share * total {
                return Some(from + (up_to - from) * (share * total - below) / count);
            }
            below += count;
            from = up_to;
        }
        Some(from)
    }
}
