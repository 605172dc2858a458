//! Counters of requests and opaque connections, one set per source and destination, with Istio's names and labels.
//!
//! Recording a request is seven additions. Which combination of status, flag and gRPC status it was is found in a
//! fixed table by its packed number; combinations beyond the table or the series budget share one line whose
//! `response_code` is `other`, so that no peer can make us grow. A set takes memory and series with its first request, so
//! what is known and not called costs nothing; when there is no room left its requests go to the overflow.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use pillion_xds::figures::{Counted, is_failure};

use super::{
    counter::Counter,
    exposition::{Audience, Kind as Family},
    histogram::{BYTES, Histogram, MILLISECONDS, TraceId},
    series::{Budget, Share},
};
use crate::error::Flag;

/// Which end of a hop tells of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's sidecar.
    #[default]
    Source,
    /// The server's sidecar.
    Destination,
}

impl Reporter {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// Between whom the traffic of a set flows. What is left empty is printed as `unknown`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Labels {
    /// Who reports.
    pub reporter: Reporter,
    /// Name of the calling workload.
    pub source_workload: Arc<str>,
    /// Its namespace.
    pub source_workload_namespace: Arc<str>,
    /// Name of the called workload.
    pub destination_workload: Arc<str>,
    /// Its namespace.
    pub destination_workload_namespace: Arc<str>,
    /// Host name of the called service.
    pub destination_service: Arc<str>,
    /// Its short name.
    pub destination_service_name: Arc<str>,
    /// Its namespace.
    pub destination_service_namespace: Arc<str>,
    /// The cluster: service, port and subset.
    pub cluster: Arc<str>,
}

impl Labels {
    /// Traffic of which nothing is known.
    pub fn unknown(reporter: Reporter) -> Self {
        Self { reporter, ..Self::default() }
    }

    /// The labels of the set that takes what finds no room.
    pub(super) fn overflow() -> Self {
        let overflow: Arc<str> = "overflow".into();
        Self { destination_service: Arc::clone(&overflow), cluster: overflow, ..Self::default() }
    }

    /// Names and values as they are printed.
    fn pairs(&self) -> Vec<(&'static str, &str)> {
        fn value(value: &str) -> &str {
            if value.is_empty() { "unknown" } else { value }
        }
        vec![
            ("reporter", self.reporter.as_str()),
            ("source_workload", value(&self.source_workload)),
            ("source_workload_namespace", value(&self.source_workload_namespace)),
            ("destination_workload", value(&self.destination_workload)),
            ("destination_workload_namespace", value(&self.destination_workload_namespace)),
            ("destination_service", value(&self.destination_service)),
            ("destination_service_name", value(&self.destination_service_name)),
            ("destination_service_namespace", value(&self.destination_service_namespace)),
            ("cluster", value(&self.cluster)),
        ]
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// HTTP status, 0 when the client saw none.
    pub status: u16,
    /// What the proxy has to remark.
    pub flag: Flag,
    /// Whether it was a gRPC call.
    pub grpc: bool,
    /// The gRPC status, where one was seen.
    pub grpc_status: Option<u8>,
    /// Whether it travelled over mutual TLS.
    pub secured: bool,
    /// From the request's head to the response's end.
    pub duration: Duration,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the response's body.
    pub response_bytes: u64,
}

/// What tells one line of `istio_requests_total` from the next within a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    status: u16,
    flag: Flag,
    grpc: bool,
    grpc_status: Option<u8>,
    secured: bool,
}

/// Stands for "no gRPC status" in a packed number; the codes end at 16.
const NO_GRPC_STATUS: u8 = u8::MAX;

impl Kind {
    /// The kind as a number that is never 0.
    fn pack(self) -> u64 {
        let grpc_status = self.grpc_status.unwrap_or(NO_GRPC_STATUS);
        let [low, high] = self.status.to_le_bytes();
        let (grpc, secured) = (u8::from(self.grpc), u8::from(self.secured));
        u64::from_le_bytes([low, high, self.flag as u8, grpc, grpc_status, secured, 0, 1])
    }

    fn unpack(number: u64) -> Self {
        let [low, high, flag, grpc, grpc_status, secured, ..] = number.to_le_bytes();
        Self {
            status: u16::from_le_bytes([low, high]),
            flag: Flag::from_number(flag),
            grpc: grpc != 0,
            grpc_status: Some(grpc_status).filter(|status| *status != NO_GRPC_STATUS),
            secured: secured != 0,
        }
    }
}

/// Kinds of outcome one set can tell apart.
const SLOTS: usize = 64;

/// Counts by kind: open addressing over atomics, where a slot is claimed once and never given up.
#[derive(Debug)]
struct Table {
    slots: [Slot; SLOTS],
    other: Counter,
}

