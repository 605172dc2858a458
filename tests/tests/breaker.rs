//! The circuit breaker: when it opens, whom it lets through, when it closes, and what the others are told.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pillion_tests::{AccessLog, Client, Failure, Instance, Mesh, Reply, Sidecar, burst, eventually, task};
use tokio::task::JoinSet;
use tokio::time::Instant;

const FALLBACK: &str = r#"{"name":"Unknown User"}"#;

struct Shop {
    mesh: Mesh,
    app: Instance,
    sidecar: Sidecar,
    client: Client,
    log: AccessLog,
}

/// A service `app` of one instance behind a breaker, with this rest of the policy.
async fn shop(breaker: &str, rest: &str) -> Result<Shop> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    mesh.policy.resilience("app", &format!("circuitBreaker: {breaker}\n{rest}"))?;
    let (sidecar, client, log) = mesh.logging_caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    Ok(Shop { mesh, app, sidecar, client, log })
}

impl Shop {
    async fn figure(&self, name: &str) -> Result<f64> {
        Ok(self.sidecar.metrics().await?.sum(name, &[]))
    }

    async fn get(&self) -> Result<Reply> {
        self.client.get("http://app/").send().await
    }

    /// Whether the breaker refused the next request.
    async fn refuses(&self) -> Result<bool> {
        Ok(self.get().await?.flag() == "BRK")
    }

    fn fail(&self, failure: Failure) -> Result<()> {
        self.app.app()?.faults().fail(failure);
        Ok(())
    }

    fn recover(&self) -> Result<()> {
        self.app.app()?.faults().recover();
        Ok(())
    }

    fn reached(&self) -> Result<u64> {
        Ok(self.app.stats()?.requests())
    }

    /// Fails so many requests.
    async fn failures(&self, count: usize, status: u16) -> Result<()> {
        self.fail(Failure::status(status))?;
        for _ in 0..count {
            let reply = self.get().await?.expect(status)?;
            ensure!(reply.flag().is_empty(), "not the app's: {reply:?}");
        }
        self.recover()
    }
}

#[tokio::test]
async fn five_failures_in_a_row_open_it_and_two_successes_close_it() -> Result<()> {
    let shop = shop("{consecutiveFailures: 5, openDuration: 1s, successThreshold: 2}", "").await?;
    shop.failures(4, 503).await?;
    shop.get().await?.expect(200)?;
    shop.failures(4, 500).await?;
    ensure!(!shop.refuses().await?, "four failures, a success and four failures are not five in a row");
    shop.failures(5, 502).await?;
    let reached = shop.reached()?;
    let reply = shop.get().await?.expect_own(503, "BRK")?;
    assert_eq!(reply.header("retry-after"), "1");
    let call = shop.sidecar.app_http2().post("http://app/a.B/C").header("te", "trailers");
    let reply = call.header("content-type", "application/grpc").body("message").send().await?.expect(200)?;
    assert_eq!((reply.header("grpc-status"), reply.flag()), ("14", "BRK"));
    assert_eq!(shop.reached()?, reached, "an open breaker lets nothing through");
    assert_eq!(shop.figure("pillion_breaker_opened_total").await?, 1.0);
    assert_eq!(shop.figure("pillion_breaker_state").await?, 2.0);
    assert_eq!(shop.figure("pillion_breaker_rejected_total").await?, 2.0);
    let page = shop.sidecar.page("/breakers").await?;
    ensure!(page.contains("app") && page.contains("open"), "{page}");
    eventually("the breaker lets requests through again", || async { shop.get().await?.expect(200) }).await?;
    assert_eq!(shop.figure("pillion_breaker_state").await?, 1.0, "one success is not enough");
    shop.get().await?.expect(200)?;
    assert_eq!(shop.figure("pillion_breaker_state").await?, 0.0);
    assert_eq!(shop.figure("pillion_breaker_closed_total").await?, 1.0);
    shop.failures(4, 503).await?;
    ensure!(!shop.refuses().await?, "a closed breaker has forgotten what was before");
    Ok(())
}

#[tokio::test]
async fn a_failing_probe_opens_it_again() -> Result<()> {
    let shop = shop("{consecutiveFailures: 2, openDuration: 500ms, successThreshold: 2}", "").await?;
    shop.failures(2, 503).await?;
    ensure!(shop.refuses().await?);
    shop.fail(Failure::status(503))?;
    let reached = shop.reached()?;
    eventually("a probe", || async {
        shop.get().await?;
        ensure!(shop.reached()? > reached);
        Ok(())
    })
    .await?;
    ensure!(shop.refuses().await?, "one failure of a probe opens it");
    assert_eq!(shop.reached()?, reached + 1);
    assert_eq!(shop.figure("pillion_breaker_opened_total").await?, 2.0);
    Ok(())
}

