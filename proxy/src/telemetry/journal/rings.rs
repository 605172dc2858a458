//! Where stories are kept until newer ones take their place.
//!
//! Failures, slow requests and all others have a ring each, so that a flood of one kind does not drive out the others. A
//! ring is bounded in stories and in bytes.

use std::{collections::VecDeque, sync::Arc};

use pillion_xds::story::{Attempt, Event, Story};

use super::Kind;

/// Failures that are kept.
const ERRORS: usize = 512;
/// The same of slow requests, and of all others.
const OTHERS: usize = 256;
/// Bytes the stories of one ring may take.
const MAX_BYTES: usize = 1 << 20;

/// The stories that are kept.
#[derive(Debug, Default)]
pub(super) struct Rings {
    errors: Ring,
    slow: Ring,
    others: Ring,
}

#[derive(Debug, Default)]
struct Ring {
    stories: VecDeque<Arc<Story>>,
    bytes: usize,
}

impl Rings {
    /// Keeps a story.
    pub(super) fn keep(&mut self, kind: Kind, story: Arc<Story>) {
        match kind {
            Kind::Error => self.errors.keep(story, ERRORS),
            Kind::Slow => self.slow.keep(story, OTHERS),
            Kind::Other => self.others.keep(story, OTHERS),
        }
    }

    /// Every story.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Story>> {
        [&self.errors, &self.slow, &self.others].into_iter().flat_map(|ring| &ring.stories)
    }
}

impl Ring {
    fn keep(&mut self, story: Arc<Story>, most: usize) {
        self.bytes += size(&story);
        self.stories.push_back(story);
        while self.stories.len() > most || self.bytes > MAX_BYTES {
            let Some(oldest) = self.stories.pop_front() else { return };
            self.bytes -= size(&oldest);
        }
    }
}

/// Bytes a story takes, nearly.
fn size(story: &Story) -> usize {
    let one = |text: &String| text.capacity();
    let may = |text: &Option<String>| text.as_ref().map_or(0, String::capacity);
    let texts = [
        &story.request_id,
        &story.proxy,
        &story.start,
        &story.direction,
        &story.method,
        &story.authority,
        &story.path,
        &story.flag,
    ];
    let others = [
        &story.trace_id,
        &story.cause,
        &story.route,
        &story.cluster,
        &story.peer,
        &story.source_principal,
        &story.destination_principal,
        &story.not_retried,
    ];
    let tries = story.attempts.iter().map(|attempt| {
        let texts = one(&attempt.endpoint) + one(&attempt.flag) + one(&attempt.verdict);
        size_of::<Attempt>() + texts + may(&attempt.cause)
    });
    let events = story.events.iter().map(|event| size_of::<Event>() + one(&event.what) + may(&event.detail));
    size_of::<Story>()
        + texts.into_iter().map(one).sum::<usize>()
        + others.into_iter().map(may).sum::<usize>()
        + tries.sum::<usize>()
        + events.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(id: usize, path: usize) -> Arc<Story> {
        Arc::new(Story { request_id: id.to_string(), path: "x".repeat(path), ..Story::default() })
    }

    #[test]
    fn a_ring_keeps_the_newest_and_the_others_theirs() {
        let mut rings = Rings::default();
        rings.keep(Kind::Slow, story(0, 1));
        for id in 1..=2 * ERRORS {
            rings.keep(Kind::Error, story(id, 1));
        }
        let ids: Vec<usize> = rings.all().map(|story| story.request_id.parse().unwrap()).collect();
        assert_eq!(ids.len(), ERRORS + 1);
        assert!(ids.contains(&0) && ids.contains(&(2 * ERRORS)) && !ids.contains(&ERRORS));
    }

    #[test]
    fn long_stories_leave_room_for_fewer() {
        let mut rings = Rings::default();
        for id in 0..OTHERS {
            rings.keep(Kind::Other, story(id, MAX_BYTES / 10));
        }
        assert!((5..10).contains(&rings.all().count()), "{}", rings.all().count());
        let bytes: usize = rings.all().map(|story| size(story)).sum();
        assert!(bytes <= MAX_BYTES && bytes == rings.others.bytes);
    }
}
