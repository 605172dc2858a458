//! Access logs: one line per request, as text or as JSON.

use anyhow::{Context, Result, ensure};
use pillion_tests::{Client, Instance, Mesh, Policy, Sidecar, eventually};
use serde_json::Value;

struct Logged {
    _mesh: Mesh,
    _app: Instance,
    _sidecar: Sidecar,
    client: Client,
    disk: Policy,
}

async fn mesh(format: &str) -> Result<Logged> {
    logged(&["--access-log-format", format], |_| Ok(())).await
}

/// A sidecar with a log under these flags, beside the caller of a service under a policy.
async fn logged(flags: &[&str], policy: impl FnOnce(&Policy) -> Result<()>) -> Result<Logged> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    policy(&mesh.policy)?;
    mesh.policy.service("empty")?;
    mesh.start().await?;
    let disk = Policy::new()?;
    let path = disk.path().join("access.log").display().to_string();
    let mut sidecar = mesh.sidecar("caller")?.arg("--access-log", &path);
    for flag in flags.chunks(2) {
        sidecar = sidecar.arg(flag[0], flag[1]);
    }
    let sidecar = sidecar.start().await?;
    let client = sidecar.app();
    Ok(Logged { _mesh: mesh, _app: app, _sidecar: sidecar, client, disk })
}

impl Logged {
    /// The lines written so far, once there are as many as wanted.
    async fn lines(&self, wanted: usize) -> Result<Vec<String>> {
        eventually("access log lines", || async {
            let text = std::fs::read_to_string(self.disk.path().join("access.log"))?;
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            ensure!(lines.len() >= wanted, "{} of {wanted} lines", lines.len());
            Ok(lines)
        })
        .await
    }
}

/// True if any field of the object has this value, as text.
fn tells(line: &Value, value: &str) -> bool {
    let matches = |field: &Value| field.as_str().map_or_else(|| field.to_string(), str::to_owned) == value;
    line.as_object().is_some_and(|fields| fields.values().any(matches))
}

