//! What one data thread holds: its connections, its dice, and handles to what all threads share.
//!
//! A connection, its requests and the upstream connections they use live on one worker, so nothing here needs a lock.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::pending,
    io, ptr,
    rc::Rc,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use http::HeaderValue;
use pillion_policy::{
    authentication::PeerTls,
    mesh::OutboundMode,
    name::{Hostname, Label},
};
use tokio::{io::AsyncRead, sync::mpsc, time::Instant};

use crate::{
    authz::Guests,
    error::HeadLimits,
    jwt::cache::Cache,
    kin::Kin,
    net::detect::{self, Detection, How, Protocol},
    rt::{drain::Drain, pulse::Pulse, rng},
    telemetry::{
        Record, Sinks,
        access_log::Pen,
        detection::Detected,
        metrics::Metrics,
        record::Direction,
        requests::{Labels, Reporter, RequestStats},
        workers::WorkerStats,
    },
    tls::credentials::Wallet,
    upstream::pool::Pools,
    view::Views,
};

/// Most requests that may wait at the same time for a host to be looked up.
const MAX_HELD: u32 = 1024;

/// Records that are kept to be used again.
const RECORDS: usize = 64;

/// Pulses that are kept to be used again. Each may hold on to the memory of the task it was asked by last.
const PULSES: usize = 32;

/// Bytes of header values that are made of one allocation: about 60 request ids.
const MINTED: usize = 2304;

/// The state of a data thread.
#[derive(Debug)]
pub struct Worker {
    /// The policy of the moment.
    pub views: Arc<Views>,
    /// Upstream connections.
    pub pools: Pools,
    /// Whether the process is on its way out.
    pub drain: Drain,
    /// What the proxy was started with.
    pub settings: Arc<Settings>,
    /// Where hosts are asked for that nobody has named before.
    pub demands: Demands,
    /// Who is told of finished requests.
    pub sinks: Sinks,
    /// Where it writes its lines of the access log.
    pub pen: Pen,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is remembered of requests and the calls they cause, by all workers.
    pub kin: Arc<Kin>,
    /// What the own identity is proved with.
    pub wallet: Arc<Wallet>,
    /// Connections that came in, for policies still to come.
    pub guests: Guests,
    /// Tokens that were good of late.
    pub tokens: RefCell<Cache>,
    /// Copies for mirrors under way.
    pub mirroring: Cell<u32>,
    /// How busy this thread is.
    pub stats: Arc<WorkerStats>,
    unmatched: [Arc<RequestStats>; 2],
    minted: RefCell<BytesMut>,
    /// Records to be used again; boxed because they move with their exchanges.
    #[expect(clippy::vec_box, reason = "the boxes themselves are what is used again")]
    records: RefCell<Vec<Box<Record>>>,
    pulses: RefCell<Vec<Rc<Pulse>>>,
    rng: RefCell<fastrand::Rng>,
}

/// What requests need to know of the command line.
#[derive(Debug)]
pub struct Settings {
    /// Namespace in which the application's short host names are resolved.
    pub namespace: Label,
    /// How long a request waits for its host to be looked up.
    pub hold_timeout: Duration,
    /// What happens to hosts nobody has described; the mesh's setting when absent.
    pub outbound_mode: Option<OutboundMode>,
    /// Largest header list in bytes, both ways.
    pub max_header_bytes: usize,
    /// Most header fields, both ways.
    pub max_headers: usize,
    /// How long a connection may take for its first request.
    pub first_request_timeout: Duration,
    /// Largest body of a request in bytes; none when absent.
    pub max_body_bytes: Option<u64>,
    /// How long nothing may move on a stream; any time when absent.
    pub stream_idle_timeout: Option<Duration>,
}

/// A host and port a request has named.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Demand {
    /// The host.
    pub host: Hostname,
    /// The port.
    pub port: u16,
}

/// The way from requests to the control task, bounded in how many may wait.
#[derive(Debug, Clone)]
pub struct Demands {
    sender: mpsc::Sender<Demand>,
    held: Arc<AtomicU32>,
}

/// A request that is being held.
#[derive(Debug)]
pub struct Held(Arc<AtomicU32>);

impl Settings {
    /// How large the head of a message may be.
    pub fn head_limits(&self) -> HeadLimits {
        HeadLimits { bytes: self.max_header_bytes, fields: self.max_headers }
    }
}

impl Worker {
    /// A worker with its own generator of random numbers.
    pub fn new(
        views: Arc<Views>,
        pools: Pools,
        settings: Arc<Settings>,
        demands: Demands,
        (drain, sinks, metrics, kin): (Drain, Sinks, Arc<Metrics>, Arc<Kin>),
        rng: fastrand::Rng,
    ) -> Self {
        let labels = |reporter| Labels { reporter, ..Labels::default() };
        let unmatched = [Reporter::Source, Reporter::Destination]
            .map(|reporter| metrics.request_stats(&labels(reporter)));
        let stats = metrics.worker();
        let (rng, wallet) = (RefCell::new(rng), Arc::clone(pools.wallet()));
        Self {
            views,
            pools,
            drain,
            settings,
            demands,
            pen: sinks.access_log.pen(),
            sinks,
            metrics,
            kin,
            wallet,
            guests: Guests::default(),
            tokens: RefCell::default(),
            stats,
            unmatched,
            minted: RefCell::default(),
            records: RefCell::default(),
            pulses: RefCell::default(),
            mirroring: Cell::new(0),
            rng,
        }
    }

