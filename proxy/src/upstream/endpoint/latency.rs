//! What a request to an endpoint promises to cost: Finagle's peak EWMA (its `PeakEwma` load metric).
//!
//! A latency above the average becomes the average at once; lower ones pull it down slowly, and so does time. Racing
//! observations may weigh a little wrong but never lose a peak.

use std::sync::atomic::{AtomicU64, Ordering};

/// Time in which a latency loses all but 1/e of its weight, in microseconds (Finagle's default of 10 s).
const DECAY_MICROS: f64 = 10_000_000.0;

/// Load of a busy endpoint of which no latency is known: more than any latency, so that one request at most finds
/// out (Finagle's penalty, `Long.MaxValue / 2`).
const PENALTY: f64 = (i64::MAX / 2) as f64;

/// The latency of an endpoint, in microseconds.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// Bits of an `f64`; 0.0 is no observation.
    cost: AtomicU64,
    /// When it was observed.
    stamp: AtomicU64,
}

impl Latency {
    /// Takes a latency in microseconds at a moment in microseconds.
    pub(super) fn observe(&self, micros: f64, now: u64) {
        let before = self.stamp.fetch_max(now, Ordering::Relaxed);
        let weight = decay(before, now);
        let next = |bits: u64| {
            let cost = f64::from_bits(bits);
            let next = if micros > cost { micros } else { cost * weight + micros * (1.0 - weight) };
            Some(next.to_bits())
        };
        let _ = self.cost.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// What is left of the observations at a moment; `None` before the first one.
    pub(super) fn cost(&self, now: u64) -> Option<f64> {
        let cost = f64::from_bits(self.cost.load(Ordering::Relaxed));
        (cost > 0.0).then(|| cost * decay(self.stamp.load(Ordering::Relaxed), now))
    }

    /// What one more request is up against when `active` are under way.
    pub(super) fn load(&self, active: u32, now: u64) -> f64 {
        match self.cost(now) {
            Some(cost) => cost * (f64::from(active) + 1.0),
            None if active > 0 => PENALTY + f64::from(active),
            None => 0.0,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds between requests are far below 2^52")]
fn decay(before: u64, now: u64) -> f64 {
    (-(now.saturating_sub(before) as f64) / DECAY_MICROS).exp()
}
