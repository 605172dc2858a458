//! Load balancers: how requests spread over endpoints, and when they stick.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use pillion_tests::dial::Fixed;
use pillion_tests::{Client, Instance, Load, Mesh, Reply, Sidecar, address, burst, eventually};

async fn mesh(instances: usize, balancer: &str) -> Result<(Mesh, Sidecar, Client, Vec<Instance>)> {
    let mut mesh = Mesh::new()?;
    let mut apps = Vec::new();
    for _ in 0..instances {
        apps.push(mesh.serve("app", "v1").await?);
    }
    mesh.policy.destination("app", &format!("trafficPolicy: {{loadBalancer: {balancer}}}"))?;
    let (sidecar, client) = mesh.caller().await?;
    Ok((mesh, sidecar, client, apps))
}

fn counts(apps: &[Instance]) -> Result<Vec<u64>> {
    apps.iter().map(|app| Ok(app.stats()?.requests())).collect()
}

#[tokio::test]
async fn round_robin_takes_turns() -> Result<()> {
    let (_mesh, _sidecar, client, apps) = mesh(3, "{simple: ROUND_ROBIN}").await?;
    for _ in 0..30 {
        client.get("http://app/").send().await?.expect(200)?;
    }
    assert_eq!(counts(&apps)?, [10, 10, 10]);
    Ok(())
}

#[tokio::test]
async fn random_spreads_evenly() -> Result<()> {
    let (_mesh, _sidecar, client, apps) = mesh(3, "{simple: RANDOM}").await?;
    burst(1500, 8, || client.get("http://app/").send()).await.expect_no_failure()?;
    let counts = counts(&apps)?;
    ensure!(counts.iter().all(|count| (400..=600).contains(count)), "{counts:?}");
    Ok(())
}

#[tokio::test]
async fn least_request_is_the_default_and_avoids_the_slow() -> Result<()> {
    for balancer in ["{simple: LEAST_REQUEST}", "{simple: UNSPECIFIED}"] {
        let (_mesh, _sidecar, client, apps) = mesh(3, balancer).await?;
        apps[0].app()?.faults().set_delay(Duration::from_millis(200));
        let report = burst(600, 12, || client.get("http://app/").send()).await;
        report.expect_no_failure()?;
        let counts = counts(&apps)?;
        ensure!(counts[0] < 120 && counts[1] > 150 && counts[2] > 150, "{balancer}: {counts:?}");
    }
    Ok(())
}

#[tokio::test]
async fn peak_ewma_avoids_the_slow_even_when_nobody_waits() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let mut apps = Vec::new();
    for _ in 0..3 {
        apps.push(mesh.serve("app", "v1").await?);
    }
    mesh.policy.resilience("app", "loadBalancer: {simple: PEAK_EWMA}")?;
    let (_sidecar, client) = mesh.caller().await?;
    apps[0].app()?.faults().set_delay(Duration::from_millis(100));
    // One at a time: requests under way say nothing.
    burst(200, 1, || client.get("http://app/").send()).await.expect_no_failure()?;
    let counts = counts(&apps)?;
    ensure!(counts[0] < 20 && counts[1] > 40 && counts[2] > 40, "{counts:?}");
    Ok(())
}

/// The instance that answered.
fn instance(reply: &Reply) -> String {
    reply.header("x-instance").to_owned()
}

#[tokio::test]
async fn a_header_s_value_sticks_to_an_endpoint() -> Result<()> {
    let balancer = "{consistentHash: {httpHeaderName: x-user}}";
    let (_mesh, _sidecar, client, apps) = mesh(4, balancer).await?;
    let mut used = BTreeSet::new();
    for user in 0..40 {
        let mut seen = BTreeSet::new();
        for _ in 0..5 {
            let reply = client
                .get("http://app/")
                .header("x-user", &format!("user-{user}"))
                .send()
                .await?
                .expect(200)?;
            seen.insert(instance(&reply));
        }
        ensure!(seen.len() == 1, "user {user} was served by {seen:?}");
        used.extend(seen);
    }
    ensure!(used.len() == apps.len(), "only {used:?} are used");
    Ok(())
}

