//! The chapter on failure: an instance that turns bad, one that turns slow, and a service that dies.
//!
//! Each is measured with calls the front could make: without a policy, with one, and after the cause is gone. Policies
//! are saved while calls fail, as an operator would. Each measurement has load of its own and waits for its last
//! answer, so that none sees what another has caused.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pillion_tests::load::percent;
use pillion_tests::{Client, Load, Report, eventually};
use serde_json::json;
use tokio::time::Instant;

use crate::cast::{API, INVENTORY_RESILIENCE, ONLY, PATIENT, Pod, USER_FALLBACK};
use crate::claims::Outcome;
use crate::screen::Screen;
use crate::script::front_sidecar;
use crate::stage::Stage;
use crate::traffic::Traffic;

/// Calls per second, and how many may be open at a time.
const RATE: u32 = 100;
const IN_FLIGHT: usize = 300;
/// How long a state that lasts is measured.
const SPAN: Duration = Duration::from_secs(2);
/// How long is measured with the policy: longer than an ejection, so that a failing instance is tried again meanwhile.
const WITH_POLICY: Duration = Duration::from_secs(3);
/// What a slow instance takes, three times what the policy gives a try.
const DELAY: Duration = Duration::from_millis(1500);
/// Success rate with the policy, in percent: all, but for what a busy machine delays.
const ENOUGH: f64 = 99.0;

/// One part of the chapter: measures calls of a service and says what came of them.
struct Scene<'a> {
    /// How its figures begin.
    name: &'static str,
    service: &'static str,
    screen: &'a Screen,
}

/// Plays the chapter.
pub(crate) async fn play(
    stage: &mut Stage,
    traffic: &Traffic,
    screen: &Screen,
    outcome: &mut Outcome,
) -> Result<()> {
    turns_bad(stage, screen, outcome).await?;
    turns_slow(stage, screen, outcome).await?;
    dies(stage, traffic, screen, outcome).await
}

/// One of three instances answers everything with 500.
async fn turns_bad(stage: &Stage, screen: &Screen, outcome: &mut Outcome) -> Result<()> {
    screen.say(&format!("\n{} turns bad: one instance of three answers every call with 500.", PATIENT.name));
    let scene = Scene { name: "bad", service: PATIENT.service, screen };
    scene.head();
    scene.measure("healthy", "all is well", SPAN, outcome).await?;
    stage.spoil(PATIENT, &json!({ "fail_percent": 100 })).await?;
    let before = scene.measure("before", "without a policy", SPAN, outcome).await?;
    let ejected = save_and_watch_ejection(stage, &scene).await?;
    outcome.measure("bad_ejected_ms", ejected.as_secs_f64() * 1e3);
    let got = stage.served(PATIENT).await?;
    let after = scene.measure("after", "with the policy", WITH_POLICY, outcome).await?;
    let got = stage.served(PATIENT).await? - got;
    outcome.figure("bad_probes", got);
    screen.say(&format!("  ejected {} ms after the save; calls it got since: {got}", ejected.as_millis()));
    let [before, after] = [&before, &after].map(|report| percent(report.successes, report.total()));
    outcome.claim(
        screen,
        before < 95.0 && after >= ENOUGH,
        format!("calls succeeded: {before:.1} % before, {after:.1} % with the policy"),
    );
    heal(stage, &scene, &json!({ "fail_percent": 0 }), outcome).await
}

