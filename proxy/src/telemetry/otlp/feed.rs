//! The way of finished requests from data threads to an exporter: a bounded queue that wakes as seldom as it can.
//!
//! A push never waits: what finds no room is counted. The exporter sleeps until there is something, then until a batch is
//! full or has waited long enough; between those two a push wakes nobody. The queue takes no memory before something is
//! exported.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use crossbeam_queue::ArrayQueue;
use tokio::{
    sync::Notify,
    time::{Duration, timeout},
};

use super::stats::ExportStats;

/// Nobody waits.
const NEVER: usize = usize::MAX;

/// What waits to be exported.
#[derive(Debug)]
pub struct Feed<T> {
    queue: OnceLock<ArrayQueue<T>>,
    capacity: usize,
    /// How much must wait for the exporter to be woken.
    wake_at: AtomicUsize,
    awake: Notify,
    stats: Arc<ExportStats>,
}

impl<T> Feed<T> {
    /// A feed that holds at most `capacity`; what it loses is counted in `stats`.
    pub fn new(capacity: usize, stats: Arc<ExportStats>) -> Self {
        Self {
            queue: OnceLock::new(),
            capacity: capacity.max(1),
            wake_at: AtomicUsize::new(NEVER),
            awake: Notify::new(),
            stats,
        }
    }

    /// Hands `item` in, or counts it as dropped.
    pub fn push(&self, item: T) {
        let queue = self.queue();
        if queue.push(item).is_err() {
            self.stats.dropped.inc();
        }
        // The exporter says what it waits for and then looks at the queue; both sides are sequentially consistent, so one
        // of them sees the other.
        if queue.len() >= self.wake_at.load(SeqCst) && self.wake_at.swap(NEVER, SeqCst) != NEVER {
            self.awake.notify_one();
        }
    }

    /// What became of what was handed in.
    pub fn stats(&self) -> &ExportStats {
        &self.stats
    }

    /// Takes the next out.
    pub fn pop(&self) -> Option<T> {
        self.queue.get()?.pop()
    }

    /// Waits until there is something, and then until there is a batch of `many` or `patience` has passed. Nothing is lost
    /// when this is dropped.
    pub async fn gathered(&self, many: usize, patience: Duration) {
        self.reached(1).await;
        // Either is as good.
        let _full_or_late = timeout(patience, self.reached(many.clamp(1, self.capacity))).await;
    }

    async fn reached(&self, many: usize) {
        loop {
            self.wake_at.store(many, SeqCst);
            if self.queue.get().is_some_and(|queue| queue.len() >= many) {
                return;
            }
            self.awake.notified().await;
        }
    }

    fn queue(&self) -> &ArrayQueue<T> {
        self.queue.get_or_init(|| ArrayQueue::new(self.capacity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_gathered_until_it_is_full_or_late() {
        let feed = Arc::new(Feed::new(8, Arc::default()));
        let waiting = |feed: &Arc<Feed<u32>>| {
            let feed = Arc::clone(feed);
            Box::pin(async move {
                let began = tokio::time::Instant::now();
                feed.gathered(4, Duration::from_secs(1)).await;
                began.elapsed()
            })
        };
        let mut late = waiting(&feed);
        assert!(futures_util::poll!(&mut late).is_pending());
        feed.push(1);
        assert_eq!(late.await, Duration::from_secs(1));
        let mut full = waiting(&feed);
        assert!(futures_util::poll!(&mut full).is_pending());
        for item in 2..=4 {
            feed.push(item);
        }
        assert_eq!(full.await, Duration::ZERO);
        assert_eq!(std::iter::from_fn(|| feed.pop()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let feed = Feed::new(2, Arc::default());
        assert_eq!(feed.pop(), None);
        for item in 0..5 {
            feed.push(item);
        }
        assert_eq!(feed.stats().dropped.get(), 3);
        assert_eq!([feed.pop(), feed.pop(), feed.pop()], [Some(0), Some(1), None]);
    }
}
