//! Fetching the keys of issuers.
//!
//! Each key set the workload's rules name is fetched when it is first seen, again every twenty minutes, and sooner when a
//! token names a key it does not have, but never more often than every ten seconds. What was fetched last stays in force
//! while the issuer cannot be reached. Sets that no rule names any more are let go.
//!
//! Addresses are asked for as they are: this is the proxy's own traffic and passes no rule of the mesh. The certificates
//! of `https` issuers are judged by the roots of the operating system.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{
    Request, StatusCode, Uri,
    header::{ACCEPT, HOST, USER_AGENT},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{
    jwt::keys::{AGAIN, KeySource, Keys, KeysError},
    telemetry::Metrics,
    view::Views,
};

/// How often a set is fetched that is good (as in Istio).
const REFRESH: Duration = Duration::from_secs(20 * 60);

/// Largest key set, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Why a key set could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("the URI is not http or https with a host")]
    Uri,
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("no complete response: {0}")]
    Http(#[from] hyper::Error),
    #[error("the response is longer than {MAX_BYTES} bytes, or broke off: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("the response has status {0}")]
    Status(StatusCode),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error("no answer in time")]
    Timeout,
}

/// Keeps the key sets of the workload's rules, for the life of the process.
pub async fn run(views: Arc<Views>, metrics: Arc<Metrics>) -> Infallible {
    let mut news = views.subscribe();
    let mut kept: Vec<Weak<KeySource>> = Vec::new();
    let mut keeping = FuturesUnordered::new();
    loop {
        let own = views.load().workload.clone();
        kept.retain(|source| source.strong_count() > 0);
        for source in own.iter().filter_map(|own| own.issuers()).flat_map(|issuers| issuers.sources()) {
            let source = Arc::downgrade(source);
            if !kept.iter().any(|known| known.ptr_eq(&source)) {
                kept.push(Weak::clone(&source));
                keeping.push(keep(source, &metrics));
            }
        }
        // The rules of the moment must not be held here: who holds them keeps the sets alive.
        drop(own);
        tokio::select! {
            changed = news.changed() => if changed.is_err() {
                return std::future::pending().await;
            },
            Some(()) = keeping.next() => {}
        }
    }
}

/// Fetches one set again and again, until nobody has a use for it.
async fn keep(source: Weak<KeySource>, metrics: &Metrics) {
    loop {
        let (wanted, is_good): (Arc<Notify>, bool);
        {
            let Some(source) = source.upgrade() else { return };
            let Some(uri) = source.uri() else { return };
            source.begin();
            let fetched = timeout(source.timeout(), fetch(uri)).await.unwrap_or(Err(FetchError::Timeout));
            let keys = match fetched {
                Ok(keys) => {
                    metrics.access.keys_fetched.inc();
                    Some(keys)
                }
                Err(error) => {
                    metrics.access.keys_failed.inc();
                    tracing::warn!(uri, %error, "the keys of an issuer cannot be fetched; trying again");
                    None
                }
            };
            (wanted, is_good) = (Arc::clone(source.wanted()), keys.is_some());
            source.end(keys, Instant::now());
        }
        sleep(AGAIN).await;
        if is_good {
            tokio::select! {
                () = sleep(REFRESH - AGAIN) => {}
                () = wanted.notified() => {}
            }
        }
    }
}

async fn fetch(uri: &str) -> Result<Keys, FetchError> {
    let uri: Uri = uri.parse().map_err(|_| FetchError::Uri)?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(FetchError::Uri);
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_tls = match scheme {
        "https" => true,
        "http" => false,
        _ => return Err(FetchError::Uri),
    };
    let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await?;
    let json = if is_tls {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| FetchError::Uri)?;
        get(&uri, tls()?.connect(name, stream).await?).await?
    } else {
        get(&uri, stream).await?
    };
    Ok(Keys::parse(&String::from_utf8_lossy(&json))?)
}

async fn get(
    uri: &Uri,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<Bytes, FetchError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, host)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("pillion/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Uri)?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
        Ok(body.map_err(FetchError::Body)?.to_bytes())
    };
    // The end of the connection is no failure: the response may be complete. If it is not, the exchange says so.
    let drive = async {
        let _ended = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        biased;
        done = exchange => done,
        never = drive => match never {},
    }
}

/// TLS with the roots of the operating system, which are read once.
fn tls() -> Result<TlsConnector, std::io::Error> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config).into());
    }
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::debug!(%error, "a root certificate of the operating system cannot be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::clone(CONFIG.get_or_init(|| Arc::new(config))).into())
}

#[cfg(test)]
mod tests;
