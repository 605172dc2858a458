//! Outlier ejection: a bad instance among good ones is left alone, and comes back when it has healed.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use pillion_tests::{Client, Failure, Instance, Load, Mesh, Report, Sidecar, burst, eventually};

/// `/once` is not repeated, all else is.
const ROUTES: &str = "\
- match: [{uri: {prefix: /once}}]
  retries: {attempts: 0}
  timeout: 1s
  route: [{destination: {host: app}}]
- retries: {attempts: 2, perTryTimeout: 500ms, retryOn: '5xx,connect-failure'}
  timeout: 3s
  route: [{destination: {host: app}}]
";

struct Shop {
    _mesh: Mesh,
    apps: Vec<Instance>,
    sidecar: Sidecar,
    client: Client,
}

async fn shop(instances: usize, detection: &str) -> Result<Shop> {
    let mut mesh = Mesh::new()?;
    let mut apps = Vec::new();
    for _ in 0..instances {
        apps.push(mesh.serve("app", "v1").await?);
    }
    mesh.policy.routes("app", ROUTES)?;
    let pool = "connectionPool: {tcp: {connectTimeout: 200ms}}";
    mesh.policy.destination("app", &format!("trafficPolicy:\n  {pool}\n  outlierDetection: {detection}"))?;
    let (sidecar, client) = mesh.caller().await?;
    let shop = Shop { _mesh: mesh, apps, sidecar, client };
    eventually("all instances serve", || async {
        shop.client.get("http://app/").send().await?.expect(200)?;
        ensure!(shop.apps.iter().all(|app| app.stats().is_ok_and(|stats| stats.requests() > 0)));
        Ok(())
    })
    .await?;
    Ok(shop)
}

impl Shop {
    async fn figure(&self, name: &str) -> Result<f64> {
        Ok(self.sidecar.metrics().await?.sum(name, &[]))
    }

    async fn ejected(&self, count: f64) -> Result<()> {
        eventually("an ejection", || async {
            let active = self.figure("pillion_outlier_ejections_active").await?;
            ensure!(active == count, "{active} are ejected");
            Ok(())
        })
        .await
    }

    fn load(&self, path: &str) -> Load {
        let (client, url) = (self.client.clone(), format!("http://app{path}"));
        Load::start(100, 300, move || client.get(&url).send())
    }

    async fn requests(&self, count: u64) -> Report {
        burst(count, 4, || self.client.get("http://app/once").send()).await
    }

    fn fail(&self, which: usize, failure: Failure) -> Result<()> {
        self.apps[which].app()?.faults().fail(failure);
        Ok(())
    }

    fn reached(&self, which: usize) -> Result<u64> {
        Ok(self.apps[which].stats()?.requests())
    }
}

enum Bad {
    Status,
    HalfTheTime,
    Refusing,
    BlackHoled,
    BreakingOff,
}