#[tokio::test]
async fn json_lines_tell_the_request_and_what_became_of_it() -> Result<()> {
    let logged = mesh("json").await?;
    let client = &logged.client;
    client
        .post("http://app/echo?q=1")
        .header("x-request-id", "id-1")
        .body("12345")
        .send()
        .await?
        .expect(200)?;
    client.get("http://empty/").header("x-request-id", "id-2").send().await?.expect(503)?;
    // What a caller sends cannot break a line or forge a field.
    client
        .get("http://app/")
        .header("user-agent", "a\"b\\c\td")
        .header("x-request-id", "id-3")
        .send()
        .await?
        .expect(200)?;
    let lines = logged.lines(3).await?;
    assert_eq!(lines.len(), 3);
    let lines: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
        .collect::<Result<_>>()?;
    for (line, told) in [
        (&lines[0], &["POST", "/echo?q=1", "200", "id-1", "app", "HTTP/1.1"][..]),
        (&lines[1], &["GET", "503", "UH", "id-2", "empty"]),
        (&lines[2], &["GET", "200", "id-3"]),
    ] {
        for value in told {
            ensure!(tells(line, value), "{value:?} is not told by {line}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn text_lines_tell_the_same() -> Result<()> {
    let logged = mesh("text").await?;
    let client = &logged.client;
    client.get("http://app/echo?q=1").header("x-request-id", "id-1").send().await?.expect(200)?;
    client.get("http://empty/").header("x-request-id", "id-2").send().await?.expect(503)?;
    let lines = logged.lines(2).await?;
    for (line, told) in
        [(&lines[0], ["GET", "/echo?q=1", "200", "id-1"]), (&lines[1], ["GET", "UH", "503", "id-2"])]
    {
        for value in told {
            ensure!(line.contains(value), "{value:?} is not told by {line}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_request_cut_off_is_logged_too() -> Result<()> {
    let logged = mesh("json").await?;
    let call = logged.client.get("http://app/delay/60000").header("x-request-id", "id-cut");
    let cut = call.limit(std::time::Duration::from_millis(500)).send().await;
    ensure!(cut.is_err());
    let lines = logged.lines(1).await?;
    let line: Value = serde_json::from_str(&lines[0])?;
    ensure!(tells(&line, "id-cut") && tells(&line, "DC"), "{line}");
    Ok(())
}

#[tokio::test]
async fn a_full_disk_stops_nothing() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    mesh.start().await?;
    // Every write to this device fails as on a full disk.
    let sidecar = mesh.sidecar("caller")?.arg("--access-log", "/dev/full").start().await?;
    let client = sidecar.app();
    let report = pillion_tests::burst(200, 8, || client.get("http://app/").send()).await;
    report.expect_no_failure()
}

/// The line of a request in JSON.
fn line_of(lines: &[String], id: &str) -> Result<Value> {
    let lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut of_id = lines.filter(|line| line["request_id"] == id);
    of_id.next().with_context(|| format!("no line of {id}"))
}

#[tokio::test]
async fn waits_are_told_where_there_are_any() -> Result<()> {
    let limits = "trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}";
    let logged = logged(&["--access-log-format", "json"], |policy| policy.destination("app", limits)).await?;
    let get = |url: &'static str, id: &'static str| {
        let call = logged.client.get(url).header("x-request-id", id).send();
        async move { call.await?.expect(200) }
    };
    get("http://app/", "new").await?;
    get("http://app/", "reused").await?;
    // The second waits for the first to give the one connection back.
    tokio::try_join!(get("http://app/delay/400", "a"), get("http://app/delay/400", "b"))?;
    let lines = logged.lines(4).await?;
    let told = |id: &str, wait: &str| Ok::<_, anyhow::Error>(line_of(&lines, id)?[wait].as_f64());
    ensure!(told("new", "connect_ms")?.is_some_and(|ms| ms > 0.0), "{lines:?}");
    ensure!(told("new", "tls_ms")?.is_none(), "plain text: {lines:?}");
    for wait in ["queue_ms", "connect_ms", "tls_ms"] {
        ensure!(told("reused", wait)?.is_none(), "{wait} of a connection that lay ready: {lines:?}");
    }
    let queued = [told("a", "queue_ms")?, told("b", "queue_ms")?];
    let waited: Vec<f64> = queued.into_iter().flatten().collect();
    ensure!(waited.len() == 1 && waited[0] >= 200.0, "{queued:?}");
    Ok(())
}

#[tokio::test]
async fn tries_are_told_one_by_one() -> Result<()> {
    let retries =
        "- retries: {attempts: 2, retryOn: \"503\", backoff: 25ms}\n  route: [{destination: {host: app}}]";
    let logged = logged(&["--access-log-format", "json"], |policy| policy.routes("app", retries)).await?;
    logged.client.get("http://app/status/503").header("x-request-id", "id-1").send().await?.expect(503)?;
    let line = line_of(&logged.lines(1).await?, "id-1")?;
    assert_eq!((&line["attempts"], &line["retries"]), (&Value::from(3), &Value::from(2)));
    let tries = line["tries"].as_array().context("no tries")?;
    let told: Vec<_> = tries.iter().map(|one| (one["status"].as_u64(), one["verdict"].as_str())).collect();
    assert_eq!(
        told,
        [(Some(503), Some("retried")), (Some(503), Some("retried")), (Some(503), Some("stopped"))]
    );
    let address = logged._app.address.to_string();
    ensure!(tries.iter().all(|one| one["upstream"] == address.as_str()), "{tries:?}");
    ensure!(line["route"].as_str().is_some_and(|route| route.starts_with("VirtualService ")), "{line}");
    Ok(())
}

#[tokio::test]
async fn a_template_makes_the_line() -> Result<()> {
    let template = "%REQ(:METHOD)% %REQ(X-NONE?:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %UPSTREAM_CLUSTER% \
                    %REQ(USER-AGENT)% %REQ(X-REQUEST-ID)%";
    let logged = logged(&["--access-log-format", template], |_| Ok(())).await?;
    let call = logged.client.get("http://app/echo?q=1").header("user-agent", "a\"b");
    call.header("x-request-id", "id-1").send().await?.expect(200)?;
    let lines = logged.lines(1).await?;
    let cluster = "app.default.svc.cluster.local:80";
    assert_eq!(lines, [format!("GET /echo?q=1 200 - {cluster} a\\\"b id-1")]);
    Ok(())
}

#[tokio::test]
async fn only_what_is_asked_for_is_logged() -> Result<()> {
    let flags = ["--access-log-format", "json", "--access-log-filter", "errors,slower-than=300ms"];
    let logged = logged(&flags, |_| Ok(())).await?;
    for (url, id, status) in [
        ("http://app/", "fine", 200),
        ("http://app/status/404", "not-found", 404),
        ("http://app/status/500", "of-app", 500),
        ("http://app/delay/400", "slow", 200),
        ("http://empty/", "ours", 503),
    ] {
        logged.client.get(url).header("x-request-id", id).send().await?.expect(status)?;
    }
    let lines = logged.lines(3).await?;
    let ids: Vec<String> = lines
        .iter()
        .map(|line| {
            Ok(serde_json::from_str::<Value>(line)?["request_id"].as_str().unwrap_or_default().to_owned())
        })
        .collect::<Result<_>>()?;
    assert_eq!(ids, ["of-app", "slow", "ours"]);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_logged_is_refused_at_the_start() -> Result<()> {
    for (flags, named) in [
        (["--access-log-format", "%UPSTREAM_WIRE_BYTES%"], "UPSTREAM_WIRE_BYTES"),
        (["--access-log-format", "%REQ(Cookie)%"], "cookie"),
        (["--access-log-filter", "erors"], "erors"),
    ] {
        let args = ["--resources", "/dev/null", flags[0], flags[1]];
        let (status, _, told) = pillion_tests::process::run("pillion-proxy", &args).await?;
        ensure!(!status.success() && told.contains(named), "{flags:?}: {status} {told}");
    }
    Ok(())
}