#[tokio::test]
async fn what_the_destination_has_not_failed_at_does_not_count() -> Result<()> {
    let shop = shop("{consecutiveFailures: 2, openDuration: 30s}", "").await?;
    for status in [400, 404, 409, 429] {
        shop.failures(3, status).await?;
    }
    // Clients that do not wait.
    shop.app.app()?.faults().set_delay(Duration::from_secs(30));
    for _ in 0..4 {
        let impatient = shop.client.get("http://app/").limit(Duration::from_millis(100)).send().await;
        ensure!(impatient.is_err());
    }
    shop.app.app()?.faults().set_delay(Duration::ZERO);
    ensure!(!shop.refuses().await?, "opened by what is not a failure of the destination");
    Ok(())
}

#[tokio::test]
async fn answers_that_break_off_and_grpc_statuses_are_failures() -> Result<()> {
    let shop = shop("{consecutiveFailures: 2, openDuration: 30s}", "").await?;
    shop.mesh.policy.service_speaking("app", "grpc")?;
    eventually("the app is called with HTTP/2", || async {
        let reply = shop.client.get("http://app/echo").send().await?.expect(200)?;
        ensure!(reply.json()?["version"] == "HTTP/2.0");
        Ok(())
    })
    .await?;
    let client = shop.sidecar.app_http2();
    let failures = [
        (Failure::Close, true),
        (Failure::BreakOff, true),
        (Failure::grpc(14), true),
        (Failure::grpc_trailers(13), true),
        (Failure::grpc(4), true),
        (Failure::grpc(5), false),
        (Failure::grpc_trailers(7), false),
    ];
    for (number, (failure, counts)) in failures.into_iter().enumerate() {
        shop.fail(failure.clone())?;
        for _ in 0..2 {
            let call = client.post("http://app/a.B/C").header("te", "trailers");
            // Some of these failures leave no answer.
            let _ = call.header("content-type", "application/grpc").body("message").send().await;
        }
        shop.recover()?;
        ensure!(shop.refuses().await? == counts, "two of {failure:?}");
        // A changed breaker starts anew.
        let changed = format!("circuitBreaker: {{consecutiveFailures: 2, openDuration: {}s}}", 31 + number);
        shop.mesh.policy.resilience("app", &changed)?;
        eventually("it is closed", || async {
            ensure!(!shop.refuses().await?);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_share_of_failures_opens_it() -> Result<()> {
    let rate = "{thresholdPercent: 50, window: 10s, minimumRequests: 10}";
    let shop = shop(&format!("{{errorRate: {rate}, openDuration: 30s}}"), "").await?;
    // One success has been there: eight failures are 8 of 9, but too few to tell.
    shop.failures(8, 503).await?;
    for _ in 0..7 {
        shop.get().await?.expect(200)?;
    }
    ensure!(!shop.refuses().await?, "8 of 16 is not more than half");
    // 9 of 18 is not, 10 of 19 is.
    shop.failures(2, 503).await?;
    ensure!(shop.refuses().await?, "10 of 19 is more than half");
    Ok(())
}

#[tokio::test]
async fn its_state_outlives_changes_that_do_not_concern_it() -> Result<()> {
    let breaker = "{consecutiveFailures: 2, openDuration: 30s}";
    let mut shop = shop(breaker, "").await?;
    shop.failures(2, 503).await?;
    ensure!(shop.refuses().await?);
    let again = shop.mesh.serve("app", "v2").await?;
    shop.mesh.policy.routes(
        "app",
        "- {headers: {response: {set: {x-new: 'yes'}}}, route: [{destination: {host: app}}]}",
    )?;
    shop.sidecar.shows("/endpoints", &again.address.to_string()).await?;
    shop.sidecar.shows("/config_dump", "x-new").await?;
    ensure!(shop.refuses().await?, "another endpoint and another rule have closed the breaker");
    shop.mesh.policy.resilience("app", &format!("circuitBreaker: {}", breaker.replace("30s", "31s")))?;
    eventually("a changed breaker starts anew", || async { shop.get().await?.expect(200) }).await?;
    Ok(())
}

#[tokio::test]
async fn a_refusal_is_not_repeated() -> Result<()> {
    let retry = "retry: {attempts: 3, retryOn: [5xx, gateway-error, connect-failure], backoff: {base: 25ms}}";
    let shop = shop("{consecutiveFailures: 4, openDuration: 30s}", retry).await?;
    shop.fail(Failure::status(503))?;
    shop.get().await?;
    ensure!(shop.refuses().await?, "four tries are four failures");
    let retries = shop.figure("pillion_upstream_retries_total").await?;
    burst(20, 4, || shop.client.get("http://app/").send()).await;
    assert_eq!(shop.figure("pillion_upstream_retries_total").await?, retries);
    Ok(())
}

/// What became of the calls of one caller.
#[derive(Default)]
struct Told {
    timeouts: u64,
    fallbacks: u64,
    answers: u64,
}

/// Calls until the time is over, with a pause of half a second on average after each answer.
async fn caller(client: Client, until: Instant) -> Result<Told> {
    let mut told = Told::default();
    while Instant::now() < until {
        let reply = client.get("http://app/").send().await?;
        match (reply.status.as_u16(), reply.flag()) {
            (504, "UT") => told.timeouts += 1,
            (200, "BRK") => {
                ensure!(reply.text() == FALLBACK, "{}", reply.text());
                ensure!(reply.header("content-type") == "application/json", "{:?}", reply.headers);
                told.fallbacks += 1;
            }
            (200, "") => told.answers += 1,
            _ => anyhow::bail!("{reply:?}"),
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(300..700))).await;
    }
    Ok(told)
}

async fn all(callers: JoinSet<Result<Told>>) -> Result<Told> {
    let mut sum = Told::default();
    for told in callers.join_all().await {
        let told = told?;
        sum.timeouts += told.timeouts;
        sum.fallbacks += told.fallbacks;
        sum.answers += told.answers;
    }
    Ok(sum)
}

#[tokio::test]
async fn a_thousand_callers_of_a_hanging_destination() -> Result<()> {
    let fallback =
        format!("fallback: {{status: 200, headers: {{content-type: application/json}}, body: '{FALLBACK}'}}");
    let breaker = format!("{{consecutiveFailures: 5, openDuration: 1s, successThreshold: 2, {fallback}}}");
    let shop = shop(&breaker, "timeout: 1s").await?;
    shop.fail(Failure::Hang)?;
    let until = Instant::now() + Duration::from_secs(7);
    let mut callers = JoinSet::new();
    for _ in 0..1000 {
        callers.spawn(caller(shop.client.clone(), until));
    }
    let calls = task::spawn(all(callers));
    // From then on only probes get through; those who came before wait for their time-out.
    eventually("the breaker opens", || async {
        ensure!(shop.figure("pillion_breaker_opened_total").await? >= 1.0, "it has not opened");
        let active = shop.figure("pillion_upstream_requests_active").await?;
        ensure!(active <= 2.0, "{active} are under way");
        Ok(())
    })
    .await?;
    let (reached, opened) = (shop.reached()?, shop.figure("pillion_breaker_opened_total").await?);
    let told = calls.join().await??;
    let probes = shop.reached()? - reached;
    let windows = shop.figure("pillion_breaker_opened_total").await? - opened + 1.0;
    ensure!(windows >= 3.0, "{windows} recovery windows in seven seconds");
    ensure!(
        probes > 0 && f64::from(u32::try_from(probes)?) <= 2.0 * windows,
        "{probes} in {windows} windows"
    );
    ensure!(told.answers == 0 && told.fallbacks > 1000, "{} and {}", told.answers, told.fallbacks);
    refused_within_a_millisecond(&shop, told.fallbacks).await?;
    shop.recover()?;
    eventually("the breaker closes", || async {
        shop.get().await?.expect(200)?;
        ensure!(shop.figure("pillion_breaker_state").await? == 0.0);
        Ok(())
    })
    .await?;
    ensure!(shop.figure("pillion_breaker_closed_total").await? == 1.0);
    burst(100, 10, || shop.client.get("http://app/").send()).await.expect_no_failure()
}

/// As the proxy measures it: what the callers themselves need of this machine is not its matter. What else the machine
/// does can only add to it, so the best of the series of a thousand refusals counts.
async fn refused_within_a_millisecond(shop: &Shop, count: u64) -> Result<()> {
    let took: Vec<f64> = eventually("all log lines", || async {
        let lines = shop.log.lines()?.into_iter().filter(|line| line.flags == "BRK");
        let took: Vec<f64> = lines.map(|line| line.duration_ms).collect();
        ensure!(took.len() as u64 >= count, "{} of {count}", took.len());
        Ok(took)
    })
    .await?;
    let p99 = |series: &[f64]| {
        let mut series = series.to_vec();
        series.sort_by(f64::total_cmp);
        series.get(series.len() * 99 / 100).copied()
    };
    let best = took.chunks_exact(1000).filter_map(p99).min_by(f64::total_cmp);
    let best = best.context("fewer than a thousand were refused")?;
    ensure!(best < 1.0, "{best} ms");
    Ok(())
}

#[tokio::test]
async fn at_most_as_many_probes_as_successes_are_needed() -> Result<()> {
    let shop =
        shop("{consecutiveFailures: 2, openDuration: 1s, successThreshold: 2}", "timeout: 10s").await?;
    shop.failures(2, 503).await?;
    ensure!(shop.refuses().await?);
    // Whoever is let through stays for a while, longer than all the others take to be refused.
    shop.app.app()?.faults().set_delay(Duration::from_millis(700));
    let reached = shop.reached()?;
    // The time over which it refuses everybody ends before all of them, not among them.
    eventually("probes may come", || async {
        let page = shop.sidecar.page("/breakers").await?;
        ensure!(page.contains(r#""retryAfterMs": 0,"#), "{page}");
        Ok(())
    })
    .await?;
    let report = burst(50, 50, || shop.client.get("http://app/").limit(Duration::from_secs(5)).send()).await;
    assert_eq!(report.failures, 48);
    assert_eq!(shop.reached()? - reached, 2);
    assert_eq!(shop.app.stats()?.in_flight_peak(), 2);
    assert_eq!(shop.figure("pillion_breaker_state").await?, 0.0);
    Ok(())
}
