//! What becomes of a change, as spans: `change` from the notice to the end of its compilation, below it `load`, `compile` and
//! a `push` for each proxy that it concerns, until that has acknowledged it.
//!
//! Spans are made when all is over, of times that were taken on the way, and handed to a bounded queue: a collector that is
//! slow or gone costs spans, never time. Where they go and how follows the `OTEL_*` variables; without them, the flags.

use std::{
    env,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use opentelemetry::{
    Context, KeyValue,
    trace::{
        Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    runtime::Tokio,
    trace::{
        BatchConfigBuilder, SdkTracer, SdkTracerProvider,
        span_processor_with_async_runtime::BatchSpanProcessor,
    },
};
use pillion_policy::telemetry::{Collector, OtlpProtocol};
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout},
};

use crate::clock;

/// The name of the service and of the instrumentation.
const NAME: &str = "pillion-control-plane";
/// How long spans gather before they are sent together, as in proxies.
const GATHER: Duration = Duration::from_secs(1);
/// How long the last spans may take at the end.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes spans, if they go anywhere.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tracer(Option<(SdkTracer, SdkTracerProvider)>);

/// A change that has been compiled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    /// When it was noticed.
    pub(crate) noticed: Instant,
    /// When its objects had been read.
    pub(crate) loaded: Instant,
    /// When everything in demand had been compiled.
    pub(crate) compiled: Instant,
    /// How many objects it changes.
    pub(crate) objects: usize,
    /// How many resources in demand differ.
    pub(crate) resources: usize,
    /// How many proxies hear of it.
    pub(crate) proxies: usize,
}

impl Tracer {
    /// A tracer that sends where the environment says, or else to the mesh's collector; one that does nothing without both.
    pub(crate) fn open(collector: Option<&Collector>) -> Result<Self> {
        let given = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let is_off = given("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || given("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
        let endpoints = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
        let from_environment = endpoints.into_iter().find_map(given);
        let has_endpoint = from_environment.is_some();
        if is_off || !(has_endpoint || collector.is_some()) {
            return Ok(Self(None));
        }
        let protocol = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
        let protocol = protocol.into_iter().find_map(given);
        let protocol = match (protocol.as_deref(), &from_environment, collector) {
            (Some("grpc"), ..) => OtlpProtocol::Grpc,
            (Some(_), ..) => OtlpProtocol::HttpProtobuf,
            (None, Some(address), _) => OtlpProtocol::by_port(address),
            (None, None, collector) => collector.map(|collector| collector.protocol).unwrap_or_default(),
        };
        let is_http = protocol == OtlpProtocol::HttpProtobuf;
        let address = from_environment.as_ref().or(collector.map(|collector| &collector.endpoint));
        if is_http && address.is_some_and(|address| address.starts_with("https:")) {
            tracing::warn!(
                "no spans of the control plane are sent: over http/protobuf it has no TLS, use grpc"
            );
            return Ok(Self(None));
        }
        // What the environment says must not be said here: code would have the word.
        let endpoint = collector.filter(|_| !has_endpoint).map(|collector| &collector.endpoint);
        let exporter = exporter(endpoint.map(String::as_str), is_http);
        let exporter =
            exporter.context("cannot send spans: look at --otlp-endpoint and OTEL_EXPORTER_OTLP_*")?;
        let mut resource = Resource::builder();
        if given("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name(NAME);
        }
        let mut gathering = BatchConfigBuilder::default();
        if given("OTEL_BSP_SCHEDULE_DELAY").is_none() {
            gathering = gathering.with_scheduled_delay(GATHER);
        }
        let processor = BatchSpanProcessor::builder(exporter, Tokio).with_batch_config(gathering.build());
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_span_processor(processor.build())
            .build();
        Ok(Self(Some((provider.tracer(NAME), provider))))
    }

    /// Tells of a change. Pushes of it stand below what is returned.
    pub(crate) fn change(&self, change: &Change) -> Option<SpanContext> {
        let (tracer, _) = self.0.as_ref()?;
        let count =
            |name: &'static str, count: usize| KeyValue::new(name, i64::try_from(count).unwrap_or(i64::MAX));
        let (noticed, loaded, compiled) = (at(change.noticed), at(change.loaded), at(change.compiled));
        let attributes = [
            count("pillion.objects", change.objects),
            count("pillion.resources", change.resources),
            count("pillion.proxies", change.proxies),
        ];
        let whole = tracer.span_builder("change").with_kind(SpanKind::Internal).with_start_time(noticed);
        let mut whole = whole.with_attributes(attributes).start_with_context(tracer, &Context::new());
        let place = whole.span_context().clone();
        let below = Context::new().with_remote_span_context(place.clone());
        for (name, start, end) in [("load", noticed, loaded), ("compile", loaded, compiled)] {
            let step = tracer.span_builder(name).with_start_time(start);
            step.start_with_context(tracer, &below).end_with_timestamp(end);
        }
        whole.end_with_timestamp(compiled);
        Some(place)
    }

    /// Tells of a change that a proxy was told then, and has now acknowledged or refused.
    pub(crate) fn pushed(&self, change: &SpanContext, sent: Instant, proxy: String, is_refused: bool) {
        let Some((tracer, _)) = &self.0 else { return };
        let below = Context::new().with_remote_span_context(change.clone());
        let push = tracer.span_builder("push").with_kind(SpanKind::Producer).with_start_time(at(sent));
        let push = push.with_attributes([KeyValue::new("pillion.proxy", proxy)]);
        let mut push = push.start_with_context(tracer, &below);
        if is_refused {
            push.set_status(Status::error("the proxy refused resources"));
        }
        push.end_with_timestamp(clock::now());
    }

    /// Sends what is left, if that is quick.
    pub(crate) async fn close(self) {
        let Some((_, provider)) = self.0 else { return };
        // It waits for the exporter, which runs here: not on a thread that it needs.
        let closed = spawn_blocking(move || provider.shutdown());
        match timeout(STOP_TIMEOUT, closed).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::debug!(%error, "the last spans are lost"),
            Ok(Err(_)) | Err(_) => tracing::debug!("the last spans are lost"),
        }
    }
}

fn exporter(
    endpoint: Option<&str>,
    is_http: bool,
) -> Result<SpanExporter, opentelemetry_otlp::ExporterBuildError> {
    if is_http {
        let http = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary);
        return match endpoint {
            Some(endpoint) => {
                http.with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/'))).build()
            }
            None => http.build(),
        };
    }
    let grpc = SpanExporter::builder().with_tonic();
    match endpoint {
        Some(endpoint) => grpc.with_endpoint(endpoint).build(),
        None => grpc.build(),
    }
}

/// The time of day of a moment that has passed.
fn at(moment: Instant) -> SystemTime {
    let now = clock::now();
    now.checked_sub(moment.elapsed()).unwrap_or(now)
}
