//! A bounded queue from the request path to a thread that sleeps while nothing comes.
//!
//! Putting something in is a lock-free push; only the first after a quiet time wakes the reader, which then lets things
//! gather for [`GATHER`] before it takes them together. What does not fit is given back. An idle process is not woken.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, Thread},
    time::Duration,
};

use crossbeam_queue::ArrayQueue;

/// How long things gather before they are taken together.
const GATHER: Duration = Duration::from_millis(100);

/// The queue, shared by those who put in and the one thread that waits.
#[derive(Debug)]
pub(super) struct Mailbox<T> {
    items: ArrayQueue<T>,
    awake: AtomicBool,
    stopping: AtomicBool,
    reader: OnceLock<Thread>,
}

impl<T> Mailbox<T> {
    /// An empty one with room for `capacity`.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            items: ArrayQueue::new(capacity),
            awake: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            reader: OnceLock::new(),
        }
    }

    /// Puts something in; false when it is full.
    pub(super) fn put(&self, item: T) -> bool {
        let fits = self.items.push(item).is_ok();
        // The reader goes to sleep by clearing the flag and then looking at the queue; both sides are sequentially
        // consistent, so one of them sees the other.
        if !self.awake.load(SeqCst) && !self.awake.swap(true, SeqCst) {
            self.wake();
        }
        fits
    }

    /// Takes the oldest out.
    pub(super) fn take(&self) -> Option<T> {
        self.items.pop()
    }

    /// Lets the reader take what is left and then end.
    pub(super) fn stop(&self) {
        self.stopping.store(true, SeqCst);
        self.wake();
    }

    /// Waits, as the one reader, for things to gather. False once it is stopped and empty.
    pub(super) fn wait(&self) -> bool {
        self.reader.get_or_init(thread::current);
        let stopping = || self.stopping.load(SeqCst);
        loop {
            // Before every look at the queue: a push whose item is already taken may have set it again.
            self.awake.store(false, SeqCst);
            if stopping() || !self.items.is_empty() {
                break;
            }
            thread::park();
        }
        self.awake.store(true, SeqCst);
        if !stopping() {
            thread::park_timeout(GATHER);
        }
        !(stopping() && self.items.is_empty())
    }

    /// Before the reader's first wait there is nobody to wake, and that wait begins with a look.
    fn wake(&self) {
        if let Some(reader) = self.reader.get() {
            reader.unpark();
        }
    }
}
