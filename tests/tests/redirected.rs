//! Redirected traffic: iptables hands the app's connections to the sidecar, which finds out where they were meant to go.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use pillion_tests::netns::{Namespace, PROXY_UID};
use pillion_tests::{Policy, Process, Sidecar, eventually, policy};

const XDS: &str = "127.0.0.1:15010";
const CLUSTER_IP: &str = "10.96.0.10:80";
/// An address of another machine, as far as the app knows, where an ordinary server listens.
const OUTSIDE: &str = "10.97.0.1:80";

/// The pod's own address, of whose app nobody told the sidecar.
const OWN: &str = "10.98.0.1:3000";

struct Pod {
    namespace: Namespace,
    _policy: Policy,
    _processes: Vec<Process>,
    _sidecar: Sidecar,
}

fn serve(namespace: &Namespace, role: &str, version: &str, listen: &str) -> Result<Process> {
    let args = ["serve", "--role", role, "--version", version, "--instance", listen, "--listen", listen];
    namespace.start(role, "shop", &args.map(str::to_owned))
}

async fn pod(mode: &str) -> Result<Option<Pod>> {
    let Some(namespace) = Namespace::or_skip().await else { return Ok(None) };
    for command in [
        "ip addr add 10.97.0.1/32 dev lo".to_owned(),
        "ip addr add 10.98.0.1/32 dev lo".to_owned(),
        "ip route add 10.96.0.0/16 dev lo".to_owned(),
        format!("iptables -t nat -A OUTPUT -p tcp -m owner --uid-owner {PROXY_UID} -j RETURN"),
        "iptables -t nat -A OUTPUT -p tcp -d 127.0.0.0/8 -j RETURN".to_owned(),
        // What comes from other machines passes PREROUTING in a pod; here it comes from this one.
        "iptables -t nat -A OUTPUT -p tcp -d 10.98.0.1 -j REDIRECT --to-ports 15006".to_owned(),
        "iptables -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001".to_owned(),
    ] {
        namespace.run(&command).await?;
    }
    let policy = Policy::new()?;
    let service = policy::service("order-service").replace("  ports:", "  clusterIP: 10.96.0.10\n  ports:");
    policy.apply("service", &service)?;
    policy.pod("order-v1", "order-service", "v1", [127, 0, 1, 1].into())?;
    policy.pod("order-v2", "order-service", "v2", [127, 0, 1, 2].into())?;
    policy.destination("order-service", policy::SUBSETS)?;
    policy.routes("order-service", "- {route: [{destination: {host: order-service, subset: v2}}]}")?;
    let source = format!("dir:{}", policy.path().display());
    let args = ["--source", &source, "--xds-addr", XDS, "--admin-addr", "127.0.0.1:15014"].map(str::to_owned);
    let processes = vec![
        serve(&namespace, "order", "v1", "127.0.1.1:3000")?,
        serve(&namespace, "order", "v2", "127.0.1.2:3000")?,
        serve(&namespace, "user", "v7", OUTSIDE)?,
        serve(&namespace, "payment", "v8", OWN)?,
        namespace.start("control plane", "pillion-control-plane", &args)?,
    ];
    let sidecar = Sidecar::of("caller")
        .control_plane(XDS.parse()?)
        .ip([127, 0, 0, 1].into())
        .arg("--outbound-addr", "0.0.0.0:15001")
        .arg("--outbound-mode", mode)
        .launched_by(&namespace.sidecar_launcher())
        .spawn()?;
    eventually("the sidecar is ready", || async {
        let answer = namespace.get("127.0.0.1:15000".parse()?, "admin", "/ready").await?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}: {}", sidecar.process.log().text());
        Ok(())
    })
    .await?;
    Ok(Some(Pod { namespace, _policy: policy, _processes: processes, _sidecar: sidecar }))
}

impl Pod {
    async fn get(&self, address: &str, host: &str) -> Result<String> {
        let address: SocketAddr = address.parse()?;
        self.namespace.get(address, host, "/").await
    }
}

#[tokio::test]
async fn calls_of_a_cluster_ip_are_routed() -> Result<()> {
    let Some(pod) = pod("allow-any").await? else { return Ok(()) };
    for host in ["order-service", "10.96.0.10"] {
        for _ in 0..5 {
            let answer = pod.get(CLUSTER_IP, host).await?;
            ensure!(
                answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"version\":\"v2\""),
                "{host}: {answer}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_the_mesh_does_not_know_passes_through() -> Result<()> {
    let Some(pod) = pod("allow-any").await? else { return Ok(()) };
    let answer = pod.get(OUTSIDE, "somewhere.example").await?;
    ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"version\":\"v7\""), "{answer}");
    Ok(())
}

#[tokio::test]
async fn registry_only_keeps_to_what_the_mesh_knows() -> Result<()> {
    let Some(pod) = pod("registry-only").await? else { return Ok(()) };
    let answer = pod.get(OUTSIDE, "somewhere.example").await?;
    ensure!(answer.starts_with("HTTP/1.1 502 ") || answer.starts_with("HTTP/1.1 404 "), "{answer}");
    ensure!(answer.to_lowercase().contains("x-pillion-error: "), "{answer}");
    let answer = pod.get(CLUSTER_IP, "order-service").await?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    Ok(())
}

#[tokio::test]
async fn the_sidecar_does_not_call_itself() -> Result<()> {
    let Some(pod) = pod("allow-any").await? else { return Ok(()) };
    // Sent to the listener itself: there is no original destination to pass it to.
    let answer = pod.get("127.0.0.1:15001", "somewhere.example").await?;
    ensure!(
        !answer.starts_with("HTTP/1.1 2") && answer.to_lowercase().contains("x-pillion-error: "),
        "{answer}"
    );
    let answer = pod.get("127.0.0.1:15001", "order-service").await?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "explicit mode works beside: {answer}");
    Ok(())
}

#[tokio::test]
async fn calls_of_the_app_are_handed_to_it() -> Result<()> {
    let Some(pod) = pod("registry-only").await? else { return Ok(()) };
    let answer = pod.get(OWN, "payment-service").await?;
    ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"version\":\"v8\""), "{answer}");
    let metrics = pod.namespace.get("127.0.0.1:15000".parse()?, "admin", "/metrics").await?;
    let counted = metrics.lines().any(|line| {
        line.starts_with("istio_requests_total{")
            && line.contains("reporter=\"destination\"")
            && line.ends_with(" 1")
    });
    ensure!(counted, "the sidecar was passed by: {metrics}");
    Ok(())
}
