//! Who may call an app: what sidecars let in, what they say to the others, and what operators learn.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::{HeaderName, Method, StatusCode};
use http_body_util::BodyExt;
use pillion_policy::authorization::{Action, Choice, Condition, Operation, Rule, Source};
use pillion_tests::guarded::{Guarded, Rules, paths, policy_of, texts};
use pillion_tests::{Client, Mesh, Reply, Wire, address, eventually, task};
use tokio::time::timeout;

/// Within which a new policy must hold for what is under way.
const SOON: Duration = Duration::from_secs(5);

async fn guarded(authorization: Vec<pillion_policy::authorization::AuthorizationPolicy>) -> Result<Guarded> {
    Guarded::start(Rules { authorization, ..Rules::default() }).await
}

#[tokio::test]
async fn who_is_denied_learns_no_more_than_that() -> Result<()> {
    let shop = guarded(vec![policy_of("secret-name", Action::Deny, vec![paths(&["/status/*"])?])]).await?;
    for client in [shop.client(), shop.client_http2()] {
        client.get("http://app/echo").send().await?.expect(200)?;
        let before = shop.app.stats()?.requests();
        let reply = client.get("http://app/status/200").header("x-request-id", "denied").send().await?;
        let reply = reply.expect_own(403, "AUTHZ")?;
        assert_eq!(reply.header("x-pillion-error"), "AUTHZ; access denied by policy");
        ensure!(!format!("{:?}{}", reply.headers, reply.text()).contains("secret-name"), "{reply:?}");
        assert_eq!(shop.app.stats()?.requests(), before, "what is refused must not arrive");
    }
    let line = shop.log.line_of("denied").await?;
    assert_eq!((line.status, &*line.flags), (403, "AUTHZ"));
    assert_eq!(line.cause.as_deref(), Some("access denied by policy default/secret-name"));
    let call = shop.client_http2().post("http://app/status/x").header("te", "trailers");
    let reply = call.header("content-type", "application/grpc").body("message").send().await?.expect(200)?;
    assert_eq!((reply.header("grpc-status"), reply.flag()), ("7", "AUTHZ"));
    let metrics = shop.sidecar.metrics().await?;
    let total = |result| metrics.sum("pillion_authorization_total", &[("result", result)]);
    assert_eq!((total("allowed"), total("denied"), total("denied_by_default")), (2.0, 3.0, 0.0));
    Ok(())
}

