//! How soon a certificate expires, in the steps at which somebody should hear of it.

use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// From nothing to worry about to too late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Expiry {
    /// In more than 30 days.
    Far,
    /// Within 30 days.
    Month,
    /// Within 7 days.
    Week,
    /// It has.
    Over,
}

impl Expiry {
    /// The step at which a certificate is that is valid until then.
    pub(crate) fn at(not_after: SystemTime, now: SystemTime) -> Self {
        match not_after.duration_since(now) {
            Err(_) | Ok(Duration::ZERO) => Self::Over,
            Ok(left) if left <= 7 * DAY => Self::Week,
            Ok(left) if left <= 30 * DAY => Self::Month,
            Ok(_) => Self::Far,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_come_thirty_and_seven_days_before() {
        let now = SystemTime::UNIX_EPOCH + 20_000 * DAY;
        let second = Duration::from_secs(1);
        for (not_after, expected) in [
            (now + 30 * DAY + second, Expiry::Far),
            (now + 30 * DAY, Expiry::Month),
            (now + 7 * DAY + second, Expiry::Month),
            (now + 7 * DAY, Expiry::Week),
            (now + second, Expiry::Week),
            (now, Expiry::Over),
            (now - DAY, Expiry::Over),
        ] {
            assert_eq!(Expiry::at(not_after, now), expected, "{not_after:?}");
        }
    }
}