#[derive(Debug, Default)]
struct Slot {
    kind: AtomicU64,
    count: Counter,
}

impl Table {
    fn new() -> Self {
        Self { slots: std::array::from_fn(|_| Slot::default()), other: Counter::default() }
    }

    #[inline]
    fn record(&self, kind: Kind, share: Option<&Share>) {
        self.find(kind.pack(), share).inc();
    }

    #[inline]
    fn find(&self, packed: u64, share: Option<&Share>) -> &Counter {
        // Fibonacci hashing: the upper 6 bits of the product are the best mixed.
        let start = (packed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize;
        let (before, after) = self.slots.split_at(start);
        for slot in after.iter().chain(before) {
            let there = match slot.kind.load(Relaxed) {
                0 => match claim(slot, packed, share) {
                    Some(there) => there,
                    None => return &self.other,
                },
                there => there,
            };
            if there == packed {
                return &slot.count;
            }
        }
        &self.other
    }

    fn read(&self) -> Vec<(Kind, u64)> {
        let used = self.slots.iter().filter_map(|slot| match slot.kind.load(Relaxed) {
            0 => None,
            packed => Some((Kind::unpack(packed), slot.count.get())),
        });
        used.filter(|(_, count)| *count > 0).collect()
    }
}

/// Takes a free slot, or answers what another worker has just put there. `None` when there is no series left.
#[cold]
fn claim(slot: &Slot, packed: u64, share: Option<&Share>) -> Option<u64> {
    if share.is_some_and(|share| !share.grow()) {
        return None;
    }
    match slot.kind.compare_exchange(0, packed, Relaxed, Relaxed) {
        Ok(_free) => Some(packed),
        Err(there) => {
            if let Some(share) = share {
                share.shrink();
            }
            Some(there)
        }
    }
}

/// The figures of the requests between one source and one destination.
#[derive(Debug)]
pub struct RequestStats {
    pub(super) labels: Labels,
    room: Option<Room>,
    figures: OnceLock<Arc<Figures>>,
}

/// Where a set finds room for its figures.
#[derive(Debug, Clone)]
pub(super) struct Room {
    pub(super) budget: Arc<Budget>,
    /// What takes the requests of those who find none.
    pub(super) overflow: Arc<RequestStats>,
}

#[derive(Debug)]
struct Figures {
    table: Table,
    duration: Histogram<15>,
    request_bytes: Histogram<6>,
    response_bytes: Histogram<6>,
    share: Option<Share>,
}

impl RequestStats {
    /// Series a set has with the first request beside its kinds: the histograms, and the line of other outcomes.
    const SERIES: usize = Histogram::<15>::SERIES + 2 * Histogram::<6>::SERIES + 1;
    /// The most it can have.
    pub(super) const MOST: usize = Self::SERIES + SLOTS;

    /// A set that pays with its first request.
    pub(super) fn within(room: Room, labels: Labels) -> Self {
        Self { labels, room: Some(room), figures: OnceLock::new() }
    }

    /// A set that no budget limits.
    pub(super) fn free(labels: Labels) -> Self {
        Self { labels, room: None, figures: OnceLock::new() }
    }

    /// Takes the end of a request in, and the trace that tells of it, where one is recorded.
    #[inline]
    pub fn record(&self, outcome: &Outcome, trace: Option<TraceId>) {
        let Outcome { status, flag, grpc, grpc_status, secured, .. } = *outcome;
        let figures = self.figures.get_or_init(|| self.begin());
        figures.table.record(Kind { status, flag, grpc, grpc_status, secured }, figures.share.as_ref());
        figures.duration.record_traced(outcome.duration, trace);
        figures.request_bytes.add(outcome.request_bytes, None);
        figures.response_bytes.add(outcome.response_bytes, None);
    }

    /// Figures of its own, or the overflow's.
    #[cold]
    fn begin(&self) -> Arc<Figures> {
        let Some(room) = &self.room else { return Arc::new(Figures::new(None)) };
        match Share::take(&room.budget, Self::SERIES) {
            Some(share) => Arc::new(Figures::new(Some(share))),
            None => Arc::clone(room.overflow.figures.get_or_init(|| Arc::new(Figures::new(None)))),
        }
    }

    /// Whether it has taken requests, and told them apart from others.
    pub(super) fn is_told(&self) -> bool {
        let own = self.figures.get();
        own.is_some_and(|figures| self.room.is_none() || figures.share.is_some())
    }

    /// Its requests, as people are told them; nothing where it has taken none.
    pub(super) fn counted(&self) -> Option<Counted> {
        let figures = self.figures.get().filter(|_| self.is_told())?;
        let kinds = figures.table.read().into_iter();
        let has_failed = |kind: Kind| is_failure(kind.status, kind.grpc_status, kind.flag == Flag::Dc);
        let failures = kinds.filter(|(kind, _)| has_failed(*kind)).map(|(_, count)| count).sum();
        Some(figures.duration.counted(failures))
    }

