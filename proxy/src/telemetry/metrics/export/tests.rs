use super::*;
use crate::{
    error::Flag,
    telemetry::requests::{Labels, Outcome},
};

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

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::of(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn figures(metrics: &Arc<Metrics>) -> Figures {
    Figures {
        metrics: Arc::clone(metrics),
        drain: Drain::new(),
        resource: Resource {
            attributes: vec![attribute::text("service.name", "orders")],
            ..Resource::default()
        },
        is_wanted: true,
        is_active: Arc::default(),
        began: 1,
        told: None,
    }
}

/// All metrics of one walk, as a collector reads them.
fn exported(figures: &mut Figures) -> (Vec<Metric>, u64) {
    assert_eq!(figures.size(), (0, 0));
    assert!(figures.finish().is_none());
    figures.add(&Walk);
    let batch = figures.finish().unwrap();
    let request = ExportMetricsServiceRequest::decode(batch.body).unwrap();
    let [of_resource] = <[_; 1]>::try_from(request.resource_metrics).unwrap();
    assert_eq!(of_resource.resource.unwrap().attributes[0].key, "service.name");
    let [of_scope] = <[_; 1]>::try_from(of_resource.scope_metrics).unwrap();
    (of_scope.metrics, batch.items)
}

#[test]
fn a_walk_is_one_request_of_all_figures() {
    let metrics = Metrics::new();
    let labels = Labels { destination_service: "a.shop".into(), ..Labels::default() };
    let stats = metrics.request_stats(&labels);
    stats.record(&OUTCOME, Some([0xab; 16]));
    stats.record(&Outcome { duration: Duration::from_secs(90), ..OUTCOME }, None);
    metrics.xds.connected.set(1);
    let (told, items) = exported(&mut figures(&metrics));
    let data = |name: &str| told.iter().find(|metric| metric.name == name).unwrap().data.clone().unwrap();

    let Data::Sum(requests) = data("istio_requests_total") else { panic!("no sum") };
    assert!(requests.is_monotonic && requests.data_points.len() == 1);
    assert_eq!(requests.aggregation_temporality, i32::from(AggregationTemporality::Cumulative));
    let point = &requests.data_points[0];
    assert_eq!(point.value, Some(otlp::number_data_point::Value::AsInt(2)));
    assert!(point.start_time_unix_nano == 1 && point.time_unix_nano > 1);
    assert!(point.attributes.contains(&attribute::text("destination_service", "a.shop")));
    assert!(
        point.attributes.iter().all(|label| label.key != "grpc_response_status"),
        "an empty label is none"
    );

    let Data::Histogram(durations) = data("istio_request_duration_milliseconds") else {
        panic!("no histogram")
    };
    let point = &durations.data_points[0];
    assert_eq!((point.count, point.sum), (2, Some(90_003.0)));
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    assert_eq!(point.bucket_counts.iter().sum::<u64>(), 2);
    assert_eq!((point.explicit_bounds[2], point.bucket_counts[2]), (5.0, 1));
    assert_eq!(point.bucket_counts.last(), Some(&1));
    assert_eq!(point.exemplars.len(), 1);
    assert_eq!(point.exemplars[0].trace_id, [0xab; 16]);

    let Data::Gauge(connected) = data("pillion_xds_connected") else { panic!("no gauge") };
    assert_eq!(connected.data_points[0].value, Some(otlp::number_data_point::Value::AsInt(1)));
    assert!(told.iter().all(|metric| !is_empty(metric)), "families without points are left out");
    assert!(items > 50, "{items} points");
}

#[test]
fn nothing_is_exported_unasked() {
    assert!(!is_wanted(&environment(&[])));
    assert!(!is_wanted(&environment(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")])));
    assert!(is_wanted(&environment(&[("OTEL_METRICS_EXPORTER", "otlp")])));
    assert!(is_wanted(&environment(&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c:4317")])));

    let mut figures = figures(&Metrics::new());
    assert!(!figures.follow(&Wanted::default(), false));
    assert!(figures.follow(&Wanted::default(), true) && figures.is_active.load(Relaxed));
    figures.is_wanted = false;
    assert!(!figures.follow(&Wanted::default(), true) && !figures.is_active.load(Relaxed));
}

#[test]
fn the_interval_is_that_of_open_telemetry() {
    let name = "OTEL_METRIC_EXPORT_INTERVAL";
    for (value, expected) in [("5000", 5), ("1", 1), ("soon", 60)] {
        assert_eq!(every(&environment(&[(name, value)])), Duration::from_secs(expected));
    }
    assert_eq!(every(&environment(&[])), EVERY);
}

#[tokio::test(start_paused = true)]
async fn walks_are_asked_for_while_somebody_listens() {
    let (feed, is_active) = (Arc::new(Feed::new(WALKS, Arc::default())), Arc::new(AtomicBool::new(false)));
    let walking = walking(Arc::clone(&feed), Arc::clone(&is_active), Duration::from_secs(10));
    let mut walking = Box::pin(walking);
    let mut wait = async |seconds| tokio::time::timeout(Duration::from_secs(seconds), &mut walking).await;
    assert!(wait(25).await.is_err());
    assert!(feed.pop().is_none());
    is_active.store(true, Relaxed);
    assert!(wait(10).await.is_err());
    assert!(feed.pop().is_some() && feed.pop().is_none());
}