#[tokio::test]
async fn no_other_spelling_of_a_path_gets_by() -> Result<()> {
    let shop = guarded(vec![policy_of("deny", Action::Deny, vec![paths(&["/status/{**}"])?])]).await?;
    for target in [
        "/status/200",
        "/status",
        "/status/200?x=1",
        "/st%61tus/200",
        "/%73tatus/200",
        "/./status/200",
        "/x/../status/200",
        "/x/%2e%2e/status/200",
        "/x\\..\\status/200",
        "http://app/status/200",
    ] {
        let mut wire = Wire::connect(shop.sidecar.inbound).await?;
        let head = format!("GET {target} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n");
        wire.send(head.as_bytes()).await?;
        let answer = wire.rest().await?;
        ensure!(answer.starts_with("HTTP/1.1 403 "), "{target}: {answer}");
    }
    assert_eq!(shop.app.stats()?.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn only_who_is_allowed_gets_in() -> Result<()> {
    let (friend, stranger) = (address::unused()?, address::unused()?);
    let blocks = Choice { any_of: vec![friend.into()], none_of: Vec::new() };
    let methods = texts(&["GET", "HEAD"])?;
    let key = Condition::Header { name: HeaderName::from_static("x-key"), values: texts(&["open*"])? };
    let rules = vec![
        Rule {
            from: vec![Source { ip_blocks: blocks, ..Source::default() }],
            to: vec![Operation { methods, ..Operation::default() }],
            ..Rule::default()
        },
        Rule { when: vec![key], ..Rule::default() },
    ];
    let shop = guarded(vec![policy_of("allow", Action::Allow, rules)]).await?;
    let (friend, stranger) = (shop.client_from(friend), shop.client_from(stranger));
    friend.get("http://app/").send().await?.expect(200)?;
    friend.request(Method::DELETE, "http://app/").send().await?.expect_own(403, "AUTHZ")?;
    stranger.get("http://app/").header("x-request-id", "unmatched").send().await?.expect_own(403, "AUTHZ")?;
    stranger.get("http://app/").header("x-key", "open sesame").send().await?.expect(200)?;
    stranger.get("http://app/").header("x-key", "knock").send().await?.expect_own(403, "AUTHZ")?;
    let line = shop.log.line_of("unmatched").await?;
    assert_eq!(line.cause.as_deref(), Some("access denied by policy: no ALLOW policy matches"));
    Ok(())
}

#[tokio::test]
async fn an_audit_leaves_a_note_and_nothing_else() -> Result<()> {
    let shop = guarded(vec![
        policy_of("noted", Action::Audit, vec![paths(&["/echo"])?]),
        policy_of("also", Action::Audit, vec![Rule::default()]),
    ])
    .await?;
    let client = shop.client();
    client.get("http://app/echo").header("x-request-id", "both").send().await?.expect(200)?;
    client.get("http://app/").header("x-request-id", "one").send().await?.expect(200)?;
    let both = shop.log.line_of("both").await?.audit.unwrap_or_default();
    let mut names: Vec<&str> = both.split(',').collect();
    names.sort_unstable();
    assert_eq!(names, ["default/also", "default/noted"]);
    assert_eq!(shop.log.line_of("one").await?.audit.as_deref(), Some("default/also"));
    Ok(())
}

#[tokio::test]
async fn nobody_gets_in_who_would_need_an_identity() -> Result<()> {
    let named = Source { principals: texts(&["*"])?, ..Source::default() };
    let rule = Rule { from: vec![named], ..Rule::default() };
    let shop = guarded(vec![policy_of("mesh-only", Action::Allow, vec![rule])]).await?;
    shop.client().get("http://app/").send().await?.expect_own(403, "AUTHZ")?;
    Ok(())
}

#[tokio::test]
async fn opaque_connections_are_closed() -> Result<()> {
    for (action, is_open) in [(Action::Allow, false), (Action::Deny, false), (Action::Audit, true)] {
        let authorization = vec![policy_of("http", action, vec![paths(&["/other"])?])];
        let shop = Guarded::start(Rules { authorization, opaque: true, ..Rules::default() }).await?;
        let answer = shop.client().get("http://app/echo").send().await;
        assert_eq!(answer.is_ok(), is_open, "{action:?}: {answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_deny_holds_for_what_is_under_way_between_sidecars() -> Result<()> {
    let mut mesh = Mesh::secure(&[])?;
    let (app, _server, log) = mesh.serve_logged("app").await?;
    let (_caller, client) = mesh.caller().await?;
    let other = mesh.sidecar("other")?.start().await?;
    client.get("http://app/").send().await?.expect(200)?;

    let begun = client.get("http://app/stream/1000000").header("x-request-id", "begun").open().await?;
    let mut body = begun.into_body();
    body.frame().await.context("no first frame")??;
    let waiting = client.get("http://app/delay/60000").header("x-request-id", "waiting").send();
    let waiting = task::spawn(waiting);
    let stats = app.stats()?;
    eventually("both are under way", || async {
        ensure!(stats.requests() == 3, "{} requests have arrived", stats.requests());
        Ok(())
    })
    .await?;

    mesh.policy.deny("no-caller", "caller")?;
    let ended = timeout(SOON, async {
        loop {
            match body.frame().await {
                Some(Ok(_)) => {}
                ended => return ended.is_none(),
            }
        }
    });
    ensure!(!ended.await.context("the response goes on")?, "it looks complete");
    let answer = timeout(SOON, waiting.join()).await.context("the request goes on")??;
    ensure!(answer.as_ref().map_or(true, |reply| !reply.status.is_success()), "{answer:?}");
    client.get("http://app/").send().await?.expect_own(403, "AUTHZ")?;
    other.app().get("http://app/").send().await?.expect(200)?;
    assert_eq!(stats.requests(), 4, "what is denied must not arrive");

    let begun = log.line_of("begun").await?;
    assert_eq!((begun.status, &*begun.flags), (200, "AUTHZ"));
    let waiting = log.line_of("waiting").await?;
    assert_eq!((waiting.status, &*waiting.flags), (403, "AUTHZ"));
    for line in [begun, waiting] {
        assert_eq!(line.cause.as_deref(), Some("broken off: a new policy denies access"));
    }
    Ok(())
}

#[tokio::test]
async fn a_deny_is_told_and_never_a_lost_connection() -> Result<()> {
    let mut mesh = Mesh::secure(&[])?;
    let (_app, _server) = mesh.serve_meshed("app", "v1").await?;
    let (_caller, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    for round in 0..4 {
        let callers: Vec<_> = (0..8).map(|_| task::spawn(until_refused(client.clone()))).collect();
        client.get("http://app/").send().await?.expect(200)?;
        mesh.policy.deny("no-caller", "caller")?;
        for caller in callers {
            let refused = timeout(SOON, caller.join()).await.context("nobody is refused")??;
            let refused = refused?;
            // What has its response head at that moment may be reset in the middle of it.
            ensure!(["AUTHZ", "UR"].contains(&refused.flag()), "round {round}: {refused:?}");
        }
        mesh.policy.delete("authorization-no-caller")?;
        eventually("they are let in again", || async {
            client.get("http://app/").send().await?.expect(200).map(drop)
        })
        .await?;
    }
    Ok(())
}

/// Asks until the answer is not 200.
async fn until_refused(client: Client) -> Result<Reply> {
    loop {
        let reply = client.get("http://app/").send().await?;
        if reply.status != StatusCode::OK {
            return Ok(reply);
        }
    }
}
