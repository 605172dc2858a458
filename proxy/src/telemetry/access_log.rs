//! One line per request, written where it cannot hurt requests.
//!
//! A finished request pushes a [`Record`] onto a bounded lock-free queue. A thread of its own formats and writes what
//! has gathered for [`GATHER`], so that a disk or pipe that blocks stops that thread and nothing else. When the queue
//! is full, and when writing fails, lines are dropped and counted; the proxy goes on. An idle proxy is not woken.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    thread::{self, Thread},
    time::Duration,
};

use crossbeam_queue::ArrayQueue;
use tokio::time::Instant;

use super::metrics::Metrics;
use crate::{
    config::{AccessLogFormat, AccessLogTarget},
    rt::task,
};

mod format;

pub use super::record::{Direction, Record};

/// Records that may wait to be written.
const CAPACITY: usize = 8192;
/// How long records gather before they are written together.
const GATHER: Duration = Duration::from_millis(100);
/// At most one complaint about a failing disk in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

fn open(target: &AccessLogTarget) -> io::Result<Box<dyn Write + Send>> {
    match target {
        AccessLogTarget::Stdout => Ok(Box::new(io::stdout())),
        AccessLogTarget::File(path) => match OpenOptions::new().create(true).append(true).open(path) {
            Ok(file) => Ok(Box::new(file)),
            Err(error) => {
                Err(io::Error::new(error.kind(), format!("cannot open {}: {error}", path.display())))
            }
        },
    }
}

/// Takes records in; clones push to the same log.
#[derive(Debug, Clone)]
pub struct AccessLog(Option<Handle>);

#[derive(Debug, Clone)]
struct Handle {
    queue: Arc<Queue>,
    writer: Thread,
}

#[derive(Debug)]
struct Queue {
    // Shared, so that an idle log holds pointers and not thousands of records.
    records: ArrayQueue<Arc<Record>>,
    awake: AtomicBool,
    stopping: AtomicBool,
    metrics: Arc<Metrics>,
}

impl AccessLog {
    /// A log that nobody wants.
    pub fn disabled() -> Self {
        Self(None)
    }

    /// Opens the log and starts its writer.
    pub fn open(
        target: &AccessLogTarget,
        format: AccessLogFormat,
        metrics: Arc<Metrics>,
    ) -> io::Result<(Self, Closer)> {
        Self::start(open(target)?, format, metrics)
    }

    fn start(
        sink: Box<dyn Write + Send>,
        format: AccessLogFormat,
        metrics: Arc<Metrics>,
    ) -> io::Result<(Self, Closer)> {
        let queue = Arc::new(Queue {
            records: ArrayQueue::new(CAPACITY),
            awake: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            metrics,
        });
        let (done, finished) = mpsc::sync_channel(1);
        let writer = Writer { queue: Arc::clone(&queue), sink, format, complained: None };
        let thread = task::spawn_thread("access-log", move || {
            writer.run();
            // Nobody waits when the log is not closed but abandoned.
            let _abandoned = done.send(());
        })?;
        let handle = Handle { queue, writer: thread.thread().clone() };
        Ok((Self(Some(handle.clone())), Closer { handle, finished }))
    }

    /// Whether this one is wanted.
    #[inline]
    pub fn wants(&self, _record: &Record) -> bool {
        self.0.is_some()
    }

    /// Hands in the record of a finished request.
    pub fn push(&self, record: Arc<Record>) {
        let Some(Handle { queue, writer }) = &self.0 else { return };
        if queue.records.push(record).is_err() {
            queue.metrics.proxy.access_log_dropped.inc();
        }
        // The writer goes to sleep by clearing the flag and then looking at the queue; both sides are sequentially
        // consistent, so one of them sees the other.
        if !queue.awake.load(SeqCst) && !queue.awake.swap(true, SeqCst) {
            writer.unpark();
        }
    }
}

/// Ends the log.
#[derive(Debug)]
pub struct Closer {
    handle: Handle,
    finished: mpsc::Receiver<()>,
}

impl Closer {
    /// Writes what is queued, for at most `patience`: a pipe that blocks must not keep the process alive.
    pub fn close(self, patience: Duration) {
        self.handle.queue.stopping.store(true, SeqCst);
        self.handle.writer.unpark();
        if self.finished.recv_timeout(patience).is_err() {
            tracing::warn!("the access log could not be written in time, its last lines are lost");
        }
    }
}

struct Writer {
    queue: Arc<Queue>,
    sink: Box<dyn Write + Send>,
    format: AccessLogFormat,
    complained: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        let mut lines = Vec::new();
        while self.wait() {
            lines.clear();
            let mut n = 0;
            // Bounded, so that a flood is written in pieces and does not grow the buffer without end.
            while n < CAPACITY as u64
                && let Some(record) = self.queue.records.pop()
            {
                format::write(self.format, &record, &mut lines);
                n += 1;
            }
            if let Err(error) = self.sink.write_all(&lines).and_then(|()| self.sink.flush()) {
                self.lost(n, &error);
            }
            lines.shrink_to(64 * 1024);
        }
    }

    /// Waits for records to gather. False once the log is closed and empty.
    fn wait(&self) -> bool {
        let stopping = || self.queue.stopping.load(SeqCst);
        loop {
            // Before every look at the queue: a push whose record is already written may have set it again.
            self.queue.awake.store(false, SeqCst);
            if stopping() || !self.queue.records.is_empty() {
                break;
            }
            thread::park();
        }
        self.queue.awake.store(true, SeqCst);
        if !stopping() {
            thread::park_timeout(GATHER);
        }
        !(stopping() && self.queue.records.is_empty())
    }

    fn lost(&mut self, n: u64, error: &io::Error) {
        self.queue.metrics.proxy.access_log_dropped.add(n);
        let now = Instant::now();
        if self.complained.is_none_or(|last| now - last >= COMPLAIN_EVERY) {
            self.complained = Some(now);
            tracing::warn!(%error, lines = n, "cannot write the access log, lines are lost");
        }
    }
}

#[cfg(test)]
mod tests;
