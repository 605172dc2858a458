//! The limits of `connectionPool`, each with its answer when there is more.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pillion_tests::black_hole::BlackHole;
use pillion_tests::policy::SUBSETS;
use pillion_tests::{Client, Instance, Mesh, Report, Sidecar, burst, eventually, task};
use tokio::net::TcpListener;
use tokio::time::Instant;

async fn mesh(traffic_policy: &str) -> Result<(Mesh, Sidecar, Client, Instance)> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    mesh.policy.destination("app", &format!("trafficPolicy: {traffic_policy}"))?;
    let (sidecar, client) = mesh.caller().await?;
    Ok((mesh, sidecar, client, app))
}

/// `count` requests of half a second at once.
async fn at_once(client: &Client, count: usize) -> Report {
    burst(count as u64, count, || client.get("http://app/delay/500").send()).await
}

/// All failures are 503 of ours with this flag.
fn all_are(flag: &str, report: &Report) -> Result<()> {
    let told = format!("\"{flag};");
    let strange = report.reasons.iter().find(|reason| !(reason.contains("503") && reason.contains(&told)));
    ensure!(strange.is_none(), "{strange:?}");
    Ok(())
}

async fn no_connection_left(app: &Instance) -> Result<()> {
    eventually("no connection is left", || async {
        let open = app.stats()?.open_connections();
        ensure!(open == 0, "{open} open");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn max_connections_makes_requests_wait() -> Result<()> {
    let (_mesh, _sidecar, client, app) = mesh("{connectionPool: {tcp: {maxConnections: 2}}}").await?;
    at_once(&client, 8).await.expect_no_failure()?;
    ensure!(
        app.stats()?.open_connections_peak() <= 2,
        "{} connections",
        app.stats()?.open_connections_peak()
    );
    Ok(())
}

#[tokio::test]
async fn http1_max_pending_requests_turns_away_who_would_wait() -> Result<()> {
    let (_mesh, sidecar, client, app) =
        mesh("{connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 2}}}").await?;
    client.get("http://app/").send().await?.expect(200)?;
    let report = at_once(&client, 8).await;
    assert_eq!((report.successes, report.failures), (3, 5), "{:?}", report.reasons);
    all_are("UOP", &report)?;
    assert_eq!(app.stats()?.open_connections_peak(), 1);
    client.get("http://app/").send().await?.expect(200)?;
    let metrics = sidecar.metrics().await?;
    assert_eq!(
        metrics.sum("istio_requests_total", &[("response_code", "503"), ("response_flags", "UOP")]),
        5.0
    );
    Ok(())
}

#[tokio::test]
async fn http2_max_requests_limits_what_is_in_flight() -> Result<()> {
    let (mesh, sidecar, client, app) = mesh("{connectionPool: {http: {http2MaxRequests: 3}}}").await?;
    let report = at_once(&client, 8).await;
    assert_eq!((report.successes, report.failures), (3, 5), "{:?}", report.reasons);
    all_are("UO", &report)?;
    mesh.policy.service_speaking("app", "http2")?;
    eventually("the app is called with HTTP/2", || async {
        let reply = client.get("http://app/echo").send().await?.expect(200)?;
        ensure!(reply.json()?["version"] == "HTTP/2.0");
        Ok(())
    })
    .await?;
    let report = at_once(&sidecar.app_http2(), 8).await;
    assert_eq!((report.successes, report.failures), (3, 5), "{:?}", report.reasons);
    all_are("UO", &report)?;
    assert_eq!(app.stats()?.in_flight_peak(), 3);
    Ok(())
}

#[tokio::test]
async fn limits_hold_for_all_workers_together() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    let limits = "{tcp: {maxConnections: 2}, http: {http2MaxRequests: 4}}";
    mesh.policy.destination("app", &format!("trafficPolicy: {{connectionPool: {limits}}}"))?;
    mesh.start().await?;
    let sidecar = mesh.sidecar("caller")?.arg("--workers", "2").start().await?;
    // A connection for each request, so that both workers have some.
    let report = at_once(&sidecar.app(), 12).await;
    assert_eq!((report.successes, report.failures), (4, 8), "{:?}", report.reasons);
    all_are("UO", &report)?;
    ensure!(
        app.stats()?.open_connections_peak() <= 2,
        "{} connections",
        app.stats()?.open_connections_peak()
    );
    Ok(())
}

#[tokio::test]
async fn max_requests_per_connection_closes_it_after_them() -> Result<()> {
    for (limit, connections) in [(1, 10), (2, 5), (0, 1)] {
        let policy = format!("{{connectionPool: {{http: {{maxRequestsPerConnection: {limit}}}}}}}");
        let (_mesh, _sidecar, client, app) = mesh(&policy).await?;
        for _ in 0..10 {
            client.get("http://app/").send().await?.expect(200)?;
        }
        assert_eq!(app.stats()?.connections(), connections, "{limit} requests per connection");
    }
    Ok(())
}

#[tokio::test]
async fn http2_connections_for_one_request_each_are_opened_side_by_side() -> Result<()> {
    let mut mesh = Mesh::new()?;
    // Takes connections in and never begins to secure them.
    let silent = TcpListener::bind(mesh.serve_nothing("app", "v1")?).await?;
    mesh.policy.service_speaking("app", "http2")?;
    let policy = "{tls: {mode: SIMPLE}, connectionPool: {http: {maxRequestsPerConnection: 1}}}";
    mesh.policy.destination("app", &format!("trafficPolicy: {policy}"))?;
    let (_sidecar, client) = mesh.caller().await?;
    let _calls = task::spawn(async move { at_once(&client, 8).await });
    let mut taken = Vec::new();
    // A connection may take ten seconds.
    let all = async {
        while taken.len() < 8 {
            taken.push(silent.accept().await?);
        }
        anyhow::Ok(())
    };
    let all = tokio::time::timeout(Duration::from_secs(5), all).await;
    ensure!(all.is_ok(), "only {} at a time", taken.len());
    Ok(())
}

#[tokio::test]
async fn idle_connections_are_closed_in_time() -> Result<()> {
    let (_mesh, _sidecar, client, app) = mesh("{connectionPool: {http: {idleTimeout: 300ms}}}").await?;
    client.get("http://app/").send().await?.expect(200)?;
    no_connection_left(&app).await?;
    // Twice in a row: within the idle time the connection is kept.
    client.get("http://app/").send().await?.expect(200)?;
    client.get("http://app/").send().await?.expect(200)?;
    assert_eq!(app.stats()?.connections(), 2);
    no_connection_left(&app).await
}

#[tokio::test]
async fn a_busy_connection_is_not_idle() -> Result<()> {
    let (_mesh, _sidecar, client, _app) = mesh("{connectionPool: {http: {idleTimeout: 200ms}}}").await?;
    client.get("http://app/delay/1000").send().await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn connect_timeout_ends_a_vain_wait() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _hole = BlackHole::dig(mesh.serve_nothing("app", "v1")?).await?;
    mesh.policy.destination("app", "trafficPolicy: {connectionPool: {tcp: {connectTimeout: 400ms}}}")?;
    let (_sidecar, client) = mesh.caller().await?;
    let begun = Instant::now();
    client.get("http://app/").send().await?.expect_own(503, "UCT")?;
    let took = begun.elapsed();
    ensure!((Duration::from_millis(390)..Duration::from_secs(4)).contains(&took), "{took:?}");
    Ok(())
}

/// True if the kernel probes the connections to this address (`tr` is 02 in `/proc/net/tcp`).
fn keeps_alive(app: &Instance) -> Result<bool> {
    let std::net::IpAddr::V4(ip) = app.address.ip() else { anyhow::bail!("not IPv4") };
    let remote = format!("{:08X}:{:04X}", u32::from_le_bytes(ip.octets()), app.address.port());
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let line = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|fields| {
        // An established connection whose far end is the app.
        fields.get(2) == Some(&remote.as_str()) && fields.get(3) == Some(&"01")
    });
    let line = line.context("no connection to the app")?;
    Ok(line.get(5).is_some_and(|timer| timer.starts_with("02:")))
}

#[tokio::test]
async fn keepalive_probes_are_sent_as_configured() -> Result<()> {
    let policy = "{connectionPool: {tcp: {tcpKeepalive: {time: 7200s, interval: 75s, probes: 9}}}}";
    let (_mesh, _sidecar, client, app) = mesh(policy).await?;
    client.get("http://app/").send().await?.expect(200)?;
    ensure!(keeps_alive(&app)?, "no keepalive timer on the connection");
    Ok(())
}

#[tokio::test]
async fn a_port_s_settings_replace_the_general_ones() -> Result<()> {
    let (_mesh, _sidecar, client, app) = mesh(
        "
  connectionPool: {http: {http2MaxRequests: 1}}
  portLevelSettings:
  - port: {number: 80}
    connectionPool: {http: {maxRequestsPerConnection: 1}}",
    )
    .await?;
    at_once(&client, 4).await.expect_no_failure()?;
    assert_eq!(app.stats()?.connections(), 4);
    Ok(())
}

#[tokio::test]
async fn a_subset_s_settings_override_the_general_ones() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let v1 = mesh.serve("app", "v1").await?;
    let v2 = mesh.serve("app", "v2").await?;
    let subsets = SUBSETS.replace(
        "  labels: {version: v2}",
        "  labels: {version: v2}\n  trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}",
    );
    let general = "trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 4}}}";
    mesh.policy.destination("app", &format!("{general}\n{subsets}"))?;
    mesh.policy.routes(
        "app",
        "- {match: [{uri: {prefix: /v1}}], route: [{destination: {host: app, subset: v1}}]}
- {route: [{destination: {host: app, subset: v2}}]}",
    )?;
    let (_sidecar, client) = mesh.caller().await?;
    for _ in 0..8 {
        client.get("http://app/v1").send().await?.expect(200)?;
        client.get("http://app/v2").send().await?.expect(200)?;
    }
    assert_eq!((v1.stats()?.connections(), v2.stats()?.connections()), (2, 8));
    Ok(())
}
