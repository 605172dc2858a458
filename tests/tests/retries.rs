//! Retries: which failures are repeated, how often, when, where, and what of the request may be sent again.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Method;
use pillion_tests::refusal::{Refusal, refusing};
use pillion_tests::shop::Seen;
use pillion_tests::{AccessLog, Client, Failure, Instance, Mesh, Policy, Reply, Sidecar, burst};

const TO_APP: &str = "route: [{destination: {host: app}}]";

struct Shop {
    _mesh: Mesh,
    app: Instance,
    sidecar: Sidecar,
    client: Client,
    log: AccessLog,
}

/// A service `app` of one instance, under a policy.
async fn shop(policy: impl FnOnce(&Policy) -> Result<()>) -> Result<Shop> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    policy(&mesh.policy)?;
    let (sidecar, client, log) = mesh.logging_caller().await?;
    Ok(Shop { _mesh: mesh, app, sidecar, client, log })
}

async fn shop_retrying(retries: &str) -> Result<Shop> {
    shop(|policy| policy.routes("app", &format!("- retries: {retries}\n  {TO_APP}"))).await
}

async fn shop_resilient(retry: &str) -> Result<Shop> {
    shop(|policy| policy.resilience("app", &format!("retry: {retry}"))).await
}

impl Shop {
    fn script(&self, failures: impl IntoIterator<Item = Failure>) -> Result<()> {
        self.app.app()?.faults().script(failures);
        Ok(())
    }

    /// Sends a request whose first try meets a failure.
    async fn fail_once(&self, method: Method, id: &str, failure: Failure) -> Result<Reply> {
        self.script([failure])?;
        self.client
            .request(method, "http://app/echo")
            .header("x-id", id)
            .header("x-request-id", id)
            .send()
            .await
    }

    fn seen(&self, id: &str) -> Result<Vec<Seen>> {
        Ok(self.app.stats()?.seen_of(id))
    }

    async fn figure(&self, name: &str) -> Result<f64> {
        Ok(self.sidecar.metrics().await?.sum(name, &[]))
    }
}

