//! The services for proxies: carry messages between streams and the state, and reports to it.

use std::{net::SocketAddr, time::Duration};

use pillion_policy::identity::Identity;
use pillion_xds::{
    ca::istio_certificate_service_server::IstioCertificateServiceServer,
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
    },
    report::{
        HealthReport, HealthReportReply,
        reports_server::{Reports, ReportsServer},
    },
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{
        Server,
        server::{Router, TcpIncoming},
    },
};

use super::{Command, Desk, Hub, Stream, callers::Callers, observe, signing::Signing, tls};
use crate::task;

/// Room for one unanswered response of each kind and the reason for a close.
const RESPONSES: usize = 8;
/// How often an idle connection is probed, and how long the answer may take: a proxy that vanished is noticed.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// Largest report in bytes: what is listed at most, with long names.
const MAX_REPORT: usize = 1 << 20;

/// Largest request for a certificate, in bytes.
const MAX_SIGNING_REQUEST: usize = 64 << 10;

struct Ads {
    hub: Hub,
    /// Finds out who calls; in plain text nobody can know.
    callers: Option<Callers>,
}

struct Gatherer {
    hub: Hub,
}

/// Serves proxies in plain text until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    hub: Hub,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    // Small messages must not wait for company.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    services(hub, None).serve_with_incoming_shutdown(incoming, stop).await
}

/// Serves proxies that have an identity, and those that want one, over TLS until `stop`.
pub(crate) async fn serve_secured(
    listener: TcpListener,
    hub: Hub,
    desk: Desk,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let Desk { current, callers, orders } = desk;
    let signing = IstioCertificateServiceServer::new(Signing { callers: callers.clone(), orders })
        .max_decoding_message_size(MAX_SIGNING_REQUEST);
    let incoming = tls::incoming(listener, current);
    services(hub, Some(callers)).add_service(signing).serve_with_incoming_shutdown(incoming, stop).await
}

fn services(hub: Hub, callers: Option<Callers>) -> Router {
    let reports = ReportsServer::new(Gatherer { hub: hub.clone() }).max_decoding_message_size(MAX_REPORT);
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .add_service(observe::service(hub.clone(), callers.clone()))
        .add_service(AggregatedDiscoveryServiceServer::new(Ads { hub, callers }))
        .add_service(reports)
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let proved = self.callers.as_ref().map(|callers| callers.identify(&request)).transpose()?;
        let (identity, issued) = proved.map_or((None, None), |(identity, issued)| (Some(identity), issued));
        let id = self.hub.number();
        let (responses, outgoing) = mpsc::channel(RESPONSES);
        let peer = request.remote_addr();
        let caller = caller(peer, identity.as_ref());
        let stream = Stream { id, peer, identity, issued, responses };
        self.hub.send(Command::Open(stream)).await.map_err(stopping)?;
        task::spawn("proxy stream", carry(request.into_inner(), self.hub.clone(), id, caller));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

#[tonic::async_trait]
impl Reports for Gatherer {
    async fn report(&self, request: Request<HealthReport>) -> Result<Response<HealthReportReply>, Status> {
        let stranger = || Status::failed_precondition("the connection carries no discovery stream");
        let peer = request.remote_addr().ok_or_else(stranger)?;
        let report = request.into_inner();
        let question = |answer| Command::Unhealthy(peer, report, answer);
        let is_known = self.hub.ask(question).await.map_err(stopping)?;
        if is_known { Ok(Response::new(HealthReportReply {})) } else { Err(stranger()) }
    }
}

fn stopping(_: anyhow::Error) -> Status {
    Status::unavailable("the control plane is stopping")
}

/// Where a stream comes from and whose it is, for the log.
fn caller(peer: Option<SocketAddr>, identity: Option<&Identity>) -> String {
    let peer = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
    identity.map_or_else(|| peer.clone(), |identity| format!("{peer} {identity}"))
}

/// Hands the messages of a proxy on until its stream ends.
async fn carry(mut incoming: Streaming<DeltaDiscoveryRequest>, hub: Hub, id: u64, peer: String) {
    tracing::info!(peer, "a proxy has connected");
    let reason = loop {
        match incoming.message().await {
            Ok(Some(request)) => {
                if hub.send(Command::Receive(id, Box::new(request))).await.is_err() {
                    return;
                }
            }
            Ok(None) => break "closed by the proxy".to_owned(),
            Err(status) => break status.message().to_owned(),
        }
    };
    tracing::info!(peer, reason, "a proxy has gone");
    // An error means that we are stopping, which closes everything.
    drop(hub.send(Command::Close(id)).await);
}
