//! Tokens of users: what a sidecar accepts, what the app sees of it, and where keys come from.

use std::time::Duration;

use anyhow::{Result, ensure};
use pillion_policy::authentication::{ClaimToHeader, JwtKeys, JwtRule};
use pillion_policy::authorization::{Action, Condition, Rule, Source};
use pillion_tests::guarded::{Guarded, Rules, policy_of, texts};
use pillion_tests::issuer::{KeyServer, rule};
use pillion_tests::{Client, Issuer, Reply, eventually};
use serde_json::json;

async fn believing(rule: JwtRule) -> Result<Guarded> {
    Guarded::start(Rules { authentication: vec![rule], ..Rules::default() }).await
}

async fn get(client: &Client, token: &str) -> Result<Reply> {
    client.get("http://app/echo").header("authorization", &format!("Bearer {token}")).send().await
}

#[tokio::test]
async fn a_bad_token_is_refused_and_none_passes() -> Result<()> {
    let (issuer, other) = (Issuer::new("one")?, Issuer::new("one")?);
    let shop = believing(rule(JwtKeys::Inline(issuer.set()))).await?;
    let client = shop.client();
    client.get("http://app/").send().await?.expect(200)?;
    get(&client, &issuer.token("user")?).await?.expect(200)?;
    let served = shop.app.stats()?.requests();
    let expired = issuer.sign(&json!({"iss": "https://issuer", "sub": "user", "exp": 1}))?;
    let none = format!("{}.e30.", "eyJhbGciOiJub25lIn0");
    for bad in [&other.token("user")?, &expired, &none, "x.y.z", "x"] {
        let reply = get(&client, bad).await?.expect_own(401, "JWT")?;
        assert_eq!(reply.header("www-authenticate"), "Bearer error=\"invalid_token\"");
        let told = format!("{:?}{}", reply.headers, reply.text());
        ensure!(bad.len() < 10 || !told.contains(bad), "{told}");
    }
    assert_eq!(shop.app.stats()?.requests(), served, "what is refused must not arrive");
    let call = shop.client_http2().post("http://app/a.B/C").header("authorization", "Bearer x");
    let call = call.header("te", "trailers").header("content-type", "application/grpc").body("message");
    let reply = call.header("x-request-id", "grpc").send().await?.expect(200)?;
    assert_eq!((reply.header("grpc-status"), reply.flag()), ("16", "JWT"));
    assert_eq!(shop.log.line_of("grpc").await?.flags, "JWT");
    let metrics = shop.sidecar.metrics().await?;
    let total = |result| metrics.sum("pillion_tokens_total", &[("result", result)]);
    assert_eq!((total("accepted"), total("refused")), (1.0, 6.0));
    Ok(())
}

#[tokio::test]
async fn policies_ask_for_what_tokens_prove() -> Result<()> {
    let issuer = Issuer::new("one")?;
    let principal = Source { request_principals: texts(&["https://issuer/alice"])?, ..Source::default() };
    let claim = Condition::Claim { path: vec!["roles".to_owned()], values: texts(&["admin"])? };
    let rules = vec![
        Rule { from: vec![principal], ..Rule::default() },
        Rule { when: vec![claim], ..Rule::default() },
    ];
    let shop = Guarded::start(Rules {
        authorization: vec![policy_of("users", Action::Allow, rules)],
        authentication: vec![rule(JwtKeys::Inline(issuer.set()))],
        ..Rules::default()
    })
    .await?;
    let client = shop.client();
    client.get("http://app/").send().await?.expect_own(403, "AUTHZ")?;
    get(&client, &issuer.token("alice")?).await?.expect(200)?;
    get(&client, &issuer.token("bob")?).await?.expect_own(403, "AUTHZ")?;
    let admin = issuer.sign(&json!({"iss": "https://issuer", "sub": "carol", "roles": ["x", "admin"]}))?;
    get(&client, &admin).await?.expect(200)?;
    get(&client, "x").await?.expect_own(401, "JWT")?;
    Ok(())
}

#[tokio::test]
async fn the_app_sees_claims_and_not_the_token() -> Result<()> {
    let issuer = Issuer::new("one")?;
    let copy = ClaimToHeader { header: "x-user".parse()?, claim: vec!["sub".to_owned()] };
    let shop =
        believing(JwtRule { output_claims: vec![copy], ..rule(JwtKeys::Inline(issuer.set())) }).await?;
    for client in [shop.client(), shop.client_http2()] {
        let reply = get(&client, &issuer.token("alice")?).await?.expect(200)?;
        assert_eq!(reply.received("x-user")?, ["alice"]);
        ensure!(reply.received("authorization")?.is_empty());
        let forged = client.get("http://app/echo").header("x-user", "root").send().await?.expect(200)?;
        ensure!(forged.received("x-user")?.is_empty(), "a caller cannot say who the user is");
    }
    Ok(())
}

#[tokio::test]
async fn keys_are_fetched_and_fetched_again_when_they_change() -> Result<()> {
    let (old, new) = (Issuer::new("old")?, Issuer::new("new")?);
    let server = KeyServer::plain(&old).await?;
    let shop = believing(rule(server.keys())).await?;
    let client = shop.client();
    // Whether the keys are there yet or not: the first token waits for them.
    get(&client, &old.token("user")?).await?.expect(200)?;
    get(&client, &new.token("user")?).await?.expect_own(401, "JWT")?;
    assert_eq!(server.fetched(), 1, "a key that is not known is no reason to ask again at once");
    server.publish(&new);
    eventually("the new key", || async { get(&client, &new.token("user")?).await?.expect(200) }).await?;
    assert_eq!(server.fetched(), 2);
    get(&client, &old.token("user")?).await?.expect_own(401, "JWT")?;
    Ok(())
}

#[tokio::test]
async fn keys_are_fetched_over_tls_from_whom_the_system_trusts() -> Result<()> {
    let issuer = Issuer::new("one")?;
    let server = KeyServer::tls(&issuer).await?;
    let root = server.root.as_ref().map(|root| root.display().to_string()).unwrap_or_default();
    let trusting = format!("SSL_CERT_FILE={root}");
    let rules = |limit| Rules {
        authentication: vec![JwtRule { timeout: Duration::from_secs(limit), ..rule(server.keys()) }],
        ..Rules::default()
    };
    let shop = Guarded::start_with(rules(5), |sidecar| sidecar.launched_by(&["env", &trusting])).await?;
    get(&shop.client(), &issuer.token("user")?).await?.expect(200)?;

    let wary = Guarded::start(rules(1)).await?;
    let reply = get(&wary.client(), &issuer.token("user")?).await?.expect_own(401, "JWT")?;
    ensure!(reply.header("x-pillion-error").contains("keys of its issuer"), "{:?}", reply.headers);
    wary.client().get("http://app/").send().await?.expect(200)?;
    Ok(())
}