/// The time from each try to the next.
fn waits(seen: &[Seen]) -> Vec<Duration> {
    seen.windows(2).map(|pair| pair[1].at - pair[0].at).collect()
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a condition is called, what it repeats and what it leaves.
type Condition = (&'static str, Vec<Failure>, Vec<Failure>);

/// One rule for each condition, chosen by the first part of the path.
fn rules(conditions: &[Condition], host: &str) -> String {
    let rule = |(on, _, _): &Condition| {
        format!(
            "- match: [{{uri: {{prefix: '/{on}/'}}}}]\n  retries: {{attempts: 1, retryOn: '{on}'}}\n  route: \
             [{{destination: {{host: {host}}}}}]\n"
        )
    };
    conditions.iter().map(rule).collect()
}

#[tokio::test]
async fn each_condition_repeats_its_failures_and_no_others() -> Result<()> {
    let status = Failure::status;
    let limited = |code| status(code).with("x-envoy-ratelimited", "true");
    let conditions: [Condition; 6] = [
        (
            "5xx",
            vec![status(500), status(503), Failure::Close, Failure::Reset],
            vec![status(409), limited(503)],
        ),
        ("gateway-error", vec![status(502), status(503), status(504), Failure::Reset], vec![status(500)]),
        ("reset", vec![Failure::Close, Failure::Reset], vec![status(503)]),
        ("retriable-4xx", vec![status(409)], vec![status(400), status(503)]),
        ("418", vec![status(418)], vec![status(417), status(503)]),
        ("envoy-ratelimited", vec![limited(429)], vec![status(503)]),
    ];
    let shop = shop(|policy| policy.routes("app", &rules(&conditions, "app"))).await?;
    for (on, repeated, left) in conditions {
        let cases = repeated.into_iter().map(|failure| (failure, 2)).chain(left.into_iter().map(|f| (f, 1)));
        for (number, (failure, tries)) in cases.enumerate() {
            let id = format!("{on}-{number}");
            shop.script([failure.clone()])?;
            let reply = shop.client.get(&format!("http://app/{on}/x")).header("x-id", &id).send().await?;
            let seen = shop.seen(&id)?;
            ensure!(seen.len() == tries, "{on}: {failure:?} was tried {} times: {reply:?}", seen.len());
            ensure!((reply.status == 200) == (tries == 2), "{on}: {failure:?} ended in {reply:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_policy_names_statuses_and_headers() -> Result<()> {
    let shop = shop_resilient("{attempts: 1, statusCodes: [418], headers: [x-again]}").await?;
    for (id, failure, tries) in [
        ("listed", Failure::status(418), 2),
        ("marked", Failure::status(404).with("x-again", ""), 2),
        ("other", Failure::status(404), 1),
        ("server", Failure::status(500), 1),
    ] {
        shop.fail_once(Method::GET, id, failure).await?;
        ensure!(shop.seen(id)?.len() == tries, "{id}: {} tries", shop.seen(id)?.len());
    }
    Ok(())
}

#[tokio::test]
async fn grpc_statuses_are_repeated_from_the_head_and_from_early_trailers() -> Result<()> {
    let both = |code| vec![Failure::grpc(code), Failure::grpc_trailers(code)];
    let conditions: [Condition; 5] = [
        ("cancelled", both(1), both(14)),
        ("deadline-exceeded", both(4), both(14)),
        ("resource-exhausted", both(8), both(14)),
        ("internal", both(13), both(14)),
        ("unavailable", both(14), both(7)),
    ];
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("chat", "v1").await?;
    mesh.policy.service_speaking("chat", "grpc")?;
    mesh.policy.routes("chat", &rules(&conditions, "chat"))?;
    let (sidecar, _client) = mesh.caller().await?;
    let client = sidecar.app_http2();
    for (on, repeated, left) in conditions {
        let cases = repeated.into_iter().map(|failure| (failure, 2)).chain(left.into_iter().map(|f| (f, 1)));
        for (number, (failure, tries)) in cases.enumerate() {
            let id = format!("{on}-{number}");
            app.app()?.faults().script([failure.clone()]);
            let call = client.post(&format!("http://chat/{on}/Call")).header("x-id", &id);
            let call = call.header("content-type", "application/grpc").header("te", "trailers");
            let reply = call.body("message").send().await?.expect(200)?;
            let seen = app.stats()?.seen_of(&id).len();
            ensure!(seen == tries, "{on}: {failure:?} was tried {seen} times: {reply:?}");
            let succeeded = reply.trailer("grpc-status") == "0" && reply.text() == "message";
            ensure!(succeeded == (tries == 2), "{on}: {failure:?} ended in {reply:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn attempts_are_numbered_and_the_last_answer_is_passed_on() -> Result<()> {
    let shop = shop_retrying("{attempts: 3, retryOn: 5xx}").await?;
    shop.app.app()?.faults().fail(Failure::status(503).with("x-mark", "of the app"));
    let call = shop.client.get("http://app/").header("x-id", "a").header("x-request-id", "a");
    let reply = call.send().await?.expect(503)?;
    assert_eq!((reply.header("x-mark"), reply.flag()), ("of the app", ""));
    assert_eq!(reply.text(), "failed on request\n");
    let seen = shop.seen("a")?;
    let numbers: Vec<_> = seen.iter().map(|seen| seen.attempt.as_str()).collect();
    assert_eq!(numbers, ["", "2", "3", "4"]);
    ensure!(seen.iter().all(|seen| seen.attempt == seen.envoy_attempt), "{seen:?}");
    assert_eq!(shop.log.line_of("a").await?.flags, "URX");
    assert_eq!(shop.figure("pillion_upstream_retries_total").await?, 3.0);
    assert_eq!(shop.figure("pillion_upstream_retries_exhausted_total").await?, 1.0);
    shop.app.app()?.faults().recover();
    let reply = shop.fail_once(Method::GET, "b", Failure::status(503)).await?.expect(200)?;
    ensure!(reply.flag().is_empty(), "{reply:?}");
    assert_eq!(reply.received("x-pillion-attempt")?, ["2"]);
    assert_eq!(shop.figure("pillion_upstream_retry_successes_total").await?, 1.0);
    assert_eq!(shop.log.line_of("b").await?.flags, "-");
    Ok(())
}

#[tokio::test]
async fn waits_grow_from_base_to_max() -> Result<()> {
    let retry = "{attempts: 3, retryOn: [5xx], backoff: {base: 200ms, multiplier: 2, max: 300ms}}";
    let shop = shop_resilient(retry).await?;
    shop.script([(); 3].map(|()| Failure::status(503)))?;
    shop.client.get("http://app/").header("x-id", "a").send().await?.expect(200)?;
    let waits = waits(&shop.seen("a")?);
    assert_eq!(waits.len(), 3);
    // Nominally 200, 300 and 300 ms, each spread over its upper half; a busy machine only adds to it.
    for (wait, least) in waits.iter().zip([100, 150, 150]) {
        ensure!((millis(least - 5)..millis(3000)).contains(wait), "{waits:?}");
    }
    Ok(())
}

#[tokio::test]
async fn retry_after_is_a_wait_of_the_server_s_choice() -> Result<()> {
    let routes = format!(
        "- {{match: [{{uri: {{prefix: /short}}}}], timeout: 700ms, retries: {{attempts: 1, retryOn: 5xx}}, {TO_APP}}}
- {{retries: {{attempts: 1, retryOn: 5xx}}, {TO_APP}}}"
    );
    let shop = shop(|policy| policy.routes("app", &routes)).await?;
    shop.fail_once(Method::GET, "a", Failure::status(503).with("retry-after", "1")).await?.expect(200)?;
    let waits = waits(&shop.seen("a")?);
    ensure!(waits.len() == 1 && waits[0] >= millis(990), "{waits:?}");
    // Longer than the request may take: there is no sense in waiting.
    shop.script([Failure::status(503).with("retry-after", "30")])?;
    let reply = shop.client.get("http://app/short").header("x-id", "b").send().await?.expect(503)?;
    assert_eq!((reply.flag(), reply.header("retry-after")), ("", "30"));
    assert_eq!(shop.seen("b")?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_grpc_server_pushes_back() -> Result<()> {
    let shop = shop(|policy| {
        policy.service_speaking("app", "grpc")?;
        policy.routes("app", &format!("- retries: {{attempts: 1, retryOn: unavailable}}\n  {TO_APP}"))
    })
    .await?;
    let client = shop.sidecar.app_http2();
    for (pushback, tries, least) in [("400", 2, 400), ("-1", 1, 0), ("soon", 1, 0)] {
        shop.script([Failure::grpc(14).with("grpc-retry-pushback-ms", pushback)])?;
        let call = client.post("http://app/a.B/C").header("x-id", pushback).header("te", "trailers");
        call.header("content-type", "application/grpc").body("message").send().await?.expect(200)?;
        let seen = shop.seen(pushback)?;
        ensure!(seen.len() == tries, "{pushback}: {} tries", seen.len());
        ensure!(waits(&seen).iter().all(|wait| *wait >= millis(least - least / 50)), "{:?}", waits(&seen));
    }
    Ok(())
}

#[tokio::test]
async fn a_try_has_a_time_of_its_own() -> Result<()> {
    let shop = shop_retrying("{attempts: 1, perTryTimeout: 300ms, retryOn: reset}").await?;
    shop.fail_once(Method::GET, "a", Failure::Hang).await?.expect(200)?;
    let between = waits(&shop.seen("a")?);
    ensure!(between.len() == 1 && between[0] >= millis(290), "{between:?}");
    shop.app.app()?.faults().fail(Failure::Hang);
    let reply = shop.client.get("http://app/").header("x-id", "b").send().await?;
    reply.expect_own(504, "UPT")?;
    assert_eq!(shop.seen("b")?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn all_tries_together_have_the_time_of_the_request() -> Result<()> {
    let retries = "retries: {attempts: 20, perTryTimeout: 200ms, retryOn: reset}";
    let shop =
        shop(|policy| policy.routes("app", &format!("- timeout: 700ms\n  {retries}\n  {TO_APP}"))).await?;
    shop.app.app()?.faults().fail(Failure::Hang);
    let call = shop.client.get("http://app/").header("x-id", "a").header("x-request-id", "a");
    let reply = call.send().await?.expect(504)?;
    ensure!(["UT", "UPT"].contains(&reply.flag()), "whichever time ends first: {}", reply.flag());
    let tries = shop.seen("a")?.len();
    ensure!((2..=4).contains(&tries), "{tries} tries of 200 ms in 700 ms");
    let took = shop.log.line_of("a").await?.duration_ms;
    // It ends a little sooner when there is no time for another try.
    ensure!((400.0..3000.0).contains(&took), "{took} ms");
    Ok(())
}

#[tokio::test]
async fn a_body_is_sent_again_if_it_is_small_enough() -> Result<()> {
    let shop = shop_retrying("{attempts: 1, retryOn: 5xx}").await?;
    for (id, size, tries) in [("small", 60 * 1024, 2), ("large", 200 * 1024, 1)] {
        let body = "0123456789abcdef".repeat(size / 16);
        for (id, streamed) in [(format!("{id}-whole"), false), (format!("{id}-streamed"), true)] {
            shop.script([Failure::status(503)])?;
            let call = shop.client.post("http://app/echo").header("x-id", &id);
            let call = if streamed {
                let chunks = body.as_bytes().chunks(10_000).map(bytes::Bytes::copy_from_slice).collect();
                call.streaming(pillion_tests::body::chunked(chunks, None))
            } else {
                call.body(body.clone())
            };
            let reply = call.send().await?;
            let seen = shop.seen(&id)?.len();
            ensure!(seen == tries, "{id}: {seen} tries");
            if tries == 2 {
                ensure!(reply.expect(200)?.json()?["body"] == body.as_str(), "{id}: not the same body");
            } else {
                reply.expect(503)?;
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn endpoints_already_tried_are_avoided() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let mut apps = Vec::new();
    for _ in 0..3 {
        apps.push(mesh.serve("app", "v1").await?);
    }
    // More than any budget would allow otherwise.
    let budget = "budget: {minRetriesPerSecond: 1000}";
    mesh.policy.resilience("app", &format!("retry: {{attempts: 2, retryOn: [5xx], {budget}}}"))?;
    let (_sidecar, client) = mesh.caller().await?;
    apps[0].app()?.faults().fail(Failure::status(503));
    apps[1].app()?.faults().fail(Failure::status(503));
    burst(40, 1, || client.get("http://app/").send()).await.expect_no_failure()?;
    ensure!(apps[0].stats()?.requests() + apps[1].stats()?.requests() > 0, "nothing had to be repeated");
    Ok(())
}

#[tokio::test]
async fn what_has_not_reached_an_app_is_repeated_without_any_policy() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    mesh.serve_nothing("app", "v1")?;
    let (_sidecar, client) = mesh.caller().await?;
    burst(60, 1, || client.post("http://app/").body("once").send()).await.expect_no_failure()?;
    assert_eq!(app.stats()?.requests(), 60);
    Ok(())
}

#[tokio::test]
async fn no_attempts_means_no_retries() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    mesh.serve_nothing("app", "v1")?;
    mesh.policy.routes("app", &format!("- retries: {{attempts: 0}}\n  {TO_APP}"))?;
    let (_sidecar, client) = mesh.caller().await?;
    let report = burst(60, 1, || client.post("http://app/").body("once").send()).await;
    ensure!(
        report.failures > 0 && report.reasons.iter().all(|reason| reason.contains("\"UF;")),
        "{report:?}"
    );
    Ok(())
}

#[tokio::test]
async fn streams_the_peer_has_not_looked_at_are_repeated() -> Result<()> {
    for refusal in [Refusal::Reset, Refusal::GoAway] {
        let mut mesh = Mesh::new()?;
        let (handle, streams) = refusing(refusal, 1);
        let _app = mesh.serve_raw("app", handle).await?;
        mesh.policy.service_speaking("app", "http2")?;
        let (_sidecar, client) = mesh.caller().await?;
        let reply = client.post("http://app/").body("once").send().await?;
        reply.expect(200).with_context(|| format!("{refusal:?}"))?;
        assert_eq!(streams.load(Ordering::SeqCst), 2, "{refusal:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_may_have_had_effects_is_repeated_on_demand_only() -> Result<()> {
    let shop = shop_resilient("{attempts: 1, retryOn: [5xx]}").await?;
    for (method, tries) in
        [(Method::GET, 2), (Method::PUT, 2), (Method::DELETE, 2), (Method::POST, 1), (Method::PATCH, 1)]
    {
        for failure in [Failure::status(503), Failure::Reset] {
            let id = format!("{method}-{failure:?}");
            shop.fail_once(method.clone(), &id, failure).await?;
            let seen = shop.seen(&id)?.len();
            ensure!(seen == tries, "{id}: {seen} tries");
        }
    }
    // The one who asks has said that it may be repeated.
    shop.script([Failure::status(503)])?;
    let call = shop.client.post("http://app/echo").header("idempotency-key", "k").header("x-id", "key");
    call.send().await?.expect(200)?;
    assert_eq!(shop.seen("key")?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn policy_may_say_that_all_methods_are_repeated() -> Result<()> {
    let willing = shop_resilient("{attempts: 1, retryOn: [5xx], retryNonIdempotent: true}").await?;
    willing.fail_once(Method::POST, "a", Failure::status(503)).await?.expect(200)?;
    assert_eq!(willing.seen("a")?.len(), 2);
    // A VirtualService that lists the condition keeps the meaning it has elsewhere.
    let listed = shop_retrying("{attempts: 1, retryOn: 5xx}").await?;
    listed.fail_once(Method::POST, "a", Failure::status(503)).await?.expect(200)?;
    assert_eq!(listed.seen("a")?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_budget_bounds_the_retries_of_a_destination() -> Result<()> {
    let default = shop_retrying("{attempts: 1, retryOn: 5xx}").await?;
    let budget = "budget: {percent: 10, minRetriesPerSecond: 1, interval: 10s}";
    let narrow = shop_resilient(&format!("{{attempts: 1, retryOn: [5xx], {budget}}}")).await?;
    // A fifth, or ten a second for ten seconds; and a tenth, or one a second for ten seconds.
    for (shop, requests, retries) in [(default, 800, 160), (narrow, 300, 30)] {
        shop.app.app()?.faults().fail(Failure::status(503));
        let report = burst(requests, 4, || shop.client.get("http://app/").send()).await;
        // A denied retry leaves the answer as it is.
        ensure!(report.reasons.iter().all(|reason| reason.contains("failed on request")), "{report:?}");
        let repeated = shop.app.stats()?.requests() - requests;
        ensure!(repeated > 0 && repeated <= retries, "{repeated} retries of {requests} requests");
        let denied = shop.figure("pillion_upstream_retry_budget_denied_total").await?;
        assert_eq!(denied, f64::from(u32::try_from(requests - repeated)?));
        let lines = shop.log.at_least(usize::try_from(requests)?).await?;
        let flagged = lines.iter().filter(|line| line.flags == "BUD").count();
        assert_eq!(u64::try_from(flagged)?, requests - repeated);
    }
    Ok(())
}
