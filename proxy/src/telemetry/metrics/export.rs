//! Metrics by OTLP, for those who push and do not scrape: the same walk over the families, told to another audience.
//!
//! Nothing is exported unless it is asked for, by `OTEL_METRICS_EXPORTER=otlp` or an address for metrics: scraping is the
//! rule. Names are those of the Prometheus text; sums are cumulative since the process began.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::KeyValue,
    metrics::v1::{
        self as otlp, AggregationTemporality, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, metric::Data,
    },
    resource::v1::Resource,
};
use prost::Message;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::Metrics;
use crate::{
    rt::{clock, drain::Drain},
    telemetry::{
        exposition::{Audience, Kind, Label, Number},
        histogram::{Exemplar, Reading},
        otlp::{
            Signal, Wanted, attribute,
            exporter::{Encoder, Exporter, Flusher},
            feed::Feed,
            outbox::Batch,
            resource::{Place, resource, scope},
            settings::Environment,
        },
    },
};

/// How often figures are exported (OpenTelemetry's default).
const EVERY: Duration = Duration::from_secs(60);
/// Walks that may wait to be made: when one is late, the next makes up for it.
const WALKS: usize = 1;

/// It is time to tell all figures.
#[derive(Debug)]
pub struct Walk;

/// Makes a request of all figures.
#[derive(Debug)]
pub struct Figures {
    metrics: Arc<Metrics>,
    drain: Drain,
    resource: Resource,
    is_wanted: bool,
    is_active: Arc<AtomicBool>,
    began: u64,
    told: Option<Told>,
}

/// The metrics of one walk.
#[derive(Debug)]
struct Told {
    metrics: Vec<Metric>,
    points: u64,
    began: u64,
    now: u64,
}

/// Tells the figures a last time before the process ends.
#[derive(Debug)]
pub struct Last {
    feed: Arc<Feed<Walk>>,
    is_active: Arc<AtomicBool>,
    flusher: Flusher,
}

impl Last {
    /// Exports the figures as they are, if anybody listens, and waits for that for at most `patience`.
    pub async fn tell(&self, patience: Duration) {
        if self.is_active.load(Relaxed) {
            self.feed.push(Walk);
            self.flusher.flush(patience).await;
        }
    }
}

/// The exporter of `metrics`, what has it tell them regularly, and what has it do so a last time.
pub fn new(
    place: &Place,
    environment: &Arc<Environment>,
    wanted: watch::Receiver<Wanted>,
    (metrics, drain): (&Arc<Metrics>, &Drain),
    rng: fastrand::Rng,
) -> (Exporter<Figures>, impl Future<Output = Infallible> + Send + use<>, Last) {
    let is_active = Arc::new(AtomicBool::new(false));
    let feed = Arc::new(Feed::new(WALKS, Arc::clone(&metrics.points)));
    let figures = Figures {
        metrics: Arc::clone(metrics),
        drain: drain.clone(),
        resource: resource(place, environment),
        is_wanted: is_wanted(environment),
        is_active: Arc::clone(&is_active),
        began: nanos(clock::now()),
        told: None,
    };
    let walking = walking(Arc::clone(&feed), Arc::clone(&is_active), every(environment));
    let (exporter, flusher) = Exporter::new(figures, Arc::clone(&feed), Arc::clone(environment), wanted, rng);
    (exporter, walking, Last { feed, is_active, flusher })
}

/// Whether anybody has asked for metrics by OTLP.
fn is_wanted(environment: &Environment) -> bool {
    environment.get("OTEL_METRICS_EXPORTER").is_some_and(|exporter| exporter == "otlp")
        || environment.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT").is_some()
}

/// How often figures are exported (`OTEL_METRIC_EXPORT_INTERVAL`, in milliseconds), at most once a second.
fn every(environment: &Environment) -> Duration {
    let Some(text) = environment.get("OTEL_METRIC_EXPORT_INTERVAL") else { return EVERY };
    match text.parse() {
        Ok(millis) => Duration::from_millis(millis).max(Duration::from_secs(1)),
        Err(_) => {
            tracing::warn!(value = text, "OTEL_METRIC_EXPORT_INTERVAL is not a number of milliseconds");
            EVERY
        }
    }
}