#[tokio::test]
async fn few_keys_move_when_an_endpoint_leaves() -> Result<()> {
    let balancer = "{consistentHash: {httpHeaderName: x-user, ringHash: {minimumRingSize: 1024}}}";
    let (mesh, sidecar, client, apps) = mesh(4, balancer).await?;
    let ask = |user: usize| client.get("http://app/").header("x-user", &format!("user-{user}")).send();
    let mut before = Vec::new();
    for user in 0..100 {
        before.push(instance(&ask(user).await?.expect(200)?));
    }
    let gone = &apps[3];
    mesh.policy.remove_pod(&gone.pod)?;
    let address = gone.address.to_string();
    eventually("the endpoint is gone", || async {
        ensure!(!sidecar.page("/endpoints").await?.contains(&address));
        Ok(())
    })
    .await?;
    for (user, was) in before.iter().enumerate() {
        let is = instance(&ask(user).await?.expect(200)?);
        ensure!(is != gone.pod, "an endpoint that left still serves");
        ensure!(*was == gone.pod || is == *was, "user {user} moved from {was} to {is}");
    }
    Ok(())
}

#[tokio::test]
async fn a_cookie_is_handed_out_and_sticks() -> Result<()> {
    let balancer = "{consistentHash: {httpCookie: {name: session, ttl: 3600s}}}";
    let (_mesh, _sidecar, client, _apps) = mesh(4, balancer).await?;
    let mut used = BTreeSet::new();
    for _ in 0..20 {
        let first = client.get("http://app/").send().await?.expect(200)?;
        let cookie = first.header("set-cookie").to_owned();
        ensure!(
            cookie.starts_with("session=") && cookie.to_lowercase().contains("max-age=3600"),
            "{cookie:?}"
        );
        let pair = cookie.split(';').next().unwrap_or_default();
        for _ in 0..4 {
            let next = client
                .get("http://app/")
                .header("cookie", &format!("a=b; {pair}"))
                .send()
                .await?
                .expect(200)?;
            assert_eq!(instance(&next), instance(&first));
            assert_eq!(next.header("set-cookie"), "", "a cookie that is there is not set again");
        }
        used.insert(instance(&first));
    }
    ensure!(used.len() > 1, "all clients got {used:?}");
    Ok(())
}

#[tokio::test]
async fn a_source_address_sticks() -> Result<()> {
    let (_mesh, sidecar, _client, _apps) = mesh(4, "{consistentHash: {useSourceIp: true}}").await?;
    let mut used = BTreeSet::new();
    for _ in 0..30 {
        let source = address::unused()?;
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            // A connection each, so that the port differs.
            let client = Client::dialing(Fixed::new(sidecar.outbound).from(source));
            seen.insert(instance(&client.get("http://app/").send().await?.expect(200)?));
        }
        ensure!(seen.len() == 1, "{source} was served by {seen:?}");
        used.extend(seen);
    }
    ensure!(used.len() > 1, "all clients got {used:?}");
    Ok(())
}

#[tokio::test]
async fn a_query_parameter_sticks() -> Result<()> {
    let (_mesh, _sidecar, client, _apps) = mesh(4, "{consistentHash: {httpQueryParameterName: id}}").await?;
    let mut used = BTreeSet::new();
    for id in 0..30 {
        let mut seen = BTreeSet::new();
        for other in 0..4 {
            let url = format!("http://app/?other={other}&id={id}");
            seen.insert(instance(&client.get(&url).send().await?.expect(200)?));
        }
        ensure!(seen.len() == 1, "id {id} was served by {seen:?}");
        used.extend(seen);
    }
    ensure!(used.len() > 1, "all ids got {used:?}");
    Ok(())
}

#[tokio::test]
async fn a_new_endpoint_warms_up() -> Result<()> {
    let window = Duration::from_secs(4);
    let balancer = "{simple: ROUND_ROBIN, warmup: {duration: 4s, minimumPercent: 10, aggression: 1}}";
    let (mut mesh, _sidecar, client, _apps) = mesh(1, balancer).await?;
    let load = {
        let client = client.clone();
        Load::start(200, 16, move || client.get("http://app/").send())
    };
    // Until the first endpoint is warm itself.
    eventually("a warm endpoint", || async {
        ensure!(load.so_far().total() >= 200 * (window.as_secs() + 1), "not yet");
        Ok(())
    })
    .await?;
    let late = mesh.serve("app", "v2").await?;
    eventually("the new endpoint serves", || async {
        ensure!(late.stats()?.requests() > 0);
        Ok(())
    })
    .await?;
    let cold = burst(200, 8, || client.get("http://app/").send()).await.version_percent("v2");
    load.take();
    eventually("the new endpoint is warm", || async {
        ensure!(load.so_far().total() >= 200 * (window.as_secs() + 1), "not yet");
        Ok(())
    })
    .await?;
    let warm = burst(200, 8, || client.get("http://app/").send()).await.version_percent("v2");
    load.stop().await?.expect_no_failure()?;
    ensure!(cold < 35.0, "{cold} % of requests went to an endpoint that had just come");
    ensure!((44.0..=56.0).contains(&warm), "{warm} % of requests went to the warm endpoint");
    Ok(())
}
