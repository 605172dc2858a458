//! What a caller is told when its request cannot be served: a flag and a cause, never a bare 503.

use anyhow::{Result, ensure};
use pillion_tests::policy::SUBSETS;
use pillion_tests::{Mesh, Wire, eventually, wire};

#[tokio::test]
async fn a_host_nobody_knows() -> Result<()> {
    for mode in ["allow-any", "registry-only"] {
        let mut mesh = Mesh::new()?;
        mesh.start().await?;
        let sidecar = mesh.sidecar("caller")?.arg("--outbound-mode", mode).start().await?;
        for client in [sidecar.app(), sidecar.app_http2()] {
            let reply = client.get("http://nowhere/").send().await?;
            let status = reply.status.as_u16();
            ensure!([404, 502].contains(&status), "{mode}: {status}");
            let flag = reply.flag().to_owned();
            ensure!(!flag.is_empty(), "{mode}: no flag");
            reply.expect_own(status, &flag)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_known_host_no_rule_matches() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    mesh.policy.routes("app", "- match: [{uri: {exact: /only}}]\n  route: [{destination: {host: app}}]")?;
    let (_sidecar, client) = mesh.caller().await?;
    client.get("http://app/only").send().await?.expect(200)?;
    client.get("http://app/else").send().await?.expect_own(404, "NR")?;
    assert_eq!(app.stats()?.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn a_subset_nobody_defined() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    mesh.policy.destination("app", SUBSETS)?;
    mesh.policy.routes(
        "app",
        "- {match: [{uri: {exact: /good}}], route: [{destination: {host: app, subset: v1}}]}
- {route: [{destination: {host: app, subset: v9}}]}",
    )?;
    let (_sidecar, client) = mesh.caller().await?;
    client.get("http://app/good").send().await?.expect(200)?;
    client.get("http://app/").send().await?.expect_own(503, "NC")?;
    Ok(())
}

#[tokio::test]
async fn a_subset_without_endpoints() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    mesh.policy.destination("app", SUBSETS)?;
    mesh.policy.routes("app", "- {route: [{destination: {host: app, subset: v2}}]}")?;
    let (_sidecar, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect_own(503, "UH")?;
    Ok(())
}

#[tokio::test]
async fn a_destination_that_does_not_exist() -> Result<()> {
    let mut mesh = Mesh::new()?;
    mesh.policy.service("app")?;
    mesh.policy.routes("app", "- {route: [{destination: {host: missing}}]}")?;
    let (_sidecar, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect_own(503, "NC")?;
    Ok(())
}

#[tokio::test]
async fn a_service_without_endpoints() -> Result<()> {
    let mut mesh = Mesh::new()?;
    mesh.policy.service("app")?;
    let (_sidecar, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect_own(503, "UH")?;
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_refuses() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let address = mesh.serve_nothing("app", "v1")?;
    let (_sidecar, client) = mesh.caller().await?;
    let reply = client.get("http://app/").send().await?.expect_own(503, "UF")?;
    let error = reply.header("x-pillion-error");
    ensure!(error.contains(&address.ip().to_string()), "the endpoint is not named: {error}");
    Ok(())
}

#[tokio::test]
async fn an_app_that_closes_without_an_answer() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let handle = |stream| async move {
        let mut wire = Wire::accepted(stream);
        let _ = wire.head().await;
    };
    let _app = mesh.serve_raw("app", handle).await?;
    let (_sidecar, client) = mesh.caller().await?;
    client.post("http://app/").body("once").send().await?.expect_own(503, "UC")?;
    Ok(())
}

#[tokio::test]
async fn an_app_that_speaks_no_http() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (handle, _heads) = wire::canned("+OK POP3 ready\r\n\r\n");
    let _app = mesh.serve_raw("app", handle).await?;
    let (_sidecar, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect_own(502, "UPE")?;
    Ok(())
}

#[tokio::test]
async fn an_app_s_own_errors_carry_no_mark() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (_app, _sidecar) = mesh.serve_meshed("app", "v1").await?;
    let (_caller, client) = mesh.caller().await?;
    for status in [400, 404, 429, 500, 502, 503, 504] {
        let reply = client.get(&format!("http://app/status/{status}")).send().await?.expect(status)?;
        ensure!(!reply.headers.contains_key("x-pillion-error"), "{status}: {:?}", reply.headers);
        assert_eq!(reply.text(), format!("status {status}\n"));
    }
    Ok(())
}

#[tokio::test]
async fn a_dead_app_behind_a_living_sidecar() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let (app, _sidecar) = mesh.serve_meshed("app", "v1").await?;
    let (_caller, client) = mesh.caller().await?;
    client.get("http://app/").send().await?.expect(200)?;
    app.stop().await?;
    eventually("the app is gone", || async { client.get("http://app/").send().await?.expect_own(503, "UF") })
        .await?;
    Ok(())
}
