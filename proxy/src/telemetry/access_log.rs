//! One line per request, written where it cannot hurt requests.
//!
//! The worker of a finished request that is to be logged makes the line of its [`Record`] and puts it into a ring of its
//! own ([`Pen`]); a thread writes what has gathered in all of them, so that a disk or pipe that blocks stops that thread and
//! nothing else. When a ring is full, and when writing fails, lines are dropped and counted; the proxy goes on.
//!
//! Which requests are logged, and how, the workload's policy says, else the command line. A change takes effect with the
//! next request: requests read three flags, and the conditions only where there are some.

use std::{
    io,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue};
use pillion_policy::telemetry::{AccessLogging, LogFilter, LogSink};

use super::{metrics::Metrics, otlp::feed::Feed};
use crate::{
    config::{AccessLogFormat, AccessLogTarget},
    rt::task,
};

mod append;
pub mod export;
mod filter;
mod format;
mod pen;
mod template;
mod tries;
mod writer;

pub use self::pen::Pen;
use self::{pen::Inbox, writer::Writer};
pub use super::record::{Direction, Record};

/// Records that may wait to be exported.
const CAPACITY: usize = 8192;

/// What the command line says of the log.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it goes. Absent, nothing is logged until a policy wants that, then to standard output.
    pub target: Option<AccessLogTarget>,
    /// The form of its lines.
    pub format: AccessLogFormat,
    /// Which requests are logged while no policy says so; all when absent.
    pub filter: Option<LogFilter>,
}

/// What is logged, and where; clones are the same log.
#[derive(Debug, Clone)]
pub struct AccessLog(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    settings: Settings,
    /// Whether lines are written.
    is_written: AtomicBool,
    /// Whether they are exported.
    is_exported: AtomicBool,
    /// Whether there are conditions.
    is_filtered: AtomicBool,
    rules: ArcSwap<Rules>,
    /// What the template needs of every request, and of every response.
    request_headers: Box<[HeaderName]>,
    response_headers: Box<[HeaderName]>,
    open: OnceLock<Open>,
    /// Records to be exported.
    feed: Arc<Feed<Arc<Record>>>,
    metrics: Arc<Metrics>,
}

/// What is in force.
#[derive(Debug, Default)]
struct Rules {
    /// The forms each line is written in.
    forms: Vec<AccessLogFormat>,
    filter: Option<LogFilter>,
}

/// A log that somebody writes.
#[derive(Debug)]
struct Open {
    inbox: Arc<Inbox>,
    /// Told when the writer has ended.
    finished: Mutex<mpsc::Receiver<()>>,
}

impl AccessLog {
    /// A log that nobody wants.
    pub fn disabled() -> Self {
        Self(None)
    }

    /// The log as the command line wants it, opened if it is to be written.
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> io::Result<Self> {
        let shared = Shared::new(settings, metrics);
        if shared.settings.target.is_some() {
            shared.open()?;
        }
        let log = Self(Some(Arc::new(shared)));
        log.apply(None);
        Ok(log)
    }

