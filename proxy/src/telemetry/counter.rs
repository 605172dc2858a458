//! The atoms of metrics: a counter, a gauge, a histogram.
//!
//! All are plain atomics with relaxed ordering: each figure is right, and figures read at one moment may be a request
//! apart.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that grows and shrinks.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// Takes one away.
    #[inline]
    pub fn dec(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// Replaces the value; what does not fit becomes the largest that does.
    pub fn set(&self, value: usize) {
        self.0.store(i64::try_from(value).unwrap_or(i64::MAX), Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the buckets in microseconds; in milliseconds they are Istio's up to one minute.
const BOUNDS: [u64; 15] = [
    500, 1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

/// How many durations were how long.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// What a histogram holds at one moment.
#[derive(Debug, PartialEq)]
pub struct Reading {
    /// Bound of each bucket in milliseconds, the last infinite, and how many durations were at most that long.
    pub buckets: Vec<(f64, u64)>,
    /// How many durations there are.
    pub count: u64,
    /// Their sum in milliseconds.
    pub sum: f64,
}

impl Histogram {
    /// How many series one histogram is: its buckets, the sum and the count.
    pub const SERIES: usize = BOUNDS.len() + 3;

    /// Takes a duration in.
    #[inline]
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
        self.micros.fetch_add(micros, Relaxed);
    }

    /// What it holds.
    #[expect(clippy::cast_precision_loss, reason = "a sum of 2^53 microseconds takes 285 years")]
    pub fn read(&self) -> Reading {
        let mut count = 0;
        let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1000.0).chain([f64::INFINITY]);
        let buckets = bounds
            .zip(&self.buckets)
            .map(|(bound, bucket)| {
                count += bucket.load(Relaxed);
                (bound, count)
            })
            .collect();
        Reading { buckets, count, sum: self.micros.load(Relaxed) as f64 / 1000.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_from_its_bucket_on() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 61_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let reading = histogram.read();
        assert_eq!(reading.count, 4);
        assert!((reading.sum - 61_001.001).abs() < 1e-6);
        assert_eq!(reading.buckets.len(), Histogram::SERIES - 2);
        assert_eq!(reading.buckets[..3], [(0.5, 2), (1.0, 3), (5.0, 3)]);
        assert_eq!(reading.buckets[14..], [(60_000.0, 3), (f64::INFINITY, 4)]);
    }

    #[test]
    fn a_duration_beyond_all_reason_is_no_panic() {
        let histogram = Histogram::default();
        histogram.record(Duration::MAX);
        assert_eq!(histogram.read().count, 1);
    }
}
