//! Distributions: how many values were how large, in buckets whose bounds are fixed when the program is built.
//!
//! A value costs two additions to atomics. With a trace's id it also becomes its bucket's [`Exemplar`], for which nobody
//! ever waits; memory for exemplars is taken with the first. Figures read at one moment may be a value apart.

use std::{
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::rt::clock;

/// The id of a trace.
pub type TraceId = [u8; 16];

/// Bounds of buckets, in whole parts of the unit that is told.
#[derive(Debug)]
pub struct Scale<const N: usize> {
    /// Upper bounds, rising.
    bounds: [u64; N],
    /// Parts in a unit.
    parts: f64,
}

/// Durations in milliseconds, kept in microseconds: Istio's buckets up to one minute.
pub static MILLISECONDS: Scale<15> = Scale {
    bounds: [
        500, 1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
        5_000_000, 10_000_000, 30_000_000, 60_000_000,
    ],
    parts: 1e3,
};

/// Durations in seconds, kept in microseconds: Prometheus' usual buckets, and one for what is under a millisecond.
pub static SECONDS: Scale<12> = Scale {
    bounds: [
        1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
        10_000_000,
    ],
    parts: 1e6,
};

/// Sizes in bytes: of Istio's 20 buckets every third or so, for each is a series.
pub static BYTES: Scale<6> = Scale { bounds: [100, 1_000, 10_000, 60_000, 600_000, 3_600_000], parts: 1.0 };

/// How many values were how large.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    scale: &'static Scale<N>,
    buckets: [AtomicU64; N],
    beyond: AtomicU64,
    sum: AtomicU64,
    exemplars: OnceLock<Box<Exemplars<N>>>,
}

/// One place for each bucket, the last for what is beyond all bounds.
#[derive(Debug)]
struct Exemplars<const N: usize> {
    places: [Mutex<Option<Exemplar>>; N],
    beyond: Mutex<Option<Exemplar>>,
}

/// A value that stands for others of its bucket, and the trace that tells of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    /// The trace.
    pub trace_id: TraceId,
    /// The value, in the unit that is told.
    pub value: f64,
    /// When it was, in seconds since 1970.
    pub at: f64,
}

/// What a histogram holds at one moment.
#[derive(Debug, PartialEq)]
pub struct Reading {
    /// The buckets, the last without bound.
    pub buckets: Vec<Bucket>,
    /// How many values there are.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

/// One bucket of a reading.
#[derive(Debug, PartialEq)]
pub struct Bucket {
    /// Its upper bound, or infinity.
    pub bound: f64,
    /// How many values are at most that large.
    pub count: u64,
    /// The last of the values between this bound and the one below that has a trace.
    pub exemplar: Option<Exemplar>,
}

impl<const N: usize> Histogram<N> {
    /// How many series it is: its buckets, the sum and the count.
    pub const SERIES: usize = N + 3;

    /// Nothing so far.
    pub fn new(scale: &'static Scale<N>) -> Self {
        Self {
            scale,
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            beyond: AtomicU64::new(0),
            sum: AtomicU64::new(0),
            exemplars: OnceLock::new(),
        }
    }

    /// Takes a duration in, where the parts of the scale are microseconds.
    #[inline]
    pub fn record(&self, duration: Duration) {
        self.add(micros(duration), None);
    }

    /// Takes a duration in that a trace tells of.
    #[inline]
    pub fn record_traced(&self, duration: Duration, trace: Option<TraceId>) {
        self.add(micros(duration), trace);
    }

    /// Takes a value in, in parts of the scale.
    #[inline]
    pub fn add(&self, value: u64, trace: Option<TraceId>) {
        let place = self.scale.bounds.partition_point(|bound| *bound < value);
        self.buckets.get(place).unwrap_or(&self.beyond).fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
        if let Some(trace_id) = trace {
            self.exemplify(place, trace_id, value);
        }
    }

    fn exemplify(&self, place: usize, trace_id: TraceId, value: u64) {
        let exemplars = self.exemplars.get_or_init(|| {
            Box::new(Exemplars {
                places: std::array::from_fn(|_| Mutex::default()),
                beyond: Mutex::default(),
            })
        });
        // Who finds another at it leaves it to that one: any value of the bucket will do.
        if let Ok(mut exemplar) = exemplars.places.get(place).unwrap_or(&exemplars.beyond).try_lock() {
            let at = clock::unix_seconds(clock::now());
            *exemplar = Some(Exemplar { trace_id, value: self.units(value), at });
        }
    }

