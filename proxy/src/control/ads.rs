//! The connection to the control plane.
//!
//! Messages go between the stream and the session; when the stream ends it is opened again after a pause that grows
//! to five seconds. What is held stays in force meanwhile, and the next stream begins by saying what that is, so only
//! differences travel. Reports of what is not well travel beside the stream, and so do questions about traffic.

use std::{convert::Infallible, path::PathBuf, sync::Arc, time::Duration};

use pillion_xds::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    access::{self, Access, Proof},
    observe::{Attachment, Observed},
    report::Calls,
    state::Control,
    store,
};
use crate::{telemetry::metrics::Metrics, worker::Demand};

/// First and longest pause between attempts to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long the control plane may take to take the stream up.
const CONNECT: Duration = Duration::from_secs(10);

/// How long it may take no messages from us.
const STUCK: Duration = Duration::from_secs(10);

/// How often housekeeping is done.
const TICK: Duration = Duration::from_millis(250);

/// How long the first connection waits for a certificate that is to come: without one it would be made twice.
const CERTIFICATE: Duration = Duration::from_secs(3);

/// Requests on their way to the control plane: one for each kind may be outstanding, plus changes of subscription.
const OUTBOX: usize = 64;

/// What the rest of the process asks the control task.
#[derive(Debug)]
pub enum Query {
    /// All resources in force, as JSON.
    ConfigDump(oneshot::Sender<serde_json::Value>),
    /// All clusters and their endpoints, as JSON.
    Endpoints(oneshot::Sender<serde_json::Value>),
    /// All circuit breakers, as JSON.
    Breakers(oneshot::Sender<serde_json::Value>),
}

/// The control task: owner of the state, and of the stream while there is one.
#[derive(Debug)]
pub struct Client {
    control: Control,
    demands: mpsc::Receiver<Demand>,
    queries: mpsc::Receiver<Query>,
    metrics: Arc<Metrics>,
    observed: Arc<dyn Observed>,
    snapshot_file: Option<PathBuf>,
    saved_revision: i64,
    rng: fastrand::Rng,
}

/// An open stream.
struct Stream {
    outbox: mpsc::Sender<DeltaDiscoveryRequest>,
    inbox: Streaming<DeltaDiscoveryResponse>,
    reports: Calls,
    questions: Attachment,
}

/// Why a stream is no more.
enum End {
    /// It broke, for this reason.
    Lost(String),
    /// We are known by a certificate now, and come back with it.
    Certified,
}

impl Client {
    /// A client that has not connected yet. The control plane may ask what `observed` knows.
    pub fn new(
        control: Control,
        (demands, queries): (mpsc::Receiver<Demand>, mpsc::Receiver<Query>),
        metrics: Arc<Metrics>,
        observed: Arc<dyn Observed>,
        snapshot_file: Option<PathBuf>,
        rng: fastrand::Rng,
    ) -> Self {
        Self { control, demands, queries, metrics, observed, snapshot_file, saved_revision: 0, rng }
    }

    /// Runs for the life of the process. Without a way to a control plane what is held is all there will ever be.
    pub async fn run(mut self, access: Option<Arc<Access>>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let Some(access) = access else { match self.serve(&mut tick).await {} };
        self.meanwhile(certified(&access), &mut tick).await;
        self.metrics.xds.disconnect();
        let observed = Arc::clone(&self.observed);
        let mut pause = PAUSE.0;
        let mut certificate_failed = false;
        loop {
            let proof = access.proof(certificate_failed);
            let renewed = access.renewed();
            let connecting = timeout(CONNECT, connect(&access, proof, &observed));
            let connected = self.meanwhile(connecting, &mut tick).await;
            certificate_failed = proof == Proof::Certificate && !matches!(connected, Ok(Ok(_)));
            match connected {
                Ok(Ok(stream)) => {
                    access.streams();
                    let since = Instant::now();
                    let certified = async {
                        match proof {
                            Proof::Token => renewed.await,
                            Proof::Certificate | Proof::Nothing => std::future::pending().await,
                        }
                    };
                    match self.converse(stream, certified, &mut tick).await {
                        End::Certified => continue,
                        End::Lost(reason) => {
                            tracing::warn!(reason, "control plane lost; what is known stays in force");
                        }
                    }
                    if since.elapsed() > PAUSE.1 {
                        pause = PAUSE.0;
                    } else {
                        certificate_failed = proof == Proof::Certificate;
                    }
                }
                Ok(Err(status)) => {
                    let error = access::reason(&status);
                    tracing::warn!(error, "control plane not reached; trying again");
                }
                Err(_) => tracing::warn!(error = "no answer", "control plane not reached; trying again"),
            }
            let jittered = pause.mul_f64(0.5 + self.rng.f64() / 2.0);
            pause = (pause * 2).min(PAUSE.1);
            self.meanwhile(sleep(jittered), &mut tick).await;
        }
    }

