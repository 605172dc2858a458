//! The way to the control plane: how it is reached, believed, and told who we are.
//!
//! Over plain text nothing is proved by either side. Over TLS the control plane is believed by the certificates of a
//! file, which is read anew for each connection, and by the roots of the mesh as they are known now. We show our own
//! certificate once there is one that is valid, and a token before that; a certificate that was no use is not shown the
//! next time, so that a control plane which has lost its authority is not lost to us. Connections that are open stay
//! open when credentials change.

mod server;
#[cfg(test)]
pub(super) mod tests;

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::{Uri, uri::Scheme};
use hyper_util::rt::TokioIo;
use pillion_policy::{
    Invalid,
    identity::{Identity, TrustDomain},
    name::Label,
};
use rustls::{CertificateError, ClientConfig, client::Resumption, pki_types::ServerName, version::TLS13};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{self, Channel, Endpoint},
};
use tower::service_fn;

use self::server::ControlPlane;
use super::identity::trust;
use crate::{
    rt::clock,
    tls::{
        credentials::{self, Credentials, Wallet},
        judge::Verifier,
    },
    view::Views,
};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// Pings that tell a dead control plane from a silent one.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3));

/// Where HTTPS is when a URL does not say.
const HTTPS: u16 = 443;

/// Who the control plane is by its SPIFFE identity: namespace and service account.
const CONTROL_PLANE: (&str, &str) = ("pillion-system", "pillion-control-plane");

/// The way to one control plane.
#[derive(Debug)]
pub struct Access {
    endpoint: Endpoint,
    tls: Option<Tls>,
    streams: watch::Sender<u64>,
}

/// What a control plane over TLS is believed by, and what it is shown.
#[derive(Debug)]
struct Tls {
    host: String,
    port: u16,
    name: ServerName<'static>,
    trust_domain: TrustDomain,
    identity: Identity,
    root_file: PathBuf,
    token_file: Option<PathBuf>,
    wallet: Arc<Wallet>,
    views: Arc<Views>,
}

/// A connection that says by itself who we are.
pub(super) type Link = InterceptedService<Channel, Bearer>;

/// What is shown to the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// Nothing.
    Nothing,
    /// The token of a file.
    Token,
    /// The own certificate.
    Certificate,
}

/// Puts the token of a file into requests. It rotates, so it is read for each.
#[derive(Debug, Clone)]
pub(super) struct Bearer(Option<Arc<Path>>);

/// Why there is no way to a control plane.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The URL names no host that a certificate could be for.
    #[error("--control-plane {0}: a certificate is for a host name or an IP address")]
    Host(Uri),
    /// The trust domain and the like make no identity.
    #[error(transparent)]
    Identity(#[from] Invalid),
}

impl Access {
    /// To a control plane that is spoken to in plain text.
    pub fn plain(uri: Uri) -> Self {
        Self { endpoint: endpoint(uri), tls: None, streams: watch::Sender::new(0) }
    }

    /// To a control plane of `trust_domain` over TLS, believed by the certificates in `root_file`. The token is that of
    /// `token_file`, the certificate that of `wallet`, and `views` tell the roots of the mesh.
    pub fn secured(
        uri: Uri,
        trust_domain: &TrustDomain,
        root_file: PathBuf,
        token_file: Option<PathBuf>,
        wallet: Arc<Wallet>,
        views: Arc<Views>,
    ) -> Result<Self, AccessError> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| AccessError::Host(uri.clone()))?;
        let (namespace, account) = CONTROL_PLANE;
        let tls = Tls {
            host,
            port: uri.port_u16().unwrap_or(HTTPS),
            name,
            identity: Identity::new(trust_domain, &Label::new(namespace)?, &Label::new(account)?),
            trust_domain: trust_domain.clone(),
            root_file,
            token_file,
            wallet,
            views,
        };
        // To tonic the connection is as good as plain: it would do TLS itself, or refuse to.
        let mut parts = uri.clone().into_parts();
        parts.scheme = Some(Scheme::HTTP);
        let dialed = Uri::from_parts(parts).map_err(|_| AccessError::Host(uri.clone()))?;
        let endpoint = endpoint(dialed).origin(uri);
        Ok(Self { endpoint, tls: Some(tls), streams: watch::Sender::new(0) })
    }

    /// What to show now. After an attempt that failed with the certificate, the token is tried.
    pub(super) fn proof(&self, certificate_failed: bool) -> Proof {
        let Some(tls) = &self.tls else { return Proof::Nothing };
        let held = tls.wallet.load();
        let is_valid = held.as_deref().is_some_and(is_valid);
        match (&tls.token_file, held) {
            (None, Some(_)) => Proof::Certificate,
            (Some(_), Some(_)) if is_valid && !certificate_failed => Proof::Certificate,
            (Some(_), _) => Proof::Token,
            (None, None) => Proof::Nothing,
        }
    }

    /// Opens a connection on which `proof` is shown.
    pub(super) async fn open(&self, proof: Proof) -> Result<Link, Status> {
        let Some(tls) = &self.tls else {
            let channel = self.endpoint.connect().await.map_err(|error| unavailable(&error))?;
            return Ok(InterceptedService::new(channel, Bearer(None)));
        };
        let config = tls.config(proof).map_err(|error| Status::unavailable(error.to_string()))?;
        let connector = TlsConnector::from(Arc::new(config));
        let (host, port, name) = (tls.host.clone(), tls.port, tls.name.clone());
        let dial = service_fn(move |_uri: Uri| {
            let (host, name, connector) = (host.clone(), name.clone(), connector.clone());
            async move {
                let dialed = timeout(CONNECT, dial((&host, port), name, connector)).await;
                dialed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(TokioIo::new)
            }
        });
        let channel =
            self.endpoint.connect_with_connector(dial).await.map_err(|error| unavailable(&error))?;
        let token_file = tls.token_file.as_deref().filter(|_| proof == Proof::Token);
        Ok(InterceptedService::new(channel, Bearer(token_file.map(Arc::from))))
    }

    /// Waits for certificates newer than those of now; for ever where there will be none.
    pub(super) fn renewed(&self) -> impl Future<Output = ()> + Send + use<> {
        let news = self.tls.as_ref().map(|tls| tls.wallet.subscribe());
        async move {
            if let Some(mut news) = news
                && news.changed().await.is_ok()
            {
                return;
            }
            std::future::pending().await
        }
    }

    /// Whether a certificate is to come, and has not.
    pub(super) fn awaits_certificate(&self) -> bool {
        let wallet = self.tls.as_ref().map(|tls| &tls.wallet);
        wallet.is_some_and(|wallet| wallet.is_configured() && wallet.load().is_none())
    }

    /// Notes that the control plane has taken up a stream.
    pub(super) fn streams(&self) {
        self.streams.send_modify(|streams| *streams += 1);
    }

    /// Tells of every stream from now on.
    pub(super) fn watch_streams(&self) -> watch::Receiver<u64> {
        self.streams.subscribe()
    }
}