    /// What it holds.
    pub fn read(&self) -> Reading {
        let bounds = self.scale.bounds.iter().map(|bound| self.units(*bound)).chain([f64::INFINITY]);
        let counts = self.buckets.iter().chain([&self.beyond]).map(|bucket| bucket.load(Relaxed));
        let exemplars = self.exemplars.get();
        let exemplar = |place: usize| {
            let exemplars = exemplars?;
            *exemplars.places.get(place).unwrap_or(&exemplars.beyond).try_lock().ok()?
        };
        let mut count = 0;
        let buckets = bounds.zip(counts).enumerate().map(|(place, (bound, in_bucket))| {
            count += in_bucket;
            Bucket { bound, count, exemplar: exemplar(place) }
        });
        let buckets = buckets.collect();
        Reading { buckets, count, sum: self.units(self.sum.load(Relaxed)) }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "2^53 microseconds are 285 years, and as many bytes 9 petabytes"
    )]
    fn units(&self, parts: u64) -> f64 {
        parts as f64 / self.scale.parts
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_from_its_bucket_on() {
        let histogram = Histogram::new(&MILLISECONDS);
        for micros in [0, 500, 501, 61_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let reading = histogram.read();
        assert_eq!(reading.count, 4);
        assert!((reading.sum - 61_001.001).abs() < 1e-6);
        assert_eq!(reading.buckets.len(), Histogram::<15>::SERIES - 2);
        let counts: Vec<_> = reading.buckets.iter().map(|bucket| (bucket.bound, bucket.count)).collect();
        assert_eq!(counts[..3], [(0.5, 2), (1.0, 3), (5.0, 3)]);
        assert_eq!(counts[14..], [(60_000.0, 3), (f64::INFINITY, 4)]);
    }

    #[test]
    fn the_scales_are_in_the_units_they_name() {
        let seconds = Histogram::new(&SECONDS);
        seconds.record(Duration::from_millis(300));
        let reading = seconds.read();
        assert!((reading.sum - 0.3).abs() < 1e-9);
        assert_eq!(reading.buckets.iter().find(|bucket| bucket.count > 0).unwrap().bound, 0.5);
        let bytes = Histogram::new(&BYTES);
        bytes.add(10_000, None);
        assert_eq!(bytes.read().buckets.iter().find(|bucket| bucket.count > 0).unwrap().bound, 10_000.0);
    }

    #[test]
    fn a_duration_beyond_all_reason_is_no_panic() {
        let histogram = Histogram::new(&MILLISECONDS);
        histogram.record(Duration::MAX);
        assert_eq!(histogram.read().count, 1);
    }

    #[test]
    fn the_last_trace_of_a_bucket_stands_for_it() {
        let histogram = Histogram::new(&MILLISECONDS);
        histogram.record(Duration::from_millis(3));
        assert!(histogram.read().buckets.iter().all(|bucket| bucket.exemplar.is_none()));
        for (id, millis) in [(1, 3), (2, 4), (3, 90_000)] {
            histogram.record_traced(Duration::from_millis(millis), Some([id; 16]));
        }
        let found: Vec<_> = histogram
            .read()
            .buckets
            .iter()
            .filter_map(|bucket| bucket.exemplar.map(|e| (bucket.bound, e.trace_id, e.value)))
            .collect();
        assert_eq!(found, [(5.0, [2; 16], 4.0), (f64::INFINITY, [3; 16], 90_000.0)]);
    }

    #[test]
    fn exemplars_belong_to_their_values_whoever_writes_them() {
        let histogram = Histogram::new(&MILLISECONDS);
        std::thread::scope(|scope| {
            for id in 1..=4_u8 {
                let histogram = &histogram;
                scope.spawn(move || {
                    for _ in 0..3000 {
                        histogram.record_traced(Duration::from_millis(u64::from(id)), Some([id; 16]));
                        for exemplar in histogram.read().buckets.iter().filter_map(|bucket| bucket.exemplar) {
                            assert_eq!(exemplar.value, f64::from(exemplar.trace_id[0]));
                        }
                    }
                });
            }
        });
        assert_eq!(histogram.read().count, 12_000);
    }
}
