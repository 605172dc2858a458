//! Metrics of a sidecar: what they tell, in which form, and that nobody can make them grow.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use pillion_tests::{
    Client, Collector, Instance, Mesh, Metrics, Sidecar, eventually, is_full_size, task, within,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Most series a proxy may have.
const MAX_SERIES: usize = 2000;

/// Of the distinct hosts and paths, how many are sent before memory is looked at: by then every table is as large as it
/// gets.
const WARM_UP: usize = 3_000;

/// Connections they come on.
const CONNECTIONS: usize = 8;

async fn mesh() -> Result<(Mesh, Sidecar, Client, Instance)> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    let (sidecar, client) = mesh.caller().await?;
    Ok((mesh, sidecar, client, app))
}

/// The OpenMetrics text of a sidecar, and its content type.
async fn open_metrics(sidecar: &Sidecar) -> Result<(String, String)> {
    let call = Client::http1(sidecar.admin).get(&format!("http://{}/metrics", sidecar.admin));
    let accept = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5";
    let reply = call.header("accept", accept).send().await?.expect(200)?;
    Ok((reply.text(), reply.header("content-type").to_owned()))
}

#[tokio::test]
async fn both_forms_tell_the_same() -> Result<()> {
    let (_mesh, sidecar, client, _app) = mesh().await?;
    for _ in 0..3 {
        client.get("http://app/").send().await?.expect(200)?;
    }
    let (text, content_type) = open_metrics(&sidecar).await?;
    assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    ensure!(text.ends_with("\n# EOF\n"), "{text}");
    let (open, classic) = (Metrics::parse(&text)?, sidecar.metrics().await?);
    assert_eq!(open.types.get("istio_requests").map(String::as_str), Some("counter"));
    assert_eq!(classic.types.get("istio_requests_total").map(String::as_str), Some("counter"));
    for name in ["istio_requests_total", "istio_request_duration_milliseconds_count"] {
        assert_eq!((open.sum(name, &[]), classic.sum(name, &[])), (3.0, 3.0), "{name}");
    }
    let names = |metrics: &Metrics| metrics.samples().iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&open), names(&classic));
    Ok(())
}

#[tokio::test]
async fn a_slow_bucket_leads_to_a_trace() -> Result<()> {
    let (_mesh, sidecar, client, _app) = mesh().await?;
    let (recorded, other) = ("0af7651916cd43dd8448eb211c80319c", "1af7651916cd43dd8448eb211c80319c");
    for (trace, flags, path) in [(recorded, "01", "delay/300"), (other, "00", "")] {
        let context = format!("00-{trace}-b7ad6b7169203331-{flags}");
        let call = client.get(&format!("http://app/{path}"));
        call.header("traceparent", &context).send().await?.expect(200)?;
    }
    let (text, _) = open_metrics(&sidecar).await?;
    let of_buckets: Vec<_> = text.lines().filter(|line| line.contains(" # {trace_id=\"")).collect();
    let [line] = of_buckets[..] else { bail!("{of_buckets:?}") };
    ensure!(line.starts_with("istio_request_duration_milliseconds_bucket{"), "{line}");
    let bound = line.split_once("le=\"").and_then(|(_, rest)| rest.split_once('"')).context("no bound")?.0;
    ensure!(bound == "+Inf" || bound.parse::<f64>()? > 250.0, "{line}");
    ensure!(line.contains(&format!(" # {{trace_id=\"{recorded}\"}} ")), "{line}");
    ensure!(!sidecar.page("/metrics").await?.contains("trace_id"), "the classic text knows no exemplars");
    Ok(())
}

