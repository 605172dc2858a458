//! How much of a flood is told: so much each second, the rest is counted.

use std::time::Duration;

use tokio::time::Instant;

/// Lets a number of things through each second, and counts the others.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: u32,
    /// Since when, and how many were let through since.
    second: Option<(Instant, u32)>,
    left_out: u64,
}

impl Pace {
    /// At most so many each second.
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, second: None, left_out: 0 }
    }

    /// Whether one more is let through now.
    pub(super) fn admit(&mut self, now: Instant) -> bool {
        let (since, admitted) = match self.second {
            Some((since, admitted)) if now.saturating_duration_since(since) < Duration::from_secs(1) => {
                (since, admitted)
            }
            Some(_) | None => (now, 0),
        };
        let is_admitted = admitted < self.per_second;
        self.second = Some((since, admitted.saturating_add(u32::from(is_admitted))));
        self.left_out = self.left_out.saturating_add(u64::from(!is_admitted));
        is_admitted
    }

    /// How many were left out since this was asked before.
    pub(super) fn left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}