    /// Waits for something while everything goes on that needs no stream.
    async fn meanwhile<T>(&mut self, what: impl Future<Output = T>, tick: &mut Interval) -> T {
        tokio::select! {
            done = what => done,
            never = self.serve(tick) => match never {},
        }
    }

    /// Everything that goes on without a stream.
    async fn serve(&mut self, tick: &mut Interval) -> Infallible {
        loop {
            self.step(tick).await;
        }
    }

    /// One demand, question or tick.
    async fn step(&mut self, tick: &mut Interval) {
        tokio::select! {
            Some(demand) = self.demands.recv() => self.control.demand(demand, Instant::now()),
            Some(query) = self.queries.recv() => self.answer(query),
            _ = tick.tick() => {
                let connected = self.metrics.xds.connected.get() > 0;
                self.control.sweep(Instant::now(), connected);
                self.save();
            }
        }
    }

    /// Talks until the stream ends, or we are known by a certificate; says which.
    async fn converse(
        &mut self,
        mut stream: Stream,
        certified: impl Future<Output = ()>,
        tick: &mut Interval,
    ) -> End {
        tokio::pin!(certified);
        self.control.session.connected();
        self.metrics.xds.connect();
        tracing::info!("connected to the control plane");
        let end = loop {
            if let Err(reason) = self.send(&stream.outbox).await {
                break End::Lost(reason);
            }
            stream.reports.begin(Instant::now(), |now| self.control.trouble(now));
            tokio::select! {
                message = stream.inbox.message() => match message {
                    Ok(Some(response)) => {
                        let effects = self.control.session.receive(response);
                        self.control.apply(effects, Instant::now());
                    }
                    Ok(None) => break End::Lost("it ended the stream".to_owned()),
                    Err(status) => break End::Lost(access::reason(&status)),
                },
                () = &mut certified => break End::Certified,
                () = stream.reports.ended() => {}
                never = stream.questions.attend() => match never {},
                () = self.step(tick) => {}
            }
        };
        self.control.session.disconnected();
        self.metrics.xds.disconnect();
        end
    }

    async fn send(&mut self, outbox: &mpsc::Sender<DeltaDiscoveryRequest>) -> Result<(), String> {
        for request in self.control.session.requests() {
            match timeout(STUCK, outbox.send(request)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err("the stream is closed".to_owned()),
                Err(_) => return Err("it takes no messages".to_owned()),
            }
        }
        Ok(())
    }

    /// Keeps what is held for the next start, when it has changed.
    fn save(&mut self) {
        let revision = self.metrics.xds.revision.get();
        let Some(path) = self.snapshot_file.as_ref().filter(|_| revision != self.saved_revision) else {
            return;
        };
        match store::write(path, self.control.received()) {
            Ok(()) => self.saved_revision = revision,
            Err(error) => tracing::warn!(%error, "snapshot not written"),
        }
    }

    fn answer(&self, query: Query) {
        // Whoever asked may be gone by now.
        match query {
            Query::ConfigDump(reply) => {
                let resources: Vec<_> = self.control.received().resources().collect();
                let _ = reply.send(serde_json::to_value(resources).unwrap_or_default());
            }
            Query::Endpoints(reply) => {
                let now = Instant::now();
                let _ = reply
                    .send(self.control.registry().iter().map(|upstream| upstream.describe(now)).collect());
            }
            Query::Breakers(reply) => {
                let _ = reply.send(self.control.breakers(Instant::now()));
            }
        }
    }
}

/// Waits for the first certificate, where one is to come, but not for ever.
async fn certified(access: &Access) {
    let renewed = access.renewed();
    if access.awaits_certificate() {
        // Without it the token is shown.
        let _late = timeout(CERTIFICATE, renewed).await;
    }
}

/// Opens a connection and a stream on it.
async fn connect(
    access: &Access,
    proof: Proof,
    observed: &Arc<dyn Observed>,
) -> Result<Stream, tonic::Status> {
    let link = access.open(proof).await?;
    let reports = Calls::new(link.clone());
    let questions = Attachment::new(link.clone(), Arc::clone(observed));
    let mut client = AggregatedDiscoveryServiceClient::new(link).max_decoding_message_size(64 << 20);
    let (outbox, requests) = mpsc::channel(OUTBOX);
    let inbox = client.delta_aggregated_resources(ReceiverStream::new(requests)).await?.into_inner();
    Ok(Stream { outbox, inbox, reports, questions })
}
