//! Spans on their way to a collector: which are wanted, and the requests they travel in.

use std::sync::Arc;

use opentelemetry_proto::tonic::{common::v1::KeyValue, trace::v1::Span};
use tokio::sync::watch;

use super::{
    Tracer,
    sampling::Sampling,
    spans, tags,
    tracer::{Mode, Shared},
};
use crate::telemetry::{
    Metrics, Record,
    otlp::{
        Signal, Wanted,
        bundle::Bundle,
        exporter::{Encoder, Exporter, Flusher},
        outbox::Batch,
        resource::{Place, resource},
        settings::Environment,
    },
};

/// Makes requests of records.
#[derive(Debug)]
pub struct Spans {
    shared: Arc<Shared>,
    /// What the environment says of sampling.
    sampling: Option<Sampling>,
    /// Attributes every span gets.
    tags: Vec<KeyValue>,
    /// The spans of one record, for a moment.
    told: Vec<Span>,
    bundle: Bundle,
}

/// A tracer, what exports its spans, and what has it do so at once.
pub fn new(
    place: &Place,
    environment: &Arc<Environment>,
    wanted: watch::Receiver<Wanted>,
    metrics: &Metrics,
    rng: fastrand::Rng,
) -> (Tracer, Exporter<Spans>, Flusher) {
    let (tracer, shared) = Tracer::new(metrics);
    let feed = Arc::clone(&shared.feed);
    let encoder = Spans {
        shared,
        sampling: sampling(environment),
        tags: Vec::new(),
        told: Vec::new(),
        bundle: Bundle::new(&resource(place, environment)),
    };
    let (exporter, flusher) = Exporter::new(encoder, feed, Arc::clone(environment), wanted, rng);
    (tracer, exporter, flusher)
}

/// The sampler the environment names (`OTEL_TRACES_SAMPLER`), which wins over policy.
fn sampling(environment: &Environment) -> Option<Sampling> {
    let name = environment.get("OTEL_TRACES_SAMPLER")?;
    let sampling = Sampling::named(name, environment.get("OTEL_TRACES_SAMPLER_ARG"));
    if sampling.is_none() {
        tracing::warn!(sampler = name, "OTEL_TRACES_SAMPLER or its argument is not known; policy decides");
    }
    sampling
}

impl Encoder for Spans {
    type Item = Arc<Record>;
    const SIGNAL: Signal = Signal::Traces;

    fn follow(&mut self, wanted: &Wanted, collector: bool) -> bool {
        let tracing = &wanted.telemetry.tracing;
        let of_heads;
        (self.tags, of_heads) = tags::settle(&tracing.tags, |name| std::env::var(name).ok());
        let is_active = collector && tracing.reporting;
        let mode = Mode {
            sampling: self.sampling.unwrap_or(Sampling::share(tracing.sampling)),
            is_active,
            errors: tracing.errors,
            has_tags: !of_heads.is_empty(),
        };
        self.shared.set(mode, of_heads);
        is_active
    }

    fn add(&mut self, record: &Arc<Record>) {
        spans::tell(record, &self.tags, &mut self.told);
        for span in self.told.drain(..) {
            self.bundle.add(&span);
        }
    }

    fn size(&self) -> (usize, usize) {
        self.bundle.size()
    }

    fn finish(&mut self) -> Option<Batch> {
        self.bundle.finish()
    }
}
