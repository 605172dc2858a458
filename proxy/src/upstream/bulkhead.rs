//! A limit of the requests under way to one destination, with a short queue before it.
//!
//! A destination that has become slow holds its own requests only: whoever finds no place and no room in the queue is
//! refused at once, and nobody waits longer than the queue's timeout. Places are handed on in the order of arrival,
//! over all workers; a newcomer never overtakes those who wait. A place and a turn in the queue are guards, so a client
//! that vanishes gives them back. With a free place, entering is one atomic exchange and waits for nothing.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use pillion_policy::resilience;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use crate::{error::Limit, telemetry::ClusterGauges};

#[cfg(test)]
mod tests;

/// The bulkhead of one destination.
#[derive(Debug)]
pub struct Bulkhead {
    policy: resilience::Bulkhead,
    places: Arc<Semaphore>,
    waiting: AtomicU32,
}

/// A request under way.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

/// A request that waits for its turn.
struct Turn<'a> {
    waiting: &'a AtomicU32,
    gauges: &'a ClusterGauges,
    since: Instant,
}

impl Bulkhead {
    /// A bulkhead with all places free.
    pub fn new(policy: &resilience::Bulkhead) -> Self {
        let places = usize::try_from(policy.max_concurrent).unwrap_or(usize::MAX);
        let places = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        Self { policy: *policy, places, waiting: AtomicU32::new(0) }
    }

    /// Whether it does what `policy` says, so that its state may be kept.
    pub fn is_for(&self, policy: &resilience::Bulkhead) -> bool {
        self.policy == *policy
    }

    /// Places that are free.
    pub fn free(&self) -> usize {
        self.places.available_permits()
    }

    /// Takes a place, if need be after a wait; otherwise says which limit forbids it.
    pub async fn enter(&self, gauges: &ClusterGauges) -> Result<Place, Limit> {
        let places = Arc::clone(&self.places);
        if let Ok(permit) = places.try_acquire_owned() {
            return Ok(Place { _permit: permit });
        }
        let entered = match self.queue_up(gauges) {
            Some(turn) => self.wait(turn).await.ok_or(Limit::QueueTimeout),
            None => Err(Limit::MaxPending),
        };
        if entered.is_err() {
            gauges.bulkhead_rejected.fetch_add(1, Relaxed);
        }
        entered
    }

    /// Takes a turn in the queue, if there is room.
    fn queue_up<'a>(&'a self, gauges: &'a ClusterGauges) -> Option<Turn<'a>> {
        let below = |count: u32| (count < self.policy.max_pending).then(|| count + 1);
        self.waiting.fetch_update(Relaxed, Relaxed, below).ok()?;
        gauges.queued.fetch_add(1, Relaxed);
        gauges.queued_active.fetch_add(1, Relaxed);
        Some(Turn { waiting: &self.waiting, gauges, since: Instant::now() })
    }

    async fn wait(&self, _turn: Turn<'_>) -> Option<Place> {
        let permit = Arc::clone(&self.places).acquire_owned();
        // The semaphore is never closed.
        let permit = timeout(self.policy.queue_timeout, permit).await.ok()?.ok()?;
        Some(Place { _permit: permit })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Relaxed);
        self.gauges.queued_active.fetch_sub(1, Relaxed);
        let waited = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.gauges.queue_wait_us.fetch_add(waited, Relaxed);
    }
}