/// Turns one of three bad under a load of 100 requests a second, once without retries and once with.
async fn one_of_three_turns_bad(bad: Bad) -> Result<()> {
    // A run of three comes soon even where only half of the answers are bad.
    let mut shop = shop(3, "{consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 30s}").await?;
    let (once, repeated) = (shop.load("/once"), shop.load("/again"));
    eventually("the load is under way", || async {
        ensure!(once.so_far().successes > 20);
        Ok(())
    })
    .await?;
    let faults = shop.apps[0].app()?.faults();
    match bad {
        Bad::Status => faults.fail(Failure::status(500)),
        Bad::HalfTheTime => faults.fail_some(50, Failure::status(500)),
        Bad::BreakingOff => faults.fail(Failure::BreakOff),
        Bad::Refusing => shop.apps[0].kill().await?,
        Bad::BlackHoled => shop.apps[0].vanish().await?,
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let start = once.take();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (settled, repeated) = (once.stop().await?, repeated.stop().await?);
    // The few failures it takes may all have met the load that repeats.
    let retries = shop.figure("pillion_upstream_retries_total").await?;
    let noticed = start.failures + repeated.failures;
    ensure!(noticed > 0 || retries > 0.0, "there was nothing to notice");
    let rate = pillion_tests::load::percent(settled.failures, settled.total());
    ensure!(rate < 1.0, "{rate} % of {} failed: {:?}", settled.total(), settled.reasons);
    ensure!(settled.total() > 200, "{} requests in three seconds", settled.total());
    // What broke off after the head has been told to the caller, and cannot be taken back.
    if !matches!(bad, Bad::BreakingOff) {
        repeated.expect_no_failure()?;
    }
    let state = shop.sidecar.state_of(shop.apps[0].address).await?;
    let connects = !matches!(bad, Bad::Refusing | Bad::BlackHoled);
    ensure!(state == "ejected" || (state == "unreachable" && !connects), "it is {state}");
    Ok(())
}

#[tokio::test]
async fn one_that_answers_500() -> Result<()> {
    one_of_three_turns_bad(Bad::Status).await
}

#[tokio::test]
async fn one_that_answers_500_half_of_the_time() -> Result<()> {
    one_of_three_turns_bad(Bad::HalfTheTime).await
}

#[tokio::test]
async fn one_that_refuses() -> Result<()> {
    one_of_three_turns_bad(Bad::Refusing).await
}

#[tokio::test]
async fn one_that_nothing_reaches() -> Result<()> {
    one_of_three_turns_bad(Bad::BlackHoled).await
}

#[tokio::test]
async fn one_whose_answers_break_off() -> Result<()> {
    one_of_three_turns_bad(Bad::BreakingOff).await
}

#[tokio::test]
async fn the_last_healthy_one_is_never_ejected() -> Result<()> {
    for (instances, ejected) in [(1, 0.0), (2, 1.0), (3, 1.0)] {
        let shop = shop(instances, "{consecutive5xxErrors: 2, interval: 1s, baseEjectionTime: 30s}").await?;
        for which in 0..instances {
            shop.fail(which, Failure::status(500))?;
        }
        let report = shop.requests(60).await;
        ensure!(report.reasons.iter().all(|reason| reason.starts_with("200 wanted, got 500")), "{report:?}");
        assert_eq!(shop.figure("pillion_outlier_ejections_active").await?, ejected, "of {instances}");
        ensure!(shop.figure("pillion_outlier_ejections_overflow_total").await? > 0.0);
    }
    Ok(())
}

#[tokio::test]
async fn the_share_that_may_be_ejected_is_kept() -> Result<()> {
    // Said in so many words, half of five is two; and nothing is said of one at least.
    for (percent, ejected) in [(50, 2.0), (10, 0.0), (100, 5.0)] {
        let detection = format!(
            "{{consecutive5xxErrors: 2, interval: 1s, baseEjectionTime: 30s, maxEjectionPercent: {percent}}}"
        );
        let shop = shop(5, &detection).await?;
        for which in 0..5 {
            shop.fail(which, Failure::status(500))?;
        }
        shop.requests(100).await;
        assert_eq!(shop.figure("pillion_outlier_ejections_active").await?, ejected, "{percent} %");
    }
    Ok(())
}

#[tokio::test]
async fn one_request_finds_out_whether_it_has_healed() -> Result<()> {
    let shop = shop(3, "{consecutive5xxErrors: 3, interval: 100ms, baseEjectionTime: 1s}").await?;
    shop.fail(0, Failure::status(500))?;
    let load = shop.load("/once");
    shop.ejected(1.0).await?;
    let (reached, ejections) =
        (shop.reached(0)?, shop.figure("pillion_outlier_ejections_enforced_total").await?);
    // It is tried after a second, and after two more.
    eventually("it was tried twice", || async {
        let more = shop.figure("pillion_outlier_ejections_enforced_total").await? - ejections;
        ensure!(more >= 2.0, "{more} ejections more");
        Ok(())
    })
    .await?;
    let tries = shop.reached(0)? - reached;
    let more = shop.figure("pillion_outlier_ejections_enforced_total").await? - ejections;
    // One request of the time before may still have been on its way.
    ensure!(f64::from(u32::try_from(tries)?) <= more + 1.0, "{tries} requests in {more} tries");
    shop.apps[0].app()?.faults().recover();
    shop.ejected(0.0).await?;
    let reached = shop.reached(0)?;
    eventually("it serves again", || async {
        ensure!(shop.reached(0)? > reached + 20);
        Ok(())
    })
    .await?;
    load.stop().await?;
    Ok(())
}

#[tokio::test]
async fn what_the_app_cannot_help_is_counted_apart_if_asked() -> Result<()> {
    let split = "splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 3";
    let detection = format!("{{consecutive5xxErrors: 0, {split}, interval: 1s, baseEjectionTime: 30s}}");
    let shop = shop(3, &detection).await?;
    shop.fail(0, Failure::status(503))?;
    ensure!(shop.requests(60).await.failures > 10);
    assert_eq!(shop.figure("pillion_outlier_ejections_active").await?, 0.0);
    // It still takes connections, and breaks them.
    shop.fail(1, Failure::Reset)?;
    shop.requests(60).await;
    assert_eq!(shop.figure("pillion_outlier_ejections_active").await?, 1.0);
    assert_eq!(shop.sidecar.state_of(shop.apps[1].address).await?, "ejected");
    shop.apps[0].app()?.faults().recover();
    shop.requests(60).await.expect_no_failure()
}

#[tokio::test]
async fn a_share_of_failures_is_enough_if_asked() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let mut apps = Vec::new();
    for _ in 0..3 {
        apps.push(mesh.serve("app", "v1").await?);
    }
    let share = "failurePercentageThreshold: 30, failurePercentageMinimumHosts: 3";
    let volume = "failurePercentageRequestVolume: 10";
    let detection =
        format!("{{consecutive5xxErrors: 0, {share}, {volume}, interval: 1s, baseEjectionTime: 30s}}");
    mesh.policy.resilience("app", &format!("outlierDetection: {detection}"))?;
    let (sidecar, client) = mesh.caller().await?;
    apps[0].app()?.faults().fail_some(50, Failure::status(500));
    let load = Load::start(100, 100, move || client.get("http://app/").send());
    eventually("an ejection", || async {
        ensure!(sidecar.state_of(apps[0].address).await? == "ejected");
        Ok(())
    })
    .await?;
    for good in &apps[1..] {
        assert_eq!(sidecar.state_of(good.address).await?, "healthy");
    }
    load.stop().await?;
    Ok(())
}

