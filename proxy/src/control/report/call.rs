//! Reports on their way to the control plane: one at a time, beside the stream, on its connection.

use std::{fmt, future::pending, time::Duration};

use futures_util::future::BoxFuture;
use pillion_xds::report::reports_client::ReportsClient;
use tokio::time::{Instant, timeout};
use tonic::Status;

use super::{Report, Reporter};
use crate::control::access::Link;

/// How long the control plane may take to answer. What has changed meanwhile is told afterwards.
const ANSWER: Duration = Duration::from_secs(5);

/// The reports on one connection.
pub(in crate::control) struct Calls {
    client: ReportsClient<Link>,
    reporter: Reporter,
    under_way: Option<BoxFuture<'static, Result<(), Status>>>,
}

impl Calls {
    /// No report yet.
    pub(in crate::control) fn new(link: Link) -> Self {
        Self { client: ReportsClient::new(link), reporter: Reporter::new(), under_way: None }
    }

    /// Begins to tell what there is to tell, unless the last answer is still to come. It goes on while
    /// [`Calls::ended`] is polled.
    pub(in crate::control) fn begin(&mut self, now: Instant, look: impl FnOnce(Instant) -> Report) {
        if self.under_way.is_some() {
            return;
        }
        let Some(report) = self.reporter.next(now, || look(now)) else { return };
        let (mut client, report) = (self.client.clone(), report.encode(now));
        self.under_way = Some(Box::pin(async move {
            match timeout(ANSWER, client.report(report)).await {
                Ok(answer) => answer.map(drop),
                Err(_) => Err(Status::deadline_exceeded("no answer")),
            }
        }));
    }

    /// Waits for the end of the report under way, if there is one. Nothing is lost when this is dropped.
    pub(in crate::control) async fn ended(&mut self) {
        let Some(call) = &mut self.under_way else { return pending().await };
        let answer = call.await;
        self.under_way = None;
        self.reporter.answered(answer);
    }
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls").field("reporter", &self.reporter).finish_non_exhaustive()
    }
}
