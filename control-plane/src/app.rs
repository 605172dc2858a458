//! Puts the parts together and lives as long as all of them do.

use std::{io, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    admin::{Admin, Gate},
    config::{Config, Source},
    index::Index,
    metrics::Metrics,
    naming::Naming,
    serve::{self, Hub, Issuer, Observatory, State},
    source::{Update, dir::Directory},
    trace::Tracer,
};

/// How long streams may take to end after a signal.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the control plane until SIGTERM or SIGINT. An error says what to do about it.
pub async fn run(config: Config) -> Result<()> {
    let naming = Naming::new(&config.cluster_domain);
    let Source::Directory(path) = &config.source;
    let mut updates = watch_directory(path, naming.clone())?;
    let plaintext = config.plaintext().map_err(|reason| anyhow!(reason))?;
    let secured = config.has_authority().then_some(config.xds_tls_addr);
    let xds = bind_if(plaintext, "--xds-addr").await?;
    let xds_tls = bind_if(secured, "--xds-tls-addr").await?;
    let admin = bind(config.admin_addr, "--admin-addr").await?;

    let gate = Gate::open(config.state_dir.as_deref())?;
    let metrics = Metrics::new();
    let issuer = Issuer::open(&config, &metrics)?;
    let settings = config.settings();
    let tracer = Tracer::open(settings.mesh.collector.as_ref())?;
    let mut state = State::new(Index::new(naming), settings, metrics.clone());
    state.trace(tracer.clone());
    // Nobody is served before everything has been read once: a proxy would take what is missing for gone.
    state.update(updates.recv().await.context("the source ended")?);
    if let Some((issuer, _)) = &issuer {
        state.set_authority(issuer.facts());
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
    if let (Some(xds), Some((issuer, desk))) = (xds_tls, issuer) {
        tasks.spawn(issuer.run(hub.clone()));
        let served = serve::serve_secured(xds, hub.clone(), desk, until(stopped));
        tasks.spawn(async move { served.await.context("serving proxies over TLS failed") });
    }
    let pages = Admin { observatory: Observatory::new(hub.clone()), hub, metrics, gate };
    let admin = tasks.spawn(async move {
        pages.serve(admin).await;
        Err(anyhow!("the admin port ended"))
    });
    tracing::info!(
        xds = plaintext.map(tracing::field::display),
        xds_tls = secured.map(tracing::field::display),
        admin = %config.admin_addr,
        source = %path.display(),
        "the control plane is ready"
    );

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
    tracer.close().await;
    Ok(())
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

async fn bind_if(addr: Option<SocketAddr>, flag: &str) -> Result<Option<TcpListener>> {
    match addr {
        Some(addr) => bind(addr, flag).await.map(Some),
        None => Ok(None),
    }
}

async fn bind(addr: SocketAddr, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow!("{addr} is in use: stop what listens there or give another {flag}")
        }
        _ => anyhow!("cannot listen on {addr}: {error}: give another {flag}"),
    })
}
