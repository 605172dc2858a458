//! The wall clock, by which certificates and tokens live.
//!
//! Whoever decides by it takes the time as an argument; it is read at the edges only, and here.

use std::time::{SystemTime, UNIX_EPOCH};

/// The time of day.
pub(crate) fn now() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "the one door to the wall clock")]
    SystemTime::now()
}

/// Whole seconds since 1970; nothing earlier is expected.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
