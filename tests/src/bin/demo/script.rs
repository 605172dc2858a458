//! The script of events, what the demo claims of each, and what was measured. The chapter on failure is in
//! [`crate::failure`], the one on identity in [`crate::identity`], the one on traces in [`crate::trace`].

use std::time::Duration;

use anyhow::{Result, ensure};
use pillion_tests::{Client, Report, burst, eventually};
use tokio::time::Instant;

use crate::cast::{API, ROUTING, STAR, routing, seed_routing};
use crate::claims::Outcome;
use crate::screen::Screen;
use crate::stage::Stage;
use crate::traffic::Traffic;
use crate::{failure, identity, trace};

/// Most requests by which the split is measured, and most time for them.
const SAMPLE: u64 = 10_000;
const SAMPLE_TIME: Duration = Duration::from_secs(15);
/// Requests between looks at the clock.
const SLICE: u64 = 500;
/// Requests in flight while measuring.
const IN_FLIGHT: usize = 16;
/// Edits of the split whose delay is measured.
const EDITS: usize = 6;
/// Until when an edit is in force: half of them, and all of them even on a machine that is busy with other things.
const EDIT_LIMITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// Plays all events, in order.
pub(crate) async fn play(stage: &mut Stage, traffic: &Traffic, screen: &Screen) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let begun = Instant::now();
    steady(traffic, screen, &mut outcome).await?;
    split(screen, &mut outcome).await;
    premium(screen, &mut outcome).await;
    departure(stage, traffic, screen, &mut outcome).await?;
    crash(stage, traffic, screen, &mut outcome).await?;
    edits(stage, traffic, screen, &mut outcome).await?;
    failure::play(stage, traffic, screen, &mut outcome).await?;
    identity::play(stage, screen, &mut outcome).await?;
    trace::play(stage, screen, &mut outcome).await?;
    stage.ensure_running()?;
    outcome.measure("seconds", begun.elapsed().as_secs_f64());
    Ok(outcome)
}

/// How far a measured share may be from `percent`: one point, or three and a half standard deviations of a small sample.
#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn tolerance(percent: f64, requests: u64) -> f64 {
    let deviation = (percent * (100.0 - percent) / requests.max(1) as f64).sqrt();
    (3.5 * deviation).max(1.0)
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn per_second(requests: u64, time: Duration) -> f64 {
    requests as f64 / time.as_secs_f64()
}

/// A call of order-service as the front makes it.
fn order(client: &Client) -> impl Future<Output = Result<pillion_tests::Reply>> + Send + use<> {
    client.get("http://order-service/").send()
}

/// A client that calls as the front does.
pub(crate) fn front_sidecar() -> Client {
    Client::http1(API.outbound())
}

/// Watches the traffic until `more` requests have been answered, and tells how.
async fn answered(traffic: &Traffic, more: u64) -> Result<Report> {
    traffic.mark();
    visits(traffic, more).await
}

/// Waits for `more` answers; the count since the mark goes on.
async fn visits(traffic: &Traffic, more: u64) -> Result<Report> {
    let wanted = traffic.since_mark().total() + more;
    eventually("traffic", || async {
        let report = traffic.since_mark();
        ensure!(report.total() >= wanted, "{} of {wanted} requests answered", report.total());
        Ok(report)
    })
    .await
}

async fn steady(traffic: &Traffic, screen: &Screen, outcome: &mut Outcome) -> Result<()> {
    screen.say("Users visit the shop; each visit is one call of the front and four calls it makes.");
    let report = answered(traffic, 100).await?;
    outcome.claim_no_failure(screen, &report, "steady traffic");
    outcome.measure("p50_ms", report.percentile_ms(50.0));
    outcome.measure("p99_ms", report.percentile_ms(99.0));
    let visits = traffic.premium_since_mark();
    outcome.claim(
        screen,
        visits.successes > 0 && visits.by_version.keys().all(|version| version == "v2"),
        format!("premium users' visits: {:.0} % served by order-service v2", visits.version_percent("v2")),
    );
    Ok(())
}

