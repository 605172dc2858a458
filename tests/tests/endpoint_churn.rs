//! Endpoints come and go under load without a failed request.

use anyhow::{Result, ensure};
use pillion_tests::{Load, Mesh, eventually};

const ROUNDS: usize = 50;

#[tokio::test]
async fn fifty_endpoints_added_and_removed_fail_no_request() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _stays = mesh.serve("order-service", "v1").await?;
    let (sidecar, client) = mesh.caller().await?;
    client.get("http://order-service/").send().await?.expect(200)?;
    let load = Load::start(500, 64, move || client.get("http://order-service/").send());
    let mut leaving = Vec::new();
    for _ in 0..ROUNDS {
        let instance = mesh.serve("order-service", "v1").await?;
        eventually("the new endpoint serves", || async {
            ensure!(instance.stats()?.requests() > 0, "no request yet");
            Ok(())
        })
        .await?;
        mesh.policy.remove_pod(&instance.pod)?;
        leaving.push(instance);
        // An instance stops once nobody knows it and nobody is connected to it any more.
        let endpoints = sidecar.page("/endpoints").await?;
        for instance in std::mem::take(&mut leaving) {
            let is_known = endpoints.contains(&instance.address.to_string());
            match instance.stats()?.open_connections() {
                0 if !is_known => instance.stop().await?,
                _ => leaving.push(instance),
            }
        }
    }
    for instance in leaving {
        let address = instance.address.to_string();
        eventually("the endpoint is gone and its connections are closed", || async {
            let endpoints = sidecar.page("/endpoints").await?;
            ensure!(!endpoints.contains(&address), "{endpoints}");
            let open = instance.stats()?.open_connections();
            ensure!(open == 0, "{open} connections are open");
            Ok(())
        })
        .await?;
        instance.stop().await?;
    }
    load.stop().await?.expect_no_failure()
}

#[tokio::test]
async fn the_last_endpoint_leaves_and_returns() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let instance = mesh.serve("order-service", "v1").await?;
    let (_sidecar, client) = mesh.caller().await?;
    client.get("http://order-service/").send().await?.expect(200)?;
    mesh.policy.remove_pod(&instance.pod)?;
    eventually("no endpoint", || async {
        client.get("http://order-service/").send().await?.expect_own(503, "UH")
    })
    .await?;
    mesh.rejoin("order-service", "v1", &instance)?;
    eventually("an endpoint", || async { client.get("http://order-service/").send().await?.expect(200) })
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_pod_that_is_not_ready_gets_no_requests() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _ready = mesh.serve("order-service", "v1").await?;
    let unready = mesh.serve("order-service", "v2").await?;
    let yaml = pillion_tests::policy::pod(&unready.pod, "order-service", "v2", unready.address.ip());
    mesh.policy.apply(&format!("pod-{}", unready.pod), &yaml.replace("\"True\"", "\"False\""))?;
    let (_sidecar, client) = mesh.caller().await?;
    for _ in 0..50 {
        client.get("http://order-service/").send().await?.expect(200)?;
    }
    assert_eq!(unready.stats()?.requests(), 0);
    mesh.rejoin("order-service", "v2", &unready)?;
    eventually("it serves once ready", || async {
        client.get("http://order-service/").send().await?.expect(200)?;
        ensure!(unready.stats()?.requests() > 0, "no request yet");
        Ok(())
    })
    .await
}
