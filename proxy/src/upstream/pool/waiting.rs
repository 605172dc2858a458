//! How long a request waits for its connection, and for what.
//!
//! Whoever takes a connection that lies ready waits for nothing, and no clock is read for it. In line the time is split
//! by what went on: the connection that was opened meanwhile was first made, then secured; the rest is waiting for others.
//! A wait that is broken off is told as well, by what was being opened when it ended.

use std::time::Duration;

use tokio::time::Instant;

use super::EndpointPool;
use crate::telemetry::record::Waits;

/// The rest of a wait that is no wait: the way through the scheduler.
const UNNOTICEABLE: Duration = Duration::from_millis(1);

/// When a connection was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opening {
    began: Instant,
    connected: Option<Instant>,
    /// When it was secured; absent where it need not be, too.
    secured: Option<Instant>,
}

impl Opening {
    /// It begins.
    pub(super) fn begin(now: Instant) -> Self {
        Self { began: now, connected: None, secured: None }
    }

    /// The peer has taken the connection.
    pub(super) fn connected(&mut self, now: Instant) {
        self.connected = Some(now);
    }

    /// It is secured, or will not be.
    pub(super) fn secured(&mut self, now: Instant) {
        self.secured = Some(now);
    }
}

/// A request in line. Dropped, the wait is over, however it ended.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    pool: &'a EndpointPool,
    waits: &'a mut Waits,
    since: Instant,
    /// What was opened for it; what is being opened when it gives up is the best guess.
    opened: Option<Option<Opening>>,
}

impl<'a> Waiting<'a> {
    /// It begins to wait.
    pub(super) fn begin(pool: &'a EndpointPool, waits: &'a mut Waits) -> Self {
        Self { pool, waits, since: Instant::now(), opened: None }
    }

    /// It is over, by a connection that was opened for it (or could not be), or by one that others have given back.
    pub(super) fn end(mut self, opened: Option<Opening>) {
        self.opened = Some(opened);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let opened = self.opened.unwrap_or_else(|| self.pool.opening.get());
        add(self.waits, split(self.since, Instant::now(), opened));
    }
}

/// What a wait was for.
fn split(since: Instant, until: Instant, opened: Option<Opening>) -> Waits {
    let total = until.saturating_duration_since(since);
    // Of a connection that somebody else had begun to open, only what was waited for counts.
    let overlap = |from: Instant, to: Instant| to.min(until).saturating_duration_since(from.max(since));
    let (connecting, securing) = match opened {
        None => (None, None),
        Some(Opening { began, connected, secured }) => (
            Some(overlap(began, connected.unwrap_or(until))),
            connected.and_then(|connected| Some(overlap(connected, secured?))),
        ),
    };
    let rest = total.saturating_sub(connecting.unwrap_or_default() + securing.unwrap_or_default());
    let queued = (opened.is_none() || rest >= UNNOTICEABLE).then_some(rest);
    Waits { queued, connecting, securing }
}

/// Adds the waits for one connection to those for others that turned out to be closed.
fn add(waits: &mut Waits, more: Waits) {
    for (sum, more) in [
        (&mut waits.queued, more.queued),
        (&mut waits.connecting, more.connecting),
        (&mut waits.securing, more.securing),
    ] {
        if let Some(more) = more {
            *sum = Some(sum.unwrap_or_default() + more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_wait_is_split_by_what_went_on() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let opened = |began, connected: Option<u64>, secured: Option<u64>| {
            Some(Opening { began: at(began), connected: connected.map(at), secured: secured.map(at) })
        };
        let told = |opened| {
            let Waits { queued, connecting, securing } = split(at(100), at(200), opened);
            let whole = |part: Option<Duration>| part.map(|part| part.as_millis());
            (whole(queued), whole(connecting), whole(securing))
        };
        assert_eq!(told(None), (Some(100), None, None), "others gave one back");
        assert_eq!(told(opened(100, Some(200), None)), (None, Some(100), None), "plain text");
        assert_eq!(told(opened(100, Some(130), Some(200))), (None, Some(30), Some(70)));
        assert_eq!(told(opened(140, Some(150), Some(190))), (Some(50), Some(10), Some(40)), "a place first");
        assert_eq!(told(opened(50, Some(90), Some(200))), (None, Some(0), Some(100)), "begun for another");
        assert_eq!(told(opened(100, None, None)), (None, Some(100), None), "broken off while connecting");
    }

    #[test]
    fn the_waits_of_a_try_add_up() {
        let mut waits = Waits::default();
        add(&mut waits, Waits { queued: None, connecting: Some(millis(3)), securing: None });
        add(&mut waits, Waits { queued: Some(millis(1)), connecting: Some(millis(4)), securing: None });
        assert_eq!(waits, Waits { queued: Some(millis(1)), connecting: Some(millis(7)), securing: None });
    }
}