async fn split(screen: &Screen, outcome: &mut Outcome) {
    screen.say("\nThe policy sends 90 % of orders to v1 and 10 % to v2.");
    let client = front_sidecar();
    let begun = Instant::now();
    let mut report = Report::default();
    while report.total() < SAMPLE && begun.elapsed() < SAMPLE_TIME {
        report.merge(&burst(SLICE, IN_FLIGHT, || order(&client)).await);
    }
    let share = report.version_percent("v2");
    let tolerance = tolerance(10.0, report.total());
    outcome.figure("split_requests", report.total());
    outcome.figure("split_failures", report.failures);
    outcome.measure("split_v2_percent", share);
    outcome.measure("split_requests_per_second", per_second(report.total(), begun.elapsed()));
    let held = report.failures == 0 && (share - 10.0).abs() <= tolerance;
    outcome.claim(
        screen,
        held,
        format!("of {} calls {share:.2} % reached v2, {} failed", report.total(), report.failures),
    );
}

async fn premium(screen: &Screen, outcome: &mut Outcome) {
    screen.say("\nUsers with `user-type: premium` get v2.");
    let client = front_sidecar();
    let report =
        burst(500, IN_FLIGHT, || client.get("http://order-service/").header("user-type", "premium").send())
            .await;
    let share = report.version_percent("v2");
    outcome.measure("premium_v2_percent", share);
    let all = report.by_version.get("v2") == Some(&500);
    outcome.claim(
        screen,
        all,
        format!("of {} premium calls {share:.1} % reached v2, {} failed", report.total(), report.failures),
    );
}

/// An instance leaves the policy, is drained and stopped, and comes back.
async fn departure(
    stage: &mut Stage,
    traffic: &Traffic,
    screen: &Screen,
    outcome: &mut Outcome,
) -> Result<()> {
    screen.say(&format!("\n{} leaves: its pod is removed from the policy, then it is stopped.", STAR.name));
    traffic.mark();
    stage.leave(STAR)?;
    let gone = until_listed(stage, false).await?;
    visits(traffic, 40).await?;
    stage.stop_pod(STAR).await?;
    screen.say(&format!(
        "  its endpoint was gone after {} ms; the other instance of v1 takes over",
        gone.as_millis()
    ));
    visits(traffic, 40).await?;
    stage.revive(STAR).await?;
    stage.join(STAR)?;
    let back = until_serving().await?;
    visits(traffic, 40).await?;
    screen
        .say(&format!("  back again: first request served {} ms after its pod was added", back.as_millis()));
    let report = traffic.since_mark();
    outcome.measure("endpoint_gone_ms", gone.as_secs_f64() * 1e3);
    outcome.measure("endpoint_back_ms", back.as_secs_f64() * 1e3);
    outcome.figure("departure_failures", report.failures);
    outcome.claim_no_failure(screen, &report, "while an instance left and came back");
    Ok(())
}

/// An instance dies without a warning; its pod leaves the policy; it comes back.
async fn crash(stage: &mut Stage, traffic: &Traffic, screen: &Screen, outcome: &mut Outcome) -> Result<()> {
    screen.say(&format!(
        "\n{} crashes: app and sidecar are killed, and the policy still names it. What finds nobody there is sent \
         elsewhere.",
        STAR.name
    ));
    stage.crash(STAR).await?;
    let during = answered(traffic, 80).await?;
    let success = pillion_tests::load::percent(during.successes, during.total());
    outcome.figure("crash_failures", during.failures);
    outcome.measure("crash_success_percent", success);
    screen.say(&format!("  meanwhile {} of {} requests succeeded", during.successes, during.total()));
    let explained = during.reasons.iter().all(|reason| reason.contains("503") && reason.contains("(U"));
    if let Some(cause) = during.reasons.first().and_then(|reason| reason.split("\"error\":\"").nth(1)) {
        screen.say(&format!("  a failed one said: {}", cause.split('"').next().unwrap_or(cause)));
    }
    outcome.claim(screen, explained, "every failure names its cause".to_owned());
    outcome.claim(screen, success >= 90.0, format!("the others took over: {success:.0} % succeeded"));
    stage.leave(STAR)?;
    let gone = until_listed(stage, false).await?;
    outcome.measure("crash_recovery_ms", gone.as_secs_f64() * 1e3);
    screen.say(&format!("  its pod is removed from the policy; in force after {} ms", gone.as_millis()));
    // Requests that were sent before belong to the time before.
    answered(traffic, 10).await?;
    let after = answered(traffic, 80).await?;
    outcome.claim_no_failure(screen, &after, "once the pod had left the policy");
    stage.revive(STAR).await?;
    stage.join(STAR)?;
    traffic.mark();
    let back = until_serving().await?;
    screen.say(&format!("  back again, serving after {} ms", back.as_millis()));
    outcome.claim_no_failure(screen, &answered(traffic, 40).await?, "with all instances back");
    Ok(())
}

