//! Leaving without dropping anything.
//!
//! ```text
//! running ──begin──▶ draining ──close──▶ closed ──force──▶ forced
//! ```
//! *Draining*: the proxy is not ready, and answers ask the peer to leave; connections are still accepted, because
//! others learn of the drain late. *Closed*: nothing is accepted any more. *Forced*: what is still open is broken
//! off. Phases only advance, and a step may be skipped.
//!
//! The request path reads one atomic. Each connection holds a [`Guard`], and waits with a [`Reached`] future that
//! takes the lock when it is first polled and when it is dropped, never on the wake-ups between.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use rustc_hash::FxHashMap;

/// How far the process is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Normal operation.
    Running,
    /// Peers are asked to leave.
    Draining,
    /// Nothing new is accepted.
    Closed,
    /// What is open is broken off.
    Forced,
}

/// The drain of a process; clones are handles to the same.
#[derive(Debug, Clone, Default)]
pub struct Drain(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    phase: AtomicU8,
    open: AtomicUsize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    wakers: FxHashMap<u64, Waker>,
}

impl Drain {
    /// A drain that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// The current phase.
    pub fn phase(&self) -> Phase {
        match self.0.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Draining,
            2 => Phase::Closed,
            _ => Phase::Forced,
        }
    }

    /// Whether peers should be asked to leave.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.0.phase.load(Ordering::Relaxed) != Phase::Running as u8
    }

    /// Asks peers to leave.
    pub fn begin(&self) {
        self.advance(Phase::Draining);
    }

    /// Stops accepting.
    pub fn close(&self) {
        self.advance(Phase::Closed);
    }

    /// Breaks off what is still open.
    pub fn force(&self) {
        self.advance(Phase::Forced);
    }

    /// Resolves once peers should be asked to leave.
    pub fn draining(&self) -> Reached {
        self.reached(Condition::Phase(Phase::Draining))
    }

    /// Resolves once nothing should be accepted any more.
    pub fn closed(&self) -> Reached {
        self.reached(Condition::Phase(Phase::Closed))
    }

    /// Resolves once everything should be broken off.
    pub fn forced(&self) -> Reached {
        self.reached(Condition::Phase(Phase::Forced))
    }

    /// Counts something as open until the guard is dropped.
    pub fn guard(&self) -> Guard {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        Guard(Arc::clone(&self.0))
    }

    /// How many guards are held.
    pub fn open(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }

    /// Resolves once nothing is accepted and no guard is held.
    pub async fn drained(&self) {
        self.closed().await;
        self.reached(Condition::Empty).await;
    }

    fn reached(&self, condition: Condition) -> Reached {
        Reached { shared: Arc::clone(&self.0), condition, registered: None }
    }

    fn advance(&self, phase: Phase) {
        self.0.phase.fetch_max(phase as u8, Ordering::AcqRel);
        self.0.wake();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all that wait: advances are rare, and whoever is woken early looks and waits on.
    fn wake(&self) {
        let wakers: Vec<Waker> = self.lock().wakers.values().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Keeps the process from being drained while it lives.
#[derive(Debug)]
pub struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        let last = self.0.open.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && self.0.phase.load(Ordering::Acquire) >= Phase::Closed as u8 {
            self.0.wake();
        }
    }
}

/// Waits for a phase of the drain. Cheap to poll again, safe to drop.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Reached {
    shared: Arc<Shared>,
    condition: Condition,
    registered: Option<(u64, Waker)>,
}

#[derive(Debug, Clone, Copy)]
enum Condition {
    Phase(Phase),
    Empty,
}

impl Reached {
    fn holds(&self) -> bool {
        match self.condition {
            Condition::Phase(phase) => self.shared.phase.load(Ordering::Acquire) >= phase as u8,
            Condition::Empty => self.shared.open.load(Ordering::Acquire) == 0,
        }
    }
}

impl Future for Reached {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.holds() {
            return Poll::Ready(());
        }
        if self.registered.as_ref().is_none_or(|(_, waker)| !waker.will_wake(cx.waker())) {
            let waker = cx.waker().clone();
            let mut waiting = self.shared.lock();
            let id = self.registered.as_ref().map_or(waiting.next, |(id, _)| *id);
            waiting.next = waiting.next.max(id + 1);
            waiting.wakers.insert(id, waker.clone());
            drop(waiting);
            self.registered = Some((id, waker));
            // It may have come to hold between the first look and the registration.
            if self.holds() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

impl Drop for Reached {
    fn drop(&mut self) {
        if let Some((id, _)) = self.registered.take() {
            self.shared.lock().wakers.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::poll_immediate;

    use super::*;

    #[tokio::test]
    async fn phases_only_advance() {
        let drain = Drain::new();
        assert!(!drain.is_draining());
        drain.close();
        drain.begin();
        assert_eq!(drain.phase(), Phase::Closed);
        drain.draining().await;
        drain.closed().await;
        assert!(poll_immediate(Box::pin(drain.forced())).await.is_none());
        drain.force();
        drain.forced().await;
    }

    #[tokio::test]
    async fn waiting_is_woken_and_leaves_nothing_behind() {
        let drain = Drain::new();
        let mut waits: Vec<_> = (0..3).map(|_| Box::pin(drain.draining())).collect();
        for wait in &mut waits {
            assert!(poll_immediate(wait).await.is_none());
        }
        waits.pop();
        assert_eq!(drain.0.lock().wakers.len(), 2);
        let beginning = drain.clone();
        let thread = std::thread::spawn(move || beginning.begin());
        for wait in &mut waits {
            wait.await;
        }
        thread.join().unwrap();
        drop(waits);
        assert!(drain.0.lock().wakers.is_empty());
    }

    #[tokio::test]
    async fn drained_when_the_last_guard_goes() {
        let drain = Drain::new();
        let (first, second) = (drain.guard(), drain.guard());
        assert_eq!(drain.open(), 2);
        let mut drained = Box::pin(drain.drained());
        assert!(poll_immediate(&mut drained).await.is_none());
        drop(first);
        drain.close();
        assert!(poll_immediate(&mut drained).await.is_none());
        let thread = std::thread::spawn(move || drop(second));
        drained.await;
        thread.join().unwrap();
    }
}
