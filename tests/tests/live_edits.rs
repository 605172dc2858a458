//! A saved edit is in force at once, and no request fails on the way.

use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Result, ensure};
use pillion_tests::policy::SUBSETS;
use pillion_tests::{Client, Load, Mesh, eventually};
use tokio::time::Instant;

const EDITS: usize = 50;
const LIMIT: Duration = Duration::from_millis(500);

fn split(v1: usize, mark: &str) -> String {
    let v2 = 100 - v1;
    format!(
        "- route:
  - {{destination: {{host: order-service, subset: v1}}, weight: {v1}}}
  - {{destination: {{host: order-service, subset: v2}}, weight: {v2}}}
  headers: {{response: {{set: {{x-edit: {mark}}}}}}}"
    )
}

async fn until_in_force(client: &Client, mark: &str) -> Result<()> {
    eventually("the edit is in force", || async {
        let reply = client.get("http://order-service/").send().await?.expect(200)?;
        ensure!(reply.header("x-edit") == mark, "{:?} is in force", reply.header("x-edit"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn fifty_edits_under_load_are_each_in_force_within_half_a_second() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _v1 = mesh.serve("order-service", "v1").await?;
    let _v2 = mesh.serve("order-service", "v2").await?;
    mesh.policy.destination("order-service", SUBSETS)?;
    mesh.policy.routes("order-service", &split(90, "start"))?;
    let (sidecar, client) = mesh.caller().await?;
    until_in_force(&client, "start").await?;
    let load = Load::start(500, 64, move || client.get("http://order-service/").send());
    let probe = sidecar.app();
    let mut delays = Vec::new();
    for edit in 0..EDITS {
        let mark = format!("edit-{edit}");
        let saved = Instant::now();
        mesh.policy.routes("order-service", &split(edit * 2, &mark))?;
        until_in_force(&probe, &mark).await?;
        delays.push(saved.elapsed());
    }
    load.stop().await?.expect_no_failure()?;
    delays.sort();
    let slowest = delays.last().copied().unwrap_or_default();
    assert!(slowest <= LIMIT, "the slowest of {EDITS} edits took {slowest:?}: {delays:?}");
    Ok(())
}

#[tokio::test]
async fn a_file_that_breaks_keeps_its_last_good_content() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _v1 = mesh.serve("order-service", "v1").await?;
    let _v2 = mesh.serve("order-service", "v2").await?;
    mesh.policy.destination("order-service", SUBSETS)?;
    mesh.policy.routes("order-service", &split(100, "good"))?;
    let (_sidecar, client) = mesh.caller().await?;
    until_in_force(&client, "good").await?;
    mesh.policy
        .overwrite("routes-order-service", "apiVersion: networking.istio.io/v1\nkind: [VirtualService\n")?;
    let control_plane = mesh.control_plane()?;
    eventually("the broken file is reported", || async {
        let status = control_plane.page("/status").await?;
        ensure!(status.contains("routes-order-service"), "{status}");
        Ok(())
    })
    .await?;
    until_in_force(&client, "good").await?;
    // Everything else in the directory goes on being followed, and the repaired file too.
    let _late = mesh.serve("late-service", "v1").await?;
    eventually("a service added meanwhile", || async {
        client.get("http://late-service/").send().await?.expect(200)
    })
    .await?;
    mesh.policy.overwrite("routes-order-service", "")?;
    mesh.policy.routes("order-service", &split(0, "repaired"))?;
    until_in_force(&client, "repaired").await
}

#[tokio::test]
async fn a_mounted_config_map_is_followed() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("order-service", "v1").await?;
    // As the kubelet lays it out: files are links into `..data`, itself a link that is swapped.
    let root = mesh.policy.path().to_owned();
    let publish = |generation: &str| -> Result<()> {
        let content = root.join(format!("..{generation}"));
        std::fs::create_dir(&content)?;
        let policy = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: order-service}\nspec:\n  \
                      hosts: [order-service]\n  http:\n  - headers: {response: {set: {x-edit: MARK}}}\n    \
                      route: [{destination: {host: order-service}}]\n";
        std::fs::write(content.join("routes.yaml"), policy.replace("MARK", generation))?;
        let draft = root.join("..data_tmp");
        symlink(format!("..{generation}"), &draft)?;
        std::fs::rename(&draft, root.join("..data"))?;
        Ok(())
    };
    publish("first")?;
    symlink("..data/routes.yaml", root.join("routes.yaml"))?;
    let (_sidecar, client) = mesh.caller().await?;
    until_in_force(&client, "first").await?;
    publish("second")?;
    until_in_force(&client, "second").await?;
    std::fs::remove_dir_all(root.join("..first"))?;
    publish("third")?;
    until_in_force(&client, "third").await
}

#[tokio::test]
async fn a_removed_file_takes_its_policy_with_it() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _v1 = mesh.serve("order-service", "v1").await?;
    mesh.policy.routes("order-service", "- directResponse: {status: 418}")?;
    let (_sidecar, client) = mesh.caller().await?;
    eventually("the policy", || async { client.get("http://order-service/").send().await?.expect(418) })
        .await?;
    mesh.policy.delete("routes-order-service")?;
    eventually("no policy", || async { client.get("http://order-service/").send().await?.expect(200) })
        .await?;
    Ok(())
}
