//! Who watches requests as they come.
//!
//! While nobody does, a request costs one relaxed load. Those who watch are few, and each has a bounded queue: what does
//! not fit is missed. Opening and closing are done under the journal's lock; requests read without one.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use arc_swap::ArcSwap;
use pillion_xds::story::{Facts, Filter, Story};
use tokio::sync::mpsc;

use super::TooMany;

/// Most who may watch at the same time.
const MAX_TAPS: usize = 8;
/// Stories that may wait for one of them.
const WAITING: usize = 256;

/// All who watch.
#[derive(Debug, Default)]
pub(super) struct Taps {
    /// How many there are, for those who must be quick.
    open: AtomicUsize,
    all: ArcSwap<Vec<Tap>>,
}

#[derive(Debug, Clone)]
struct Tap {
    filter: Arc<Filter>,
    stories: mpsc::Sender<Arc<Story>>,
}

impl Taps {
    /// Whether anybody watches.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.open.load(Relaxed) > 0
    }

    /// Whether somebody wants to see a request.
    pub(super) fn want(&self, facts: &Facts<'_>) -> bool {
        self.all.load().iter().any(|tap| !tap.stories.is_closed() && tap.filter.admits(facts))
    }

    /// Lets somebody watch.
    pub(super) fn open(&self, filter: Filter) -> Result<mpsc::Receiver<Arc<Story>>, TooMany> {
        let mut taps = self.living();
        if taps.len() >= MAX_TAPS {
            return Err(TooMany { limit: MAX_TAPS });
        }
        let (stories, receiver) = mpsc::channel(WAITING);
        taps.push(Tap { filter: Arc::new(filter), stories });
        self.set(taps);
        Ok(receiver)
    }

    /// Shows a story to those who want it; how many have missed it.
    pub(super) fn offer(&self, story: &Arc<Story>) -> u64 {
        let (mut missed, mut is_any_gone) = (0, false);
        for tap in self.all.load().iter().filter(|tap| tap.filter.matches(story)) {
            match tap.stories.try_send(Arc::clone(story)) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => missed += 1,
                Err(mpsc::error::TrySendError::Closed(_)) => is_any_gone = true,
            }
        }
        if is_any_gone {
            self.set(self.living());
        }
        missed
    }

    /// Lets go of those who have stopped watching.
    pub(super) fn sweep(&self) {
        if self.any() && self.all.load().iter().any(|tap| tap.stories.is_closed()) {
            self.set(self.living());
        }
    }

    fn living(&self) -> Vec<Tap> {
        self.all.load().iter().filter(|tap| !tap.stories.is_closed()).cloned().collect()
    }

    fn set(&self, taps: Vec<Tap>) {
        let open = taps.len();
        self.all.store(Arc::new(taps));
        self.open.store(open, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_watch_and_who_leaves_makes_room() {
        let taps = Taps::default();
        assert!(!taps.any());
        let mut receivers: Vec<_> = (0..MAX_TAPS).map(|_| taps.open(Filter::default()).unwrap()).collect();
        assert!(taps.open(Filter::default()).is_err());
        receivers.pop();
        assert!(taps.open(Filter::default()).is_ok());
        drop(receivers);
        taps.sweep();
        assert!(!taps.any());
    }

    #[test]
    fn who_does_not_keep_up_misses_some() {
        let taps = Taps::default();
        let wanted = Filter { status: Some("5xx".to_owned()), ..Filter::default() };
        let mut receiver = taps.open(wanted).unwrap();
        let story = |status| Arc::new(Story { status, ..Story::default() });
        assert!(taps.want(&story(503).facts()) && !taps.want(&story(200).facts()));
        assert_eq!(taps.offer(&story(200)), 0);
        let missed: u64 = (0..WAITING + 3).map(|_| taps.offer(&story(503))).sum();
        assert_eq!(missed, 3);
        let mut seen = 0;
        while let Ok(story) = receiver.try_recv() {
            assert_eq!(story.status, 503);
            seen += 1;
        }
        assert_eq!(seen, WAITING);
        drop(receiver);
        assert_eq!(taps.offer(&story(503)), 0);
        assert!(!taps.any());
    }
}