async fn walking(feed: Arc<Feed<Walk>>, is_active: Arc<AtomicBool>, every: Duration) -> Infallible {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if is_active.load(Relaxed) {
            feed.push(Walk);
        }
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Encoder for Figures {
    type Item = Walk;
    const SIGNAL: Signal = Signal::Metrics;

    fn follow(&mut self, _wanted: &Wanted, collector: bool) -> bool {
        let is_active = collector && self.is_wanted;
        self.is_active.store(is_active, Relaxed);
        is_active
    }

    fn add(&mut self, _walk: &Walk) {
        let mut told = Told { metrics: Vec::new(), points: 0, began: self.began, now: nanos(clock::now()) };
        self.metrics.tell(&self.drain, &mut told);
        self.told = Some(told);
    }

    fn size(&self) -> (usize, usize) {
        // A walk is a batch of its own, whatever its size: it cannot be more than all series there may be.
        if self.told.is_some() { (usize::MAX, usize::MAX) } else { (0, 0) }
    }

    fn finish(&mut self) -> Option<Batch> {
        let Told { mut metrics, points, .. } = self.told.take()?;
        metrics.retain(|metric| !is_empty(metric));
        let of_scope = ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() };
        let of_resource = ResourceMetrics {
            resource: Some(self.resource.clone()),
            scope_metrics: vec![of_scope],
            ..ResourceMetrics::default()
        };
        let request = ExportMetricsServiceRequest { resource_metrics: vec![of_resource] };
        Some(Batch { body: request.encode_to_vec().into(), items: points })
    }
}

fn is_empty(metric: &Metric) -> bool {
    match &metric.data {
        Some(Data::Sum(sum)) => sum.data_points.is_empty(),
        Some(Data::Gauge(gauge)) => gauge.data_points.is_empty(),
        Some(Data::Histogram(histogram)) => histogram.data_points.is_empty(),
        Some(Data::ExponentialHistogram(_) | Data::Summary(_)) | None => true,
    }
}

/// Labels without a value are as good as absent.
fn attributes(labels: &[Label<'_>]) -> Vec<KeyValue> {
    let valued = labels.iter().filter(|(_, value)| !value.is_empty());
    valued.map(|(label, value)| attribute::text(label, value)).collect()
}

impl Audience for Told {
    fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) {
        let aggregation_temporality = AggregationTemporality::Cumulative.into();
        let data = match kind {
            Kind::Counter => {
                Data::Sum(otlp::Sum { data_points: Vec::new(), aggregation_temporality, is_monotonic: true })
            }
            Kind::Gauge => Data::Gauge(otlp::Gauge::default()),
            Kind::Histogram => {
                Data::Histogram(otlp::Histogram { data_points: Vec::new(), aggregation_temporality })
            }
        };
        self.metrics.push(Metric {
            name: name.to_owned(),
            description: help.to_owned(),
            data: Some(data),
            ..Metric::default()
        });
    }

    fn sample(&mut self, _name: &'static str, labels: &[Label<'_>], value: impl Into<Number>) {
        use otlp::number_data_point::Value;
        let value = match value.into() {
            Number::Whole(value) => Value::AsInt(value),
            Number::Real(value) => Value::AsDouble(value),
        };
        let point = NumberDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: self.began,
            time_unix_nano: self.now,
            value: Some(value),
            ..NumberDataPoint::default()
        };
        let points = match self.metrics.last_mut().and_then(|metric| metric.data.as_mut()) {
            Some(Data::Sum(sum)) => &mut sum.data_points,
            Some(Data::Gauge(gauge)) => &mut gauge.data_points,
            _ => return,
        };
        points.push(point);
        self.points += 1;
    }

    fn histogram(&mut self, _name: &'static str, labels: &[Label<'_>], reading: &Reading) {
        let Some(Data::Histogram(histogram)) =
            self.metrics.last_mut().and_then(|metric| metric.data.as_mut())
        else {
            return;
        };
        let mut below = 0;
        let bucket_counts = reading.buckets.iter().map(|bucket| {
            let count = bucket.count.saturating_sub(below);
            below = bucket.count;
            count
        });
        histogram.data_points.push(HistogramDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: self.began,
            time_unix_nano: self.now,
            count: reading.count,
            sum: Some(reading.sum),
            bucket_counts: bucket_counts.collect(),
            explicit_bounds: reading
                .buckets
                .iter()
                .map(|b| b.bound)
                .filter(|bound| bound.is_finite())
                .collect(),
            exemplars: reading.buckets.iter().filter_map(|b| b.exemplar.as_ref().map(exemplar)).collect(),
            ..HistogramDataPoint::default()
        });
        self.points += 1;
    }
}

fn exemplar(exemplar: &Exemplar) -> otlp::Exemplar {
    otlp::Exemplar {
        time_unix_nano: nanos(UNIX_EPOCH + Duration::from_secs_f64(exemplar.at.max(0.0))),
        trace_id: exemplar.trace_id.to_vec(),
        value: Some(otlp::exemplar::Value::AsDouble(exemplar.value)),
        ..otlp::Exemplar::default()
    }
}

#[cfg(test)]
mod tests;
