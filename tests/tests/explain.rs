//! What a sidecar remembers of requests, and tells whoever asks: `/explain` and `/tap`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::BodyExt;
use pillion_tests::{Client, Failure, Instance, Mesh, Sidecar, burst, eventually};
use serde_json::{Value, json};

struct Explained {
    _mesh: Mesh,
    app: Instance,
    sidecar: Sidecar,
    client: Client,
    admin: Client,
}

/// A caller of a service `app` that is repeated, and of one without endpoints.
async fn mesh(slow: &str) -> Result<Explained> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    mesh.policy.service("empty")?;
    mesh.policy.routes(
        "app",
        "- name: canary\n  retries: {attempts: 1, retryOn: \"connect-failure,reset,503\", backoff: 25ms}\n  \
         route: [{destination: {host: app}}]",
    )?;
    mesh.start().await?;
    let sidecar = mesh.sidecar("caller")?.arg("--explain-slow", slow).start().await?;
    let (client, admin) = (sidecar.app(), Client::http1(sidecar.admin));
    Ok(Explained { _mesh: mesh, app, sidecar, client, admin })
}

impl Explained {
    async fn send(&self, url: &str, id: &str, status: u16) -> Result<()> {
        self.client.get(url).header("x-request-id", id).send().await?.expect(status).map(drop)
    }

    /// The one story of a request.
    async fn story(&self, id: &str) -> Result<Value> {
        let told: Vec<Value> = serde_json::from_str(&self.sidecar.page(&format!("/explain/{id}")).await?)?;
        ensure!(told.len() == 1, "{told:?}");
        told.into_iter().next().context("no story")
    }
}

#[tokio::test]
async fn what_the_proxy_answered_is_explained() -> Result<()> {
    let mesh = mesh("10s").await?;
    mesh.send("http://empty/cart?card=1234", "id-1", 503).await?;
    let story = mesh.story("id-1").await?;
    for (field, value) in [
        ("flag", json!("UH")),
        ("status", json!(503)),
        ("method", json!("GET")),
        ("authority", json!("empty")),
        ("path", json!("/cart")),
        ("direction", json!("outbound")),
        ("proxy", json!("default/caller")),
        ("route", json!("Service default/empty")),
        ("cluster", json!("empty.default.svc.cluster.local:80")),
        ("attempts", json!([])),
    ] {
        assert_eq!(story[field], value, "{field} of {story}");
    }
    ensure!(story["cause"].as_str().is_some_and(|cause| cause.contains("no healthy endpoint")), "{story}");
    ensure!(story["policy_revision"].as_u64().is_some_and(|revision| revision > 0), "{story}");
    Ok(())
}

#[tokio::test]
async fn every_try_of_a_slow_request_is_told() -> Result<()> {
    let mesh = mesh("200ms").await?;
    mesh.send("http://app/", "quick", 200).await?;
    mesh.app.app()?.faults().script([Failure::Answer { status: 503, headers: Vec::new() }]);
    mesh.send("http://app/delay/300", "slow", 200).await?;
    let story = mesh.story("slow").await?;
    assert_eq!((&story["flag"], &story["status"]), (&json!("-"), &json!(200)));
    assert_eq!(story["route"], json!("VirtualService default/app http[0] (canary)"), "{story}");
    let tries = story["attempts"].as_array().context("no tries")?;
    let told: Vec<_> = tries.iter().map(|one| (&one["status"], &one["verdict"])).collect();
    assert_eq!(told, [(&json!(503), &json!("retried")), (&json!(200), &json!("final"))], "{story}");
    assert_eq!(tries[0]["endpoint"], json!(mesh.app.address.to_string()));
    ensure!(tries[0]["backoff_ms"].as_f64().is_some() && tries[1]["backoff_ms"].is_null(), "{story}");
    ensure!(story["duration_ms"].as_f64().is_some_and(|ms| ms >= 300.0), "{story}");
    Ok(())
}

