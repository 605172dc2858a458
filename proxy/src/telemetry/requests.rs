//! Counters of requests and opaque connections, one set per source and destination, with Istio's names and labels.
//!
//! Recording a request is five additions. Which combination of status, flag and gRPC status it was is found in a
//! fixed table by its packed number; combinations beyond the table or the series budget share one line whose
//! `response_code` is `other`, so that no peer can make us grow.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    counter::{Counter, Histogram},
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
    fn as_str(self) -> &'static str {
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
    pub(super) fn pairs(&self) -> Vec<(&'static str, &str)> {
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
pub(super) struct Kind {
    pub(super) status: u16,
    pub(super) flag: Flag,
    pub(super) grpc: bool,
    pub(super) grpc_status: Option<u8>,
    pub(super) secured: bool,
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
    table: Table,
    pub(super) duration: Histogram,
    pub(super) request_bytes: Counter,
    pub(super) response_bytes: Counter,
    share: Option<Share>,
}

impl RequestStats {
    /// Series a set has before the first request: the histogram, sum and count of both sizes, and the line of other outcomes.
    const SERIES: usize = Histogram::SERIES + 2 * 2 + 1;

    /// A set that pays from the budget; `None` when it cannot.
    pub(super) fn within(budget: &Arc<Budget>, labels: Labels) -> Option<Self> {
        let share = Share::take(budget, Self::SERIES)?;
        Some(Self { share: Some(share), ..Self::free(labels) })
    }

    /// A set that no budget limits.
    pub(super) fn free(labels: Labels) -> Self {
        Self {
            labels,
            table: Table::new(),
            duration: Histogram::default(),
            request_bytes: Counter::default(),
            response_bytes: Counter::default(),
            share: None,
        }
    }

    /// Takes the end of a request in.
    #[inline]
    pub fn record(&self, outcome: &Outcome) {
        let Outcome { status, flag, grpc, grpc_status, secured, .. } = *outcome;
        self.table.record(Kind { status, flag, grpc, grpc_status, secured }, self.share.as_ref());
        self.duration.record(outcome.duration);
        self.request_bytes.add(outcome.request_bytes);
        self.response_bytes.add(outcome.response_bytes);
    }

    /// Counts by kind, and those that found no line of their own.
    pub(super) fn read(&self) -> (Vec<(Kind, u64)>, u64) {
        (self.table.read(), self.table.other.get())
    }
}

/// The figures of the opaque connections between one source and one destination.
#[derive(Debug)]
pub struct TcpStats {
    pub(super) labels: Labels,
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
    const SERIES: usize = 4;

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

#[cfg(test)]
mod tests {
    use super::*;

    const OUTCOME: Outcome = Outcome {
        status: 200,
        flag: Flag::None,
        grpc: false,
        grpc_status: None,
        secured: false,
        duration: Duration::from_millis(3),
        request_bytes: 10,
        response_bytes: 20,
    };

    #[test]
    fn kinds_survive_packing() {
        for status in [0, 200, 503, u16::MAX] {
            for flag in Flag::ALL {
                for (grpc, grpc_status) in [(false, None), (true, None), (true, Some(0)), (true, Some(14))] {
                    let kind = Kind { status, flag, grpc, grpc_status, secured: grpc_status.is_some() };
                    assert_ne!(kind.pack(), 0);
                    assert_eq!(Kind::unpack(kind.pack()), kind);
                }
            }
        }
    }

    #[test]
    fn outcomes_are_counted_by_kind_from_all_threads() {
        let stats = RequestStats::free(Labels::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..3000 {
                        stats.record(&Outcome { status: 200 + n % 3, ..OUTCOME });
                    }
                });
            }
        });
        let (mut kinds, other) = stats.read();
        kinds.sort_by_key(|(kind, _)| kind.status);
        let counts: Vec<_> = kinds.iter().map(|(kind, count)| (kind.status, *count)).collect();
        assert_eq!(counts, [(200, 4000), (201, 4000), (202, 4000)]);
        assert_eq!(other, 0);
        assert_eq!(stats.duration.read().count, 12_000);
        assert_eq!((stats.request_bytes.get(), stats.response_bytes.get()), (120_000, 240_000));
    }

    #[test]
    fn more_kinds_than_slots_or_budget_share_a_line() {
        let unlimited = RequestStats::free(Labels::default());
        let tight = Budget::new(RequestStats::SERIES + 10);
        let tight = RequestStats::within(&tight, Labels::default()).unwrap();
        for status in 0..1000 {
            unlimited.record(&Outcome { status, ..OUTCOME });
            tight.record(&Outcome { status, ..OUTCOME });
        }
        for (stats, lines) in [(unlimited, SLOTS), (tight, 10)] {
            let (kinds, other) = stats.read();
            assert_eq!(kinds.len(), lines);
            assert_eq!(other, 1000 - lines as u64);
        }
    }
}