    /// Logs from now on as a policy says; without one, as the command line does. A log that cannot be opened is said to be
    /// so, and nothing is logged.
    pub fn apply(&self, policy: Option<&AccessLogging>) {
        let Some(shared) = &self.0 else { return };
        let rules = shared.rules_of(policy);
        let is_written = !rules.forms.is_empty()
            && match shared.open() {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(%error, "the access log that the policy wants cannot be opened");
                    false
                }
            };
        let is_filtered = rules.filter.is_some();
        shared.rules.store(Arc::new(rules));
        shared.is_filtered.store(is_filtered, Relaxed);
        shared.is_written.store(is_written, Relaxed);
    }

    /// Whether this one is wanted.
    #[inline]
    pub fn wants(&self, record: &Record) -> bool {
        let Some(shared) = &self.0 else { return false };
        let is_told = shared.is_written.load(Relaxed) || shared.is_exported.load(Relaxed);
        let fits = |rules: &Rules| rules.filter.as_ref().is_none_or(|filter| filter::holds(filter, record));
        is_told && (!shared.is_filtered.load(Relaxed) || fits(&shared.rules.load()))
    }

    /// Where a worker writes its lines.
    pub fn pen(&self) -> Pen {
        Pen::new(self.clone())
    }

    /// Whether lines are exported.
    pub fn is_exported(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.is_exported.load(Relaxed))
    }

    /// Hands in the record of a finished request to be exported.
    pub fn export(&self, record: Arc<Record>) {
        if let Some(shared) = &self.0 {
            shared.feed.push(record);
        }
    }

    /// Notes what lines need of a request's fields.
    pub fn note_request(&self, headers: &HeaderMap, record: &mut Record) {
        if let Some(shared) = &self.0 {
            note(&shared.request_headers, headers, &mut record.request_headers);
        }
    }

    /// Notes what lines need of a response's fields.
    pub fn note_response(&self, headers: &HeaderMap, record: &mut Record) {
        if let Some(shared) = &self.0 {
            note(&shared.response_headers, headers, &mut record.response_headers);
        }
    }

    /// Writes what is queued, for at most `patience`: a pipe that blocks must not keep the process alive.
    pub fn close(&self, patience: Duration) {
        let Some(Open { inbox, finished }) = self.0.as_ref().and_then(|shared| shared.open.get()) else {
            return;
        };
        inbox.bell.stop();
        let finished = finished.lock().unwrap_or_else(PoisonError::into_inner);
        if finished.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("the access log could not be written in time, its last lines are lost");
        }
    }
}

/// Copies the fields of those names, of which the values are shared.
fn note(names: &[HeaderName], headers: &HeaderMap, noted: &mut Vec<(HeaderName, HeaderValue)>) {
    for name in names {
        if let Some(value) = headers.get(name) {
            noted.push((name.clone(), value.clone()));
        }
    }
}

impl Shared {
    fn new(settings: Settings, metrics: Arc<Metrics>) -> Self {
        let (mut request_headers, mut response_headers) = (Vec::new(), Vec::new());
        if let AccessLogFormat::Template(template) = &settings.format {
            request_headers.extend(template.request_headers().cloned());
            response_headers.extend(template.response_headers().cloned());
        }
        Self {
            settings,
            is_written: AtomicBool::new(false),
            is_exported: AtomicBool::new(false),
            is_filtered: AtomicBool::new(false),
            rules: ArcSwap::default(),
            request_headers: request_headers.into(),
            response_headers: response_headers.into(),
            open: OnceLock::new(),
            feed: Arc::new(Feed::new(CAPACITY, Arc::clone(&metrics.logs))),
            metrics,
        }
    }

    fn rules_of(&self, policy: Option<&AccessLogging>) -> Rules {
        let Some(policy) = policy else {
            let forms = self.settings.target.iter().map(|_| self.settings.format.clone()).collect();
            return Rules { forms, filter: self.settings.filter.clone() };
        };
        let mut forms = Vec::new();
        for sink in &policy.sinks {
            let form = match sink {
                LogSink::Configured => self.settings.format.clone(),
                LogSink::Text => AccessLogFormat::Text,
                LogSink::Json => AccessLogFormat::Json,
                // What is exported is said to the exporter.
                LogSink::Otlp => continue,
            };
            // The same line twice at the same place tells nobody anything.
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
        Rules { forms, filter: policy.filter.clone() }
    }

    /// Opens the target and starts its writer, once.
    fn open(&self) -> io::Result<()> {
        if self.open.get().is_none() {
            let target = self.settings.target.clone().unwrap_or(AccessLogTarget::Stdout);
            self.start(writer::open(&target)?)?;
        }
        Ok(())
    }

    fn start(&self, sink: Box<dyn io::Write + Send>) -> io::Result<()> {
        let inbox = Arc::new(Inbox::default());
        let (done, finished) = mpsc::sync_channel(1);
        let writer = Writer::new(Arc::clone(&inbox), sink, Arc::clone(&self.metrics));
        task::spawn_thread("access-log", move || {
            writer.run();
            // Nobody waits when the log is not closed but abandoned.
            let _abandoned = done.send(());
        })?;
        // Only the control thread opens it.
        let _first = self.open.set(Open { inbox, finished: Mutex::new(finished) });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
