//! What people are told of traffic: `pillion explain`, `tap` and `stat`, over a mesh of three sidecars.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pillion_tests::{Client, Instance, Mesh, Sidecar, eventually, process};
use serde_json::Value;

/// A caller, a front and an app, each behind a sidecar of its own.
struct Chain {
    mesh: Mesh,
    app: Instance,
    _front: Instance,
    _sidecars: [Sidecar; 3],
    client: Client,
    admin: SocketAddr,
}

async fn chain(mut mesh: Mesh) -> Result<Chain> {
    // All requests are slow enough to be remembered.
    mesh.set_env("PILLION_EXPLAIN_SLOW", "1ms");
    let (app, behind) = mesh.serve_meshed("app", "v1").await?;
    app.app()?.faults().set_delay(Duration::from_millis(20));
    let (front, middle) = mesh.serve_calling("front", &["app"]).await?;
    let (caller, client) = mesh.caller().await?;
    let admin = mesh.control_plane()?.admin;
    Ok(Chain { mesh, app, _front: front, _sidecars: [behind, middle, caller], client, admin })
}

impl Chain {
    /// Runs `pillion` against its control plane, with proof where there is to be one.
    async fn pillion(&self, args: &[&str]) -> Result<(bool, String, String)> {
        let admin = format!("http://{}", self.admin);
        let mut args = [args, &["--control-plane-admin", &admin]].concat();
        let state_dir = self.mesh.keys().map(|keys| keys.state_dir().display().to_string()).ok();
        if let Some(dir) = state_dir.as_deref().filter(|_| args.first() != Some(&"stat")) {
            args.extend(["--state-dir", dir]);
        }
        let (status, told, errors) = process::run("pillion", &args).await?;
        Ok((status.success(), told, errors))
    }

    /// Sends a request of this id through all of them.
    async fn request(&self, id: &str) -> Result<u16> {
        let reply = self.client.get("http://front/").header("x-request-id", id).send().await?;
        Ok(reply.status.as_u16())
    }

    async fn request_for_ever(&self, id: &str) -> Result<Infallible> {
        loop {
            self.request(id).await?;
        }
    }

    async fn page(&self, path: &str) -> Result<Value> {
        let url = format!("http://{}{path}", self.admin);
        let reply = Client::http1(self.admin).get(&url).send().await?;
        Ok(serde_json::from_str(&reply.expect(200)?.text())?)
    }
}

#[tokio::test]
async fn figures_of_the_mesh_are_a_table() -> Result<()> {
    let chain = chain(Mesh::new()?).await?;
    ensure!(chain.request("first").await? == 200);
    eventually("requests are counted", || async {
        let (is_success, told, errors) = chain.pillion(&["stat", "--once", "--interval", "100ms"]).await?;
        ensure!(is_success, "{errors}");
        let pairs = [("default/caller", "front.default"), ("default/front", "app.default")];
        for (from, to) in pairs {
            let is_pair = |line: &str| line.starts_with(from) && line.contains(to);
            ensure!(told.lines().any(is_pair), "{told}");
        }
        ensure!(told.contains("as 3 of 3 proxies tell"), "{told}");
        Ok(())
    })
    .await?;

    let (_, told, _) = chain.pillion(&["stat", "--once", "--interval", "100ms", "--by", "route"]).await?;
    ensure!(told.contains("RULE"), "{told}");
    let page = chain.page("/stat").await?;
    let counted = page["proxies"].as_array().map(Vec::len);
    assert_eq!(counted, Some(3), "{page}");
    Ok(())
}

/// The lines that begin with this, margins aside.
fn lines<'a>(told: &'a str, start: &str) -> Vec<&'a str> {
    told.lines().map(str::trim_start).filter(|line| line.starts_with(start)).collect()
}

#[tokio::test]
async fn a_request_is_explained_hop_by_hop() -> Result<()> {
    let chain = chain(Mesh::secure(&[])?).await?;
    ensure!(chain.request("story-1").await? == 200);
    let told = eventually("all hops are told", || async {
        let (is_success, told, errors) = chain.pillion(&["explain", "story-1"]).await?;
        ensure!(is_success, "{errors}");
        ensure!(lines(&told, "in to").len() + lines(&told, "out of").len() == 4, "{told}");
        Ok(told)
    })
    .await?;
    // Each hop below the one it came of.
    let hops = [
        "out of default/caller@",
        "  in to default/front@",
        "    out of default/front@",
        "      in to default/app@",
    ];
    let mut rest = &*told;
    for hop in hops {
        let found = rest.find(&format!("\n{hop}"));
        rest = found
            .and_then(|at| rest.get(at + hop.len()..))
            .with_context(|| format!("no {hop:?} in {told}"))?;
    }
    ensure!(told.contains("spiffe://cluster.local/ns/default/sa/caller"), "{told}");
    ensure!(!told.contains("not heard") && !told.contains("cannot be asked"), "{told}");

    let (is_success, json, errors) = chain.pillion(&["explain", "story-1", "--json"]).await?;
    ensure!(is_success, "{errors}");
    let json: Value = serde_json::from_str(&json)?;
    assert_eq!(json["stories"].as_array().map(Vec::len), Some(4), "{json}");

    let (is_success, _, errors) = chain.pillion(&["explain", "nobody-knows"]).await?;
    ensure!(!is_success && errors.contains("no proxy remembers request nobody-knows"), "{errors}");
    Ok(())
}

