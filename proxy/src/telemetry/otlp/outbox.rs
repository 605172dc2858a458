//! Encoded batches that wait for a collector, and when the first of them is tried again.
//!
//! What finds no room is lost and counted: new batches, so that what is told after an outage begins where it began. A batch
//! the collector may take later is kept for [`PERSISTENCE`], with growing waits between tries; one it refuses is lost at
//! once, as are the items it says it has not taken.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::stats::ExportStats;

/// Most bytes that wait.
pub const MAX_BYTES: usize = 8 << 20;
/// How long a batch is tried.
pub const PERSISTENCE: Duration = Duration::from_secs(60);
/// The first wait after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait between tries, so that a collector that is back is found soon.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A message that is ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The request, encoded.
    pub body: Bytes,
    /// How many items it holds.
    pub items: u64,
}

/// What became of a batch that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It was taken, but for so many items.
    Taken {
        /// Items the collector has refused.
        rejected: u64,
    },
    /// It may be taken later.
    Later {
        /// How long the collector wants to be left alone.
        after: Option<Duration>,
    },
    /// It never will be.
    Refused,
}

/// The batches that wait, in order.
#[derive(Debug)]
pub struct Outbox {
    waiting: VecDeque<Batch>,
    items: u64,
    bytes: usize,
    max_items: u64,
    failing: Option<Failing>,
}

/// The collector does not take the first batch.
#[derive(Debug, Clone, Copy)]
struct Failing {
    /// When this batch failed first.
    since: Instant,
    wait: Duration,
    next: Instant,
}

impl Outbox {
    /// An empty one for at most so many items.
    pub fn new(max_items: usize) -> Self {
        let max_items = u64::try_from(max_items).unwrap_or(u64::MAX);
        Self { waiting: VecDeque::new(), items: 0, bytes: 0, max_items, failing: None }
    }

    /// Puts a batch at the end, or counts what it holds as dropped.
    pub fn push(&mut self, batch: Batch, stats: &ExportStats) {
        let fits = self.bytes + batch.body.len() <= MAX_BYTES && self.items + batch.items <= self.max_items;
        // One that is too large by itself is sent if nothing else waits.
        if !fits && !self.waiting.is_empty() {
            stats.dropped.add(batch.items);
            return;
        }
        self.bytes += batch.body.len();
        self.items += batch.items;
        self.waiting.push_back(batch);
    }

    /// The batch to send next, and when.
    pub fn first(&self) -> Option<(&Batch, Option<Instant>)> {
        self.waiting.front().map(|batch| (batch, self.failing.map(|failing| failing.next)))
    }

    /// Takes in what became of the first batch.
    pub fn sent(&mut self, sent: Sent, now: Instant, rng: &mut fastrand::Rng, stats: &ExportStats) {
        let Some(items) = self.waiting.front().map(|batch| batch.items) else { return };
        match sent {
            Sent::Taken { rejected } => {
                let rejected = rejected.min(items);
                stats.exported.add(items - rejected);
                stats.failed.add(rejected);
                self.failing = None;
            }
            Sent::Refused => {
                stats.failed.add(items);
                self.failing = None;
            }
            Sent::Later { after } => {
                let failing = self.failing;
                let wait = failing.map_or(FIRST_WAIT, |failing| (failing.wait * 2).min(LONGEST_WAIT));
                // Proxies that lost the same collector must not all come back at once.
                let own = wait.mul_f64(rng.f64().mul_add(0.5, 0.5));
                let next = now + after.map_or(own, |after| after.min(PERSISTENCE).max(own));
                let since = failing.map_or(now, |failing| failing.since);
                if now.saturating_duration_since(since) < PERSISTENCE {
                    self.failing = Some(Failing { since, wait, next });
                    return;
                }
                // The next batch has a time of its own, but there is no reason to hope for more.
                stats.failed.add(items);
                self.failing = Some(Failing { since: now, wait, next });
            }
        }
        if let Some(batch) = self.waiting.pop_front() {
            self.bytes -= batch.body.len();
            self.items -= batch.items;
        }
    }

