//! Rate limits: how many requests are let through, for whom, and what the others are told.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use pillion_tests::{AccessLog, Client, Instance, Mesh, Reply, Sidecar, burst};

struct Shop {
    _mesh: Mesh,
    app: Instance,
    sidecar: Sidecar,
    client: Client,
    log: AccessLog,
}

async fn shop(limit: &str) -> Result<Shop> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    mesh.policy.resilience("app", &format!("rateLimit: {limit}"))?;
    let (sidecar, client, log) = mesh.logging_caller().await?;
    Ok(Shop { _mesh: mesh, app, sidecar, client, log })
}

impl Shop {
    async fn get(&self, key: &str) -> Result<Reply> {
        self.client.get("http://app/").header("x-api-key", key).send().await
    }
}

fn number(reply: &Reply, header: &str) -> Result<u64> {
    reply.header(header).parse().with_context(|| format!("{header} in {:?}", reply.headers))
}

#[tokio::test]
async fn each_key_has_its_hundred_in_a_quarter_of_an_hour() -> Result<()> {
    let shop = shop("{requests: 100, per: 15m, key: {header: x-api-key}}").await?;
    for key in ["one", "two", "three"] {
        // Nine seconds earn a further request: this takes far less.
        let report = burst(150, 16, || shop.client.get("http://app/").header("x-api-key", key).send()).await;
        assert_eq!((report.successes, report.failures), (100, 50), "{:?}", report.reasons);
        ensure!(report.reasons.iter().all(|reason| reason.contains("\"RL;")), "{:?}", report.reasons);
    }
    assert_eq!(shop.app.stats()?.requests(), 300, "what is refused must not arrive");
    // Those without a key are one.
    let report = burst(120, 16, || shop.client.get("http://app/").send()).await;
    assert_eq!(report.successes, 100);
    Ok(())
}

#[tokio::test]
async fn who_is_refused_learns_when_to_come_back() -> Result<()> {
    let shop = shop("{requests: 3, per: 30s, key: {header: x-api-key}}").await?;
    for _ in 0..3 {
        let reply = shop.get("one").await?.expect(200)?;
        ensure!(reply.flag().is_empty());
    }
    let call = shop.client.get("http://app/").header("x-api-key", "one").header("x-request-id", "a");
    let reply = call.send().await?.expect_own(429, "RL")?;
    let (after, reset) = (number(&reply, "retry-after")?, number(&reply, "ratelimit-reset")?);
    ensure!((1..=10).contains(&after) && (after..=30).contains(&reset), "{:?}", reply.headers);
    assert_eq!((number(&reply, "ratelimit-limit")?, number(&reply, "ratelimit-remaining")?), (3, 0));
    assert_eq!(shop.log.line_of("a").await?.flags, "RL");
    shop.get("two").await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_grpc_caller_gets_resource_exhausted() -> Result<()> {
    let shop = shop("{requests: 1, per: 15m}").await?;
    shop.get("one").await?.expect(200)?;
    let call = shop.sidecar.app_http2().post("http://app/a.B/C").header("te", "trailers");
    let reply = call.header("content-type", "application/grpc").body("message").send().await?.expect(200)?;
    assert_eq!((reply.header("grpc-status"), reply.flag()), ("8", "RL"));
    Ok(())
}

#[tokio::test]
async fn time_earns_requests_back() -> Result<()> {
    let shop = shop("{requests: 5, per: 1s}").await?;
    let begun = tokio::time::Instant::now();
    let mut admitted = 0;
    while begun.elapsed().as_millis() < 2000 {
        admitted += u32::from(shop.get("one").await?.status == 200);
    }
    // Five at once and five in each of the seconds that follow.
    let most = 5.0 + 5.0 * begun.elapsed().as_secs_f64() + 1.0;
    ensure!(f64::from(admitted) <= most && admitted >= 10, "{admitted} were admitted, at most {most} may be");
    Ok(())
}

#[tokio::test]
async fn a_limit_holds_for_all_workers_together() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    mesh.policy.resilience("app", "rateLimit: {requests: 20, per: 15m}")?;
    mesh.start().await?;
    let sidecar = mesh.sidecar("caller")?.arg("--workers", "2").start().await?;
    let client = sidecar.app();
    let report = burst(200, 32, || client.get("http://app/").send()).await;
    assert_eq!((report.successes, app.stats()?.requests()), (20, 20));
    Ok(())
}

/// With `PILLION_TEST_FULL` a million keys, without a number that can be waited for.
#[tokio::test]
async fn many_keys_do_not_take_more_memory_than_they_may() -> Result<()> {
    let keys: u32 = if std::env::var_os("PILLION_TEST_FULL").is_some() { 1_000_000 } else { 20_000 };
    let shop = shop("{requests: 100, per: 15m, key: {header: x-api-key}}").await?;
    let client = shop.sidecar.app_http2();
    let next = AtomicU32::new(0);
    let calls = |count: u32| {
        burst(u64::from(count), 64, || {
            // Long keys, so that each of them counts.
            let key = format!("{:0>200}", next.fetch_add(1, Ordering::Relaxed));
            client.get("http://app/").header("x-api-key", &key).send()
        })
    };
    calls(2000).await.expect_no_failure()?;
    let before = shop.sidecar.process.memory_kib()?;
    calls(keys - 2000).await;
    let grown = shop.sidecar.process.memory_kib()?.saturating_sub(before);
    // The bound that holds for a million holds for any number.
    ensure!(grown < 24 * 1024, "{grown} KiB more after {keys} keys");
    let report = burst(120, 8, || shop.client.get("http://app/").header("x-api-key", "known").send()).await;
    ensure!(report.successes <= 100, "a limit that is forgotten under load: {}", report.successes);
    Ok(())
}
