use std::{collections::HashSet, sync::atomic::Ordering::Relaxed, time::Duration};

use super::*;
use crate::{
    error::{Flag, Refusal},
    telemetry::{record::Direction, requests::Outcome},
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

fn labels(service: &str) -> Labels {
    Labels { destination_service: service.into(), source_workload: "web".into(), ..Labels::default() }
}

/// Checks the text as a scraper would, and answers its samples.
fn samples(text: &str) -> Vec<&str> {
    let (mut family, mut families, mut series) = ("", HashSet::new(), HashSet::new());
    let mut samples = Vec::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap();
            assert!(families.insert(family), "{family} appears twice");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with(family), "{line} stands under {family}");
            assert!(series.insert(name), "{name} appears twice");
            value.parse::<f64>().unwrap();
            samples.push(line);
        }
    }
    samples
}

#[test]
fn requests_are_told_as_istio_tells_them() {
    let metrics = Metrics::new();
    let stats = metrics.request_stats(&labels("a.shop"));
    assert!(Arc::ptr_eq(&stats, &metrics.request_stats(&labels("a.shop"))));
    stats.record(&OUTCOME, None);
    let failed = Outcome { grpc: true, grpc_status: Some(14), flag: Flag::Uf, ..OUTCOME };
    stats.record(&Outcome { secured: true, ..failed }, None);
    let text = metrics.render(&Drain::new(), Format::Classic);
    let common = "reporter=\"source\",source_workload=\"web\",source_workload_namespace=\"unknown\",\
                  destination_workload=\"unknown\",destination_workload_namespace=\"unknown\",\
                  destination_service=\"a.shop\",destination_service_name=\"unknown\",\
                  destination_service_namespace=\"unknown\",cluster=\"unknown\"";
    let samples = samples(&text);
    for expected in [
        format!(
            "istio_requests_total{{{common},request_protocol=\"http\",response_code=\"200\",\
             grpc_response_status=\"\",response_flags=\"-\",connection_security_policy=\"none\"}} 1"
        ),
        format!(
            "istio_requests_total{{{common},request_protocol=\"grpc\",response_code=\"200\",\
             grpc_response_status=\"14\",response_flags=\"UF\",connection_security_policy=\"mutual_tls\"}} 1"
        ),
        format!("istio_request_duration_milliseconds_bucket{{{common},le=\"0.5\"}} 0"),
        format!("istio_request_duration_milliseconds_bucket{{{common},le=\"5\"}} 2"),
        format!("istio_request_duration_milliseconds_bucket{{{common},le=\"+Inf\"}} 2"),
        format!("istio_request_duration_milliseconds_sum{{{common}}} 6"),
        format!("istio_request_duration_milliseconds_count{{{common}}} 2"),
        format!("istio_request_bytes_sum{{{common}}} 20"),
        format!("istio_response_bytes_sum{{{common}}} 40"),
    ] {
        assert!(samples.contains(&&*expected), "{expected} is not in\n{text}");
    }
    drop(stats);
    assert!(
        !metrics.render(&Drain::new(), Format::Classic).contains("a.shop"),
        "series die with their cluster"
    );
}

#[test]
fn a_trace_stands_for_its_bucket_where_the_scraper_takes_that() {
    let metrics = Metrics::new();
    let stats = metrics.request_stats(&labels("a.shop"));
    stats.record(&OUTCOME, Some([0xab; 16]));
    let trace = format!("# {{trace_id=\"{}\"}} 3 ", "ab".repeat(16));
    let open = metrics.render(&Drain::new(), Format::OpenMetrics);
    let told: Vec<_> = open.lines().filter(|line| line.contains(&trace)).collect();
    assert_eq!(told.len(), 1, "{open}");
    assert!(told[0].contains("istio_request_duration_milliseconds_bucket") && told[0].contains("le=\"5.0\""));
    assert!(open.contains("# TYPE istio_requests counter\n") && open.contains("\nistio_requests_total{"));
    assert!(!metrics.render(&Drain::new(), Format::Classic).contains(&trace));
}

#[test]
fn connections_clusters_and_the_process_are_told() {
    let metrics = Metrics::new();
    let tcp = metrics.tcp_stats(&labels("db.shop"));
    tcp.opened.inc();
    tcp.sent.add(5);
    let cluster = metrics.cluster(&"db.shop:5432".into());
    cluster.connections_active.fetch_add(1, Relaxed);
    cluster.request_overflow.fetch_add(3, Relaxed);
    metrics.xds.connected.set(1);
    metrics.xds.touch();
    metrics.proxy.downstream_connections.inc();
    let drain = Drain::new();
    drain.begin();
    let text = metrics.render(&drain, Format::Classic);
    let samples = samples(&text);
    for expected in [
        "pillion_upstream_connections_active{cluster=\"db.shop:5432\"} 1",
        "pillion_upstream_request_overflow_total{cluster=\"db.shop:5432\"} 3",
        "pillion_xds_connected 1",
        "pillion_downstream_connections 1",
        "pillion_drain_phase 1",
        concat!("pillion_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(samples.contains(&expected), "{expected} is not in\n{text}");
    }
    let starts = |start: &str| samples.iter().any(|sample| sample.starts_with(start));
    assert!(starts("istio_tcp_sent_bytes_total{") && starts("istio_tcp_connections_closed_total{"));
    assert!(starts("pillion_xds_last_update_timestamp_seconds 1"));
}

#[test]
fn nothing_makes_more_series_than_the_limit() {
    let metrics = Metrics::new();
    for refusal in Refusal::ALL {
        metrics.tls.failed(Direction::Inbound, refusal);
        metrics.tls.failed(Direction::Outbound, refusal);
    }
    for _ in 0..100 {
        metrics.worker();
    }
    let mut kept = Vec::new();
    for n in 0..300 {
        let service = format!("s{n}.shop");
        let cluster = metrics.cluster(&service.as_str().into());
        let (requests, tcp) =
            (metrics.request_stats(&labels(&service)), metrics.tcp_stats(&labels(&service)));
        for status in 100..300 {
            requests.record(&Outcome { status, ..OUTCOME }, None);
        }
        tcp.opened.inc();
        kept.push((cluster, requests, tcp));
    }
    let text = metrics.render(&Drain::new(), Format::Classic);
    let samples = samples(&text);
    assert!(samples.len() <= MAX_SERIES, "{} series", samples.len());
    assert!(text.contains("destination_service=\"overflow\""));
    for status in 0..1000 {
        metrics.unmatched().record(&Outcome { status, ..OUTCOME }, None);
    }
    assert!(
        metrics.render(&Drain::new(), Format::Classic).lines().filter(|line| !line.starts_with('#')).count()
            <= MAX_SERIES
    );
    let counted: u64 = samples
        .iter()
        .filter(|sample| sample.starts_with("istio_requests_total{"))
        .map(|sample| sample.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert_eq!(counted, 300 * 200, "what finds no line of its own is still counted");
}