    /// Counts by kind, and those that found no line of their own.
    fn read(&self) -> (Vec<(Kind, u64)>, u64) {
        let read = |figures: &Arc<Figures>| (figures.table.read(), figures.table.other.get());
        self.figures.get().map_or_else(Default::default, read)
    }
}

impl Figures {
    fn new(share: Option<Share>) -> Self {
        Self {
            table: Table::new(),
            duration: Histogram::new(&MILLISECONDS),
            request_bytes: Histogram::new(&BYTES),
            response_bytes: Histogram::new(&BYTES),
            share,
        }
    }
}

/// Writes the figures of all sets that have any.
pub(super) fn write(out: &mut impl Audience, all: &[Arc<RequestStats>]) {
    let told = all.iter().filter(|stats| stats.is_told());
    let used: Vec<_> =
        told.filter_map(|stats| Some((stats.labels.pairs(), stats.figures.get()?, stats))).collect();
    let name = "istio_requests_total";
    out.family(name, Family::Counter, "Requests by how they ended.");
    for (pairs, _, stats) in &used {
        let (kinds, other) = stats.read();
        for (kind, count) in kinds {
            let grpc_status = kind.grpc_status.map(|status| status.to_string()).unwrap_or_default();
            let status = kind.status.to_string();
            let of_kind = [
                ("request_protocol", if kind.grpc { "grpc" } else { "http" }),
                ("response_code", &*status),
                ("grpc_response_status", &*grpc_status),
                ("response_flags", kind.flag.as_str()),
                ("connection_security_policy", if kind.secured { "mutual_tls" } else { "none" }),
            ];
            out.sample(name, &[pairs, &of_kind[..]].concat(), count);
        }
        if other > 0 {
            out.sample(name, &[pairs, &[("response_code", "other")][..]].concat(), other);
        }
    }
    let name = "istio_request_duration_milliseconds";
    out.family(
        name,
        Family::Histogram,
        "How long requests took, from their head to the end of the response.",
    );
    for (pairs, figures, _) in &used {
        out.histogram(name, pairs, &figures.duration.read());
    }
    let name = "istio_request_bytes";
    out.family(name, Family::Histogram, "Size of request bodies.");
    for (pairs, figures, _) in &used {
        out.histogram(name, pairs, &figures.request_bytes.read());
    }
    let name = "istio_response_bytes";
    out.family(name, Family::Histogram, "Size of response bodies.");
    for (pairs, figures, _) in &used {
        out.histogram(name, pairs, &figures.response_bytes.read());
    }
}

/// The figures of the opaque connections between one source and one destination.
#[derive(Debug)]
pub struct TcpStats {
    labels: Labels,
    /// Bytes sent to the client, as Istio counts them: responses.
    pub sent: Counter,
    /// Bytes received from the client: requests.
    pub received: Counter,
    /// Connections opened.
    pub opened: Counter,
    /// Connections closed.
    pub closed: Counter,
    _share: Option<Share>,
}

impl TcpStats {
    pub(super) const SERIES: usize = 4;

    pub(super) fn within(budget: &Arc<Budget>, labels: Labels) -> Option<Self> {
        let share = Share::take(budget, Self::SERIES)?;
        Some(Self { _share: Some(share), ..Self::free(labels) })
    }

    pub(super) fn free(labels: Labels) -> Self {
        Self {
            labels,
            sent: Counter::default(),
            received: Counter::default(),
            opened: Counter::default(),
            closed: Counter::default(),
            _share: None,
        }
    }
}

/// Writes the figures of all sets that have had connections.
pub(super) fn write_tcp(out: &mut impl Audience, all: &[Arc<TcpStats>]) {
    let used: Vec<_> = all.iter().filter(|stats| stats.opened.get() > 0).collect();
    type Column = (&'static str, &'static str, fn(&TcpStats) -> &Counter);
    let columns: [Column; 4] = [
        ("istio_tcp_sent_bytes_total", "Bytes sent to clients.", |stats| &stats.sent),
        ("istio_tcp_received_bytes_total", "Bytes received from clients.", |stats| &stats.received),
        ("istio_tcp_connections_opened_total", "Opaque connections opened.", |stats| &stats.opened),
        ("istio_tcp_connections_closed_total", "Opaque connections closed.", |stats| &stats.closed),
    ];
    for (name, help, read) in columns {
        out.family(name, Family::Counter, help);
        for stats in &used {
            let labels = [&stats.labels.pairs(), &[("request_protocol", "tcp")][..]].concat();
            out.sample(name, &labels, read(stats).get());
        }
    }
}

#[cfg(test)]
mod tests;
