//! Answers questions, and tells what goes on to those who watch.
//!
//! Everything has a bound: how many watch, for how long, how many stories each of them is told and how many in one
//! second, and how large an answer may be. What is left out is counted, and told with the next answer.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use pillion_xds::{
    observe::{Answer, Question, Tap, question::Ask},
    story::Story,
};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{Observed, pace::Pace};

/// Most who may watch at once.
pub(super) const MAX_TAPS: usize = 4;

/// Most stories told to one of them in a second.
pub(super) const PER_SECOND: u32 = 100;

/// Longest time for which somebody may watch, in seconds.
pub(super) const MAX_SECONDS: u32 = 600;

/// Largest answer in bytes; one story is always told.
pub(super) const MAX_ANSWER: usize = 256 << 10;

/// Who has asked what, as far as more answers follow.
pub(super) struct Desk {
    observed: Arc<dyn Observed>,
    taps: Vec<Tapping>,
}

/// Somebody who watches.
struct Tapping {
    id: u64,
    stories: mpsc::Receiver<Arc<Story>>,
    /// How many stories may still be told.
    left: u32,
    until: Instant,
    pace: Pace,
}

/// What happens next to somebody who watches.
enum Next {
    Story(Arc<Story>),
    /// There will be none.
    End,
}

impl Desk {
    /// Nobody has asked yet.
    pub(super) fn new(observed: Arc<dyn Observed>) -> Self {
        Self { observed, taps: Vec::new() }
    }

    /// Takes a question, and answers it if that can be done at once.
    pub(super) fn ask(&mut self, question: Question, now: Instant) -> Option<Answer> {
        let Question { id, ask } = question;
        match ask {
            Some(Ask::Explain(ask)) => Some(list(id, &self.observed.explain(&ask.request_id))),
            Some(Ask::Causes(ask)) => {
                let within = Duration::from_secs(ask.within_seconds.into());
                Some(list(id, &self.observed.causes(within)))
            }
            Some(Ask::Figures(_)) => Some(match serde_json::to_vec(&self.observed.figures()) {
                Ok(json) => Answer { id, json, last: true, ..Answer::default() },
                Err(error) => refuse(id, error.to_string()),
            }),
            Some(Ask::Tap(tap)) => self.tap(id, &tap, now).err().map(|reason| refuse(id, reason)),
            Some(Ask::Cancel(_)) => {
                self.taps.retain(|tap| tap.id != id);
                None
            }
            None => Some(refuse(id, "this proxy does not understand the question".to_owned())),
        }
    }

    fn tap(&mut self, id: u64, tap: &Tap, now: Instant) -> Result<(), String> {
        if self.taps.len() >= MAX_TAPS {
            return Err(format!("{MAX_TAPS} are watching this proxy, which is the most at once"));
        }
        let filter = serde_json::from_str(&tap.filter).map_err(|error| error.to_string())?;
        let stories = self.observed.tap(filter)?;
        let until = now + Duration::from_secs(tap.for_seconds.min(MAX_SECONDS).into());
        self.taps.push(Tapping { id, stories, left: tap.limit, until, pace: Pace::new(PER_SECOND) });
        Ok(())
    }

    /// Waits for what there is to tell to those who watch. Nothing is lost when this is dropped.
    pub(super) async fn next(&mut self) -> Answer {
        loop {
            let due = self.taps.iter().map(|tap| tap.until).min();
            let over = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let taps = &mut self.taps;
            let told = tokio::select! {
                told = poll_fn(|context| {
                    for (index, tap) in taps.iter_mut().enumerate() {
                        if let Poll::Ready(story) = tap.stories.poll_recv(context) {
                            return Poll::Ready((index, story.map_or(Next::End, Next::Story)));
                        }
                    }
                    Poll::Pending
                }) => Some(told),
                () = over => None,
            };
            let now = Instant::now();
            let answer = match told {
                Some((index, next)) => self.tell(index, next, now),
                None => self.over(now),
            };
            if let Some(answer) = answer {
                return answer;
            }
        }
    }

    /// Tells somebody a story, unless it is one too many.
    fn tell(&mut self, index: usize, next: Next, now: Instant) -> Option<Answer> {
        let mut tap = (index < self.taps.len()).then(|| self.taps.remove(index))?;
        let Next::Story(story) = next else { return Some(tap.end()) };
        if !tap.pace.admit(now) {
            self.taps.push(tap);
            return None;
        }
        tap.left = tap.left.saturating_sub(1);
        let answer = Answer {
            id: tap.id,
            json: serde_json::to_vec(&*story).unwrap_or_default(),
            left_out: tap.pace.left_out(),
            last: tap.left == 0,
            refusal: String::new(),
        };
        if !answer.last {
            // To the end of the line: one whose requests never cease must not keep the others waiting.
            self.taps.push(tap);
        }
        Some(answer)
    }

    /// Ends the watch of somebody whose time is over.
    fn over(&mut self, now: Instant) -> Option<Answer> {
        let index = self.taps.iter().position(|tap| tap.until <= now)?;
        Some(self.taps.remove(index).end())
    }
}

impl Tapping {
    fn end(mut self) -> Answer {
        Answer { id: self.id, left_out: self.pace.left_out(), last: true, ..Answer::default() }
    }
}

fn refuse(id: u64, refusal: String) -> Answer {
    Answer { id, refusal, last: true, ..Answer::default() }
}

/// As many of the items as an answer may hold.
fn list<T: Serialize>(id: u64, items: &[T]) -> Answer {
    let mut json = b"[".to_vec();
    let mut told = 0;
    for item in items {
        let Ok(text) = serde_json::to_vec(item) else { continue };
        if told > 0 {
            if json.len() + text.len() > MAX_ANSWER {
                break;
            }
            json.push(b',');
        }
        json.extend(text);
        told += 1;
    }
    json.push(b']');
    let left_out = (items.len() as u64).saturating_sub(told);
    Answer { id, json, left_out, last: true, refusal: String::new() }
}
