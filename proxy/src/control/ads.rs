//! The connection to the control plane.
//!
//! Messages go between the stream and the session; when the stream ends it is opened again after a pause that grows
//! to five seconds. What is held stays in force meanwhile, and the next stream begins by saying what that is, so only
//! differences travel. Reports of what is not well travel beside the stream.

use std::{path::PathBuf, time::Duration};

use pillion_xds::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

use super::{report::Calls, state::Control, store};
use crate::{telemetry::metrics::Metrics, worker::Demand};

/// First and longest pause between attempts to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long the control plane may take to take the stream up.
const CONNECT: Duration = Duration::from_secs(10);

/// How long it may take no messages from us.
const STUCK: Duration = Duration::from_secs(10);

/// How often housekeeping is done.
const TICK: Duration = Duration::from_millis(250);

/// Pings that tell a dead control plane from a silent one.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3));

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
    metrics: std::sync::Arc<Metrics>,
    snapshot_file: Option<PathBuf>,
    saved_revision: i64,
    rng: fastrand::Rng,
}

/// An open stream.
struct Stream {
    outbox: mpsc::Sender<DeltaDiscoveryRequest>,
    inbox: Streaming<DeltaDiscoveryResponse>,
    reports: Calls,
}

impl Client {
    /// A client that has not connected yet.
    pub fn new(
        control: Control,
        demands: mpsc::Receiver<Demand>,
        queries: mpsc::Receiver<Query>,
        metrics: std::sync::Arc<Metrics>,
        snapshot_file: Option<PathBuf>,
        rng: fastrand::Rng,
    ) -> Self {
        Self { control, demands, queries, metrics, snapshot_file, saved_revision: 0, rng }
    }

    /// Runs for the life of the process. Without an `endpoint` what is held is all there will ever be.
    pub async fn run(mut self, endpoint: Option<Endpoint>) {
        let mut pause = PAUSE.0;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let connecting = async {
                match &endpoint {
                    Some(endpoint) => match timeout(CONNECT, connect(endpoint.clone())).await {
                        Ok(connected) => connected,
                        Err(_) => Err(tonic::Status::deadline_exceeded("no answer")),
                    },
                    None => std::future::pending().await,
                }
            };
            let connected = tokio::select! {
                connected = connecting => connected,
                never = self.serve(&mut tick) => match never {},
            };
            match connected {
                Ok(stream) => {
                    let since = Instant::now();
                    let reason = self.converse(stream, &mut tick).await;
                    tracing::warn!(reason, "control plane lost; what is known stays in force");
                    if since.elapsed() > PAUSE.1 {
                        pause = PAUSE.0;
                    }
                }
                Err(error) => tracing::warn!(%error, "control plane not reached; trying again"),
            }
            let jittered = pause.mul_f64(0.5 + self.rng.f64() / 2.0);
            pause = (pause * 2).min(PAUSE.1);
            let resume = Instant::now() + jittered;
            tokio::select! {
                () = tokio::time::sleep_until(resume) => {}
                never = self.serve(&mut tick) => match never {},
            }
        }
    }

    /// Everything that goes on without a stream.
    async fn serve(&mut self, tick: &mut tokio::time::Interval) -> std::convert::Infallible {
        loop {
            self.step(tick).await;
        }
    }

    /// One demand, question or tick.
    async fn step(&mut self, tick: &mut tokio::time::Interval) {
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

    /// Talks until the stream ends; says why it did.
    async fn converse(&mut self, mut stream: Stream, tick: &mut tokio::time::Interval) -> String {
        self.control.session.connected();
        self.metrics.xds.connected.set(1);
        self.metrics.xds.connections.inc();
        tracing::info!("connected to the control plane");
        let reason = loop {
            if let Err(reason) = self.send(&stream.outbox).await {
                break reason;
            }
            stream.reports.begin(Instant::now(), |now| self.control.trouble(now));
            tokio::select! {
                message = stream.inbox.message() => match message {
                    Ok(Some(response)) => {
                        let effects = self.control.session.receive(response);
                        self.control.apply(effects, Instant::now());
                    }
                    Ok(None) => break "it ended the stream".to_owned(),
                    Err(status) => break status.to_string(),
                },
                () = stream.reports.ended() => {}
                () = self.step(tick) => {}
            }
        };
        self.control.session.disconnected();
        self.metrics.xds.connected.set(0);
        reason
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

/// Opens a channel and a stream on it.
async fn connect(endpoint: Endpoint) -> Result<Stream, tonic::Status> {
    let unavailable = |error: tonic::transport::Error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        tonic::Status::unavailable(source.unwrap_or_else(|| error.to_string()))
    };
    let channel: Channel = endpoint
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .keep_alive_while_idle(true)
        .connect()
        .await
        .map_err(unavailable)?;
    let reports = Calls::new(channel.clone());
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let (outbox, requests) = mpsc::channel(OUTBOX);
    let inbox = client.delta_aggregated_resources(ReceiverStream::new(requests)).await?.into_inner();
    Ok(Stream { outbox, inbox, reports })
}
