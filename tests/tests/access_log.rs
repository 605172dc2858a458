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
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    mesh.policy.service("empty")?;
    mesh.start().await?;
    let disk = Policy::new()?;
    let path = disk.path().join("access.log").display().to_string();
    let sidecar =
        mesh.sidecar("caller")?.arg("--access-log", &path).arg("--access-log-format", format).start().await?;
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