    /// There is another collector, or none: no reason to wait any more.
    pub fn hurry(&mut self) {
        self.failing = None;
    }

    /// Everything that waits is lost.
    pub fn clear(&mut self, stats: &ExportStats) {
        stats.dropped.add(self.items);
        *self = Self::new(usize::try_from(self.max_items).unwrap_or(usize::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(items: u64, bytes: usize) -> Batch {
        Batch { body: vec![0; bytes].into(), items }
    }

    fn counts(stats: &ExportStats) -> [u64; 3] {
        [stats.exported.get(), stats.dropped.get(), stats.failed.get()]
    }

    #[test]
    fn what_waits_is_bounded_in_items_and_bytes() {
        let (mut outbox, stats) = (Outbox::new(10), ExportStats::default());
        for _ in 0..3 {
            outbox.push(batch(4, 10), &stats);
        }
        assert_eq!(counts(&stats), [0, 4, 0]);
        outbox.clear(&stats);
        assert_eq!(counts(&stats), [0, 12, 0]);
        outbox.push(batch(20, MAX_BYTES + 1), &stats);
        assert!(outbox.first().is_some(), "one that is too large by itself is sent");
        outbox.push(batch(1, 1), &stats);
        assert_eq!(counts(&stats), [0, 13, 0]);
        outbox.sent(Sent::Taken { rejected: 5 }, Instant::now(), &mut fastrand::Rng::with_seed(1), &stats);
        assert_eq!((counts(&stats), outbox.first()), ([15, 13, 5], None));
        outbox.push(batch(10, MAX_BYTES), &stats);
        outbox.push(batch(1, 1), &stats);
        assert_eq!(counts(&stats), [15, 14, 5]);
    }

    #[test]
    fn a_batch_is_tried_for_a_minute_with_growing_waits() {
        let (mut outbox, stats) = (Outbox::new(100), ExportStats::default());
        let mut rng = fastrand::Rng::with_seed(1);
        outbox.push(batch(1, 1), &stats);
        outbox.push(batch(2, 1), &stats);
        let start = Instant::now();
        let (mut now, mut tries) = (start, 0);
        while stats.failed.get() == 0 {
            tries += 1;
            assert!(tries < 100, "never given up");
            outbox.sent(Sent::Later { after: None }, now, &mut rng, &stats);
            let (_, next) = outbox.first().unwrap();
            let wait = next.unwrap() - now;
            assert!(wait >= FIRST_WAIT / 2 && wait <= LONGEST_WAIT, "{wait:?}");
            now += wait;
        }
        assert!(now - start >= PERSISTENCE && now - start < PERSISTENCE + 2 * LONGEST_WAIT);
        assert!(tries >= 12, "{tries}");
        assert_eq!((counts(&stats), outbox.first().unwrap().0.items), ([0, 0, 1], 2));
        outbox.sent(Sent::Taken { rejected: 0 }, now, &mut rng, &stats);
        assert_eq!((counts(&stats), outbox.first()), ([2, 0, 1], None));
        outbox.push(batch(3, 1), &stats);
        assert_eq!(outbox.first().unwrap().1, None, "a collector that is back is not waited for");
        outbox.sent(Sent::Refused, now, &mut rng, &stats);
        assert_eq!((counts(&stats), outbox.first()), ([2, 0, 4], None));
    }

    #[test]
    fn a_collector_that_wants_to_be_left_alone_is() {
        let (mut outbox, stats) = (Outbox::new(100), ExportStats::default());
        let (mut rng, now) = (fastrand::Rng::with_seed(1), Instant::now());
        outbox.push(batch(1, 1), &stats);
        for (after, least, most) in [(20, 20, 20), (0, 0, 1), (3600, 60, 60)] {
            let after = Some(Duration::from_secs(after));
            outbox.sent(Sent::Later { after }, now, &mut rng, &stats);
            let wait = outbox.first().unwrap().1.unwrap() - now;
            assert!(wait >= Duration::from_secs(least) && wait <= Duration::from_secs(most), "{wait:?}");
        }
    }
}
