//! What is remembered of recent requests, to explain them: those that failed, those that were slow, and some of the rest.
//!
//! Whether a finished request is of interest is decided without a lock and without an allocation. One that is goes through
//! a bounded queue to a thread of its own, which makes a compact story of it and keeps that in a ring until newer ones take
//! its place; nothing of a network buffer is kept. A flood of failures is counted one by one, and told in examples: what
//! was not taken is counted as well. Whoever taps sees the stories of matching requests as they come.
//!
//! Nothing is told here that the access log would not tell.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crossbeam_queue::ArrayQueue;
use pillion_policy::ratio::Fraction;
use pillion_xds::story::{Cause, Filter, Story};
use tokio::sync::mpsc;

use super::{doorbell::Doorbell, metrics::Metrics, record::Record};
use crate::{
    error::Flag,
    rt::{clock, task},
};

mod causes;
mod pace;
mod rings;
mod tally;
mod taps;
mod tell;

use self::{causes::Causes, pace::Pace, rings::Rings, tally::Tally, taps::Taps};

/// Records that may wait for the thread.
const CAPACITY: usize = 1024;

/// Failures of which the stories are taken in one second.
const ERRORS_PER_SECOND: u32 = 100;
/// The same of slow requests.
const SLOW_PER_SECOND: u32 = 20;
/// The same of all others.
const OTHERS_PER_SECOND: u32 = 5;
/// The same for those who tap.
const TAPPED_PER_SECOND: u32 = 1000;

/// Which of all others are taken.
const SAMPLE: Fraction = Fraction::ONE_PERCENT;

/// Takes records in and tells their stories; clones share one memory.
#[derive(Debug, Clone)]
pub struct Journal(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    /// Who tells the stories: namespace and workload.
    proxy: Arc<str>,
    /// From what time on a request is slow.
    slow: Duration,
    entries: ArrayQueue<Entry>,
    bell: Doorbell,
    tally: Tally,
    taps: Taps,
    /// How many were taken of late, by kind, and for those who tap.
    paces: [Pace; 3],
    tapped: Pace,
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

/// What is remembered.
#[derive(Debug, Default)]
struct State {
    rings: Rings,
    causes: Causes,
}

/// What the thread is given.
#[derive(Debug)]
struct Entry {
    record: Arc<Record>,
    interest: Interest,
}

/// Why a story is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It failed.
    Error,
    /// It was slow.
    Slow,
    /// It was drawn by lot.
    Other,
}

/// Who is interested in a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interest {
    kept: Option<Kind>,
    tapped: bool,
}

impl Interest {
    /// Whether anybody is.
    #[inline]
    pub fn any(self) -> bool {
        self.kept.is_some() || self.tapped
    }
}

/// Why nobody else may tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} watch this proxy already, which is as many as may")]
pub struct TooMany {
    /// How many may.
    pub limit: usize,
}

impl Journal {
    /// One that remembers nothing.
    pub fn none() -> Self {
        Self(None)
    }