#[tokio::test]
async fn in_a_panic_ejections_are_ignored() -> Result<()> {
    let detection = "{consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 30s, minHealthPercent: 80}";
    let shop = shop(3, detection).await?;
    shop.fail(0, Failure::status(500))?;
    shop.requests(60).await;
    assert_eq!(shop.sidecar.state_of(shop.apps[0].address).await?, "ejected");
    // Two of three are fewer than 80 %.
    let reached = shop.reached(0)?;
    shop.requests(100).await;
    ensure!(shop.reached(0)? > reached + 10, "{} of 100", shop.reached(0)? - reached);
    Ok(())
}

#[tokio::test]
async fn refusals_of_a_breaker_are_no_failures_of_an_endpoint() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let mut apps = Vec::new();
    for _ in 0..3 {
        apps.push(mesh.serve("app", "v1").await?);
    }
    let detection = "outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 30s}";
    mesh.policy.destination(
        "app",
        &format!("trafficPolicy: {{loadBalancer: {{simple: ROUND_ROBIN}}, {detection}}}"),
    )?;
    mesh.policy.resilience("app", "circuitBreaker: {consecutiveFailures: 3, openDuration: 30s}")?;
    let (sidecar, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    for app in &apps {
        app.app()?.faults().fail(Failure::status(503));
    }
    let report = burst(100, 4, || client.get("http://app/").send()).await;
    assert_eq!(report.failures, 100);
    let metrics = sidecar.metrics().await?;
    ensure!(metrics.sum("pillion_breaker_rejected_total", &[]) > 80.0, "the breaker has not opened");
    assert_eq!(metrics.sum("pillion_outlier_ejections_enforced_total", &[]), 0.0);
    Ok(())
}

/// The example of the documentation, to the letter: `consecutiveErrors: 5`, which counts gateway errors.
#[tokio::test]
async fn the_seed_s_rule_means_what_it_says() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let mut apps = Vec::new();
    for version in ["v1", "v1", "v1", "v2"] {
        apps.push(mesh.serve("order-service", version).await?);
    }
    let seed =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../control-plane/tests/data/seed/istio-config.yaml");
    mesh.policy.apply("seed", &std::fs::read_to_string(seed)?)?;
    let (sidecar, client) = mesh.caller().await?;
    let requests = |count| burst(count, 1, || client.get("http://order-service/").send());
    requests(60).await.expect_no_failure()?;
    let reached = |which: usize| Ok::<u64, anyhow::Error>(apps[which].stats()?.requests());
    let ejected = async || {
        Ok::<f64, anyhow::Error>(sidecar.metrics().await?.sum("pillion_outlier_ejections_active", &[]))
    };
    // Two requests, then another connection.
    let stats = apps[0].stats()?;
    ensure!(stats.connections() >= stats.requests() / 2, "{stats:?}");
    // 500 is no gateway error.
    apps[0].app()?.faults().fail(Failure::status(500));
    let before = reached(0)?;
    requests(100).await;
    ensure!(reached(0)? - before > 10, "{} of 100", reached(0)? - before);
    assert_eq!(ejected().await?, 0.0);
    apps[0].app()?.faults().recover();
    // Four in a row are not five.
    apps[1].app()?.faults().script([(); 4].map(|()| Failure::status(503)));
    let report = requests(100).await;
    assert_eq!((report.failures, ejected().await?), (4, 0.0));
    apps[1].app()?.faults().fail(Failure::status(503));
    let before = reached(1)?;
    let report = requests(100).await;
    assert_eq!((report.failures, reached(1)? - before, ejected().await?), (5, 5, 1.0));
    // For thirty seconds it is left alone, and its subset goes on with two.
    assert_eq!(sidecar.state_of(apps[1].address).await?, "ejected");
    requests(100).await.expect_no_failure()?;
    Ok(())
}
