//! Whether anything still moves on a stream, and how much of a request has come.
//!
//! Whoever passes bytes on says so by [`Pulse::beat`]; whoever waits asks [`Pulse::poll_silent`], which is true once
//! nothing has moved for the limit. Workers keep pulses and use them again, timers and all: a timer is not moved for every
//! piece or request, but when it fires too early, so that a request costs the clock and no place in the timer wheel.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// What is known of a stream while it lasts.
#[derive(Debug)]
pub struct Pulse {
    moved: Cell<Instant>,
    received: Cell<u64>,
    most: Cell<u64>,
    is_complete: Cell<bool>,
    timer: RefCell<Pin<Box<Sleep>>>,
}

impl Pulse {
    /// The pulse of a stream that begins now.
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            moved: Cell::new(now),
            received: Cell::new(0),
            most: Cell::new(u64::MAX),
            is_complete: Cell::new(true),
            timer: RefCell::new(Box::pin(sleep_until(now))),
        }
    }

    /// A new stream begins, whose request has a body of at most `most` bytes, or none.
    pub fn begin(&self, now: Instant, has_body: bool, most: u64) {
        self.moved.set(now);
        self.received.set(0);
        self.most.set(most);
        self.is_complete.set(!has_body);
    }

    /// Something has moved.
    pub fn beat(&self, now: Instant) {
        self.moved.set(now);
    }

    /// A piece of the request's body has come. Says whether all of it so far is within the limit.
    pub fn receive(&self, bytes: usize, now: Instant) -> bool {
        self.beat(now);
        self.received.set(self.received.get().saturating_add(bytes as u64));
        !self.is_too_long()
    }

    /// All of the request has come.
    pub fn complete(&self) {
        self.is_complete.set(true);
    }

    /// Whether all of the request has come.
    pub fn is_complete(&self) -> bool {
        self.is_complete.get()
    }

    /// Whether more of the body has come than may.
    pub fn is_too_long(&self) -> bool {
        self.received.get() > self.most.get()
    }

    /// The most bytes the body may have.
    pub fn most(&self) -> u64 {
        self.most.get()
    }

    /// Ready once nothing has moved for `limit`. The latest task that asks is woken.
    pub fn poll_silent(&self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let mut timer = self.timer.borrow_mut();
        let due = self.moved.get() + limit;
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{advance, timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_last_movement() {
        let pulse = Pulse::new();
        for _ in 0..3 {
            let start = Instant::now();
            pulse.begin(start, false, u64::MAX);
            let silent = poll_fn(|cx| pulse.poll_silent(cx, LIMIT));
            assert!(timeout(LIMIT - Duration::from_secs(1), silent).await.is_err());
            pulse.beat(Instant::now());
            poll_fn(|cx| pulse.poll_silent(cx, LIMIT)).await;
            assert_eq!(start.elapsed(), LIMIT * 2 - Duration::from_secs(1));
            advance(LIMIT * 3).await;
        }
    }

    #[tokio::test]
    async fn a_body_may_be_as_long_as_the_limit() {
        let (pulse, now) = (Pulse::new(), Instant::now());
        pulse.begin(now, true, 10);
        assert!(!pulse.is_complete());
        assert!(pulse.receive(4, now) && pulse.receive(6, now));
        assert!(!pulse.is_too_long());
        assert!(!pulse.receive(1, now));
        assert!(pulse.is_too_long());
        pulse.begin(now, false, 10);
        assert!(pulse.is_complete() && !pulse.is_too_long());
    }
}
