//! The thread that formats and writes lines.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use rtrb::Consumer;
use tokio::time::Instant;

use super::pen::Inbox;
use crate::{config::AccessLogTarget, telemetry::metrics::Metrics};

/// At most one complaint about a failing disk in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Opens what lines are written to.
pub(super) fn open(target: &AccessLogTarget) -> io::Result<Box<dyn Write + Send>> {
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

pub(super) struct Writer {
    inbox: Arc<Inbox>,
    rings: Vec<Consumer<u8>>,
    sink: Box<dyn Write + Send>,
    metrics: Arc<Metrics>,
    complained: Option<Instant>,
}

impl Writer {
    pub(super) fn new(inbox: Arc<Inbox>, sink: Box<dyn Write + Send>, metrics: Arc<Metrics>) -> Self {
        Self { inbox, rings: Vec::new(), sink, metrics, complained: None }
    }

    /// Writes until the log is closed.
    pub(super) fn run(mut self) {
        while self.inbox.wait(&self.rings) {
            self.rings.append(&mut self.inbox.added());
            for index in 0..self.rings.len() {
                self.empty(index);
            }
            // In this order: what a worker wrote before it left is there when it has left.
            self.rings.retain(|ring| !ring.is_abandoned() || !ring.is_empty());
        }
    }

    /// Writes what is in a ring now. What comes meanwhile has to wait for the others.
    fn empty(&mut self, index: usize) {
        let Some(ring) = self.rings.get_mut(index) else { return };
        let Ok(chunk) = ring.read_chunk(ring.slots()) else { return };
        let (first, second) = chunk.as_slices();
        let sink = &mut self.sink;
        let written = sink.write_all(first).and_then(|()| sink.write_all(second)).and_then(|()| sink.flush());
        let ends = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        let n = if written.is_err() { ends(first) + ends(second) } else { 0 };
        chunk.commit_all();
        if let Err(error) = written {
            self.lost(n, &error);
        }
    }

    fn lost(&mut self, n: u64, error: &io::Error) {
        self.metrics.proxy.access_log_dropped.add(n);
        let now = Instant::now();
        if self.complained.is_none_or(|last| now - last >= COMPLAIN_EVERY) {
            self.complained = Some(now);
            tracing::warn!(%error, lines = n, "cannot write the access log, lines are lost");
        }
    }
}
