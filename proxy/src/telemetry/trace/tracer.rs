//! What requests know of tracing: one atomic, and where to hand in what is over.
//!
//! The exporter sets the mode when policy changes; requests load it once. While nothing is exported they read the context
//! they came with, for their log line, and leave it as it is.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue};

use super::{
    SpanContext, propagation,
    sampling::Sampling,
    tags::{self, Wanted},
};
use crate::{
    error::Flag,
    telemetry::{Metrics, Record, otlp::feed::Feed},
};

/// Records that may wait to be made spans of; they are picked up within a second or when a batch is full.
const CAPACITY: usize = 8192;

/// Where spans begin and end; clones are the same.
#[derive(Debug, Clone)]
pub struct Tracer(Option<Arc<Shared>>);

#[derive(Debug)]
pub(super) struct Shared {
    mode: AtomicU64,
    /// Header fields that become attributes.
    wanted: ArcSwap<Vec<Wanted>>,
    pub(super) feed: Arc<Feed<Arc<Record>>>,
}

/// What holds for requests, packed into one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mode {
    pub(super) sampling: Sampling,
    /// Whether spans are reported at all.
    pub(super) is_active: bool,
    /// Whether they are when the proxy has answered with an error, whatever the sampling says.
    pub(super) errors: bool,
    /// Whether header fields are kept for attributes.
    pub(super) has_tags: bool,
}

impl Mode {
    const ACTIVE: u64 = 1 << 63;
    const BY_PARENT: u64 = 1 << 62;
    const ERRORS: u64 = 1 << 61;
    const TAGS: u64 = 1 << 60;

    fn pack(self) -> u64 {
        let (share, by_parent) = self.sampling.parts();
        let bit = |set, bit| if set { bit } else { 0 };
        share
            | bit(self.is_active, Self::ACTIVE)
            | bit(by_parent, Self::BY_PARENT)
            | bit(self.errors, Self::ERRORS)
            | bit(self.has_tags, Self::TAGS)
    }

    fn unpack(mode: u64) -> Self {
        let is = |bit| mode & bit != 0;
        Self {
            sampling: Sampling::of_parts(mode & (Self::TAGS - 1), is(Self::BY_PARENT)),
            is_active: is(Self::ACTIVE),
            errors: is(Self::ERRORS),
            has_tags: is(Self::TAGS),
        }
    }
}

impl Tracer {
    /// One that takes no part in any trace.
    pub fn none() -> Self {
        Self(None)
    }

    pub(super) fn new(metrics: &Metrics) -> (Self, Arc<Shared>) {
        let shared = Arc::new(Shared {
            mode: AtomicU64::new(0),
            wanted: ArcSwap::default(),
            feed: Arc::new(Feed::new(CAPACITY, Arc::clone(&metrics.spans))),
        });
        (Self(Some(Arc::clone(&shared))), shared)
    }

    /// The place of a request that has just come in its trace. Where spans are reported it is given one, and its head says
    /// so to whoever comes next.
    pub fn enter(
        &self,
        headers: &mut HeaderMap,
        rng: &mut fastrand::Rng,
        mint: impl FnMut(&[u8]) -> HeaderValue,
    ) -> Option<SpanContext> {
        match self.mode() {
            Some(mode) => Some(propagation::enter(headers, mode.sampling, rng, mint)),
            None => propagation::read(headers),
        }
    }

    /// Keeps of a request's head what its span will tell.
    pub fn note(&self, headers: &HeaderMap, record: &mut Record) {
        let is_told = |mode: &Mode| {
            mode.has_tags && (mode.errors || record.trace.is_some_and(|context| context.sampled))
        };
        if let (Some(shared), Some(_)) = (&self.0, self.mode().filter(is_told)) {
            tags::keep(&shared.wanted.load(), headers, &mut record.tags);
        }
    }

    /// Whether spans are to be made of this one: it belongs to a recorded trace, or the proxy's own spans are told because
    /// something did not go as it should.
    #[inline]
    pub fn wants(&self, record: &Record) -> bool {
        let Some(context) = record.trace.filter(SpanContext::is_own) else { return false };
        self.mode().is_some_and(|mode| context.sampled || (mode.errors && is_error(record.outcome.flag)))
    }

    /// Hands in the record of a finished request.
    pub fn push(&self, record: Arc<Record>) {
        if let Some(shared) = &self.0 {
            shared.feed.push(record);
        }
    }

    fn mode(&self) -> Option<Mode> {
        let mode = Mode::unpack(self.0.as_ref()?.mode.load(Relaxed));
        mode.is_active.then_some(mode)
    }
}

impl Shared {
    pub(super) fn set(&self, mode: Mode, wanted: Vec<Wanted>) {
        self.wanted.store(Arc::new(wanted));
        self.mode.store(mode.pack(), Relaxed);
    }
}

/// Whether a flag says that the proxy has answered, or broken off, in place of the application. That a client has left or
/// that a request was delayed is no error.
pub(super) fn is_error(flag: Flag) -> bool {
    !matches!(flag, Flag::None | Flag::Dc | Flag::Di)
}

#[cfg(test)]
mod tests;
