//! A certificate that an authority issues, by Istio's signing service, and renews in time.
//!
//! [`Schedule`] says when, [`Request`] what is asked and whether the answer is taken. While none comes the old one
//! stays in use, also after it has expired: handshakes then fail for that reason and no other, and the next one that
//! is issued ends it.

use std::{convert::Infallible, sync::Arc, time::Duration};

use pillion_policy::identity::Identity;
use pillion_xds::ca::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Holder,
    request::{Leaf, Request, Unusable},
    schedule::{Now, Schedule},
    status::Renewal,
    trust,
};
use crate::{
    control::access::{self, Access, Proof},
    rt::clock,
    tls::credentials::CredentialsError,
};

/// How long an answer may take, with the connection made for it.
const ANSWER: Duration = Duration::from_secs(15);

/// Longest time without a look at the clock: it may have been set, or the machine have slept.
const LOOK: Duration = Duration::from_secs(10);

/// Keeps an identity that is issued in the wallet.
pub struct FromAuthority {
    identity: Identity,
    access: Arc<Access>,
    holder: Holder,
    schedule: Schedule,
    /// The root that was last seen to sign while the certificate was of another one.
    summoned_by: Option<String>,
    /// The own certificate was shown the last time, and nothing came of it.
    certificate_failed: bool,
    rng: fastrand::Rng,
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no key could be made: {0}")]
    Key(#[from] rcgen::Error),
    #[error("no answer within {ANSWER:?}")]
    Silence,
    #[error("{}", access::reason(.0))]
    Refused(#[from] tonic::Status),
    #[error(transparent)]
    Unusable(#[from] Unusable),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

impl FromAuthority {
    /// An identity that has not been asked for yet.
    pub(super) fn new(identity: Identity, access: Arc<Access>, holder: Holder, rng: fastrand::Rng) -> Self {
        Self {
            identity,
            access,
            holder,
            schedule: Schedule::default(),
            summoned_by: None,
            certificate_failed: false,
            rng,
        }
    }

    /// Asks and renews for the life of the process.
    pub async fn run(mut self) -> Infallible {
        let mut news = self.holder.views.subscribe();
        let mut streams = self.access.watch_streams();
        loop {
            if self.holder.follow_mesh() {
                self.follow_signer();
            }
            self.holder.watch_expiry();
            let wait = self.schedule.wait(now());
            if wait.is_zero() {
                self.renew().await;
                continue;
            }
            tokio::select! {
                _ = news.changed() => {}
                _ = streams.changed() => self.schedule.reachable(Instant::now(), &mut self.rng),
                () = sleep(wait.min(LOOK)) => {}
            }
        }
    }

    /// Has the certificate renewed soon when another root signs than the one it goes back to; once for each root, for
    /// an authority that says one thing and does another is not to be asked without end.
    fn follow_signer(&mut self) {
        let Some((signer, root)) = self.holder.signer() else { return };
        let Some(leaf) = self.holder.leaf() else { return };
        if self.summoned_by.as_ref() == Some(&signer) || trust::is_signed_by(&leaf.chain, &root, clock::now())
        {
            return;
        }
        tracing::info!(signer, "another root signs now: the certificate will be renewed");
        self.schedule.summon(Instant::now(), &mut self.rng);
        self.summoned_by = Some(signer);
    }

    async fn renew(&mut self) {
        let proof = self.access.proof(self.certificate_failed);
        let asked = match timeout(ANSWER, self.ask(proof)).await {
            Ok(asked) => asked,
            Err(_) => Err(Failure::Silence),
        };
        let held = asked.and_then(|leaf| Ok(self.holder.hold(leaf, Vec::new())?));
        self.certificate_failed = held.is_err() && proof == Proof::Certificate;
        let error = match held {
            Ok(()) => {
                let not_after = self.holder.not_after().unwrap_or_else(clock::now);
                self.schedule.issued(not_after, now(), &mut self.rng);
                self.follow_signer();
                None
            }
            Err(failure) => {
                self.schedule.failed(Instant::now(), &mut self.rng);
                Some(failure.to_string())
            }
        };
        let (due, failures) = (self.schedule.renews_at(), self.schedule.failures());
        self.holder.renewed(Renewal { due, failures, error });
    }

    async fn ask(&self, proof: Proof) -> Result<Leaf, Failure> {
        let request = Request::new(&self.identity)?;
        // How long it is valid is for the authority to say.
        let asked = IstioCertificateRequest { csr: request.csr()?, ..IstioCertificateRequest::default() };
        let mut client = IstioCertificateServiceClient::new(self.access.open(proof).await?);
        let answer = client.create_certificate(asked).await?.into_inner();
        Ok(request.accept(&answer.cert_chain, &self.holder.roots(), clock::now())?)
    }
}

fn now() -> Now {
    Now { instant: Instant::now(), wall: clock::now() }
}

impl std::fmt::Debug for FromAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FromAuthority").field("identity", &self.identity).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
