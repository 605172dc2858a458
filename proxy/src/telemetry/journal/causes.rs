//! How many requests have failed of which cause, minute by minute, with an example of each.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use pillion_xds::story::{Cause, Story};
use rustc_hash::FxHashMap;

use super::tally::{OTHERS, Tally};

/// Minutes that are remembered.
pub(super) const MINUTES: u64 = 15;

/// What has failed, by the key it is counted by: as many at most as there are places in the tally.
#[derive(Debug, Default)]
pub(super) struct Causes(FxHashMap<u64, Counted>);

#[derive(Debug, Default)]
struct Counted {
    example: Option<Arc<Story>>,
    /// Minutes in which there were some, and how many, the newest last.
    minutes: VecDeque<(u64, u64)>,
}

impl Causes {
    /// Takes what was counted, as of this minute, and forgets what has not happened for long.
    pub(super) fn count(&mut self, tally: &Tally, minute: u64) {
        tally.take(|key, count| self.0.entry(key).or_default().add(minute, count));
        self.0.retain(|key, counted| {
            let is_recent = counted.minutes.back().is_some_and(|(last, _)| last + MINUTES > minute);
            if !is_recent {
                tally.forget(*key);
            }
            is_recent
        });
    }

    /// Notes the latest example of a cause.
    pub(super) fn example(&mut self, key: u64, story: &Arc<Story>) {
        self.0.entry(key).or_default().example = Some(Arc::clone(story));
    }

    /// What has failed within that time before the end of this minute, the most frequent first.
    pub(super) fn within(&self, within: Duration, minute: u64) -> Vec<Cause> {
        let minutes = within.as_secs().div_ceil(60).clamp(1, MINUTES);
        let counted = self.0.iter().filter_map(|(key, counted)| {
            let recent = counted.minutes.iter().filter(|(at, _)| at + minutes > minute);
            let count: u64 = recent.map(|(_, count)| count).sum();
            (count > 0).then(|| counted.cause(*key, count))
        });
        let mut causes: Vec<Cause> = counted.collect();
        causes.sort_by(|a, b| {
            b.count.cmp(&a.count).then_with(|| (&a.flag, &a.route).cmp(&(&b.flag, &b.route)))
        });
        causes
    }
}

impl Counted {
    fn add(&mut self, minute: u64, count: u64) {
        match self.minutes.back_mut() {
            // A clock that was set back counts on in the minute it had come to.
            Some((last, sum)) if *last >= minute => *sum += count,
            _ => self.minutes.push_back((minute, count)),
        }
        while self.minutes.front().is_some_and(|(first, _)| first + MINUTES <= minute) {
            self.minutes.pop_front();
        }
    }

    fn cause(&self, key: u64, count: u64) -> Cause {
        let Some(story) = &self.example else {
            let cause =
                if key == OTHERS { "of more kinds than are told apart" } else { "no example was kept" };
            return Cause { flag: "-".to_owned(), cause: cause.to_owned(), count, ..Cause::default() };
        };
        let of_try = || story.attempts.last().and_then(|attempt| attempt.cause.clone());
        let said = story.cause.clone().or_else(of_try);
        Cause {
            flag: story.flag.clone(),
            cause: said.unwrap_or_else(|| format!("answered {}", story.status)),
            route: story.route.clone(),
            cluster: story.cluster.clone(),
            count,
            last: story.start.clone(),
            request_id: story.request_id.clone(),
        }
    }
}
