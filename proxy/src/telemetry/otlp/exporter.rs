//! The task that exports one signal: it gathers items, has them encoded, and sends them one batch after another.
//!
//! Items are encoded as soon as a batch has gathered, whether or not the collector keeps up: what waits for it is bytes in
//! an [`Outbox`], and holds on to nothing of a request. Where to send is asked anew whenever policy changes. The task never
//! waits for anything but its next event, and nothing waits for it but the end of the process, for a moment.

use std::{convert::Infallible, fmt, future::pending, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use super::{
    Signal, Wanted,
    feed::Feed,
    outbox::{Batch, Outbox, Sent},
    settings::{Batching, Environment, Target},
    transport::{Failure, Transport, origin},
};

/// At most one complaint about a collector in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Bytes at which a batch is full: collectors take 4 MiB over gRPC unless they are told otherwise.
const MAX_BATCH: usize = 1 << 20;

/// Makes bytes of what is exported.
pub trait Encoder: Send {
    /// What comes out of the feed.
    type Item: Send;
    /// What it becomes.
    const SIGNAL: Signal;

    /// Takes in what policy wants; `collector` says whether there is anybody to send it to. Says whether anything is to
    /// be exported.
    fn follow(&mut self, wanted: &Wanted, collector: bool) -> bool;

    /// Encodes an item.
    fn add(&mut self, item: &Self::Item);

    /// Items and bytes that have been added since the last batch; more than went in, where an item becomes several.
    fn size(&self) -> (usize, usize);

    /// A request of all that was added; `None` when nothing was.
    fn finish(&mut self) -> Option<Batch>;
}

/// What is exported, from where to where.
pub struct Exporter<E: Encoder> {
    encoder: E,
    feed: Arc<Feed<E::Item>>,
    outbox: Outbox,
    environment: Arc<Environment>,
    batching: Batching,
    wanted: Option<watch::Receiver<Wanted>>,
    transport: Option<Transport>,
    /// The target that was asked for last, usable or not.
    asked: Option<Target>,
    is_active: bool,
    sending: Option<Sending>,
    flushes: mpsc::Receiver<oneshot::Sender<()>>,
    complained: Option<Instant>,
    rng: fastrand::Rng,
}

impl<E: Encoder> fmt::Debug for Exporter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.asked.as_ref().map(|target| &target.uri);
        f.debug_struct("Exporter")
            .field("signal", &E::SIGNAL)
            .field("target", &target)
            .finish_non_exhaustive()
    }
}

type Sending = BoxFuture<'static, Result<u64, Failure>>;

/// Has an exporter send what it holds.
#[derive(Debug, Clone)]
pub struct Flusher(mpsc::Sender<oneshot::Sender<()>>);

impl Flusher {
    /// Waits until all that was handed in is sent, or cannot be, for at most `patience`.
    pub async fn flush(&self, patience: Duration) {
        let (done, flushed) = oneshot::channel();
        if self.0.try_send(done).is_ok() {
            // In time or not, there is nothing more to be done.
            let _over = tokio::time::timeout(patience, flushed).await;
        }
    }
}

impl<E: Encoder> Exporter<E> {
    /// An exporter of what comes out of `feed`, still to be run.
    pub fn new(
        encoder: E,
        feed: Arc<Feed<E::Item>>,
        environment: Arc<Environment>,
        wanted: watch::Receiver<Wanted>,
        rng: fastrand::Rng,
    ) -> (Self, Flusher) {
        let (flusher, flushes) = mpsc::channel(1);
        let batching = environment.batching();
        let exporter = Self {
            encoder,
            feed,
            outbox: Outbox::new(batching.queue),
            environment,
            batching,
            wanted: Some(wanted),
            transport: None,
            asked: None,
            is_active: false,
            sending: None,
            flushes,
            complained: None,
            rng,
        };
        (exporter, Flusher(flusher))
    }

    /// Exports for as long as the process lives.
    pub async fn run(mut self) -> Infallible {
        self.configure();
        loop {
            self.begin();
            tokio::select! {
                changed = changed(&mut self.wanted) => {
                    if changed { self.configure() } else { self.wanted = None }
                }
                () = self.feed.gathered(self.batching.items, self.batching.delay), if self.is_active => {
                    self.encode(self.batching.items);
                    // The thread has other things to do.
                    tokio::task::yield_now().await;
                }
                sent = ended(&mut self.sending) => self.ended(sent),
                Some(done) = self.flushes.recv() => {
                    self.flush().await;
                    // Whoever has asked may have lost patience.
                    let _impatient = done.send(());
                }
            }
        }
    }

