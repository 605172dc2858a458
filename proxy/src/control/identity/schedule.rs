//! When a certificate is asked for.
//!
//! ```text
//! nothing held ──▶ at once
//! issued ─────────▶ after 40 to 60 % of the life that is left, drawn at random
//! failed ─────────▶ after a pause that doubles from a second to five minutes, while the old one serves on
//! summoned ───────▶ within ten seconds: another root signs from now on
//! reachable ──────▶ after a failure: within a second, because the control plane is back
//! ```
//! A [`Schedule`] is told the time and asks nobody. It looks at two clocks: validity is a matter of the wall clock, but
//! one that is set back must not put a renewal off.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// The part of its life after which a certificate is renewed: half, give or take 10 %.
const RENEW_AFTER: (f64, f64) = (0.4, 0.6);

/// First and longest pause after a failure, before half as much is added at random.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(200));

/// Over what time all proxies spread their renewals when another root signs.
const SPREAD: Duration = Duration::from_secs(10);

/// How soon it is tried again when the control plane is back.
const RETURN: Duration = Duration::from_secs(1);

/// Shortest time from a certificate to the next, whatever lifetimes an authority hands out.
const LEAST: Duration = Duration::from_secs(1);

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// On the clock that only advances.
    pub instant: Instant,
    /// The time of day.
    pub wall: SystemTime,
}

/// When to ask for the next certificate.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// When the certificate held is to be renewed, by either clock; nothing is held without.
    renewal: Option<(Instant, SystemTime)>,
    /// At this moment whatever certificate is held.
    summoned: Option<Instant>,
    /// Not before this moment.
    paused: Option<Instant>,
    failures: u32,
}

impl Schedule {
    /// How long there is nothing to do; zero is now.
    pub(super) fn wait(&self, now: Now) -> Duration {
        let until = |at: Instant| at.saturating_duration_since(now.instant);
        let renewal = self.renewal.map_or(Duration::ZERO, |(instant, wall)| {
            until(instant).min(wall.duration_since(now.wall).unwrap_or_default())
        });
        let due = self.summoned.map_or(renewal, |at| renewal.min(until(at)));
        self.paused.map_or(due, |at| due.max(until(at)))
    }

    /// A certificate valid until `not_after` has come.
    pub(super) fn issued(&mut self, not_after: SystemTime, now: Now, rng: &mut fastrand::Rng) {
        let left = not_after.duration_since(now.wall).unwrap_or_default();
        let part = RENEW_AFTER.0 + (RENEW_AFTER.1 - RENEW_AFTER.0) * rng.f64();
        let wait = left.mul_f64(part).max(LEAST);
        *self = Self { renewal: Some((now.instant + wait, now.wall + wait)), ..Self::default() };
    }

    /// None has come.
    pub(super) fn failed(&mut self, now: Instant, rng: &mut fastrand::Rng) {
        let pause = PAUSE.0.saturating_mul(2_u32.saturating_pow(self.failures)).min(PAUSE.1);
        self.paused = Some(now + pause.mul_f64(1.0 + rng.f64() / 2.0));
        self.failures = self.failures.saturating_add(1);
    }

    /// The certificate held will be out of use soon, however long it is valid.
    pub(super) fn summon(&mut self, now: Instant, rng: &mut fastrand::Rng) {
        let at = now + SPREAD.mul_f64(rng.f64());
        self.summoned = Some(self.summoned.map_or(at, |earlier| earlier.min(at)));
    }

    /// Whoever signs can be reached again.
    pub(super) fn reachable(&mut self, now: Instant, rng: &mut fastrand::Rng) {
        if self.failures > 0 {
            let soon = now + RETURN.mul_f64(rng.f64());
            self.paused = self.paused.map(|at| at.min(soon));
        }
    }

    /// How often in a row none has come.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// When the certificate held is to be renewed.
    pub(super) fn renews_at(&self) -> Option<SystemTime> {
        self.renewal.map(|(_, wall)| wall)
    }
}

#[cfg(test)]
mod tests;