#[tokio::test]
async fn what_is_not_kept_is_not_found() -> Result<()> {
    let mesh = mesh("10s").await?;
    let reply = mesh.admin.get("http://admin/explain/never-seen").send().await?.expect(404)?;
    ensure!(reply.text().contains("never-seen") && reply.text().contains("kept are"), "{}", reply.text());
    Ok(())
}

#[tokio::test]
async fn both_ends_of_a_call_tell_of_it() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (_app, called) = mesh.serve_meshed("app", "v1").await?;
    let (caller, client) = mesh.caller().await?;
    client.get("http://app/status/500").header("x-request-id", "id-1").send().await?.expect(500)?;
    for (sidecar, direction) in [(&caller, "outbound"), (&called, "inbound")] {
        let told: Value = serde_json::from_str(&sidecar.page("/explain/id-1").await?)?;
        assert_eq!((&told[0]["direction"], &told[0]["flag"]), (&json!(direction), &json!("-")), "{told}");
        assert_eq!(told[0]["status"], json!(500));
    }
    Ok(())
}

#[tokio::test]
async fn failures_are_counted_by_their_cause() -> Result<()> {
    let mesh = mesh("10s").await?;
    // More than are kept in a second.
    let report = burst(400, 8, || mesh.client.get("http://empty/").send()).await;
    assert_eq!(report.failures, 400, "{:?}", report.reasons);
    let told: Value = serde_json::from_str(&mesh.sidecar.page("/explain").await?)?;
    let cause = &told["causes"][0];
    assert_eq!((&cause["flag"], &cause["count"]), (&json!("UH"), &json!(400)), "{told}");
    assert_eq!(cause["cluster"], json!("empty.default.svc.cluster.local:80"));
    let example = cause["request_id"].as_str().context("no example")?;
    assert_eq!(mesh.story(example).await?["flag"], json!("UH"));
    let newest = told["newest"].as_array().context("no stories")?;
    ensure!((1..=20).contains(&newest.len()), "{}", newest.len());
    Ok(())
}

#[tokio::test]
async fn a_tap_shows_what_it_asks_for_as_it_comes() -> Result<()> {
    let mesh = mesh("10s").await?;
    let tap = mesh.admin.get("http://admin/tap?to=app&status=4xx&limit=2&for=60").open().await?;
    assert_eq!(tap.status(), 200);
    for (url, id, status) in [
        ("http://empty/status/404", "for-another", 503),
        ("http://app/", "fine", 200),
        ("http://app/status/404", "first", 404),
        ("http://app/status/418", "second", 418),
        ("http://app/status/404", "third", 404),
    ] {
        mesh.send(url, id, status).await?;
    }
    let body = tokio::time::timeout(Duration::from_secs(30), tap.into_body().collect()).await??.to_bytes();
    let ids: Vec<String> = String::from_utf8(body.to_vec())?
        .lines()
        .map(|line| {
            Ok(serde_json::from_str::<Value>(line)?["request_id"].as_str().unwrap_or_default().to_owned())
        })
        .collect::<Result<_>>()?;
    assert_eq!(ids, ["first", "second"]);
    Ok(())
}

#[tokio::test]
async fn few_may_tap_and_who_leaves_makes_room() -> Result<()> {
    let mesh = mesh("10s").await?;
    let mut taps = Vec::new();
    for _ in 0..8 {
        let client = Client::http1(mesh.sidecar.admin);
        taps.push(client.get("http://admin/tap").open().await?);
    }
    let refused = mesh.admin.get("http://admin/tap").send().await?.expect(429)?;
    ensure!(refused.text().contains("as many as may"), "{}", refused.text());
    drop(taps);
    eventually("a place for another", || async {
        let tap = Client::http1(mesh.sidecar.admin).get("http://admin/tap").open().await?;
        ensure!(tap.status() == 200, "{}", tap.status());
        Ok(())
    })
    .await
}