    /// Takes in where to send, and whether.
    fn configure(&mut self) {
        let Some(wanted) = self.wanted.as_mut().map(|wanted| wanted.borrow_and_update().clone()) else {
            return;
        };
        let target = self.environment.target(E::SIGNAL, wanted.collector.as_ref());
        if self.asked != target {
            self.transport = target.clone().and_then(|target| match Transport::new(target) {
                Ok(transport) => Some(transport),
                Err(error) => {
                    tracing::warn!(signal = E::SIGNAL.as_str(), %error, "nothing is exported");
                    None
                }
            });
            if let Some(transport) = &self.transport {
                let target = transport.target();
                let (endpoint, protocol) = (origin(&target.uri), target.protocol);
                tracing::info!(signal = E::SIGNAL.as_str(), endpoint, ?protocol, "telemetry is exported");
            }
            self.asked = target;
            self.sending = None;
            self.complained = None;
            self.outbox.hurry();
        }
        self.is_active = self.encoder.follow(&wanted, self.transport.is_some());
        if !self.is_active {
            // What was handed in is still sent, if there is anybody to send it to.
            self.encode(usize::MAX);
        }
        if self.transport.is_none() {
            self.outbox.clear(self.feed.stats());
        }
    }

    /// Encodes up to so many items.
    fn encode(&mut self, many: usize) {
        for _ in 0..many {
            let Some(item) = self.feed.pop() else { break };
            self.encoder.add(&item);
            let (items, bytes) = self.encoder.size();
            if items >= self.batching.items || bytes >= MAX_BATCH {
                self.finish();
            }
        }
        self.finish();
    }

    fn finish(&mut self) {
        if let Some(batch) = self.encoder.finish() {
            self.outbox.push(batch, self.feed.stats());
        }
    }

    /// Begins to send the first batch that waits, at its time.
    fn begin(&mut self) {
        let (None, Some(transport), Some((batch, due))) =
            (&self.sending, &self.transport, self.outbox.first())
        else {
            return;
        };
        let (transport, body) = (transport.clone(), batch.body.clone());
        self.sending = Some(Box::pin(async move {
            if let Some(due) = due {
                sleep_until(due).await;
            }
            transport.send(E::SIGNAL, body).await
        }));
    }

    /// Takes in how the first batch has fared.
    fn ended(&mut self, sent: Result<u64, Failure>) {
        self.sending = None;
        let now = Instant::now();
        let sent = match sent {
            Ok(rejected) => Sent::Taken { rejected },
            Err(failure) => {
                self.complain(&failure, now);
                self.transport = self.transport.as_ref().map(Transport::renewed);
                failure.sent()
            }
        };
        self.outbox.sent(sent, now, &mut self.rng, self.feed.stats());
    }

    fn complain(&mut self, failure: &Failure, now: Instant) {
        if self.complained.is_none_or(|last| now.saturating_duration_since(last) >= COMPLAIN_EVERY) {
            self.complained = Some(now);
            let endpoint = self.asked.as_ref().map(|target| origin(&target.uri));
            tracing::warn!(signal = E::SIGNAL.as_str(), endpoint, error = %failure, "telemetry is not taken");
        }
    }

    /// Sends what there is, until the collector does not take it.
    async fn flush(&mut self) {
        self.encode(usize::MAX);
        self.outbox.hurry();
        self.sending = None;
        while let Some((batch, None)) = self.outbox.first()
            && let Some(transport) = &self.transport
        {
            let sent = transport.send(E::SIGNAL, batch.body.clone()).await;
            self.ended(sent);
        }
    }
}

/// The next change of what is wanted; false when there can be none any more.
async fn changed(wanted: &mut Option<watch::Receiver<Wanted>>) -> bool {
    match wanted {
        Some(wanted) => wanted.changed().await.is_ok(),
        None => pending().await,
    }
}

/// The end of what is being sent. Nothing is lost when this is dropped.
async fn ended(sending: &mut Option<Sending>) -> Result<u64, Failure> {
    match sending {
        Some(sending) => sending.await,
        None => pending().await,
    }
}
