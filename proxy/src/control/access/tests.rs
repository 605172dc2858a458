use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use http::Request as HttpRequest;
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::TokioExecutor;
use pillion_xds::ca::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_client::IstioCertificateServiceClient,
    istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
};
use rcgen::{CertificateSigningRequestParams, SanType};
use rustls::{ServerConfig, server::WebPkiClientVerifier};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::{Code, Response};
use tower::Service;

use super::*;
use crate::{
    control::identity::tests::{mesh, pem},
    rt::task,
    tls::testing::{Authority, workload},
    view::View,
};

/// The token that is taken for anybody's.
pub(in crate::control) const TOKEN: &str = "a.good.token";

/// Who calls in these tests.
pub(in crate::control) const CALLER: &str = "spiffe://cluster.local/ns/shop/sa/web";

const SERVER: &str = "spiffe://cluster.local/ns/pillion-system/sa/pillion-control-plane";

/// A control plane that signs, over TLS on loopback.
#[derive(Clone)]
pub(in crate::control) struct Fake {
    pub(in crate::control) address: SocketAddr,
    /// The root that its own certificate goes back to.
    pub(in crate::control) root: Arc<Authority>,
    pub(in crate::control) state: Arc<Mutex<State>>,
}

/// What it does, and what it has seen.
pub(in crate::control) struct State {
    /// Who signs.
    pub(in crate::control) signer: Arc<Authority>,
    /// How long certificates are valid, in whole seconds.
    pub(in crate::control) life: Duration,
    /// What is answered instead.
    pub(in crate::control) refusal: Option<Status>,
    /// What callers have shown.
    pub(in crate::control) shown: Vec<&'static str>,
}

/// Whether a caller has shown a certificate.
#[derive(Clone, Copy)]
struct Certified(bool);

