//! Puts the process together: threads, listeners, control, admin, and the way out.
//!
//! One control thread (this one) runs the client of the control plane, the admin server and the signals. Each data
//! worker is a thread with a runtime of its own; it accepts connections, serves them and keeps the upstream
//! connections they use. A critical task or thread that ends takes the process down with it: a proxy that is dead but
//! ready would be worse.

use std::{convert::Infallible, io, net, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use futures_util::{FutureExt, future::join_all};
use pillion_xds::node::Node;
#[cfg(target_os = "linux")]
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    admin::{self, Admin, AdminSource},
    config::{self, Config, IdentitySource, Listen, Source},
    control::{
        access::Access,
        ads::{Client, Query},
        identity::{Keeper, Parts, files::Files, status::Status},
        jwks,
        observe::Sights,
        state::Control,
        store, telemetry,
    },
    inbound::Inbound,
    kin::Kin,
    listener::{self, Acceptor},
    net::socket,
    outbound,
    rt::{
        clock,
        drain::Drain,
        rng::Seed,
        task::{self, Failures, Supervisor},
    },
    telemetry::{
        AccessLog, Journal, Metrics, Sinks, access_log, log, metrics, otlp,
        trace::{self, Tracer},
    },
    tls::credentials::Wallet,
    upstream::pool::{Connector, Pools},
    view::Views,
    worker::{Demands, Settings, Worker},
};

/// How often a worker looks after its idle connections.
const SWEEP: Duration = Duration::from_secs(1);

/// Questions of the admin server that may wait.
const QUERIES: usize = 16;

/// How long a proxy that was not drained before goes on accepting after SIGTERM, while others learn that it leaves.
const GRACE: Duration = Duration::from_secs(1);

/// How long connections may take to end that are broken off.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long the last lines of the access log may take, and the last spans.
const LAST_LINES: Duration = Duration::from_secs(1);

/// What all threads share.
#[derive(Debug, Clone)]
struct Shared {
    views: Arc<Views>,
    drain: Drain,
    settings: Arc<Settings>,
    demands: Demands,
    sinks: Sinks,
    metrics: Arc<Metrics>,
    kin: Arc<Kin>,
    wallet: Arc<Wallet>,
    pressure: Arc<[Notify]>,
    seed: Seed,
}

/// What the admin server asks the rest of the process.
#[derive(Debug)]
struct Facts {
    views: Arc<Views>,
    queries: mpsc::Sender<Query>,
    identity: Arc<Status>,
}

/// The listening sockets, bound before anything else starts.
struct Sockets {
    outbound: Option<net::TcpListener>,
    inbound: Option<net::TcpListener>,
    admin: net::TcpListener,
}

/// Runs the proxy until it is told to stop.
pub fn run(config: Config) -> Result<()> {
    let log = log::init(&config.log)?;
    if config.identity_source() != IdentitySource::None {
        leave_no_core();
    }
    let sockets = Sockets::bind(&config)?;
    let runtime =
        runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let metrics = Metrics::new();
        let (demands, demanded) = Demands::new();
        let seed = Seed::new(config.seed);
        let (wants, wanted) = watch::channel(otlp::Wanted::default());
        let environment = Arc::new(otlp::settings::Environment::of_process());
        let place = otlp::resource::Place::of_process(config.workload_name(), config.pod_ip);
        let (tracer, spans, flusher) = trace::export::new(
            &place,
            &environment,
            wanted.clone(),
            &metrics,
            seed.generator(usize::MAX - 1),
        );
        let sinks = sinks(&config, tracer, &metrics)?;
        let rng = seed.generator(usize::MAX - 2);
        let lines = access_log::export::new(&sinks.access_log, &place, &environment, wanted.clone(), rng);
        let shared = Shared::new(&config, demands, (sinks, metrics), seed);
        let told = (&shared.metrics, &shared.drain);
        let (figures, walking, last_figures) =
            metrics::export::new(&place, &environment, wanted, told, shared.seed.generator(usize::MAX - 3));
        let (queries, asked) = mpsc::channel(QUERIES);
        let access = access(&config, &shared)?;
        let client = client(&config, &shared, access.clone(), demanded, asked)?;
        let (keeper, identity) = keeper(&config, &shared, access)?;
        let (supervisor, failures) = Supervisor::new();
        shared.start_workers(&config, &supervisor, &sockets)?;
        let facts = Facts { views: Arc::clone(&shared.views), queries, identity };
        let pages = Arc::new(Admin {
            source: facts,
            metrics: Arc::clone(&shared.metrics),
            journal: shared.sinks.journal.clone(),
            drain: shared.drain.clone(),
            log: Some(log),
        });
        supervisor.spawn_critical("admin", async {
            admin::serve(sockets.admin, pages).await.map(|never| match never {})
        });
        tracing::info!(
            outbound = ?config.outbound_addr.0, inbound = ?config.inbound_addr.0, admin = %config.admin_addr,
            workers = config.workers(), seed = shared.seed.get(), "proxy started"
        );
        let keys = jwks::run(Arc::clone(&shared.views), Arc::clone(&shared.metrics));
        supervisor.spawn_critical("keys", keys.map(|never| -> Result<(), Infallible> { match never {} }));
        supervisor.spawn_critical("control", client);
        let following = telemetry::follow(Arc::clone(&shared.views), wants, shared.sinks.access_log.clone());
        supervisor
            .spawn_critical("telemetry", following.map(|never| -> Result<(), Infallible> { match never {} }));
        supervisor.spawn_critical::<Infallible>("figures", async { match figures.run().await {} });
        supervisor.spawn_critical::<Infallible>("walks", async { match walking.await {} });
        supervisor
            .spawn_critical("spans", spans.run().map(|never| -> Result<(), Infallible> { match never {} }));
        let mut flushers = vec![flusher];
        if let Some((lines, flusher)) = lines {
            flushers.push(flusher);
            supervisor.spawn_critical(
                "lines",
                lines.run().map(|never| -> Result<(), Infallible> { match never {} }),
            );
        }
        if let Some(keeper) = keeper {
            supervisor.spawn_critical::<Infallible>("identity", async { match keeper.run().await {} });
        }
        until_stopped(&shared.drain, failures, config.drain_timeout).await?;
        join_all(flushers.iter().map(|flusher| flusher.flush(LAST_LINES))).await;
        last_figures.tell(LAST_LINES).await;
        shared.sinks.access_log.close(LAST_LINES);
        Ok(())
    })
}

