//! An issuer of tokens: keys, tokens, and a server that publishes the keys.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use pillion_policy::authentication::{JwtKeys, JwtRule};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::task::{self, Task};

/// Signs tokens with an EC key that has an id.
#[derive(Clone)]
pub struct Issuer {
    id: String,
    key: EncodingKey,
    jwk: Value,
}

/// Publishes a key set that can be changed.
#[derive(Debug)]
pub struct KeyServer {
    /// Where it listens.
    pub address: SocketAddr,
    /// A file with the certificate it is to be believed by, if it speaks TLS.
    pub root: Option<PathBuf>,
    set: Arc<Mutex<String>>,
    fetched: Arc<AtomicU32>,
    _dir: Option<TempDir>,
    _task: Task<()>,
}

impl Issuer {
    /// An issuer with a new key of this id.
    pub fn new(id: &str) -> Result<Self> {
        let pair = rcgen::KeyPair::generate()?;
        let key = EncodingKey::from_ec_der(pair.serialized_der());
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::ES256)?)?;
        jwk.as_object_mut().context("a key is an object")?.insert("kid".to_owned(), json!(id));
        Ok(Self { id: id.to_owned(), key, jwk })
    }

    /// Its key set.
    pub fn set(&self) -> String {
        json!({ "keys": [self.jwk] }).to_string()
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) };
        Ok(encode(&header, claims, &self.key)?)
    }

    /// A token of this user that is good for long.
    pub fn token(&self, user: &str) -> Result<String> {
        self.sign(
            &json!({"iss": "https://issuer", "sub": user, "exp": 4_000_000_000_u64, "roles": ["buyer"]}),
        )
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A rule that believes `https://issuer` by these keys.
pub fn rule(keys: JwtKeys) -> JwtRule {
    JwtRule {
        issuer: "https://issuer".to_owned(),
        audiences: Vec::new(),
        keys,
        from_headers: Vec::new(),
        from_params: Vec::new(),
        from_cookies: Vec::new(),
        output_payload_to: None,
        output_claims: Vec::new(),
        forward: false,
        timeout: Duration::from_secs(5),
    }
}

impl KeyServer {
    /// Publishes over plain HTTP.
    pub async fn plain(issuer: &Issuer) -> Result<Self> {
        Self::start(issuer, None, None).await
    }

    /// Publishes over HTTPS, as `localhost` and with a certificate of its own.
    pub async fn tls(issuer: &Issuer) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("root.pem"), made.cert.pem())?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        Self::start(issuer, Some(Arc::new(config).into()), Some(dir)).await
    }

    async fn start(issuer: &Issuer, tls: Option<TlsAcceptor>, dir: Option<TempDir>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (set, fetched) = (Arc::new(Mutex::new(issuer.set())), Arc::new(AtomicU32::new(0)));
        let (shared, count) = (Arc::clone(&set), Arc::clone(&fetched));
        let task = task::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let set = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
                count.fetch_add(1, Ordering::Relaxed);
                let tls = tls.clone();
                task::detach(async move {
                    match tls {
                        None => publish(stream, &set).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                publish(stream, &set).await;
                            }
                        }
                    }
                });
            }
        });
        let root = dir.as_ref().map(|dir| dir.path().join("root.pem"));
        Ok(Self { address, root, set, fetched, _dir: dir, _task: task })
    }

    /// Where the set is.
    pub fn keys(&self) -> JwtKeys {
        JwtKeys::Remote(match &self.root {
            None => format!("http://{}/keys", self.address),
            Some(_) => format!("https://localhost:{}/keys", self.address.port()),
        })
    }

    /// Publishes another issuer's keys from now on.
    pub fn publish(&self, issuer: &Issuer) {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = issuer.set();
    }

    /// How often it has been asked.
    pub fn fetched(&self) -> u32 {
        self.fetched.load(Ordering::Relaxed)
    }
}

async fn publish(mut stream: impl AsyncRead + AsyncWrite + Unpin, set: &str) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if !stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
            return;
        }
    }
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{set}",
        set.len()
    );
    // A client that is gone needs no keys.
    let _gone = stream.write_all(answer.as_bytes()).await;
    let _gone = stream.shutdown().await;
}
