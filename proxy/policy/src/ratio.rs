//! Shares of traffic as integers, so that policy stays `Eq` and `Hash`.

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// A share of requests in parts per million: 0.0001 % is the finest share that can be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Fraction(u32);

impl Fraction {
    /// Every request.
    pub const ALL: Self = Self(1_000_000);
    /// One request of a hundred.
    pub const ONE_PERCENT: Self = Self(10_000);
    /// No request.
    pub const NONE: Self = Self(0);

    /// A share of `parts` in a million.
    pub fn from_parts_per_million(parts: u32) -> Result<Self, Invalid> {
        if parts > Self::ALL.0 {
            return Err(Invalid::new(format!("{parts} parts per million is more than everything")));
        }
        Ok(Self(parts))
    }

    /// A share given in percent, as policy files write it; rounded to the nearest 0.0001 %.
    pub fn from_percent(percent: f64) -> Result<Self, Invalid> {
        if !(0.0..=100.0).contains(&percent) {
            return Err(Invalid::new(format!("{percent} is not a percentage between 0 and 100")));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range check above leaves 0 to 1,000,000"
        )]
        Ok(Self((percent * 10_000.0).round() as u32))
    }

    /// The share in parts per million.
    pub fn parts_per_million(self) -> u32 {
        self.0
    }

    /// Whether a request whose dice shows `roll`, uniform in 0..1,000,000, falls into the share.
    pub fn admits(self, roll: u32) -> bool {
        roll < self.0
    }
}

impl TryFrom<u32> for Fraction {
    type Error = Invalid;

    fn try_from(parts: u32) -> Result<Self, Invalid> {
        Self::from_parts_per_million(parts)
    }
}

impl From<Fraction> for u32 {
    fn from(fraction: Fraction) -> Self {
        fraction.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_keep_four_decimals() {
        assert_eq!(Fraction::from_percent(0.0001).unwrap().parts_per_million(), 1);
        assert_eq!(Fraction::from_percent(33.3333).unwrap().parts_per_million(), 333_333);
        assert_eq!(Fraction::from_percent(100.0).unwrap(), Fraction::ALL);
        for bad in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert!(Fraction::from_percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_ends_admit_all_and_none() {
        for roll in [0, 1, 999_999] {
            assert!(Fraction::ALL.admits(roll));
            assert!(!Fraction::NONE.admits(roll));
        }
    }
}
