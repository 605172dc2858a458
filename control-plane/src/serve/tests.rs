//! The services over real TLS on loopback: from a token to a certificate, and with it to policy.

use std::{net::SocketAddr, path::Path, time::Duration};

use clap::Parser;
use pillion_policy::{Resource, ResourceKind, identity::Identity, name::Label};
use pillion_xds::{
    Node,
    ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
    client::Session,
    discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use rcgen::{CertificateParams, KeyPair, SanType};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tonic::{
    Code,
    transport::{Certificate as Pem, Channel, ClientTlsConfig, Endpoint, Identity as Own},
};

use super::*;
use crate::{
    ca::{Authority, Certificate},
    clock,
    config::Config,
    create_token,
    index::Index,
    metrics::Metrics,
    naming::Naming,
    source::files::Files,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A control plane with an authority of its own.
struct Plane {
    state_dir: TempDir,
    addr: SocketAddr,
    metrics: Metrics,
    /// What ends with the test.
    _parts: JoinSet<()>,
    _updates: mpsc::Sender<Update>,
}

async fn plane(policy: &str) -> Plane {
    let state_dir = tempfile::tempdir().unwrap();
    let path = state_dir.path().to_str().unwrap();
    let config = Config::try_parse_from(["x", "--source", "dir:/", "--state-dir", path]).unwrap();
    let metrics = Metrics::new();
    let (issuer, desk) = Issuer::open(&config, &metrics).unwrap().unwrap();
    let naming = Naming::new(&config.cluster_domain);
    let mut files = Files::new(naming.clone());
    files.put("x.yaml", policy);
    let mut state = State::new(Index::new(naming), config.settings(), metrics.clone());
    state.set_authority(issuer.facts());
    state.update(files.update().unwrap_or_default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (hub, queue) = Hub::new();
    let (updates, changes) = mpsc::channel(1);
    let mut parts = JoinSet::new();
    parts.spawn(run(state, changes, queue));
    let orders = issuer.run(hub.clone());
    parts.spawn(async move { drop(orders.await) });
    parts.spawn(async move { serve_secured(listener, hub, desk, pending()).await.unwrap() });
    Plane { state_dir, addr, metrics, _parts: parts, _updates: updates }
}

/// A key, and the certificate it was given.
struct Credentials {
    key: KeyPair,
    chain: Vec<String>,
}

impl Plane {
    fn dir(&self) -> &Path {
        self.state_dir.path()
    }

    fn token(&self, namespace: &str, account: &str) -> String {
        let (namespace, account) = (Label::new(namespace).unwrap(), Label::new(account).unwrap());
        create_token(self.dir(), &namespace, &account, Duration::from_secs(60)).unwrap()
    }

    async fn channel(&self, own: Option<&Credentials>) -> Result<Channel, tonic::transport::Error> {
        let roots = std::fs::read_to_string(self.dir().join("root.pem")).unwrap();
        let mut tls = ClientTlsConfig::new().ca_certificate(Pem::from_pem(roots)).domain_name("localhost");
        if let Some(own) = own {
            tls = tls.identity(Own::from_pem(own.chain.concat(), own.key.serialize_pem()));
        }
        let endpoint =
            Endpoint::from_shared(format!("https://{}", self.addr)).unwrap().tls_config(tls).unwrap();
        timeout(PATIENCE, endpoint.connect()).await.unwrap()
    }

    /// Asks for a certificate for the name.
    async fn certify(
        &self,
        own: Option<&Credentials>,
        token: Option<&str>,
        name: &str,
        seconds: i64,
    ) -> Result<Credentials, Status> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
        let csr = params.serialize_request(&key).unwrap().pem().unwrap();
        let mut client = IstioCertificateServiceClient::new(self.channel(own).await.unwrap());
        let request = IstioCertificateRequest { csr, validity_duration: seconds, metadata: None };
        let answer = timeout(PATIENCE, client.create_certificate(with(request, token))).await.unwrap()?;
        Ok(Credentials { key, chain: answer.into_inner().cert_chain })
    }

    /// Opens a stream and takes what comes for a workload, until the names have come.
    async fn read(
        &self,
        own: Option<&Credentials>,
        token: Option<&str>,
        workload: &str,
        names: &[&str],
    ) -> Result<Vec<Resource>, Status> {
        let channel = self.channel(own).await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut session = Session::new(Node::new(workload.parse().unwrap()));
        for name in names {
            session.subscribe(ResourceKind::Workload, name);
        }
        session.connected();
        let (requests, outgoing) = mpsc::channel(64);
        for request in session.requests() {
            requests.send(request).await.unwrap();
        }
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let opened = client.delta_aggregated_resources(with(outgoing, token));
        let mut stream = timeout(PATIENCE, opened).await.unwrap()?.into_inner();
        let mut snapshot = pillion_policy::Snapshot::default();
        while snapshot.resources().count() < 2 {
            let response = timeout(PATIENCE, stream.message()).await.unwrap()?.unwrap();
            snapshot = snapshot.apply(session.receive(response).changes);
            for request in session.requests() {
                requests.send(request).await.unwrap();
            }
        }
        Ok(snapshot.resources().collect())
    }
}

fn with<T>(message: T, token: Option<&str>) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request
}

const ORDER: &str = "spiffe://cluster.local/ns/shop/sa/order";

#[tokio::test]
async fn a_token_leads_to_a_certificate_and_the_certificate_to_policy() {
    let plane = plane("").await;
    let token = plane.token("shop", "order");
    let own = plane.certify(None, Some(&token), ORDER, 0).await.unwrap();
    assert_eq!(own.chain.len(), 2);
    let root = std::fs::read_to_string(plane.dir().join("root.pem")).unwrap();
    assert_eq!(own.chain[1], root);
    let leaf = Certificate::read_all(own.chain[0].as_bytes()).unwrap().remove(0);
    assert_eq!(leaf.identity().unwrap().uri(), ORDER);

    for (own, token) in [(Some(&own), None), (None, Some(token.as_str())), (Some(&own), Some("bad"))] {
        let resources = plane.read(own, token, "shop/order", &[]).await.unwrap();
        let trust = resources.iter().find_map(|resource| match resource {
            Resource::Mesh(mesh) => mesh.trust.clone(),
            _ => None,
        });
        let trust = trust.unwrap();
        assert_eq!(trust.roots, std::slice::from_ref(&root));
        assert_eq!(trust.signer, Certificate::read_all(root.as_bytes()).unwrap()[0].fingerprint());
        assert!(resources.iter().any(|resource| resource.kind() == ResourceKind::Workload));
    }

    // With a certificate one renews one's own, and no other's.
    let renewed = plane.certify(Some(&own), None, ORDER, 0).await.unwrap();
    assert_ne!(renewed.chain[0], own.chain[0]);
    let other = "spiffe://cluster.local/ns/shop/sa/user";
    let refused = plane.certify(Some(&own), None, other, 0).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let text = plane.metrics.text(crate::metrics::Format::OpenMetrics).unwrap();
    assert!(text.contains("pillion_certificates_issued_total 2"), "{text}");
    assert!(text.contains("pillion_certificates_refused_total{reason=\"name\"} 1"), "{text}");
    assert!(text.contains("pillion_certificate_expiry_timestamp_seconds{kind=\"root\""), "{text}");
}

#[tokio::test]
async fn who_proves_nothing_gets_nothing() {
    let plane = plane("").await;
    let foreign = KeyPair::generate().unwrap();
    let (shop, order) = (Label::new("shop").unwrap(), Label::new("order").unwrap());
    let forged = crate::token::mint(&foreign, &shop, &order, PATIENCE, clock::now()).unwrap();
    let past = clock::now() - Duration::from_secs(3600);
    let key = crate::ca::StateDir::open(plane.dir()).unwrap().token_key().unwrap();
    let expired = crate::token::mint(&key, &shop, &order, PATIENCE, past).unwrap();
    for token in [None, Some(""), Some("x"), Some(forged.as_str()), Some(expired.as_str())] {
        let refused = plane.certify(None, token, ORDER, 0).await.err().unwrap();
        assert_eq!(refused.code(), Code::Unauthenticated, "{token:?}");
        let refused = plane.read(None, token, "shop/order", &[]).await.err().unwrap();
        assert_eq!(refused.code(), Code::Unauthenticated, "{token:?}");
        assert!(token.is_none_or(|token| token.len() < 2 || !refused.message().contains(token)));
    }
    let text = plane.metrics.text(crate::metrics::Format::OpenMetrics).unwrap();
    assert!(text.contains("pillion_callers_unauthenticated_total{reason=\"signature\"} 2"), "{text}");
    assert!(text.contains("pillion_callers_unauthenticated_total{reason=\"expired\"} 2"), "{text}");
    // A token for one is none for another.
    let token = plane.token("shop", "user");
    let refused = plane.certify(None, Some(&token), ORDER, 0).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_not_believed() {
    let plane = plane("").await;
    let key = KeyPair::generate().unwrap();
    let root = Authority::root(&key, clock::now()).unwrap();
    let other = Authority::new(key, vec![root]).unwrap();
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let order: Identity = ORDER.parse().unwrap();
    let issued = other.sign(&request, &order, PATIENCE, clock::now()).unwrap();
    let chain = issued.chain.iter().map(Certificate::pem).collect();
    // With TLS 1.3 a client learns of it with the first answer.
    let refused = plane.read(Some(&Credentials { key, chain }), None, "shop/order", &[]).await;
    let refused = refused.err().unwrap();
    assert!(matches!(refused.code(), Code::Unavailable | Code::Unknown | Code::Internal), "{refused:?}");
}

#[tokio::test]
async fn a_proxy_is_refused_what_is_anothers() {
    let plane = plane("").await;
    let token = plane.token("shop", "order");
    let own = plane.certify(None, Some(&token), ORDER, 0).await.unwrap();
    for (workload, names) in [("shop/order", &["shop/user"][..]), ("other/order", &[])] {
        for (own, token) in [(Some(&own), None), (None, Some(token.as_str()))] {
            let refused = plane.read(own, token, workload, names).await.err().unwrap();
            assert_eq!(refused.code(), Code::PermissionDenied, "{workload} {names:?}");
        }
    }
}

#[tokio::test]
async fn a_caller_gets_so_many_certificates_and_no_longer_ones_than_allowed() {
    let plane = plane("").await;
    let token = plane.token("shop", "order");
    let now = clock::now();
    for (seconds, lifetime) in [(0, 86_400), (-1, 86_400), (3600, 3600), (i64::MAX, 86_400)] {
        let own = plane.certify(None, Some(&token), ORDER, seconds).await.unwrap();
        let leaf = Certificate::read_all(own.chain[0].as_bytes()).unwrap().remove(0);
        let left = leaf.not_after().duration_since(now).unwrap().as_secs();
        assert!((lifetime - 2..lifetime + 60).contains(&left), "{seconds}: {left}");
    }
    for _ in 0..6 {
        plane.certify(None, Some(&token), ORDER, 0).await.unwrap();
    }
    let refused = plane.certify(None, Some(&token), ORDER, 0).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let other = plane.token("shop", "user");
    let user = "spiffe://cluster.local/ns/shop/sa/user";
    assert!(plane.certify(None, Some(&other), user, 0).await.is_ok());
}