/// Who is told of finished requests.
fn sinks(config: &Config, tracer: Tracer, metrics: &Arc<Metrics>) -> Result<Sinks> {
    let logged = access_log::Settings {
        target: config.access_log.clone(),
        format: config.access_log_format.clone(),
        filter: config.access_log_filter.clone(),
    };
    let access_log = AccessLog::new(logged, Arc::clone(metrics));
    let access_log = access_log.context("cannot open the access log (--access-log)")?;
    let workload = config.workload_name().to_string();
    let journal = Journal::start(&workload, config.explain_slow, Arc::clone(metrics));
    Ok(Sinks { access_log, journal: journal.context("cannot start the journal")?, tracer })
}

/// Has a crash leave nothing behind that the key could be read from, and others not look into the process.
fn leave_no_core() {
    #[cfg(target_os = "linux")]
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "a crash may leave a core file with the private key");
    }
}

impl Sockets {
    fn bind(config: &Config) -> Result<Self> {
        let open = |flag, Listen(addr): Listen| addr.map(|addr| socket::listen(flag, addr)).transpose();
        Ok(Self {
            outbound: open("--outbound-addr", config.outbound_addr)?,
            inbound: open("--inbound-addr", config.inbound_addr)?,
            admin: socket::listen("--admin-addr", config.admin_addr)?,
        })
    }
}

/// The way to the control plane, where there is one.
fn access(config: &Config, shared: &Shared) -> Result<Option<Arc<Access>>> {
    let Source::ControlPlane(uri) = config.source() else { return Ok(None) };
    let (root_file, token_file) = match config.identity_source() {
        IdentitySource::Authority { root_file, token_file } => (root_file, Some(token_file)),
        IdentitySource::Files { root_file, .. } if config::is_https(&uri) => (root_file, None),
        IdentitySource::Files { .. } | IdentitySource::None => {
            return Ok(Some(Arc::new(Access::plain(uri))));
        }
    };
    let (wallet, views) = (Arc::clone(&shared.wallet), Arc::clone(&shared.views));
    let access = Access::secured(uri, config.trust_domain(), root_file, token_file, wallet, views)?;
    Ok(Some(Arc::new(access)))
}

/// The task that keeps the own identity, where there is one, and what is told of it.
fn keeper(
    config: &Config,
    shared: &Shared,
    access: Option<Arc<Access>>,
) -> Result<(Option<Keeper>, Arc<Status>)> {
    let parts = Parts {
        wallet: Arc::clone(&shared.wallet),
        views: Arc::clone(&shared.views),
        metrics: Arc::clone(&shared.metrics),
    };
    let (keeper, status) = match (config.identity_source(), access) {
        (IdentitySource::Files { root_file, certificate_file, key_file }, _) => {
            let files = Files { root_file, certificate_file, key_file };
            Keeper::files(files, parts)
                .context("no identity (--certificate-file, --key-file, --root-file)")?
        }
        (IdentitySource::Authority { .. }, Some(access)) => {
            Keeper::authority(config.identity(), access, parts, shared.seed.generator(usize::MAX))
        }
        (IdentitySource::Authority { .. }, None) | (IdentitySource::None, _) => {
            return Ok((None, Arc::new(Status::none())));
        }
    };
    Ok((Some(keeper), status))
}

