//! Where a worker writes its lines: into a ring of bytes that the log's thread empties.
//!
//! A line is made on the worker when its request is over, while everything it tells of is at hand: some 4,000 instructions.
//! Handing the request's own story to another thread costs more, since that keeps the buffers it was read into from being
//! used again. Nothing is allocated and nobody is waited for; a line that finds no room is dropped and counted.

use std::{
    cell::RefCell,
    fmt, mem,
    sync::{Mutex, PoisonError, atomic::Ordering::Relaxed},
};

use rtrb::{Consumer, Producer, RingBuffer};

use super::{AccessLog, Record, format};
use crate::telemetry::doorbell::Doorbell;

/// Room for the lines of a worker that wait to be written: some 800 of the usual length.
pub(super) const ROOM: usize = 256 * 1024;
/// What is kept of the memory of a very long line.
const KEPT_BYTES: usize = 4096;

/// The end of the log that one worker holds.
pub struct Pen {
    log: AccessLog,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// The line under way.
    line: Vec<u8>,
    /// Made with the first line.
    ring: Option<Producer<u8>>,
}

impl Pen {
    pub(super) fn new(log: AccessLog) -> Self {
        Self { log, state: RefCell::default() }
    }

    /// Writes the line of a finished request, in each form that is wanted.
    pub fn write(&self, record: &Record) {
        let Some(shared) = &self.log.0 else { return };
        let Some(open) = shared.open.get().filter(|_| shared.is_written.load(Relaxed)) else { return };
        let mut state = self.state.borrow_mut();
        let State { line, ring } = &mut *state;
        line.clear();
        for form in &shared.rules.load().forms {
            format::write(form, record, line);
        }
        let ring = ring.get_or_insert_with(|| open.inbox.ring());
        if ring.push_entire_slice(line).is_err() {
            shared.metrics.proxy.access_log_dropped.inc();
        }
        open.inbox.bell.ring();
        if ring.slots() < ROOM / 2 {
            open.inbox.bell.hurry();
        }
        line.shrink_to(KEPT_BYTES);
    }
}

impl fmt::Debug for Pen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pen").field(&self.log).finish()
    }
}

/// Where the log's thread finds lines.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) bell: Doorbell,
    /// Rings the thread does not know of yet.
    added: Mutex<Vec<Consumer<u8>>>,
}

impl Inbox {
    /// A ring that is emptied from now on.
    fn ring(&self) -> Producer<u8> {
        let (producer, consumer) = RingBuffer::new(ROOM);
        self.added.lock().unwrap_or_else(PoisonError::into_inner).push(consumer);
        producer
    }

    /// The rings that are new.
    pub(super) fn added(&self) -> Vec<Consumer<u8>> {
        mem::take(&mut self.added.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for lines in one of these rings or a new one; false once the log is closed and nothing is left.
    pub(super) fn wait(&self, rings: &[Consumer<u8>]) -> bool {
        let has_new = || !self.added.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        self.bell.wait(|| rings.iter().all(Consumer::is_empty) && !has_new())
    }
}