/// One of three instances takes its time.
async fn turns_slow(stage: &Stage, screen: &Screen, outcome: &mut Outcome) -> Result<()> {
    let (delay, service) = (DELAY.as_millis(), PATIENT.service);
    screen.say(&format!(
        "\n{} turns slow: one instance of three takes {delay} ms. The policy has been removed.",
        PATIENT.name
    ));
    stage.policy.delete(INVENTORY_RESILIENCE.0)?;
    stage.policy.destination(service, "trafficPolicy:\n  loadBalancer: {simple: ROUND_ROBIN}\n")?;
    until_unprotected(stage).await?;
    stage.spoil(PATIENT, &json!({ "delay_ms": delay })).await?;
    let scene = Scene { name: "slow", service, screen };
    scene.head();
    let before = scene.measure("before", "in turn, as many have it", SPAN, outcome).await?;
    stage.policy.delete(&format!("destination-{service}"))?;
    scene.measure("balanced", "least busy first, our default", SPAN, outcome).await?;
    let ejected = save_and_watch_ejection(stage, &scene).await?;
    outcome.measure("slow_ejected_ms", ejected.as_secs_f64() * 1e3);
    let after = scene.measure("after", "with the policy", WITH_POLICY, outcome).await?;
    screen.say(&format!("  ejected {} ms after the save, for tries out of time", ejected.as_millis()));
    let success = percent(after.successes, after.total());
    let [before, after] = [before, after].map(|report| report.percentile_ms(99.0));
    outcome.claim(
        screen,
        before >= 0.9 * DELAY.as_secs_f64() * 1e3 && after <= before / 2.0 && success >= ENOUGH,
        format!("p99 was {before:.0} ms before, {after:.0} ms with the policy, and {success:.1} % succeeded"),
    );
    heal(stage, &scene, &json!({ "delay_ms": 0 }), outcome).await
}

/// The only instance of a service dies; its callers are given something else.
async fn dies(stage: &mut Stage, traffic: &Traffic, screen: &Screen, outcome: &mut Outcome) -> Result<()> {
    screen.say(&format!(
        "\n{} dies, app and sidecar: there is no other instance of {}.",
        ONLY.name, ONLY.service
    ));
    let scene = Scene { name: "dead", service: ONLY.service, screen };
    scene.head();
    scene.measure("healthy", "all is well", SPAN, outcome).await?;
    stage.crash(ONLY).await?;
    let before = scene.measure("before", "without a policy", SPAN, outcome).await?;
    let (file, yaml) = USER_FALLBACK;
    let saved = Instant::now();
    stage.policy.apply(file, yaml)?;
    let why = eventually("the breaker opens", || async {
        let breaker = stage.breaker(ONLY.service).await?.context("there is no breaker yet")?;
        ensure!(breaker["state"] == "open", "{breaker}");
        Ok(breaker["why"].as_str().unwrap_or_default().to_owned())
    })
    .await?;
    let opened = saved.elapsed();
    outcome.measure("dead_opened_ms", opened.as_secs_f64() * 1e3);
    traffic.mark();
    let after = scene.measure("after", "with the policy", WITH_POLICY, outcome).await?;
    let visits = traffic.since_mark();
    screen.say(&format!("  its breaker opened {} ms after the save: {why}", opened.as_millis()));
    let breaker = stage.breaker(ONLY.service).await?.context("the breaker is gone")?;
    outcome.figure("dead_rejected", breaker["rejected"].clone());
    outcome.figure("dead_opened", breaker["opened"].clone());
    let [before, after] = [&before, &after].map(|report| percent(report.successes, report.total()));
    outcome.claim(
        screen,
        before < 5.0 && after >= ENOUGH,
        format!("calls succeeded: {before:.1} % before, {after:.1} % with the fallback"),
    );
    outcome.claim_no_failure(screen, &visits, "the shop's visits meanwhile");
    let page = Client::http1(API.inbound()).get("http://api/").send().await?.expect(200)?.json()?;
    let user = &page["user"]["name"];
    outcome.claim(screen, user == "Unknown User", format!("a page of the shop names its user {user}"));
    stage.revive(ONLY).await?;
    let back = Instant::now();
    eventually("the breaker closes", || async {
        let breaker = stage.breaker(ONLY.service).await?.context("the breaker is gone")?;
        ensure!(breaker["state"] == "closed", "{breaker}");
        Ok(())
    })
    .await?;
    let back = back.elapsed();
    let healed = scene.measure("healed", "back again", SPAN, outcome).await?;
    outcome.measure("dead_closed_ms", back.as_secs_f64() * 1e3);
    outcome.claim(
        screen,
        healed.by_version.get(ONLY.version).copied().unwrap_or_default() == healed.total(),
        format!("closed {} ms after it was back: all calls answered by {}", back.as_millis(), ONLY.name),
    );
    Ok(())
}