/// The control task, with what it starts from.
fn client(
    config: &Config,
    shared: &Shared,
    access: Option<Arc<Access>>,
    wanted: mpsc::Receiver<crate::worker::Demand>,
    asked: mpsc::Receiver<Query>,
) -> Result<impl Future<Output = Result<(), Infallible>> + Send + use<>> {
    let mut node = Node::new(config.workload_name());
    node.metadata.insert("service_account".to_owned(), config.service_account.to_string());
    if let Some(pod_ip) = config.pod_ip {
        node.metadata.insert("pod_ip".to_owned(), pod_ip.to_string());
    }
    let (views, metrics) = (Arc::clone(&shared.views), Arc::clone(&shared.metrics));
    let mut control = Control::new(node, config.idle_unsubscribe, views, Arc::clone(&metrics));
    if let Source::Resources(path) = config.source() {
        control.stand_alone(store::read(&path)?, Instant::now());
    }
    let snapshot_file = config.snapshot_file.clone().filter(|_| access.is_some());
    if let Some(path) = snapshot_file.as_ref().filter(|path| path.exists()) {
        match store::read(path) {
            Ok(resources) => control.restore(resources, Instant::now()),
            Err(error) => tracing::warn!(%error, "snapshot not used"),
        }
    }
    let (views, journal) = (Arc::clone(&shared.views), shared.sinks.journal.clone());
    let sights = Sights { metrics: Arc::clone(&metrics), views, journal };
    let rng = shared.seed.generator(0);
    let client = Client::new(control, (wanted, asked), metrics, Arc::new(sights), snapshot_file, rng);
    Ok(async move {
        client.run(access).await;
        Ok(())
    })
}

impl Shared {
    fn new(config: &Config, demands: Demands, (sinks, metrics): (Sinks, Arc<Metrics>), seed: Seed) -> Self {
        let settings = Settings {
            namespace: config.namespace.clone(),
            hold_timeout: config.hold_timeout,
            outbound_mode: config.outbound_mode(),
            max_header_bytes: config.max_header_bytes,
            max_headers: config.max_headers,
            first_request_timeout: config.first_request_timeout,
            max_body_bytes: config.max_body_bytes,
            stream_idle_timeout: config.stream_idle_timeout.0,
        };
        Self {
            views: Arc::new(Views::new(Instant::now())),
            drain: Drain::new(),
            settings: Arc::new(settings),
            demands,
            sinks,
            metrics,
            kin: Arc::default(),
            wallet: Arc::new(match config.identity_source() {
                IdentitySource::None => Wallet::none(),
                IdentitySource::Authority { .. } | IdentitySource::Files { .. } => Wallet::awaiting(),
            }),
            pressure: (0..config.workers()).map(|_| Notify::new()).collect(),
            seed,
        }
    }

    fn start_workers(&self, config: &Config, supervisor: &Supervisor, sockets: &Sockets) -> Result<()> {
        let (workers, most) = (config.workers(), config.max_connections.get());
        let share = |socket: &Option<net::TcpListener>| -> Result<Vec<Option<Acceptor>>> {
            Ok(match socket {
                Some(socket) => listener::share(socket, workers, most)?.into_iter().map(Some).collect(),
                None => (0..workers).map(|_| None).collect(),
            })
        };
        let acceptors = share(&sockets.outbound)?.into_iter().zip(share(&sockets.inbound)?);
        for (index, (outbound, inbound)) in acceptors.enumerate() {
            let (shared, app) = (self.clone(), config.inbound_app);
            supervisor.spawn_critical_thread(format!("worker-{index}"), move || {
                let runtime =
                    runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
                runtime.block_on(shared.work(index, outbound, inbound, app))
            })?;
        }
        Ok(())
    }

