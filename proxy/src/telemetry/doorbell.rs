//! How a thread that sleeps while nothing comes is woken by those who must not wait.
//!
//! Only the first ring after a quiet time wakes the reader, which then lets things gather for [`GATHER`] before it takes
//! them together; [`Doorbell::hurry`] ends that when room gets short. An idle process is not woken.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst, fence},
    },
    thread::{self, Thread},
    time::Duration,
};

/// How long things gather before they are taken together.
const GATHER: Duration = Duration::from_millis(100);

/// The bell of one reader.
#[derive(Debug, Default)]
pub(super) struct Doorbell {
    awake: AtomicBool,
    hurried: AtomicBool,
    stopping: AtomicBool,
    reader: OnceLock<Thread>,
}

impl Doorbell {
    /// Something has come. What was stored before is seen by the reader before it sleeps again.
    pub(super) fn ring(&self) {
        // The reader goes to sleep by clearing the flag and then looking for things; both sides have a fence between
        // their store and their look, so one of them sees the other.
        fence(SeqCst);
        if !self.awake.load(SeqCst) && !self.awake.swap(true, SeqCst) {
            self.wake();
        }
    }

    /// There is little room left: nothing more gathers.
    pub(super) fn hurry(&self) {
        if !self.hurried.load(SeqCst) && !self.hurried.swap(true, SeqCst) {
            self.wake();
        }
    }

    /// Lets the reader take what is left and then end.
    pub(super) fn stop(&self) {
        self.stopping.store(true, SeqCst);
        self.wake();
    }

    /// Waits, as the one reader, for things to gather. False once it is stopped and `is_empty`.
    pub(super) fn wait(&self, is_empty: impl Fn() -> bool) -> bool {
        self.reader.get_or_init(thread::current);
        let stopping = || self.stopping.load(SeqCst);
        loop {
            // Before every look: a ring for something that is already taken may have set it again.
            self.awake.store(false, SeqCst);
            fence(SeqCst);
            if stopping() || !is_empty() {
                break;
            }
            thread::park();
        }
        self.awake.store(true, SeqCst);
        if !stopping() && !self.hurried.load(SeqCst) {
            thread::park_timeout(GATHER);
        }
        self.hurried.store(false, SeqCst);
        !(stopping() && is_empty())
    }

    /// Before the reader's first wait there is nobody to wake, and that wait begins with a look.
    fn wake(&self) {
        if let Some(reader) = self.reader.get() {
            reader.unpark();
        }
    }
}
