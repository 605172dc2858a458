//! Rate limits: how many requests are let through, for whom, and what the others are told.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use pillion_tests::dial::Fixed;
use pillion_tests::policy::{TARGET_PORT, service};
use pillion_tests::{AccessLog, Client, Instance, Mesh, Reply, Sidecar, address, burst, is_full_size};

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
    let keys: u32 = if is_full_size() { 1_000_000 } else { 20_000 };
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

/// A destination that limits what comes in.
struct Limited {
    mesh: Mesh,
    app: Instance,
    sidecar: Sidecar,
}

async fn limited(limit: &str, workers: &str) -> Result<Limited> {
    let mut mesh = Mesh::new()?;
    let ip = address::unused()?;
    let app = Instance::sample("app", "v1", "app-1", address::unused_at(TARGET_PORT)?).await?;
    mesh.policy.service("app")?;
    mesh.policy.pod("app-1", "app", "v1", ip)?;
    mesh.policy.resilience("app", &format!("rateLimit: {limit}"))?;
    mesh.start().await?;
    let sidecar = mesh.sidecar("app")?.ip(ip).in_front_of(app.address, TARGET_PORT);
    let sidecar = sidecar.arg("--workers", workers).start().await?;
    sidecar.shows("/config_dump", "ResiliencePolicy default/app").await?;
    Ok(Limited { mesh, app, sidecar })
}

impl Limited {
    /// A client without a sidecar, at an address of its own.
    fn neighbour(&self) -> Result<Client> {
        Ok(Client::dialing(Fixed::new(self.sidecar.inbound).from(address::unused()?)))
    }
}

async fn admitted(client: &Client) -> u64 {
    burst(20, 4, || client.get("http://app/").send()).await.successes
}

#[tokio::test]
async fn each_peer_has_a_budget_of_its_own() -> Result<()> {
    let mut shop = limited("{requests: 5, per: 15m, key: {peer: {}}}", "1").await?;
    let (caller, meshed) = shop.mesh.caller().await?;
    let (first, second) = (shop.neighbour()?, shop.neighbour()?);
    for client in [&meshed, &first, &second] {
        assert_eq!(admitted(client).await, 5);
    }
    assert_eq!(shop.app.stats()?.requests(), 15, "what is refused must not arrive");
    let refused = [caller.metrics().await?, shop.sidecar.metrics().await?]
        .map(|metrics| metrics.sum("pillion_rate_limited_total", &[]));
    assert_eq!(refused, [0.0, 45.0], "the caller's sidecar has one peer and lets it through, once");

    let reply = first.get("http://app/").send().await?.expect_own(429, "RL")?;
    assert_eq!((reply.header("ratelimit-limit"), reply.header("ratelimit-remaining")), ("5", "0"));
    ensure!(!reply.header("retry-after").is_empty(), "{:?}", reply.headers);
    let grpc = caller.app_http2().post("http://app/a.B/C").header("te", "trailers");
    let reply = grpc.header("content-type", "application/grpc").body("message").send().await?.expect(200)?;
    assert_eq!((reply.header("grpc-status"), reply.flag()), ("8", "RL"));
    Ok(())
}

#[tokio::test]
async fn callers_without_a_sidecar_are_limited_by_all_workers_together() -> Result<()> {
    let shop = limited("{requests: 20, per: 15m}", "2").await?;
    let client = shop.neighbour()?;
    let report = burst(200, 32, || client.get("http://app/").send()).await;
    assert_eq!((report.successes, shop.app.stats()?.requests()), (20, 20));
    Ok(())
}

#[tokio::test]
async fn clients_behind_another_proxy_are_told_apart() -> Result<()> {
    let shop = limited("{requests: 2, per: 15m, key: {clientAddress: {}}}", "1").await?;
    let client = shop.neighbour()?;
    for from in ["192.0.2.1", "192.0.2.2, 192.0.2.1", "2001:db8::1"] {
        let send = || client.get("http://app/").header("x-forwarded-for", from).send();
        assert_eq!(burst(6, 1, send).await.successes, 2, "{from}");
    }
    assert_eq!(admitted(&client).await, 2, "who says nothing has the peer's own");
    Ok(())
}

#[tokio::test]
async fn budgets_outlive_changes_of_everything_else() -> Result<()> {
    let shop = limited("{requests: 5, per: 15m, key: {peer: {}}}", "1").await?;
    let client = shop.neighbour()?;
    assert_eq!(admitted(&client).await, 5);
    let other =
        service("other").replace("app: other", "app: app").replace("targetPort: 3000", "targetPort: 4000");
    shop.mesh.policy.apply("other", &other)?;
    shop.sidecar.shows("/config_dump", "other.default.svc").await?;
    assert_eq!(admitted(&client).await, 0, "the policy of the workload has changed, its limit has not");
    shop.mesh.policy.resilience("app", "rateLimit: {requests: 7, per: 15m, key: {peer: {}}}")?;
    shop.sidecar.shows("/config_dump", "\"requests\": 7").await?;
    assert_eq!(admitted(&client).await, 7, "open connections follow the limit of the moment");
    Ok(())
}
