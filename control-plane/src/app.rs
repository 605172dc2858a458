//! Puts the parts together and lives as long as all of them do.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    admin::Admin,
    config::{Config, Source},
    index::Index,
    metrics::Metrics,
    naming::Naming,
    serve::{self, Desk, Hub, Issuer, State},
    source::{Update, dir::Directory},
};

/// How long streams may take to end after a signal.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the control plane until SIGTERM or SIGINT. An error says what to do about it.
pub async fn run(config: Config) -> Result<()> {
    let naming = Naming::new(&config.cluster_domain);
    let Source::Directory(path) = &config.source;
    let mut updates = watch_directory(path, naming.clone())?;
    let xds = match config.plaintext().map_err(|reason| anyhow!(reason))? {
        Some(addr) => {
            tracing::info!(%addr, "serving proxies in plain text");
            Some(bind(addr, "--xds-addr").await?)
        }
        None => None,
    };
    let metrics = Metrics::new();
    let authority = Authority::open(&config, &metrics).await?;
    let admin = bind(config.admin_addr, "--admin-addr").await?;

    let mut state = State::new(Index::new(naming), Arc::new(config.mesh()), metrics.clone());
    // Nobody is served before everything has been read once: a proxy would take what is missing for gone.
    state.update(updates.recv().await.context("the source ended")?);
    if let Some(authority) = &authority {
        state.set_authority(authority.issuer.facts());
    }
    state.check();

    let (hub, queue) = Hub::new();
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let owner = tasks.spawn(async move {
        serve::run(state, updates, queue).await;
        Err(anyhow!("the source ended"))
    });
    if let Some(xds) = xds {
        let served = serve::serve(xds, hub.clone(), until(stopped.clone()));
        tasks.spawn(async move { served.await.context("serving proxies failed") });
    }
    if let Some(Authority { issuer, desk, listener }) = authority {
        tasks.spawn(issuer.run(hub.clone()));
        let served = serve::serve_secured(listener, hub.clone(), desk, until(stopped));
        tasks.spawn(async move { served.await.context("serving proxies over TLS failed") });
    }
    let pages = Admin { hub, metrics };
    let admin = tasks.spawn(async move {
        pages.serve(admin).await;
        Err(anyhow!("the admin port ended"))
    });
    let (admin_addr, source) = (config.admin_addr, path.display());
    tracing::info!(admin = %admin_addr, %source, "the control plane is ready");

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        Some(ended) = tasks.join_next() => {
            ended.context("a part of the control plane failed")??;
            bail!("a part of the control plane ended");
        }
    }
    tracing::info!("stopping");
    stop.send_replace(true);
    // Without the state every stream ends, and with the streams the service.
    owner.abort();
    admin.abort();
    drop(timeout(STOP_TIMEOUT, async { while tasks.join_next().await.is_some() {} }).await);
    Ok(())
}

/// The certificate authority, and where it is asked.
struct Authority {
    issuer: Issuer,
    desk: Desk,
    listener: TcpListener,
}

impl Authority {
    async fn open(config: &Config, metrics: &Metrics) -> Result<Option<Self>> {
        let Some((issuer, desk)) = Issuer::open(config, metrics)? else { return Ok(None) };
        let listener = bind(config.xds_tls_addr, "--xds-tls-addr").await?;
        tracing::info!(addr = %config.xds_tls_addr, signer = issuer.facts().trust.signer, "serving proxies over TLS");
        Ok(Some(Self { issuer, desk, listener }))
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    drop(stopped.wait_for(|stopped| *stopped).await);
}

fn watch_directory(path: &Path, naming: Naming) -> Result<mpsc::Receiver<Update>> {
    let directory = Directory::open(path, naming).with_context(|| {
        format!(
            "cannot read the directory {}: create it or give another one as --source dir:PATH",
            path.display()
        )
    })?;
    let (sender, updates) = mpsc::channel(1);
    std::thread::Builder::new().name("source".to_owned()).spawn(move || directory.watch(&sender))?;
    Ok(updates)
}

async fn bind(addr: SocketAddr, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow!("{addr} is in use: stop what listens there or give another {flag}")
        }
        _ => anyhow!("cannot listen on {addr}: {error}: give another {flag}"),
    })
}
