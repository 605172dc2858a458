//! TLS for those who connect: TLS 1.3 with a certificate of the authority's own, and a client certificate if there is one.
//!
//! Each connection takes the configuration that is in force when it comes, so a new certificate drops none. Sessions are
//! not resumed: a ticket would outlive the certificates that it was given for. Handshakes are bounded in number and in
//! time, and no connection waits for the handshake of another.

use std::{io, sync::Arc, time::Duration};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    ca::{Certificate, Issued},
    task,
};

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most handshakes at once; one takes about a millisecond of computing.
const MAX_HANDSHAKES: usize = 1024;
/// Pause after a failed accept: descriptors may have run out, and nothing but time brings them back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The configuration in force; none while the authority cannot sign.
pub(super) type Current = watch::Receiver<Option<Arc<ServerConfig>>>;

/// A configuration that serves with a certificate and believes clients by their roots.
pub(super) fn config(
    issued: &Issued,
    key: &rcgen::KeyPair,
    roots: &[Certificate],
) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(default_provider());
    let mut believed = RootCertStore::empty();
    for root in roots {
        believed.add(root.der().clone())?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(believed), provider.clone())
        .allow_unauthenticated()
        .build()?;
    // Who believes the root has it.
    let chain = issued.chain.iter().take(issued.chain.len().saturating_sub(1));
    let chain = chain.map(|certificate| certificate.der().clone()).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The connections that have shaken hands. Listening ends when the stream is dropped.
pub(super) fn incoming(
    listener: TcpListener,
    current: Current,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (sender, streams) = mpsc::channel(MAX_HANDSHAKES);
    task::spawn("tls listener", accept(listener, current, sender));
    ReceiverStream::new(streams)
}

async fn accept(
    listener: TcpListener,
    current: Current,
    streams: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
) {
    let slots = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let accepted = tokio::select! {
            () = streams.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of a proxy");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(config) = current.borrow().clone() else {
            tracing::warn!(%peer, "a connection was refused: there is no certificate to serve with");
            continue;
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            tracing::warn!(%peer, "a connection was refused: too many handshakes are under way");
            continue;
        };
        let streams = streams.clone();
        task::spawn("tls handshake", async move {
            let handshake = async {
                // Small messages must not wait for company.
                stream.set_nodelay(true)?;
                TlsAcceptor::from(config).accept(stream).await
            };
            match timeout(HANDSHAKE_TIMEOUT, handshake).await {
                // An error means that we are stopping.
                Ok(Ok(stream)) => drop(streams.send(Ok(stream)).await),
                Ok(Err(error)) => tracing::warn!(%peer, %error, "a handshake failed"),
                Err(_) => tracing::warn!(%peer, "a handshake took too long"),
            }
            drop(slot);
        });
    }
}
