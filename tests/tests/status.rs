//! `pillion status` on destinations in trouble: what sidecars find out is seen for the whole mesh.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use pillion_tests::{Client, Instance, Mesh, Metrics, Sidecar, eventually, process};

const ALL_IS_WELL: &str = "no open breakers, no ejected endpoints";

const BREAKER: &str = "\
apiVersion: policy.pillion.dev/v1alpha1
kind: ResiliencePolicy
metadata: {name: fragile, namespace: default}
spec:
  targetRefs: [{group: '', kind: Service, name: fragile}]
  circuitBreaker: {consecutiveFailures: 2, openDuration: 1s, successThreshold: 1}
";

/// A service behind a breaker, one of two instances, and somebody who calls both.
struct Shop {
    mesh: Mesh,
    _fragile: Instance,
    pair: [Instance; 2],
    sidecar: Sidecar,
    client: Client,
    admin: SocketAddr,
}

async fn shop() -> Result<Shop> {
    let mut mesh = Mesh::new()?;
    let fragile = mesh.serve("fragile", "v1").await?;
    let pair = [mesh.serve("pair", "v1").await?, mesh.serve("pair", "v1").await?];
    mesh.policy.apply("resilience-fragile", BREAKER)?;
    let detection = "outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 1s}";
    mesh.policy.destination("pair", &format!("trafficPolicy:\n  {detection}"))?;
    let (sidecar, client) = mesh.caller().await?;
    let admin = mesh.control_plane()?.admin;
    Ok(Shop { mesh, _fragile: fragile, pair, sidecar, client, admin })
}

impl Shop {
    /// What `pillion status` prints.
    async fn status(&self) -> Result<String> {
        let admin = format!("http://{}", self.admin);
        let (status, told, errors) =
            process::run("pillion", &["status", "--control-plane-admin", &admin]).await?;
        ensure!(status.success(), "{errors}");
        Ok(told)
    }

    /// Breakers and ejections as the control plane counts them.
    async fn figures(&self) -> Result<[f64; 2]> {
        let metrics = Metrics::scrape(self.admin).await?;
        let names = ["pillion_reported_open_breakers", "pillion_reported_ejected_endpoints"];
        Ok(names.map(|name| metrics.sum(name, &[])))
    }

    /// Fails requests until the breaker has opened and one of the pair is ejected.
    async fn fail(&self) -> Result<()> {
        for (path, figure) in [
            ("fragile/status/503", "pillion_breaker_opened_total"),
            ("pair/status/500", "pillion_outlier_ejections_active"),
        ] {
            eventually(figure, || async {
                self.client.get(&format!("http://{path}")).send().await?;
                ensure!(self.sidecar.metrics().await?.sum(figure, &[]) == 1.0);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until both are shown, and who has seen them.
    async fn shows_trouble(&self) -> Result<()> {
        let proxy = format!("in default/caller@{}", self.sidecar.admin.ip());
        let is_breaker = |line: &str| line.contains("fragile") && line.contains(": open for ");
        let is_endpoint = |line: &str| {
            let mut pair = self.pair.iter();
            pair.any(|instance| line.contains(&instance.address.to_string()))
                && line.contains(": ejected for ")
        };
        eventually("trouble is shown", || async {
            let told = self.status().await?;
            let seen: Vec<&str> = told.lines().filter(|line| line.contains(&proxy)).collect();
            ensure!(seen.iter().any(|line| is_breaker(line)), "{told}");
            ensure!(seen.iter().any(|line| is_endpoint(line)), "{told}");
            let figures = self.figures().await?;
            ensure!(figures == [1.0, 1.0], "{figures:?}");
            Ok(())
        })
        .await
    }
}

#[tokio::test]
async fn open_breakers_and_ejected_endpoints_are_shown_until_they_heal() -> Result<()> {
    let mut shop = shop().await?;
    let told = shop.status().await?;
    ensure!(told.contains(ALL_IS_WELL), "{told}");
    shop.fail().await?;
    shop.shows_trouble().await?;
    shop.mesh.control_plane()?.kill().await?;
    shop.mesh.control_plane()?.restart().await?;
    shop.shows_trouble().await?;
    eventually("all is well again", || async {
        for url in ["http://fragile/", "http://pair/"] {
            shop.client.get(url).send().await?;
        }
        let told = shop.status().await?;
        ensure!(told.contains(ALL_IS_WELL), "{told}");
        let figures = shop.figures().await?;
        ensure!(figures == [0.0, 0.0], "{figures:?}");
        Ok(())
    })
    .await
}
