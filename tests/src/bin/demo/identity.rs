//! The chapter on identity: who calls whom over mutual TLS, and a call that policy denies.

use anyhow::{Result, ensure};
use pillion_tests::{Client, eventually};

use crate::cast::{API, PAYMENT, PAYMENT_ACCESS, PODS, STAR};
use crate::claims::Outcome;
use crate::screen::Screen;
use crate::script::front_sidecar;
use crate::stage::Stage;

/// What an application is told of its caller's certificate.
const CLIENT_CERT: &str = "x-forwarded-client-cert";

/// Plays the chapter.
pub(crate) async fn play(stage: &Stage, screen: &Screen, outcome: &mut Outcome) -> Result<()> {
    screen.say("\nEvery call between pods goes over mutual TLS. The front calls each service once:");
    hops(stage, screen, outcome).await?;
    denied(stage, screen, outcome).await
}

/// One call to each service, and who the two sides have proved to be.
async fn hops(stage: &Stage, screen: &Screen, outcome: &mut Outcome) -> Result<()> {
    let client = front_sidecar();
    let caller = stage.identity(API).await?;
    let mut services: Vec<&str> =
        PODS.iter().map(|pod| pod.service).filter(|it| *it != API.service).collect();
    services.dedup();
    let mut proved = 0;
    for &service in &services {
        let reply = client.get(&format!("http://{service}/echo")).send().await?.expect(200)?;
        let told = reply.received(CLIENT_CERT)?.join(" ");
        let part = |name: &str| {
            let found = told.split(';').find_map(|part| part.trim().strip_prefix(name));
            found.unwrap_or("nobody").trim_matches('"').to_owned()
        };
        let (from, to) = (part("URI="), part("By="));
        screen.say(&format!("  {from}  ->  {to}"));
        proved += usize::from(from == caller && to.ends_with(&format!("/sa/{service}")));
    }
    outcome.figure("hops_proved", proved);
    let text = format!("{proved} of {} services know who called, and proved who they are", services.len());
    outcome.claim(screen, proved == services.len(), text);
    Ok(())
}

/// A policy lets the front alone take payments.
async fn denied(stage: &Stage, screen: &Screen, outcome: &mut Outcome) -> Result<()> {
    let (file, yaml) = PAYMENT_ACCESS;
    screen.say(&format!("\n{file}.yaml is saved: payments over mutual TLS only, and for the front alone."));
    let order = Client::http1(STAR.outbound());
    let url = format!("http://{}/", PAYMENT.service);
    let before = order.get(&url).send().await?.status;
    stage.policy.apply(file, yaml)?;
    let reply = eventually("the call is denied", || async {
        let reply = order.get(&url).send().await?;
        // A request that is under way when the policy comes is broken off, which the caller sees as a 503.
        ensure!(reply.status == 403, "it is still answered {}", reply.status);
        Ok(reply)
    })
    .await?;
    let (status, error) = (reply.status.as_u16(), reply.header("x-pillion-error").to_owned());
    screen.say(&format!(
        "  {} calls {}: {before} before, now {status} ({error})",
        STAR.service, PAYMENT.service
    ));
    let is_denied = status == 403 && reply.flag() == "AUTHZ";
    outcome.claim(screen, is_denied, format!("who is not allowed is denied: {status}"));
    let front = front_sidecar().get(&url).send().await?.status;
    outcome.claim(screen, front == 200, format!("who is allowed is answered: {front}"));
    let plain = Client::http1(PAYMENT.inbound()).get(&url).send().await;
    let text = "a call in plain text is refused before a byte of it is read".to_owned();
    outcome.claim(screen, plain.is_err(), text);
    outcome.figure("denied_status", status);
    stage.policy.delete(file)?;
    eventually("the call is answered again", || async {
        order.get(&url).send().await?.expect(200)?;
        Ok(())
    })
    .await
}