/// Takes the cause away, and waits until the instance serves again.
async fn heal(
    stage: &Stage,
    scene: &Scene<'_>,
    healthy: &serde_json::Value,
    outcome: &mut Outcome,
) -> Result<()> {
    stage.spoil(PATIENT, healthy).await?;
    let begun = Instant::now();
    until_state(stage, PATIENT, "healthy").await?;
    let back = begun.elapsed();
    let got = stage.served(PATIENT).await?;
    let healed = scene.measure("healed", "healed", SPAN, outcome).await?;
    let got = stage.served(PATIENT).await? - got;
    outcome.measure(&format!("{}_back_ms", scene.name), back.as_secs_f64() * 1e3);
    // A third is its share; the rest of the shop calls it as well.
    let held = percent(healed.successes, healed.total()) >= ENOUGH && got * 6 >= healed.total();
    let text =
        format!("back through one probe {} ms after it was healed, {got} calls since", back.as_millis());
    outcome.claim(scene.screen, held, text);
    Ok(())
}

/// Saves the policy of the inventory under load; returns how long it took until the bad instance was ejected.
async fn save_and_watch_ejection(stage: &Stage, scene: &Scene<'_>) -> Result<Duration> {
    let load = scene.load();
    let saved = Instant::now();
    let (file, yaml) = INVENTORY_RESILIENCE;
    stage.policy.apply(file, yaml)?;
    until_state(stage, PATIENT, "ejected").await?;
    let ejected = saved.elapsed();
    load.stop().await?;
    Ok(ejected)
}

async fn until_state(stage: &Stage, pod: Pod, wanted: &str) -> Result<()> {
    eventually(&format!("{} is {wanted}", pod.name), || async {
        let state = stage.state_of(pod).await?;
        ensure!(state == wanted, "it is {state}");
        Ok(())
    })
    .await
}

/// Waits until no policy of the inventory is in force.
async fn until_unprotected(stage: &Stage) -> Result<()> {
    eventually("the policy is gone", || async {
        ensure!(!stage.ejects(PATIENT.service).await?, "instances are still ejected");
        Ok(())
    })
    .await
}

impl Scene<'_> {
    fn head(&self) {
        let columns = format!("{:>7}{:>11}{:>9}{:>9}{:>9}", "calls", "success", "p50 ms", "p99 ms", "max ms");
        self.screen.say(&format!("  {:<31}{columns}", self.service));
    }

    /// Calls the service for `span` and says how that went.
    async fn measure(
        &self,
        phase: &str,
        title: &str,
        span: Duration,
        outcome: &mut Outcome,
    ) -> Result<Report> {
        let load = self.load();
        tokio::time::sleep(span).await;
        let report = load.stop().await?;
        let success = percent(report.successes, report.total());
        let [p50, p99, max] = [50.0, 99.0, 100.0].map(|percentile| report.percentile_ms(percentile));
        let figures = format!("{:>7}{success:>9.1} %{p50:>9.1}{p99:>9.1}{max:>9.1}", report.total());
        self.screen.say(&format!("    {title:<29}{figures}"));
        outcome.measure(&format!("{}_{phase}_success_percent", self.name), success);
        outcome.measure(&format!("{}_{phase}_p99_ms", self.name), p99);
        Ok(report)
    }

    fn load(&self) -> Load {
        let (client, url) = (front_sidecar(), format!("http://{}/", self.service));
        Load::start(RATE, IN_FLIGHT, move || client.get(&url).send())
    }
}
