//! Istio's certificate service: carries requests to the desk of the issuer.

use std::time::Duration;

use pillion_xds::ca::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::IstioCertificateService,
};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use super::{
    callers::Callers,
    issuer::{Denied, Order},
};
use crate::ca::{Certificate, Refusal};

pub(super) struct Signing {
    pub(super) callers: Callers,
    pub(super) orders: mpsc::Sender<Order>,
}

#[tonic::async_trait]
impl IstioCertificateService for Signing {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let identity = self.callers.identify(&request)?.identity;
        let from = request.remote_addr().map(|peer| peer.ip());
        let request = request.into_inner();
        let seconds = u64::try_from(request.validity_duration).ok().filter(|seconds| *seconds > 0);
        let (answer, wait) = oneshot::channel();
        let order = Order {
            customer: (identity, from),
            request: request.csr,
            lifetime: seconds.map(Duration::from_secs),
            answer,
        };
        let stopping = || Status::unavailable("the control plane is stopping");
        self.orders.send(order).await.map_err(|_| stopping())?;
        let issued = wait.await.map_err(|_| stopping())?.map_err(status)?;
        let cert_chain = issued.chain.iter().map(Certificate::pem).collect();
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

fn status(denied: Denied) -> Status {
    match denied {
        Denied::TooOften => {
            Status::resource_exhausted("too many certificates in a short time: ask again later")
        }
        Denied::Refused(refusal) => {
            let reason = refusal.to_string();
            match refusal {
                Refusal::Malformed | Refusal::Signature | Refusal::Key(_) => Status::invalid_argument(reason),
                Refusal::Name { .. } | Refusal::Authority => Status::permission_denied(reason),
                Refusal::Expired => Status::failed_precondition(reason),
                Refusal::Signing(_) => Status::internal(reason),
            }
        }
    }
}
