//! Serving proxies: what they asked for, and every change of it.
//!
//! One task owns everything that changes (`state`): the index, the resources in demand and the sessions. Streams and
//! the admin port talk to it by [`Command`]s through a bounded queue, so there is no lock and every answer comes from
//! one consistent state. What proxies report of destinations in trouble is kept there, too (`reports`). What people ask
//! about traffic goes to the proxies themselves (`observe`).

mod ads;
mod callers;
mod issuer;
mod observe;
mod reports;
mod scope;
mod signing;
mod state;
mod status;
mod tls;

use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use anyhow::{Context, Result};
use pillion_policy::identity::Identity;
use pillion_xds::{
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    report::HealthReport,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tonic::Status;

pub use self::observe::{Blamed, Causes, Counts, Explanation, Line, ProxyFigures, Silence, Told};
use self::observe::{Observer, Posed};
pub use self::status::{
    AuthorityStatus, BreakerState, CertificateStatus, EndpointState, ProxyStatus, Refusal, Role,
    StatusReport, Unhealthy, UnhealthyBreaker, UnhealthyEndpoint,
};
pub(crate) use self::{
    ads::{serve, serve_secured},
    issuer::{Desk, Issuer},
    observe::Observatory,
    state::State,
    status::Facts,
};
use crate::{ca::Standing, source::Update};

/// How many commands may wait. A stream that finds the queue full waits itself.
const QUEUE: usize = 1024;

/// What the state is told and asked.
#[derive(Debug)]
pub(crate) enum Command {
    /// A proxy has opened a stream.
    Open(Stream),
    /// A proxy has sent a message.
    Receive(u64, Box<DeltaDiscoveryRequest>),
    /// A proxy is gone.
    Close(u64),
    /// The proxy connected from there has reported destinations in trouble; is there such a proxy?
    Unhealthy(SocketAddr, HealthReport, oneshot::Sender<bool>),
    /// The proxy connected from there, with that identity, can be asked; is there such a proxy?
    Attach {
        peer: SocketAddr,
        identity: Option<Identity>,
        ask: mpsc::Sender<Posed>,
        answer: oneshot::Sender<bool>,
    },
    /// Which proxies are there to be asked?
    Observers(oneshot::Sender<Vec<Observer>>),
    /// How do the connected proxies stand to the authority?
    Standing(oneshot::Sender<Vec<Standing>>),
    /// The authority is this now.
    Authority(Box<Facts>),
    /// What is there to be said about objects and proxies?
    Report(oneshot::Sender<StatusReport>),
    /// What is every resource in demand?
    Dump(oneshot::Sender<serde_json::Value>),
}

/// A stream that a proxy has opened.
#[derive(Debug)]
pub(crate) struct Stream {
    /// No other stream has this number.
    pub(crate) id: u64,
    /// Where it comes from.
    pub(crate) peer: Option<SocketAddr>,
    /// What the proxy has proved to be; nothing in plain text, where nobody can prove anything.
    pub(crate) identity: Option<Identity>,
    /// When the certificate it came with was issued, if it came with one.
    pub(crate) issued: Option<SystemTime>,
    /// Where its responses go.
    pub(crate) responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

/// The way to the state.
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    commands: mpsc::Sender<Command>,
    /// The number of the next stream.
    next: Arc<AtomicU64>,
}

impl Hub {
    /// A hub and the end at which its commands come out.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, queue) = mpsc::channel(QUEUE);
        (Self { commands, next: Arc::default() }, queue)
    }

    /// Hands a command over; an error means that the control plane is stopping.
    pub(crate) async fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).await.context("the control plane is stopping")
    }

    /// A number that no other stream has.
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks for something.
    pub(crate) async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T> {
        let (answer, wait) = oneshot::channel();
        self.send(question(answer)).await?;
        wait.await.context("the control plane is stopping")
    }
}

/// Runs the state until the source or everybody who could send a command is gone.
pub(crate) async fn run(
    mut state: State,
    mut updates: mpsc::Receiver<Update>,
    mut queue: mpsc::Receiver<Command>,
) {
    loop {
        let (check, expire) = (at(state.due()), at(state.expiry()));
        tokio::select! {
            // Changes first: what is sent next should already carry them.
            biased;
            update = updates.recv() => match update {
                Some(update) => state.update(update),
                None => return,
            },
            command = queue.recv() => match command {
                Some(command) => state.handle(command),
                None => return,
            },
            () = check => state.check(),
            () = expire => state.expire(),
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
