//! Cross-origin requests: preflights answered by the sidecar, answers marked.

use anyhow::{Result, ensure};
use http::Method;
use pillion_tests::{Client, Instance, Mesh, Sidecar};

const POLICY: &str = "- corsPolicy:
    allowOrigins: [{exact: 'https://shop.example'}, {prefix: 'https://dev-'}, {regex: 'https://pr[0-9]+\\.example'}]
    allowMethods: [GET, POST]
    allowHeaders: [x-token, content-type]
    exposeHeaders: [x-version]
    maxAge: 24h
    allowCredentials: true
  route: [{destination: {host: app}}]";

async fn mesh(policy: &str) -> Result<(Mesh, Sidecar, Client, Instance)> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    mesh.policy.routes("app", policy)?;
    let (sidecar, client) = mesh.caller().await?;
    Ok((mesh, sidecar, client, app))
}

fn preflight(client: &Client, origin: &str) -> pillion_tests::client::Call {
    let call = client.request(Method::OPTIONS, "http://app/echo").header("origin", origin);
    call.header("access-control-request-method", "POST")
}

#[tokio::test]
async fn preflights_of_allowed_origins_are_answered_here() -> Result<()> {
    let (_mesh, _sidecar, client, app) = mesh(POLICY).await?;
    for origin in ["https://shop.example", "https://dev-7.example", "https://pr42.example"] {
        let reply = preflight(&client, origin).send().await?;
        ensure!(reply.status.is_success(), "{origin}: {}", reply.status);
        assert_eq!(reply.header("access-control-allow-origin"), origin);
        assert_eq!(reply.header("access-control-max-age"), "86400");
        assert_eq!(reply.header("access-control-allow-credentials"), "true");
        let methods = reply.header("access-control-allow-methods");
        ensure!(methods.contains("GET") && methods.contains("POST"), "{methods}");
        let headers = reply.header("access-control-allow-headers");
        ensure!(headers.contains("x-token") && headers.contains("content-type"), "{headers}");
    }
    assert_eq!(app.stats()?.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn preflights_of_other_origins_are_the_app_s_matter() -> Result<()> {
    let (_mesh, _sidecar, client, app) = mesh(POLICY).await?;
    let reply = preflight(&client, "https://evil.example").send().await?.expect(200)?;
    ensure!(reply.header("access-control-allow-origin").is_empty(), "{:?}", reply.headers);
    assert_eq!(app.stats()?.requests(), 1);
    // OPTIONS without a requested method is no preflight.
    let call = client.request(Method::OPTIONS, "http://app/echo").header("origin", "https://shop.example");
    call.send().await?.expect(200)?;
    assert_eq!(app.stats()?.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn unmatched_preflights_can_be_kept_from_the_app() -> Result<()> {
    let policy = POLICY.replace("    maxAge", "    unmatchedPreflights: IGNORE\n    maxAge");
    let (_mesh, _sidecar, client, app) = mesh(&policy).await?;
    let reply = preflight(&client, "https://evil.example").send().await?;
    ensure!(reply.header("access-control-allow-origin").is_empty(), "{:?}", reply.headers);
    assert_eq!(app.stats()?.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn answers_to_allowed_origins_say_so() -> Result<()> {
    let (_mesh, _sidecar, client, _app) = mesh(POLICY).await?;
    let reply =
        client.get("http://app/").header("origin", "https://shop.example").send().await?.expect(200)?;
    assert_eq!(reply.header("access-control-allow-origin"), "https://shop.example");
    assert_eq!(reply.header("access-control-expose-headers"), "x-version");
    assert_eq!(reply.header("access-control-allow-credentials"), "true");
    for call in
        [client.get("http://app/").header("origin", "https://evil.example"), client.get("http://app/")]
    {
        let reply = call.send().await?.expect(200)?;
        ensure!(reply.header("access-control-allow-origin").is_empty(), "{:?}", reply.headers);
    }
    Ok(())
}