impl Tls {
    /// Made anew for each connection: files and roots change.
    fn config(&self, proof: Proof) -> Result<ClientConfig, Box<dyn Error + Send + Sync>> {
        let mesh = self.views.load().mesh.clone();
        let mut roots = trust::of_mesh(mesh.as_deref());
        match trust::read(&self.root_file) {
            Ok(given) => roots.extend(given),
            Err(error) if roots.is_empty() => return Err(error.into()),
            Err(error) => tracing::warn!(%error, "--root-file not used; the roots of the mesh are"),
        }
        let of_mesh = trust::domains(mesh.as_deref());
        let domains = [self.trust_domain.clone()].into_iter().chain(of_mesh).collect();
        let provider = credentials::provider();
        let judge = ControlPlane::new(&roots, domains, self.identity.clone(), &provider)?;
        let verifier = Verifier::new(judge, &provider);
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let shown = self.wallet.load().filter(|_| proof == Proof::Certificate);
        let mut config = match shown {
            Some(credentials) => config.with_client_cert_resolver(Arc::clone(credentials.resolver()) as _),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let Some(path) = &self.0 else { return Ok(request) };
        let text = fs::read_to_string(path).map_err(|error| {
            Status::unauthenticated(format!("--token-file {} cannot be read: {error}", path.display()))
        })?;
        let value = format!("Bearer {}", text.trim()).parse::<MetadataValue<Ascii>>();
        let mut value = value.ok().filter(|_| !text.trim().is_empty()).ok_or_else(|| {
            Status::unauthenticated(format!("--token-file {} holds no token", path.display()))
        })?;
        value.set_sensitive(true);
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

fn endpoint(uri: Uri) -> Endpoint {
    Endpoint::from(uri)
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .keep_alive_while_idle(true)
}

async fn dial(
    address: (&str, u16),
    name: ServerName<'static>,
    connector: TlsConnector,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    connector.connect(name, stream).await.map_err(advised)
}

/// Says what to do about a control plane whose root nobody has told us of; every other error stays as it is. A root of the
/// same name with another key shows in the signature.
fn advised(error: io::Error) -> io::Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => io::Error::new(error.kind(), format!("{error}; {STALE_ROOT}")),
        Some(_) | None => error,
    }
}

/// Whether others would take the certificate now.
fn is_valid(credentials: &Credentials) -> bool {
    (credentials.not_before()..credentials.not_after()).contains(&clock::now())
}

/// What operators can do when the root of the mesh is another than the one we were given.
const STALE_ROOT: &str = "it proves itself by a root that is not in --root-file: if the root has been replaced, put the \
                          control plane's present root.pem there; the file is read again for each attempt";

/// What the transport says, without its own words around it.
fn unavailable(error: &transport::Error) -> Status {
    let told = error.source().map(chain).unwrap_or_default();
    Status::unavailable(if told.is_empty() { error.to_string() } else { told })
}

/// What a call failed for, on one line: a status that wraps an error of the transport does not say it by itself.
pub(super) fn reason(status: &Status) -> String {
    match status.source() {
        Some(cause) => format!("{}: {}", status.message(), chain(cause)),
        None if status.message().is_empty() => status.code().description().to_owned(),
        None => format!("{} ({:?})", status.message(), status.code()),
    }
}

/// An error and what it came of, without what only repeats what was said.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut told = error.to_string();
    let mut next = error.source();
    while let Some(deeper) = next {
        let text = deeper.to_string();
        if !told.ends_with(&text) {
            told = format!("{told}: {text}");
        }
        next = deeper.source();
    }
    told
}
