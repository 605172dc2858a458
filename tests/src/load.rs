//! Load at a fixed rate with bounded concurrency; every failure is kept with its reason.
//!
//! Requests are due at fixed points in time whether or not earlier ones have been answered, and
//! latency counts from when a request was due, so a stall shows in full. A response other than 2xx
//! is a failure.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::Reply;
use crate::task::{self, Task};

/// Most failures whose reasons are kept.
const KEPT_FAILURES: usize = 50;

/// Load being applied.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Report>>,
    driver: Task<()>,
}

/// What came of a load.
#[derive(Clone, Debug)]
pub struct Report {
    /// Requests answered 2xx.
    pub successes: u64,
    /// All others.
    pub failures: u64,
    /// Why, for the first of them.
    pub reasons: Vec<String>,
    /// Successes by the version of the app that answered; the shop's front tells its order service's.
    pub by_version: BTreeMap<String, u64>,
    /// Latency in microseconds, failures included.
    pub latency: Histogram<u64>,
}

impl Default for Report {
    fn default() -> Self {
        // 1 µs to 60 s with two digits; the bounds are constants that cannot be refused.
        let latency = Histogram::new_with_bounds(1, 60_000_000, 2).or_else(|_| Histogram::new(2));
        Self {
            successes: 0,
            failures: 0,
            reasons: Vec::new(),
            by_version: BTreeMap::new(),
            latency: latency.unwrap_or_else(|_| unreachable!("two digits are allowed")),
        }
    }
}

impl Report {
    /// Successes and failures.
    pub fn total(&self) -> u64 {
        self.successes + self.failures
    }

    /// A latency percentile in milliseconds.
    pub fn percentile_ms(&self, percentile: f64) -> f64 {
        Duration::from_micros(self.latency.value_at_quantile(percentile / 100.0)).as_secs_f64() * 1000.0
    }

    /// The share of successes answered by this version, in percent.
    pub fn version_percent(&self, version: &str) -> f64 {
        let count = self.by_version.get(version).copied().unwrap_or(0);
        percent(count, self.successes)
    }

    /// Fails if any request failed, with the reasons.
    pub fn expect_no_failure(&self) -> Result<()> {
        anyhow::ensure!(
            self.failures == 0,
            "{} of {} requests failed:\n{}",
            self.failures,
            self.total(),
            self.reasons.join("\n")
        );
        anyhow::ensure!(self.successes > 0, "no request was sent");
        Ok(())
    }

    /// Adds what another report holds.
    pub fn merge(&mut self, other: &Self) {
        self.successes += other.successes;
        self.failures += other.failures;
        let room = KEPT_FAILURES.saturating_sub(self.reasons.len());
        self.reasons.extend(other.reasons.iter().take(room).cloned());
        for (version, count) in &other.by_version {
            *self.by_version.entry(version.clone()).or_default() += count;
        }
        // Both histograms have the same bounds, so this cannot fail.
        let _ = self.latency.add(&other.latency);
    }

    /// Counts one request that was due at `due` and has ended now.
    pub fn record(&mut self, due: Instant, outcome: Result<Reply>) {
        let micros = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.latency.saturating_record(micros.max(1));
        match outcome.and_then(|reply| if reply.status.is_success() { Ok(reply) } else { reply.expect(200) })
        {
            Ok(reply) => {
                self.successes += 1;
                let order = reply.header("x-order-version");
                let version = if order.is_empty() { reply.header("x-version") } else { order };
                *self.by_version.entry(version.to_owned()).or_default() += 1;
            }
            Err(reason) => {
                self.failures += 1;
                if self.reasons.len() < KEPT_FAILURES {
                    self.reasons.push(format!("{reason:#}"));
                }
            }
        }
    }
}

/// `count` as a percentage of `total`, 0 of nothing.
#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
pub fn percent(count: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { count as f64 * 100.0 / total as f64 }
}

impl Load {
    /// Starts `per_second` requests a second with at most `in_flight` of them open at a time.
    pub fn start<F>(
        per_second: u32,
        in_flight: usize,
        request: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Reply>> + Send + 'static,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Report::default()));
        let driver = task::spawn(drive(per_second, in_flight, request, stop.clone(), seen.clone()));
        Self { stop, seen, driver }
    }

    /// What has come of it so far; counting goes on.
    pub fn so_far(&self) -> Report {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What has come of it since this was called last.
    pub fn take(&self) -> Report {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends no more, waits for what is open and reports.
    pub async fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        tokio::time::timeout(Duration::from_secs(60), self.driver.join())
            .await
            .context("requests are still open a minute after the last was sent")??;
        Ok(std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

async fn drive<F>(
    per_second: u32,
    in_flight: usize,
    request: impl Fn() -> F,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Report>>,
) where
    F: Future<Output = Result<Reply>> + Send + 'static,
{
    let gate = Arc::new(Semaphore::new(in_flight));
    let period = Duration::from_secs(1) / per_second.max(1);
    let mut due = Instant::now();
    let mut open = JoinSet::new();
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep_until(due).await;
        let Ok(permit) = gate.clone().acquire_owned().await else { return };
        let (answer, seen, was_due) = (request(), seen.clone(), due);
        open.spawn(async move {
            let outcome = answer.await;
            seen.lock().unwrap_or_else(PoisonError::into_inner).record(was_due, outcome);
            drop(permit);
        });
        while open.try_join_next().is_some() {}
        due += period;
    }
    while open.join_next().await.is_some() {}
}

/// Sends exactly `count` requests, `in_flight` at a time, as fast as they are answered.
pub async fn burst<F>(count: u64, in_flight: usize, request: impl Fn() -> F) -> Report
where
    F: Future<Output = Result<Reply>> + Send + 'static,
{
    let seen = Arc::new(Mutex::new(Report::default()));
    let mut open = JoinSet::new();
    for _ in 0..count {
        if open.len() >= in_flight {
            open.join_next().await;
        }
        let (answer, seen, due) = (request(), seen.clone(), Instant::now());
        open.spawn(async move {
            let outcome = answer.await;
            seen.lock().unwrap_or_else(PoisonError::into_inner).record(due, outcome);
        });
    }
    while open.join_next().await.is_some() {}
    std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner))
}
