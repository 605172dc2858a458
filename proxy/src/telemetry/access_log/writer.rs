//! The thread that formats and writes lines.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::{CAPACITY, Record, Rules, format};
use crate::{
    config::AccessLogTarget,
    telemetry::{mailbox::Mailbox, metrics::Metrics},
};

/// At most one complaint about a failing disk in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What is kept of the memory of a flood of lines.
const KEPT_BYTES: usize = 64 * 1024;

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
    mailbox: Arc<Mailbox<Arc<Record>>>,
    rules: Arc<ArcSwap<Rules>>,
    sink: Box<dyn Write + Send>,
    metrics: Arc<Metrics>,
    complained: Option<Instant>,
}

impl Writer {
    pub(super) fn new(
        mailbox: Arc<Mailbox<Arc<Record>>>,
        rules: Arc<ArcSwap<Rules>>,
        sink: Box<dyn Write + Send>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { mailbox, rules, sink, metrics, complained: None }
    }

    /// Writes until the log is closed.
    pub(super) fn run(mut self) {
        let mut lines = Vec::new();
        while self.mailbox.wait() {
            lines.clear();
            let rules = self.rules.load_full();
            let mut n = 0;
            // Bounded, so that a flood is written in pieces and does not grow the buffer without end.
            while n < CAPACITY as u64
                && let Some(record) = self.mailbox.take()
            {
                for form in &rules.forms {
                    format::write(form, &record, &mut lines);
                }
                n += 1;
            }
            if let Err(error) = self.sink.write_all(&lines).and_then(|()| self.sink.flush()) {
                self.lost(n, &error);
            }
            lines.shrink_to(KEPT_BYTES);
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
