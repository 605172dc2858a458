//! What people ask about the traffic of the mesh: proxies answer, here it is asked and put together.
//!
//! A proxy attaches on the connection of its discovery stream and so speaks for itself alone (`attach`). An
//! [`Observatory`] asks all that are attached at once: what they remember of a request, why requests have failed, how
//! many there were. Who has not answered within [`PATIENCE`] is named and not waited for. A tap goes on until its time
//! or number is over (`tap`). How answers are put together is decided by pure functions (`told`).
//!
//! Everything is bounded: questions of one proxy, answers that wait, how much of them is kept, taps at once.

mod attach;
mod tap;
#[cfg(test)]
mod tests;
mod told;

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use pillion_xds::{
    figures::Figures,
    observe::{self, Answer, question::Ask},
    story::{Cause, Filter, Story},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, timeout_at},
};

pub(super) use self::attach::service;
pub use self::told::{Blamed, Causes, Counts, Explanation, Line, ProxyFigures, Silence, Told};
use super::{Command, Hub};

/// How long proxies may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(2);

/// Most taps at once.
const MAX_TAPS: usize = 4;

/// Most bytes of answers that are put together; what comes later is left out.
const MAX_GATHERED: usize = 32 << 20;

/// A question to one proxy, and where its answers go.
#[derive(Debug)]
pub(crate) struct Posed {
    pub(super) ask: Ask,
    pub(super) reply: ReplyTo,
}

/// Where the answers of one proxy go.
#[derive(Debug)]
pub(super) struct ReplyTo {
    /// Who answers.
    observer: u64,
    replies: mpsc::Sender<(u64, Answer)>,
    /// Answers for which there was no room since the last that found some.
    left_out: u64,
}

/// A connected proxy.
#[derive(Debug, Clone)]
pub(crate) struct Observer {
    /// The number of its stream.
    pub(super) id: u64,
    /// `namespace/name` of its workload.
    pub(super) workload: String,
    /// The address of its pod, where it has told that.
    pub(super) ip: Option<IpAddr>,
    /// The way to ask it; nothing while it is not attached.
    pub(super) ask: Option<mpsc::Sender<Posed>>,
}

/// Asks proxies; clones share the number of taps.
#[derive(Debug, Clone)]
pub(crate) struct Observatory {
    hub: Hub,
    taps: Arc<Semaphore>,
}

/// What the proxies have answered to a question.
struct Gathered<T> {
    answers: Vec<(Observer, T)>,
    silence: Silence,
}

impl Observer {
    /// The name people know it by.
    fn name(&self) -> String {
        match self.ip {
            Some(ip) => format!("{}@{ip}", self.workload),
            None => self.workload.clone(),
        }
    }

    /// Asks it, unless it is not attached or has too many questions already.
    fn ask(&self, ask: Ask, replies: &mpsc::Sender<(u64, Answer)>) -> bool {
        let reply = ReplyTo { observer: self.id, replies: replies.clone(), left_out: 0 };
        self.ask.as_ref().is_some_and(|way| way.try_send(Posed { ask, reply }).is_ok())
    }
}

impl ReplyTo {
    /// Hands an answer over if there is room.
    fn send(&mut self, mut answer: Answer) {
        let left_out = self.left_out + answer.left_out;
        answer.left_out = left_out;
        let lost = left_out + u64::from(!answer.json.is_empty());
        let sent = self.replies.try_send((self.observer, answer));
        self.left_out = if sent.is_ok() { 0 } else { lost };
    }

    /// Whether nobody waits for answers.
    fn is_closed(&self) -> bool {
        self.replies.is_closed()
    }
}

impl Observatory {
    /// Asks the proxies that are connected to this hub.
    pub(crate) fn new(hub: Hub) -> Self {
        Self { hub, taps: Arc::new(Semaphore::new(MAX_TAPS)) }
    }

    /// What proxies remember of a request, by its id or its trace.
    pub(crate) async fn explain(&self, request_id: &str) -> Result<Explanation> {
        let ask = Ask::Explain(observe::Explain { request_id: request_id.to_owned() });
        let gathered = self.gather::<Vec<Story>>(&ask).await?;
        Ok(told::explanation(request_id, gathered.answers, gathered.silence))
    }

    /// Why requests have failed within that time, all over the mesh.
    pub(crate) async fn causes(&self, within: Duration) -> Result<Causes> {
        let within_seconds = u32::try_from(within.as_secs()).unwrap_or(u32::MAX);
        let gathered = self.gather::<Vec<Cause>>(&Ask::Causes(observe::Causes { within_seconds })).await?;
        Ok(told::causes(within, gathered.answers, gathered.silence))
    }

    /// What all proxies have counted since they were started.
    pub(crate) async fn figures(&self) -> Result<Counts> {
        let gathered = self.gather::<Figures>(&Ask::Figures(observe::Figures {})).await?;
        let proxies = gathered.answers.into_iter();
        let proxies = proxies.map(|(proxy, figures)| ProxyFigures { proxy: proxy.name(), figures });
        Ok(Counts { proxies: proxies.collect(), silence: gathered.silence })
    }

    /// Lines of the requests that fit, one JSON text each, until `limit` or `time` is over; an error says why nobody can
    /// be watched.
    pub(crate) async fn tap(
        &self,
        filter: &Filter,
        limit: u32,
        time: Duration,
    ) -> Result<mpsc::Receiver<String>> {
        let Ok(place) = Arc::clone(&self.taps).try_acquire_owned() else {
            bail!("{MAX_TAPS} taps are open, which is the most at once: end one of them and try again");
        };
        tap::open(self.hub.clone(), serde_json::to_string(filter)?, limit, time, place).await
    }

    /// Asks everybody, and waits for what comes in time.
    async fn gather<T: DeserializeOwned>(&self, ask: &Ask) -> Result<Gathered<T>> {
        let mut waited = self.hub.ask(Command::Observers).await?;
        // Each proxy answers once, so nothing finds this full.
        let (replies, mut received) = mpsc::channel(waited.len().max(1));
        let mut silence = Silence { asked: waited.len(), ..Silence::default() };
        for observer in &waited {
            // Whoever is not asked does not answer.
            observer.ask(ask.clone(), &replies);
        }
        drop(replies);
        let until = Instant::now() + PATIENCE;
        let mut bytes = 0;
        let mut answers = Vec::new();
        // Ends early when all who were asked have answered or gone.
        while let Ok(Some((id, answer))) = timeout_at(until, received.recv()).await {
            let Some(index) = waited.iter().position(|observer| observer.id == id) else { continue };
            bytes += answer.json.len();
            silence.left_out += answer.left_out;
            if !answer.refusal.is_empty() || bytes > MAX_GATHERED {
                continue;
            }
            if let Ok(told) = serde_json::from_slice(&answer.json) {
                answers.push((waited.swap_remove(index), told));
            }
        }
        let name = |observer: &Observer| observer.name();
        silence.silent = waited.iter().filter(|observer| observer.ask.is_some()).map(name).collect();
        silence.unattached = waited.iter().filter(|observer| observer.ask.is_none()).map(name).collect();
        silence.silent.sort();
        silence.unattached.sort();
        answers.sort_by_key(|(observer, _)| observer.name());
        Ok(Gathered { answers, silence })
    }
}