#[tokio::test]
async fn figures_are_pushed_where_that_is_asked_for() -> Result<()> {
    let collector = Collector::start().await?;
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    mesh.set_env("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &format!("http://{}", collector.grpc));
    mesh.set_env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    mesh.set_env("OTEL_METRIC_EXPORT_INTERVAL", "1000");
    let (sidecar, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    let scraped = sidecar.metrics().await?;
    eventually("all families with samples arrive", || async {
        let arrived = collector.metrics();
        for name in scraped.types.keys() {
            let parts = [name.clone(), format!("{name}_count")];
            let has_samples = parts.iter().any(|name| scraped.has(name));
            ensure!(!has_samples || arrived.contains(name), "{name} is not among {arrived:?}");
        }
        Ok(())
    })
    .await?;
    eventually("that is counted", || async {
        let exported = sidecar.metrics().await?.sum("pillion_otlp_points_exported_total", &[]);
        ensure!(exported > 50.0, "{exported} points");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn sizes_are_distributions() -> Result<()> {
    let (_mesh, sidecar, client, _app) = mesh().await?;
    client.post("http://app/").body(vec![b'x'; 5000]).send().await?.expect(200)?;
    let metrics = sidecar.metrics().await?;
    for name in ["istio_request_bytes", "istio_response_bytes"] {
        assert_eq!(metrics.types.get(name).map(String::as_str), Some("histogram"));
    }
    assert_eq!(metrics.sum("istio_request_bytes_sum", &[]), 5000.0);
    let below = |bound| metrics.sum("istio_request_bytes_bucket", &[("le", bound)]);
    assert_eq!((below("1000"), below("10000"), below("+Inf")), (0.0, 1.0, 1.0));
    Ok(())
}

#[tokio::test]
async fn the_proxy_tells_of_itself() -> Result<()> {
    let (_mesh, sidecar, client, _app) = mesh().await?;
    client.get("http://app/").send().await?.expect(200)?;
    let mut silent = TcpStream::connect(sidecar.outbound).await?;
    silent.shutdown().await?;
    assert_eq!(silent.read(&mut [0]).await?, 0);
    eventually("the connection is counted no more", || async {
        let open = sidecar.metrics().await?.sum("pillion_worker_connections", &[]);
        ensure!(open == 1.0, "{open} connections");
        Ok(())
    })
    .await?;
    let metrics = sidecar.metrics().await?;
    let detected =
        |result| metrics.sum("pillion_detections_total", &[("direction", "outbound"), ("result", result)]);
    assert_eq!((detected("http1"), detected("closed"), detected("tls")), (1.0, 1.0, 0.0));
    assert_eq!(metrics.sum("pillion_detection_seconds_count", &[("direction", "outbound")]), 2.0);
    let worker = |name| metrics.sum(name, &[("worker", "0")]);
    assert_eq!(worker("pillion_worker_requests"), 0.0);
    ensure!(worker("pillion_worker_busy_seconds_total") > 0.0 && worker("pillion_worker_parks_total") > 0.0);
    for name in ["process_start_time_seconds", "process_virtual_memory_bytes", "process_open_fds"] {
        ensure!(metrics.sum(name, &[]) > 0.0, "{name}");
    }
    assert_eq!(
        metrics.sum("pillion_upstream_pending_total", &[]),
        1.0,
        "the first request waited for its connection"
    );
    ensure!(metrics.sum("pillion_upstream_pending_wait_seconds_total", &[]) > 0.0);
    Ok(())
}

#[tokio::test]
async fn time_without_the_control_plane_is_told() -> Result<()> {
    let (mut mesh, sidecar, client, _app) = mesh().await?;
    client.get("http://app/").send().await?.expect(200)?;
    let name = "pillion_xds_disconnected_seconds";
    let metrics = sidecar.metrics().await?;
    assert_eq!(metrics.sum(name, &[]), 0.0);
    ensure!(metrics.sum("pillion_xds_push_seconds_count", &[]) >= 1.0, "what came was put into force");
    let age = metrics.sum("pillion_xds_config_age_seconds", &[]);
    ensure!((0.0..60.0).contains(&age), "{age} s");

    mesh.control_plane()?.kill().await?;
    eventually("the time is counted", || async {
        let metrics = sidecar.metrics().await?;
        let (connected, away) = (metrics.sum("pillion_xds_connected", &[]), metrics.sum(name, &[]));
        ensure!(connected == 0.0 && away > 0.5, "connected {connected}, away for {away} s");
        Ok(())
    })
    .await?;
    mesh.control_plane()?.restart().await?;
    within(Duration::from_secs(30), "it is counted no more", || async {
        let away = sidecar.metrics().await?.sum(name, &[]);
        ensure!(away == 0.0, "away for {away} s");
        Ok(())
    })
    .await
}

/// Sends requests numbered `from..to` for hosts and paths that are all different, over connections that stay open, and
/// expects this status of all.
async fn distinct(
    sidecar: &Sidecar,
    host: &'static str,
    (from, to): (usize, usize),
    status: u16,
) -> Result<()> {
    let share = (to - from).div_ceil(CONNECTIONS);
    let outbound = sidecar.outbound;
    let tasks: Vec<_> = (from..to)
        .step_by(share)
        .map(|start| {
            task::spawn(async move {
                let sent = async {
                    let (reader, mut writer) = TcpStream::connect(outbound).await?.into_split();
                    let mut reader = BufReader::new(reader);
                    for n in start..(start + share).min(to) {
                        let host = host.replace("{}", &n.to_string());
                        let head = format!("GET /path/{n}?query={n} HTTP/1.1\r\nHost: {host}\r\n\r\n");
                        writer.write_all(head.as_bytes()).await?;
                        let answer = answer(&mut reader).await?;
                        ensure!(answer == status, "{host} answers {answer}");
                    }
                    Ok(())
                };
                sent.await
            })
        })
        .collect();
    for task in tasks {
        task.join().await??;
    }
    Ok(())
}

/// Reads a response to its end; its status.
async fn answer(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Result<u16> {
    let (mut line, mut status, mut length) = (String::new(), 0, 0);
    loop {
        line.clear();
        reader.read_line(&mut line).await?;
        let lower = line.trim_end().to_ascii_lowercase();
        if let Some(rest) = lower.strip_prefix("http/1.1 ") {
            status = rest.get(..3).context("no status")?.parse()?;
        } else if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        } else if lower.is_empty() {
            ensure!(status > 0, "the connection ended");
            reader.read_exact(&mut vec![0; length]).await?;
            return Ok(status);
        }
    }
}

/// Sends very many and looks at series and memory, which must not grow by as much as the name of a host takes for each.
async fn stays_small(sidecar: &Sidecar, host: &'static str, status: u16) -> Result<()> {
    let (all, growth) = if is_full_size() { (100_000, 2048) } else { (10_000, 768) };
    distinct(sidecar, host, (0, WARM_UP), status).await?;
    sidecar.metrics().await?;
    let before = sidecar.process.memory_kib()?;
    distinct(sidecar, host, (WARM_UP, all), status).await?;
    let metrics = sidecar.metrics().await?;
    let (series, after) = (metrics.samples().len(), sidecar.process.memory_kib()?);
    ensure!(series < MAX_SERIES, "{series} series");
    ensure!(after < before + growth, "{before} KiB before, {after} KiB after");
    let code = status.to_string();
    let counted = metrics.sum("istio_requests_total", &[("response_code", &code)]);
    assert_eq!(counted, all as f64, "every request is counted");
    let (small, large) = (metrics.samples().iter().map(|sample| sample.labels.values()), "path/");
    ensure!(small.flatten().all(|value| !value.contains(large)), "a path is a label");
    Ok(())
}

#[tokio::test]
async fn distinct_paths_of_a_service_do_not_grow_anything() -> Result<()> {
    let (_mesh, sidecar, _client, _app) = mesh().await?;
    stays_small(&sidecar, "app", 200).await
}

#[tokio::test]
async fn distinct_hosts_do_not_grow_anything_where_all_may_leave() -> Result<()> {
    let (mesh, _sidecar, _client, _app) = mesh().await?;
    let sidecar = mesh.sidecar("other")?.arg("--outbound-mode", "allow-any").start().await?;
    stays_small(&sidecar, "host-{}.example.com", 404).await
}

#[tokio::test]
async fn distinct_hosts_do_not_grow_anything_where_few_may() -> Result<()> {
    let (mesh, _sidecar, _client, _app) = mesh().await?;
    let sidecar = mesh.sidecar("other")?.arg("--outbound-mode", "registry-only").start().await?;
    stays_small(&sidecar, "host-{}.example.com", 404).await
}

#[tokio::test]
async fn distinct_traces_that_a_stalled_collector_does_not_take_are_dropped() -> Result<()> {
    // Connections are taken in, and nothing is ever read.
    let stalled = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let mut mesh = Mesh::new()?;
    mesh.set_env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{}", stalled.local_addr()?));
    mesh.set_env("OTEL_TRACES_SAMPLER", "always_on");
    let _app = mesh.serve("app", "v1").await?;
    let (sidecar, _client) = mesh.caller().await?;
    // A request is two spans: by then more wait than may.
    distinct(&sidecar, "app", (0, 10_000), 200).await?;
    let before = sidecar.process.memory_kib()?;
    distinct(&sidecar, "app", (10_000, 20_000), 200).await?;
    let after = sidecar.process.memory_kib()?;
    ensure!(after < before + 2 * 1024, "{before} KiB before, {after} KiB after");
    let metrics = sidecar.metrics().await?;
    let figure = |name: &str| metrics.sum(&format!("pillion_otlp_spans_{name}_total"), &[]);
    ensure!(figure("dropped") >= 20_000.0, "{} are dropped", figure("dropped"));
    assert_eq!(figure("exported"), 0.0);
    Ok(())
}
