//! The wall clock, for the stamps of logs and metrics, and for the validity of certificates.
//!
//! No other decision depends on it: they take a `tokio::time::Instant`, which tests can pause and which no operator can
//! set back. Stamps are printed as RFC 3339 in UTC with milliseconds.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The time of day.
pub fn now() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "the one door to the wall clock")]
    SystemTime::now()
}

/// Seconds since 1970, as metrics give times.
pub fn unix_seconds(time: SystemTime) -> f64 {
    since_epoch(time).as_secs_f64()
}

/// Prints a time of day as RFC 3339: `2026-11-21T00:00:00.000Z`.
#[derive(Debug, Clone, Copy)]
pub struct Rfc3339(pub SystemTime);

impl Rfc3339 {
    /// Its characters, as in `2026-11-21T00:00:00.000Z`.
    pub fn text(self) -> [u8; 24] {
        let since = since_epoch(self.0);
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        for (start, end, number) in [
            (0, 4, year),
            (5, 7, month),
            (8, 10, day),
            (11, 13, second / 3600),
            (14, 16, second / 60 % 60),
            (17, 19, second % 60),
            (20, 23, u64::from(since.subsec_millis())),
        ] {
            let mut rest = number;
            for digit in text.get_mut(start..end).unwrap_or_default().iter_mut().rev() {
                *digit += (rest % 10) as u8;
                rest /= 10;
            }
        }
        text
    }
}

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.text()).unwrap_or_default())
    }
}

/// A clock set before 1970 counts as 1970.
fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Year, month and day of a day since 1970 (`civil_from_days` of Hinnant's "chrono-compatible date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_rfc_3339() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_868_799_000, "2000-02-29T23:59:59.000Z"),
            (1_709_164_800_007, "2024-02-29T00:00:00.007Z"),
            (1_795_219_200_000, "2026-11-21T00:00:00.000Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Rfc3339(UNIX_EPOCH + Duration::from_millis(millis)).to_string(), text);
        }
    }

    #[test]
    fn a_clock_before_1970_is_no_panic() {
        let early = UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(Rfc3339(early).to_string(), "1970-01-01T00:00:00.000Z");
    }
}