#[tokio::test]
async fn causes_of_failures_are_told_for_the_whole_mesh() -> Result<()> {
    let mut chain = chain(Mesh::new()?).await?;
    chain.app.kill().await?;
    for number in 0..3 {
        ensure!(chain.request(&format!("failed-{number}")).await? >= 500);
    }
    eventually("the cause is told", || async {
        let (is_success, told, errors) = chain.pillion(&["explain"]).await?;
        ensure!(is_success, "{errors}");
        let cause = lines(&told, "UF").first().copied().map(str::to_owned);
        let cause = cause.with_context(|| format!("no cause in {told}"))?;
        ensure!(cause.contains("default/app") && cause.contains("failed-"), "{told}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn requests_are_watched_as_they_end() -> Result<()> {
    let chain = chain(Mesh::secure(&[])?).await?;
    let args =
        ["tap", "--to", "app", "--status", "2xx", "--path", "/", "--limit", "1", "--for", "20s", "--json"];
    let watching = chain.pillion(&args);
    let (is_success, told, errors) = tokio::select! {
        watched = watching => watched?,
        // Until the tap is open requests are missed, and there is nobody to ask whether it is.
        failed = chain.request_for_ever("watched") => match failed? {},
    };
    ensure!(is_success, "{errors}");
    let story: Value = serde_json::from_str(told.lines().next().context("no line")?)?;
    assert_eq!(
        (story["request_id"].as_str(), story["status"].as_u64()),
        (Some("watched"), Some(200)),
        "{story}"
    );
    ensure!(story["told_by"].as_str().is_some_and(|name| name.starts_with("default/")), "{story}");
    Ok(())
}

#[tokio::test]
async fn traffic_is_told_to_those_who_may_know() -> Result<()> {
    let chain = chain(Mesh::secure(&[])?).await?;
    let client = Client::http1(chain.admin);
    let get = |path: &str| client.get(&format!("http://{}{path}", chain.admin));
    for path in ["/explain", "/explain/a", "/tap"] {
        let reply = get(path).send().await?.expect(401)?;
        ensure!(reply.text().contains("admin.token"), "{}", reply.text());
        get(path).header("authorization", "Bearer wrong").send().await?.expect(401)?;
    }
    get("/stat").send().await?.expect(200)?;
    let token = std::fs::read_to_string(chain.mesh.keys()?.state_dir().join("admin.token"))?;
    let shown = format!("Bearer {}", token.trim());
    get("/explain").header("authorization", &shown).send().await?.expect(200)?;
    let reply = get("/tap?statsu=5xx").header("authorization", &shown).send().await?.expect(400)?;
    ensure!(reply.text().contains("statsu"), "{}", reply.text());

    let admin = format!("http://{}", chain.admin);
    let (status, _, errors) = process::run("pillion", &["explain", "--control-plane-admin", &admin]).await?;
    ensure!(!status.success() && errors.contains("--state-dir"), "{errors}");
    Ok(())
}

#[tokio::test]
async fn without_anybody_to_ask_pillion_says_so() -> Result<()> {
    let mut mesh = Mesh::new()?;
    mesh.start().await?;
    let admin = format!("http://{}", mesh.control_plane()?.admin);
    for (args, said) in [
        (&["explain"][..], "no proxy is connected"),
        (&["explain", "x"], "no proxy is connected"),
        (&["stat", "--once"], "no proxy is connected"),
        (&["tap"], "nobody can be watched"),
    ] {
        let args = [args, &["--control-plane-admin", &admin]].concat();
        let (status, _, errors) = process::run("pillion", &args).await?;
        ensure!(!status.success() && errors.contains(said), "{args:?}: {errors}");
    }
    mesh.control_plane()?.kill().await?;
    let (status, _, errors) = process::run("pillion", &["stat", "--control-plane-admin", &admin]).await?;
    ensure!(!status.success() && errors.contains("cannot ask the control plane at"), "{errors}");
    Ok(())
}
