//! Spans on their way to a collector: which are wanted, and the requests they travel in.

use std::sync::Arc;

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::KeyValue,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;
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
        exporter::{Encoder, Exporter, Flusher},
        outbox::Batch,
        resource::{Place, resource, scope},
        settings::Environment,
    },
};

/// Makes requests of records.
#[derive(Debug)]
pub struct Spans {
    shared: Arc<Shared>,
    resource: Resource,
    /// What the environment says of sampling.
    sampling: Option<Sampling>,
    /// Attributes every span gets.
    tags: Vec<KeyValue>,
    added: Vec<Span>,
    bytes: usize,
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
        resource: resource(place, environment),
        sampling: sampling(environment),
        tags: Vec::new(),
        added: Vec::new(),
        bytes: 0,
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
        let known = self.added.len();
        spans::tell(record, &self.tags, &mut self.added);
        let told = self.added.get(known..).unwrap_or_default();
        self.bytes += told.iter().map(Message::encoded_len).sum::<usize>();
    }

    fn size(&self) -> (usize, usize) {
        (self.added.len(), self.bytes)
    }

    fn finish(&mut self) -> Option<Batch> {
        self.bytes = 0;
        // Taken whole: an idle exporter keeps no memory.
        let spans = std::mem::take(&mut self.added);
        let items = u64::try_from(spans.len()).ok().filter(|items| *items > 0)?;
        let of_scope = ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() };
        let of_resource = ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![of_scope],
            ..ResourceSpans::default()
        };
        let request = ExportTraceServiceRequest { resource_spans: vec![of_resource] };
        Some(Batch { body: request.encode_to_vec().into(), items })
    }
}