    /// Where requests are counted that reach no destination.
    pub fn unmatched(&self, direction: Direction) -> &Arc<RequestStats> {
        let [outbound, inbound] = &self.unmatched;
        match direction {
            Direction::Outbound => outbound,
            Direction::Inbound => inbound,
        }
    }

    /// Throws this worker's dice.
    pub fn with_rng<T>(&self, throw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        throw(&mut self.rng.borrow_mut())
    }

    /// A number uniform in 0..1,000,000, by which samples are drawn.
    pub fn roll(&self) -> u32 {
        self.with_rng(|rng| rng.u32(..1_000_000))
    }

    /// An id for a request that has none.
    pub fn request_id(&self) -> HeaderValue {
        self.mint(&self.with_rng(rng::uuid_v4))
    }

    /// A short header value. Many share the memory of one allocation.
    pub fn mint(&self, text: &[u8]) -> HeaderValue {
        let mut minted = self.minted.borrow_mut();
        if minted.capacity() < text.len() {
            *minted = BytesMut::with_capacity(MINTED.max(text.len()));
        }
        minted.extend_from_slice(text);
        let text = minted.split().freeze();
        HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static("unknown"))
    }

    /// A record for a request that has just come.
    pub fn record(&self) -> Box<Record> {
        let mut record = self.records.borrow_mut().pop().unwrap_or_default();
        record.dice = self.roll();
        record
    }

    /// Takes a record back whose story has been told.
    pub fn recycle(&self, mut record: Box<Record>) {
        let mut records = self.records.borrow_mut();
        if records.len() < RECORDS {
            record.clear();
            records.push(record);
        }
    }

    /// A pulse for a stream that has just begun.
    pub fn pulse(&self) -> Rc<Pulse> {
        self.pulses.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a pulse back whose stream has ended, unless somebody still reads of it.
    pub fn rest(&self, pulse: &Rc<Pulse>) {
        let mut pulses = self.pulses.borrow_mut();
        if pulses.len() < PULSES && Rc::strong_count(pulse) == 1 {
            pulses.push(Rc::clone(pulse));
        }
    }

    /// Breaks off what is inside whenever a new policy of the workload is against it.
    pub async fn review(&self) -> Infallible {
        let mut news = self.views.subscribe();
        let mut seen = Weak::new();
        loop {
            let own = self.views.load().workload.clone();
            if let Some(own) = own.filter(|own| !ptr::eq(Weak::as_ptr(&seen), Arc::as_ptr(own))) {
                let is_strict = |port| own.policy().peer_tls(port) == PeerTls::Strict;
                let broken_off = self.guests.review(own.authorization(), is_strict);
                self.metrics.access.broken_off.add(broken_off.connections + broken_off.requests);
                seen = Arc::downgrade(&own);
            }
            if news.changed().await.is_err() {
                return pending().await;
            }
        }
    }

    /// Finds out what a connection speaks, see [`detect::detect`], and counts that.
    pub async fn detect<S: AsyncRead + Unpin>(
        &self,
        direction: Direction,
        stream: &mut S,
        patience: Duration,
    ) -> io::Result<Detection> {
        let began = Instant::now();
        let detection = detect::detect(stream, patience).await;
        let detected = match &detection {
            Ok(Detection { how: How::TimedOut, .. }) => Detected::TimedOut,
            Ok(Detection { how: How::Closed, .. }) | Err(_) => Detected::Closed,
            Ok(Detection { how: How::Sniffed, protocol, .. }) => match protocol {
                Protocol::Http1 => Detected::Http1,
                Protocol::Http2 => Detected::Http2,
                Protocol::Tls => Detected::Tls,
                Protocol::Opaque => Detected::Opaque,
            },
        };
        self.metrics.detection.record(direction, detected, began.elapsed());
        detection
    }

    /// What happens to traffic for hosts nobody has described.
    pub fn outbound_mode(&self) -> OutboundMode {
        let mesh = || self.views.load().mesh.as_ref().map(|mesh| mesh.outbound);
        self.settings.outbound_mode.or_else(mesh).unwrap_or_default()
    }
}

impl Demands {
    /// The sending side, and where the control task receives.
    pub fn new() -> (Self, mpsc::Receiver<Demand>) {
        let (sender, receiver) = mpsc::channel(MAX_HELD as usize);
        (Self { sender, held: Arc::default() }, receiver)
    }

    /// Asks for a host and counts the request as held; `None` when too many are.
    pub fn ask(&self, demand: Demand) -> Option<Held> {
        if self.held.fetch_add(1, Ordering::Relaxed) >= MAX_HELD {
            self.held.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let held = Held(Arc::clone(&self.held));
        self.sender.try_send(demand).ok().map(|()| held)
    }

    /// How many requests are held.
    pub fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
