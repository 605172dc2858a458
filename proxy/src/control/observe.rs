//! What the control plane may ask of traffic, and what it is answered.
//!
//! The pages for operators are for this machine alone, so questions about the whole mesh come through the control plane,
//! on the connection that policy comes on. A [`Desk`] answers them: what was remembered of a request, why requests have
//! failed, how many there were, and, while somebody watches, what goes on. All of it is best effort: nothing waits for
//! it, a control plane that does not ask is left alone, and what is too much is left out and counted.
//!
//! What is known comes from an [`Observed`]; how much of a flood is told, [`Pace`] decides.

mod desk;
mod pace;
mod sights;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, fmt, future::pending, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use pillion_xds::{
    figures::Figures,
    observe::observation_client::ObservationClient,
    story::{Cause, Filter, Story},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use self::desk::Desk;
pub use self::sights::Sights;
use crate::control::access::{self, Link};

/// Pause before attaching again on a connection that has lost the stream.
const PAUSE: Duration = Duration::from_secs(5);

/// Answers on their way to the control plane.
const OUTBOX: usize = 16;

/// Largest question in bytes: a filter with long names.
const MAX_QUESTION: usize = 64 << 10;

/// What the proxy knows of its traffic.
pub trait Observed: fmt::Debug + Send + Sync + 'static {
    /// What is remembered of a request, by its id or its trace.
    fn explain(&self, request_id: &str) -> Vec<Story>;
    /// Why requests have failed within that time, the most frequent first.
    fn causes(&self, within: Duration) -> Vec<Cause>;
    /// The stories of matching requests from now on, until the receiver is dropped; an error says why nobody may watch.
    fn tap(&self, filter: Filter) -> Result<mpsc::Receiver<Arc<Story>>, String>;
    /// What was counted since the start.
    fn figures(&self) -> Figures;
}

/// The questions on one connection to the control plane.
pub(super) struct Attachment(BoxFuture<'static, Infallible>);

impl Attachment {
    /// Not attached yet; that begins when it is polled.
    pub(super) fn new(link: Link, observed: Arc<dyn Observed>) -> Self {
        Self(Box::pin(attend(link, observed)))
    }

    /// Answers questions for as long as it is polled. Nothing is lost when what this returns is dropped.
    pub(super) async fn attend(&mut self) -> Infallible {
        (&mut self.0).await
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment").finish_non_exhaustive()
    }
}

async fn attend(link: Link, observed: Arc<dyn Observed>) -> Infallible {
    loop {
        match attach(link.clone(), &observed).await {
            Ok(()) => tracing::debug!("the control plane asks no more"),
            Err(status) => {
                tracing::debug!(error = access::reason(&status), "the control plane cannot ask");
                if status.code() == Code::Unimplemented {
                    return pending().await;
                }
            }
        }
        sleep(PAUSE).await;
    }
}

/// Answers until the control plane ends the stream.
async fn attach(link: Link, observed: &Arc<dyn Observed>) -> Result<(), Status> {
    let (outbox, answers) = mpsc::channel(OUTBOX);
    let mut client = ObservationClient::new(link).max_decoding_message_size(MAX_QUESTION);
    let mut questions = client.attach(ReceiverStream::new(answers)).await?.into_inner();
    let mut desk = Desk::new(Arc::clone(observed));
    loop {
        let answer = tokio::select! {
            question = questions.message() => match question? {
                Some(question) => desk.ask(question, Instant::now()),
                None => return Ok(()),
            },
            answer = desk.next() => Some(answer),
        };
        // A control plane that does not take its answers is asked for no more questions meanwhile.
        if let Some(answer) = answer
            && outbox.send(answer).await.is_err()
        {
            return Ok(());
        }
    }
}
