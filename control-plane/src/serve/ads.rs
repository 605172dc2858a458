//! The discovery service: carries messages between streams and the state.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use pillion_xds::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

use super::{Command, Hub};
use crate::task;

/// Room for one unanswered response of each kind and the reason for a close.
const RESPONSES: usize = 8;
/// How often an idle connection is probed, and how long the answer may take: a proxy that vanished is noticed.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

struct Ads {
    hub: Hub,
    next: AtomicU64,
}

/// Serves proxies until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    hub: Hub,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let service = AggregatedDiscoveryServiceServer::new(Ads { hub, next: AtomicU64::new(0) });
    // Small messages must not wait for company.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, stop)
        .await
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (responses, outgoing) = mpsc::channel(RESPONSES);
        let stopping = |_| Status::unavailable("the control plane is stopping");
        self.hub.send(Command::Open(id, responses)).await.map_err(stopping)?;
        let peer = request.remote_addr();
        task::spawn("proxy stream", carry(request.into_inner(), self.hub.clone(), id, peer));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// Hands the messages of a proxy on until its stream ends.
async fn carry(mut incoming: Streaming<DeltaDiscoveryRequest>, hub: Hub, id: u64, peer: Option<SocketAddr>) {
    let peer = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
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