impl Fake {
    /// Starts one whose certificate is for `names`.
    pub(in crate::control) async fn start(names: &[SanType]) -> Self {
        let root = Arc::new(Authority::new("root"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::new(Mutex::new(State {
                signer: Arc::clone(&root),
                life: Duration::from_secs(3600),
                refusal: None,
                shown: Vec::new(),
            })),
            root,
        };
        let mut params = workload(SERVER);
        params.subject_alt_names = names.to_vec();
        let acceptor = TlsAcceptor::from(Arc::new(fake.tls(&params)));
        let server = fake.clone();
        task::spawn_connection("fake control plane", async move {
            while let Ok((stream, _peer)) = listener.accept().await {
                task::spawn_connection("fake stream", server.clone().serve(acceptor.clone(), stream));
            }
        });
        fake
    }

    /// One with the SPIFFE identity of the control plane.
    pub(in crate::control) async fn usual() -> Self {
        Self::start(&[SanType::URI(SERVER.try_into().unwrap())]).await
    }

    pub(in crate::control) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tls(&self, params: &rcgen::CertificateParams) -> ServerConfig {
        let provider = credentials::provider();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root.certificate.clone()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
        let (certificate, key) = self.root.sign(params);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    async fn serve(self, acceptor: TlsAcceptor, stream: TcpStream) {
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let certified = Certified(stream.get_ref().1.peer_certificates().is_some());
        let service = IstioCertificateServiceServer::new(self);
        let service = service_fn(move |mut request: HttpRequest<hyper::body::Incoming>| {
            request.extensions_mut().insert(certified);
            service.clone().call(request)
        });
        let server = http2::Builder::new(TokioExecutor::new());
        let _ended = server.serve_connection(TokioIo::new(stream), service).await;
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Fake {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let is_certified = request.extensions().get().is_some_and(|Certified(certified)| *certified);
        let token = request.metadata().get("authorization").map(|value| value.to_str().unwrap());
        let shown = match (is_certified, token) {
            (true, None) => "certificate",
            (false, Some(token)) if token == format!("Bearer {TOKEN}") => "token",
            (false, Some(_)) => "bad token",
            (false, None) => "nothing",
            (true, Some(_)) => "both",
        };
        let csr = CertificateSigningRequestParams::from_pem(&request.into_inner().csr).unwrap();
        self.with(|state| {
            state.shown.push(shown);
            if let Some(refusal) = &state.refusal {
                return Err(refusal.clone());
            }
            if !matches!(shown, "certificate" | "token") {
                return Err(Status::unauthenticated(format!("{shown} proves nothing")));
            }
            let [SanType::URI(uri)] = &csr.params.subject_alt_names[..] else { panic!("{:?}", csr.params) };
            let mut params = workload(uri.as_str());
            #[expect(clippy::disallowed_methods, reason = "what an authority would do")]
            let now = SystemTime::now();
            (params.not_before, params.not_after) =
                ((now - Duration::from_secs(60)).into(), (now + state.life).into());
            let leaf = params.signed_by(&csr.public_key, &state.signer.issuer).unwrap();
            let cert_chain = vec![leaf.pem(), pem(&state.signer.certificate)];
            Ok(Response::new(IstioCertificateResponse { cert_chain }))
        })
    }
}

/// What a proxy is started with, and what it knows.
pub(in crate::control) struct Caller {
    directory: TempDir,
    pub(in crate::control) wallet: Arc<Wallet>,
    pub(in crate::control) views: Arc<Views>,
}

impl Caller {
    pub(in crate::control) fn new(fake: &Fake) -> Self {
        let caller = Self {
            directory: TempDir::new().unwrap(),
            wallet: Arc::new(Wallet::awaiting()),
            views: Arc::new(Views::new(tokio::time::Instant::now())),
        };
        caller.believe(&fake.root);
        caller.token(TOKEN);
        caller
    }

    pub(in crate::control) fn token(&self, token: &str) {
        fs::write(self.directory.path().join("token"), format!("{token}\n")).unwrap();
    }

    pub(in crate::control) fn believe(&self, root: &Authority) {
        fs::write(self.directory.path().join("root"), pem(&root.certificate)).unwrap();
    }

    pub(in crate::control) fn access(&self, fake: &Fake) -> Access {
        self.access_to(&fake.address.to_string())
    }

    fn access_to(&self, authority: &str) -> Access {
        Access::secured(
            format!("https://{authority}").parse().unwrap(),
            &"cluster.local".parse().unwrap(),
            self.directory.path().join("root"),
            Some(self.directory.path().join("token")),
            Arc::clone(&self.wallet),
            Arc::clone(&self.views),
        )
        .unwrap()
    }
}

/// Opens a connection and calls; gives back what the other end saw, or what was refused.
async fn call(fake: &Fake, access: &Access, proof: Proof) -> Result<&'static str, Status> {
    fake.with(|state| {
        state.shown.clear();
        state.refusal = Some(Status::ok(""));
    });
    let mut client = IstioCertificateServiceClient::new(access.open(proof).await?);
    let csr = rcgen::CertificateParams::default().serialize_request(&rcgen::KeyPair::generate().unwrap());
    let request = IstioCertificateRequest { csr: csr.unwrap().pem().unwrap(), ..Default::default() };
    let answer = client.create_certificate(request).await;
    match fake.with(|state| state.shown.pop()) {
        Some(shown) => Ok(shown),
        None => Err(answer.unwrap_err()),
    }
}

#[tokio::test]
async fn a_control_plane_is_believed_by_its_identity_or_its_name() {
    let names = |names: &[&str]| -> Vec<SanType> {
        names
            .iter()
            .map(|name| match name.starts_with("spiffe:") {
                true => SanType::URI((*name).try_into().unwrap()),
                false => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect()
    };
    for (of, host, is_believed) in [
        (&[SERVER][..], "127.0.0.1", true),
        (&[SERVER], "localhost", true),
        (&["localhost"], "localhost", true),
        (&[SERVER, "localhost"], "localhost", true),
        (&["localhost"], "127.0.0.1", false),
        (&["elsewhere"], "localhost", false),
        (&[CALLER], "localhost", false),
        (&["spiffe://cluster.local/ns/pillion-system/sa/other"], "localhost", false),
        (&["spiffe://example.org/ns/pillion-system/sa/pillion-control-plane"], "localhost", false),
    ] {
        let fake = Fake::start(&names(of)).await;
        let caller = Caller::new(&fake);
        let access = caller.access_to(&format!("{host}:{}", fake.address.port()));
        let called = call(&fake, &access, Proof::Token).await;
        assert_eq!(called.is_ok(), is_believed, "{of:?} as {host}: {called:?}");
        if let Err(status) = called {
            assert!(reason(&status).contains("invalid peer certificate"), "{}", reason(&status));
        }
    }
}

#[tokio::test]
async fn roots_are_those_of_the_file_and_of_the_mesh_as_they_are_now() {
    let fake = Fake::usual().await;
    let caller = Caller::new(&fake);
    let access = caller.access(&fake);
    let other = Authority::new("other");
    caller.believe(&other);
    let refused = call(&fake, &access, Proof::Token).await.unwrap_err();
    assert!(reason(&refused).contains("UnknownIssuer"), "{}", reason(&refused));
    caller.views.publish(View::new(1, Some(Arc::new(mesh(&[&fake.root], ""))), None));
    assert_eq!(call(&fake, &access, Proof::Token).await.unwrap(), "token");
    fs::remove_file(caller.directory.path().join("root")).unwrap();
    assert_eq!(call(&fake, &access, Proof::Token).await.unwrap(), "token", "the mesh is enough");
    caller.views.publish(View::new(2, None, None));
    let refused = call(&fake, &access, Proof::Token).await.unwrap_err();
    assert!(refused.message().contains("root"), "{refused}");
    caller.believe(&fake.root);
    assert_eq!(call(&fake, &access, Proof::Token).await.unwrap(), "token");
}

#[tokio::test]
async fn the_token_is_read_for_each_call() {
    let fake = Fake::usual().await;
    let caller = Caller::new(&fake);
    let access = caller.access(&fake);
    assert_eq!(call(&fake, &access, Proof::Token).await.unwrap(), "token");
    caller.token("another");
    assert_eq!(call(&fake, &access, Proof::Token).await.unwrap(), "bad token");
    for (bad, says) in [("", "holds no token"), ("a\nb", "holds no token")] {
        caller.token(bad);
        let refused = call(&fake, &access, Proof::Token).await.unwrap_err();
        assert!(refused.code() == Code::Unauthenticated && refused.message().ends_with(says), "{refused}");
    }
    fs::remove_file(caller.directory.path().join("token")).unwrap();
    let refused = call(&fake, &access, Proof::Token).await.unwrap_err();
    assert!(refused.message().contains("cannot be read"), "{refused}");
    assert_eq!(call(&fake, &access, Proof::Nothing).await.unwrap(), "nothing");
}

#[tokio::test]
async fn the_certificate_is_shown_when_it_is_valid_and_was_some_use() {
    let fake = Fake::usual().await;
    let caller = Caller::new(&fake);
    let access = caller.access(&fake);
    assert!(access.awaits_certificate());
    assert_eq!(access.proof(false), Proof::Token);
    caller.wallet.publish(fake.root.credentials(&CALLER.parse().unwrap()));
    assert!(!access.awaits_certificate());
    assert_eq!((access.proof(false), access.proof(true)), (Proof::Certificate, Proof::Token));
    assert_eq!(call(&fake, &access, Proof::Certificate).await.unwrap(), "certificate");
    assert_eq!(call(&fake, &access, Proof::Token).await.unwrap(), "token");
    let mut over = workload(CALLER);
    over.not_after = rcgen::date_time_ymd(2021, 1, 1);
    caller.wallet.publish(Credentials::new(fake.root.material(&over)).unwrap());
    assert_eq!(access.proof(false), Proof::Token, "it has expired");
    caller.wallet.publish(Authority::new("other").credentials(&CALLER.parse().unwrap()));
    let refused = call(&fake, &access, Proof::Certificate).await;
    assert!(refused.is_err(), "the fake does not believe that one");
}

#[tokio::test]
async fn plain_text_proves_nothing() {
    let access = Access::plain("http://127.0.0.1:1".parse().unwrap());
    assert_eq!(access.proof(false), Proof::Nothing);
    assert!(!access.awaits_certificate());
    let refused = access.open(Proof::Nothing).await.unwrap_err();
    assert!(reason(&refused).starts_with("tcp connect error: Connection refused"), "{}", reason(&refused));
}