    /// The journal of the proxy of `workload`, for which requests of at least `slow` are slow.
    pub fn start(workload: &str, slow: Duration, metrics: Arc<Metrics>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            proxy: workload.into(),
            slow,
            entries: ArrayQueue::new(CAPACITY),
            bell: Doorbell::default(),
            tally: Tally::default(),
            taps: Taps::default(),
            paces: Default::default(),
            tapped: Pace::default(),
            state: Mutex::default(),
            metrics,
        });
        let reader = Arc::clone(&shared);
        task::spawn_thread("journal", move || {
            while reader.bell.wait(|| reader.entries.is_empty()) {
                drop(reader.caught_up(clock::now()));
            }
        })?;
        Ok(Self(Some(shared)))
    }

    /// Who is interested in a finished request. To be asked once: what is taken in a second is limited.
    #[inline]
    pub fn wants(&self, record: &Record) -> Interest {
        let Some(shared) = &self.0 else { return Interest::default() };
        Interest { kept: shared.keeps(record), tapped: shared.is_tapped(record) }
    }

    /// Hands in the record of a finished request that somebody is interested in.
    pub fn push(&self, record: Arc<Record>, interest: Interest) {
        let Some(shared) = &self.0 else { return };
        if shared.entries.push(Entry { record, interest }).is_err() {
            shared.metrics.proxy.journal_dropped.inc();
        }
        shared.bell.ring();
        if shared.entries.len() > CAPACITY / 2 {
            shared.bell.hurry();
        }
    }

    /// What is remembered of a request, by its id or its trace, in the order of beginning.
    pub fn explain(&self, id: &str) -> Vec<Story> {
        let Some(shared) = &self.0 else { return Vec::new() };
        let id = tell::id(id);
        let is_it = |story: &Story| story.request_id == *id || story.trace_id.as_deref() == Some(&*id);
        let state = shared.caught_up(clock::now());
        let mut told: Vec<Story> =
            state.rings.all().filter(|story| is_it(story)).map(|story| Story::clone(story)).collect();
        drop(state);
        told.sort_by(|a, b| a.start.cmp(&b.start));
        told
    }

    /// The newest stories, the newest first.
    pub fn newest(&self, most: usize) -> Vec<Arc<Story>> {
        let Some(shared) = &self.0 else { return Vec::new() };
        let mut all: Vec<_> = shared.caught_up(clock::now()).rings.all().map(Arc::clone).collect();
        all.sort_by(|a, b| b.start.cmp(&a.start));
        all.truncate(most);
        all
    }

    /// Why requests have failed within that time, in whole minutes and at most [`causes::MINUTES`], the most frequent
    /// first. Every failure is counted.
    pub fn causes(&self, within: Duration) -> Vec<Cause> {
        let Some(shared) = &self.0 else { return Vec::new() };
        let now = clock::now();
        shared.caught_up(now).causes.within(within, minute(now))
    }

    /// The stories of matching requests from now on, until the receiver is dropped. One that does not keep up misses some.
    pub fn tap(&self, filter: Filter) -> Result<mpsc::Receiver<Arc<Story>>, TooMany> {
        match &self.0 {
            // Nobody ever sends.
            None => Ok(mpsc::channel(1).1),
            Some(shared) => {
                let _alone = shared.state();
                shared.taps.open(filter)
            }
        }
    }
}

impl Shared {
    /// Whether a request is remembered, and why; a failure is counted in any case.
    fn keeps(&self, record: &Record) -> Option<Kind> {
        let outcome = &record.outcome;
        let (kind, most, is_first) = if outcome.flag != Flag::None || outcome.status >= 500 {
            (Kind::Error, ERRORS_PER_SECOND, self.tally.count(tally::key(record)))
        } else if outcome.duration >= self.slow {
            (Kind::Slow, SLOW_PER_SECOND, false)
        } else if SAMPLE.admits(record.dice) {
            (Kind::Other, OTHERS_PER_SECOND, false)
        } else {
            return None;
        };
        let [errors, slow, others] = &self.paces;
        let pace = match kind {
            Kind::Error => errors,
            Kind::Slow => slow,
            Kind::Other => others,
        };
        // The first of its kind is the example the others are told by.
        let is_taken = is_first || pace.takes(second(record), most);
        if !is_taken && kind != Kind::Other {
            self.metrics.proxy.journal_dropped.inc();
        }
        is_taken.then_some(kind)
    }

    fn is_tapped(&self, record: &Record) -> bool {
        if !self.taps.any() || !self.taps.want(&tell::facts(record, &self.proxy)) {
            return false;
        }
        let is_taken = self.tapped.takes(second(record), TAPPED_PER_SECOND);
        if !is_taken {
            self.metrics.proxy.journal_dropped.inc();
        }
        is_taken
    }

    /// The memory, with all that has come in until now.
    fn caught_up(&self, now: SystemTime) -> MutexGuard<'_, State> {
        let mut state = self.state();
        // Bounded: what comes in meanwhile is for the next time.
        for _ in 0..CAPACITY {
            let Some(Entry { record, interest }) = self.entries.pop() else { break };
            let story = Arc::new(tell::story(&record, &self.proxy));
            if interest.tapped {
                let missed = self.taps.offer(&story);
                self.metrics.proxy.journal_dropped.add(missed);
            }
            let Some(kind) = interest.kept else { continue };
            if kind == Kind::Error {
                state.causes.example(tally::key(&record), &story);
            }
            state.rings.keep(kind, story);
        }
        self.taps.sweep();
        state.causes.count(&self.tally, minute(now));
        state
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The second in which a request ended; the clock was read when it began.
fn second(record: &Record) -> u64 {
    record
        .start
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .saturating_add(record.outcome.duration)
        .as_secs()
}

/// Minutes since 1970.
fn minute(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60
}

#[cfg(test)]
mod tests;