    /// The life of a data worker.
    async fn work(
        self,
        index: usize,
        outbound: Option<Acceptor>,
        inbound: Option<Acceptor>,
        app: Option<SocketAddr>,
    ) -> io::Result<()> {
        let connector = Connector {
            max_header_bytes: self.settings.max_header_bytes,
            max_headers: self.settings.max_headers,
            pressure: Arc::clone(&self.pressure),
            wallet: Arc::clone(&self.wallet),
            metrics: Arc::clone(&self.metrics),
        };
        let worker = Rc::new(Worker::new(
            Arc::clone(&self.views),
            Pools::new(connector),
            Arc::clone(&self.settings),
            self.demands.clone(),
            (self.drain.clone(), self.sinks.clone(), Arc::clone(&self.metrics), Arc::clone(&self.kin)),
            self.seed.generator(index + 1),
        ));
        let face = Rc::new(Inbound::new(Rc::clone(&worker), app));
        let outbound = async {
            let Some(acceptor) = outbound else { return std::future::pending().await };
            let serve = |stream, peer, open| {
                let serving = outbound::connection(Rc::clone(&worker), stream, peer);
                let open = (open, worker.stats.serving());
                task::spawn_local_connection("outbound connection", held(serving, open));
            };
            acceptor.run(&self.drain, &self.metrics, serve).await
        };
        let inbound = async {
            let Some(acceptor) = inbound else { return std::future::pending().await };
            let serve = |stream, peer, open| {
                let serving = Rc::clone(&face).connection(stream, peer);
                let open = (open, worker.stats.serving());
                task::spawn_local_connection("inbound connection", held(serving, open));
            };
            acceptor.run(&self.drain, &self.metrics, serve).await
        };
        let sweeping = sweep(&worker, self.pressure.get(index));
        let reviewing = worker.review();
        tokio::pin!(outbound, inbound, sweeping, reviewing);
        // A listener that has stopped because the process is leaving must not stop the connections it has brought.
        let mut outbound_ended = false;
        let mut inbound_ended = false;
        loop {
            tokio::select! {
                ended = &mut outbound, if !outbound_ended => { ended?; outbound_ended = true; }
                ended = &mut inbound, if !inbound_ended => { ended?; inbound_ended = true; }
                never = &mut sweeping => match never {},
                never = &mut reviewing => match never {},
            }
        }
    }
}

/// Keeps a connection counted as open while it is served.
fn held<F: Future<Output = ()>, T>(serving: F, open: T) -> impl Future<Output = ()> + use<F, T> {
    serving.map(move |()| drop(open))
}

/// Looks after the connections nobody uses, regularly and when another worker asks for some to be given up.
async fn sweep(worker: &Worker, pressure: Option<&Notify>) -> Infallible {
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let pressed = async {
            match pressure {
                Some(pressure) => pressure.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = tick.tick() => {}
            () = pressed => {}
        }
        worker.pools.sweep(Instant::now());
    }
}

/// Waits for a signal and drains, or for a failure. A second signal breaks off what is still open.
async fn until_stopped(drain: &Drain, mut failures: Failures, limit: Duration) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        failure = failures.first() => return Err(anyhow!("{failure}")),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let drained_before = drain.is_draining();
    tracing::info!(open = drain.open(), "draining");
    drain.begin();
    let leaving = async {
        if !drained_before {
            sleep(GRACE.min(limit / 4)).await;
        }
        drain.close();
        drain.drained().await;
    };
    tokio::select! {
        done = timeout(limit, leaving) => if done.is_err() {
            tracing::warn!(open = drain.open(), "drain timed out; what is still open is broken off");
        },
        _ = terminate.recv() => tracing::warn!("second signal: what is still open is broken off"),
        _ = interrupt.recv() => tracing::warn!("second signal: what is still open is broken off"),
    }
    drain.force();
    // What is broken off has a last word for log and collector. Without connections this is over at once.
    if timeout(LAST_WORDS, drain.drained()).await.is_err() {
        tracing::warn!(open = drain.open(), "connections did not end when they were broken off");
    }
    Ok(())
}

impl Facts {
    async fn ask(
        &self,
        query: impl FnOnce(oneshot::Sender<serde_json::Value>) -> Query,
    ) -> serde_json::Value {
        let (reply, answer) = oneshot::channel();
        // Without a control task there is nothing to tell; the process is about to end.
        if self.queries.send(query(reply)).await.is_err() {
            return serde_json::Value::Null;
        }
        answer.await.unwrap_or_default()
    }
}

impl AdminSource for Facts {
    fn ready(&self) -> Result<(), String> {
        self.identity.ready()?;
        // The settings of the mesh come first; a file of resources may have none.
        if self.views.load().revision > 0 {
            return Ok(());
        }
        Err("no configuration has arrived from the control plane yet".to_owned())
    }

    fn certs(&self) -> serde_json::Value {
        self.identity.describe(clock::now())
    }

    async fn config_dump(&self) -> serde_json::Value {
        self.ask(Query::ConfigDump).await
    }

    async fn endpoints(&self) -> serde_json::Value {
        self.ask(Query::Endpoints).await
    }

    async fn breakers(&self) -> serde_json::Value {
        self.ask(Query::Breakers).await
    }
}
