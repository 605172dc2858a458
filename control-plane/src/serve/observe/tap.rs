//! Watching traffic: one question to every proxy, also to those that come later, and lines for whoever has asked.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, bail};
use pillion_xds::{
    observe::{Answer, Tap, question::Ask},
    story::Story,
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at},
};

use super::{
    Observer,
    told::{Line, Told},
};
use crate::{
    serve::{Command, Hub},
    task,
};

/// Stories of all proxies that wait for one who watches.
const WAITING: usize = 256;

/// Lines that wait for a connection.
const LINES: usize = 64;

/// How often it is looked for proxies that have come.
const LOOK: Duration = Duration::from_secs(2);

/// Somebody who watches.
struct Watch {
    hub: Hub,
    filter: String,
    left: u32,
    until: Instant,
    replies: mpsc::Sender<(u64, Answer)>,
    /// Everybody who was asked.
    asked: BTreeMap<u64, Observer>,
    lines: mpsc::Sender<String>,
}

/// Begins to watch. The place is given back when it is over.
pub(super) async fn open(
    hub: Hub,
    filter: String,
    limit: u32,
    time: Duration,
    place: OwnedSemaphorePermit,
) -> Result<mpsc::Receiver<String>> {
    let (replies, received) = mpsc::channel(WAITING);
    let (lines, taken) = mpsc::channel(LINES);
    let until = Instant::now() + time;
    let mut watch = Watch { hub, filter, left: limit, until, replies, asked: BTreeMap::new(), lines };
    let connected = watch.look().await?;
    if watch.asked.is_empty() {
        bail!(
            "nobody can be watched: of {connected} connected proxies none is attached; pillion status lists them"
        );
    }
    task::spawn("tap", async move {
        watch.run(received).await;
        drop(place);
    });
    Ok(taken)
}

impl Watch {
    /// Asks those who were not asked before; says how many there are.
    async fn look(&mut self) -> Result<usize> {
        let observers = self.hub.ask(Command::Observers).await?;
        let (left, now) = (self.left, Instant::now());
        // A second more: who has asked ends it.
        let seconds = self.until.saturating_duration_since(now).as_secs().saturating_add(1);
        let for_seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        let connected = observers.len();
        self.asked.retain(|id, _| observers.iter().any(|observer| observer.id == *id));
        for observer in observers {
            let ask = Ask::Tap(Tap { filter: self.filter.clone(), limit: left, for_seconds });
            if !self.asked.contains_key(&observer.id) && observer.ask(ask, &self.replies) {
                self.asked.insert(observer.id, observer);
            }
        }
        Ok(connected)
    }

    /// Watches until nobody reads, or limit or time is over. Proxies notice by themselves that nobody listens.
    async fn run(mut self, mut received: mpsc::Receiver<(u64, Answer)>) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (lines, until) = (self.lines.clone(), self.until);
        while self.left > 0 {
            let written = tokio::select! {
                Some((id, answer)) = received.recv() => self.tell(id, &answer).await,
                _ = look.tick() => match self.look().await {
                    Ok(_) => true,
                    Err(_) => return,
                },
                () = sleep_until(until) => return,
                () = lines.closed() => return,
            };
            if !written {
                return;
            }
        }
    }

    /// Writes what a proxy tells; whether somebody reads it.
    async fn tell(&mut self, id: u64, answer: &Answer) -> bool {
        let name = self.asked.get(&id).map_or_else(|| "a proxy that has gone".to_owned(), Observer::name);
        if !answer.refusal.is_empty()
            && !self.write(&Line::Note { note: format!("{name}: {}", answer.refusal) }).await
        {
            return false;
        }
        if answer.left_out > 0 {
            let note = format!("{name}: {} more left out, there were too many at once", answer.left_out);
            if !self.write(&Line::Note { note }).await {
                return false;
            }
        }
        let Ok(story) = serde_json::from_slice::<Story>(&answer.json) else { return true };
        self.left = self.left.saturating_sub(1);
        self.write(&Line::Told(Box::new(Told { told_by: name, depth: 0, story }))).await
    }

    async fn write(&self, line: &Line) -> bool {
        let Ok(text) = serde_json::to_string(line) else { return true };
        // Who does not read is waited for as long as anybody would watch.
        matches!(timeout_at(self.until, self.lines.send(text + "\n")).await, Ok(Ok(())))
    }
}
