//! Slowness and failure of a sample service, controllable while it runs.
//!
//! `POST /admin` with `{"delay_ms": 200, "fail_percent": 50}` changes what is named and leaves the
//! rest. Health and admin endpoints are never slowed or failed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The injected behaviour of one service.
#[derive(Debug, Default)]
pub struct Faults {
    delay_ms: AtomicU64,
    fail_percent: AtomicU64,
}

/// The JSON form of [`Faults`]; absent fields keep their value.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Setting {
    delay_ms: Option<u64>,
    fail_percent: Option<u64>,
}

impl Faults {
    /// Every response waits this long first.
    pub fn set_delay(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// This share of requests is answered 500.
    pub fn set_fail_percent(&self, percent: u64) {
        self.fail_percent.store(percent.min(100), Ordering::Relaxed);
    }

    pub(super) fn apply(&self, setting: &Setting) {
        if let Some(ms) = setting.delay_ms {
            self.delay_ms.store(ms, Ordering::Relaxed);
        }
        if let Some(percent) = setting.fail_percent {
            self.set_fail_percent(percent);
        }
    }

    pub(super) fn setting(&self) -> Setting {
        Setting {
            delay_ms: Some(self.delay_ms.load(Ordering::Relaxed)),
            fail_percent: Some(self.fail_percent.load(Ordering::Relaxed)),
        }
    }

    pub(super) fn delay(&self) -> Option<Duration> {
        match self.delay_ms.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(Duration::from_millis(ms)),
        }
    }

    pub(super) fn should_fail(&self) -> bool {
        let percent = self.fail_percent.load(Ordering::Relaxed);
        percent > 0 && fastrand::u64(0..100) < percent
    }
}