/// The split is edited again and again; each edit is timed until requests follow it.
async fn edits(stage: &Stage, traffic: &Traffic, screen: &Screen, outcome: &mut Outcome) -> Result<()> {
    screen.say(&format!("\nThe split is edited {EDITS} times, in {}.", stage.policy.file(ROUTING).display()));
    traffic.mark();
    let client = front_sidecar();
    let mut delays = Vec::new();
    for edit in 1..=EDITS {
        // The last edit leaves 50/50 in force.
        let even = edit % 2 == EDITS % 2;
        let (v1, v2) = if even { (50, 50) } else { (90, 10) };
        let mark = format!("e{edit}");
        let begun = Instant::now();
        stage.policy.apply(ROUTING, &routing(v1, v2, &mark))?;
        until_marked(&client, Some(&mark)).await?;
        delays.push(begun.elapsed());
    }
    delays.sort();
    let [median, slowest] = [EDITS / 2, EDITS - 1].map(|rank| delays.get(rank).copied().unwrap_or_default());
    outcome.measure("edit_in_force_ms_median", median.as_secs_f64() * 1e3);
    outcome.measure("edit_in_force_ms_max", slowest.as_secs_f64() * 1e3);
    let [typical, limit] = EDIT_LIMITS;
    let (median, slowest, held) =
        (median.as_millis(), slowest.as_millis(), median <= typical && slowest <= limit);
    outcome.claim(
        screen,
        held,
        format!("an edit was in force after {median} ms, the slowest after {slowest} ms"),
    );
    let report = burst(2000, IN_FLIGHT, || order(&client)).await;
    let share = report.version_percent("v2");
    outcome.measure("edited_split_v2_percent", share);
    let held = report.failures == 0 && (share - 50.0).abs() <= tolerance(50.0, report.total());
    outcome.claim(screen, held, format!("of {} calls under 50/50 {share:.1} % reached v2", report.total()));
    stage.policy.apply(ROUTING, seed_routing())?;
    until_marked(&client, None).await?;
    let report = traffic.since_mark();
    outcome.figure("edit_failures", report.failures);
    outcome.claim_no_failure(screen, &report, "while the policy was edited");
    Ok(())
}

/// How long until the front's sidecar knows the star's endpoint, or no more.
async fn until_listed(stage: &Stage, listed: bool) -> Result<Duration> {
    let begun = Instant::now();
    let address = STAR.inbound().to_string();
    eventually("the endpoint's change is in force", || async {
        let endpoints = stage.endpoints().await?;
        ensure!(endpoints.contains(&address) == listed, "{endpoints}");
        Ok(begun.elapsed())
    })
    .await
}

/// How long until the star serves a request again.
async fn until_serving() -> Result<Duration> {
    let begun = Instant::now();
    let client = front_sidecar();
    eventually("the instance serves again", || async {
        let reply = order(&client).await?.expect(200)?;
        ensure!(reply.header("x-instance") == STAR.name, "served by {}", reply.header("x-instance"));
        Ok(begun.elapsed())
    })
    .await
}

/// Waits until ordinary calls carry this mark of an edit.
async fn until_marked(client: &Client, mark: Option<&str>) -> Result<()> {
    eventually("the edit is in force", || async {
        let reply = order(client).await?.expect(200)?;
        let found = reply.headers.get("x-edit").and_then(|value| value.to_str().ok());
        ensure!(found == mark, "the mark is {found:?}, not {mark:?}");
        Ok(())
    })
    .await
}
