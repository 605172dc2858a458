//! The services for proxies: carry messages between streams and the state, and reports to it.

use std::{
    future::pending,
    net::SocketAddr,
    pin::pin,
    time::{Duration, SystemTime},
};

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
use tokio::{net::TcpListener, sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{
        Server,
        server::{Router, TcpIncoming},
    },
};

use super::{Command, Desk, Hub, Stream, callers::Callers, observe, signing::Signing, tls};
use crate::{clock, task};

/// Room for one unanswered response of each kind and the reason for a close.
const RESPONSES: usize = 8;
/// How often an idle connection is probed, and how long the answer may take: a proxy that vanished is noticed.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// How long nobody asks at most whether a certificate has expired, and how short a wait for that can be.
const CLOCK_INTERVAL: Duration = Duration::from_secs(30);
const SOONEST: Duration = Duration::from_millis(10);

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
        let (identity, validity) =
            proved.map_or((None, None), |proved| (Some(proved.identity), proved.validity));
        let id = self.hub.number();
        let (responses, outgoing) = mpsc::channel(RESPONSES);
        let peer = request.remote_addr();
        let caller = caller(peer, identity.as_ref());
        let issued = validity.map(|validity| validity.issued);
        let stream = Stream { id, peer, identity, issued, responses };
        self.hub.send(Command::Open(stream)).await.map_err(stopping)?;
        let expired = expired(validity.map(|validity| validity.not_after));
        task::spawn("proxy stream", carry(request.into_inner(), self.hub.clone(), id, caller, expired));
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

/// Resolves when the certificate that is valid until then has expired; never where there is none. The clock of the wall is
/// asked now and then: it may be set, and does not stand still while a machine sleeps.
async fn expired(not_after: Option<SystemTime>) {
    let Some(not_after) = not_after else { return pending().await };
    while let Ok(left) = not_after.duration_since(clock::now()) {
        sleep(left.clamp(SOONEST, CLOCK_INTERVAL)).await;
    }
}

/// Hands the messages of a proxy on until its stream ends, or until what it has proved does not count any more. It comes
/// back with what it has by then, and is told only what is new.
async fn carry(
    mut incoming: Streaming<DeltaDiscoveryRequest>,
    hub: Hub,
    id: u64,
    peer: String,
    expired: impl Future<Output = ()>,
) {
    tracing::info!(peer, "a proxy has connected");
    let mut expired = pin!(expired);
    let reason = loop {
        let message = tokio::select! {
            message = incoming.message() => message,
            () = &mut expired => break "the certificate it came with has expired".to_owned(),
        };
        match message {
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

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_is_over_ends_a_stream_and_another_does_not() {
        let soon = Duration::from_secs(5);
        assert!(timeout(soon, expired(Some(clock::now() - soon))).await.is_ok());
        assert!(timeout(soon, expired(Some(clock::now() + 24 * 720 * soon))).await.is_err());
        assert!(timeout(soon, expired(None)).await.is_err());
    }
}
