//! How many of a kind are taken in one second. Two workers that meet in the same second count together.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A second and how many were taken in it, in one number.
#[derive(Debug, Default)]
pub(super) struct Pace(AtomicU64);

impl Pace {
    /// Takes one more, unless `most` have been in this second.
    pub(super) fn takes(&self, second: u64, most: u32) -> bool {
        let window = second << 32;
        let next = |seen: u64| {
            let taken = if seen >> 32 == window >> 32 { seen & u64::from(u32::MAX) } else { 0 };
            (taken < u64::from(most)).then_some(window | (taken + 1))
        };
        self.0.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_has_its_share() {
        let pace = Pace::default();
        let taken = |second, asked: usize| (0..asked).filter(|_| pace.takes(second, 3)).count();
        assert_eq!(taken(1_795_219_200, 10), 3);
        assert_eq!(taken(1_795_219_200, 10), 0);
        assert_eq!(taken(1_795_219_201, 2), 2);
        assert_eq!(taken(1_795_219_201, 10), 1);
        assert_eq!(taken(1_795_219_100, 10), 3, "a clock that was set back stops nothing");
        assert_eq!((0..10).filter(|_| pace.takes(7, 0)).count(), 0);
    }
}
