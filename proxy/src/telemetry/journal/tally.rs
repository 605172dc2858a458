//! Counts failures by what they are: flag, rule, cluster and direction.
//!
//! Requests count in a table of fixed size, by atomics alone; the reader takes the counts out. A kind has [`WAYS`] places it
//! may stand in, so that giving one up leaves no gap that hides another. What finds no place is counted together. Two
//! workers that meet a kind for the first time may give it two places; the reader adds them up.

use std::{
    hash::{Hash, Hasher},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use rustc_hash::FxHasher;

use crate::telemetry::record::Record;

/// Kinds that can be told apart, a power of two.
const PLACES: usize = 256;
/// Places one kind may stand in.
const WAYS: usize = 8;

/// Stands for those that found no place.
pub(super) const OTHERS: u64 = 1;

/// The table.
#[derive(Debug)]
pub(super) struct Tally {
    places: Box<[Place]>,
    others: AtomicU64,
}

#[derive(Debug, Default)]
struct Place {
    /// What stands here; 0 is nothing.
    key: AtomicU64,
    count: AtomicU64,
}

impl Default for Tally {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| Place::default()).collect(), others: AtomicU64::new(0) }
    }
}

/// What a failure is counted by. Failures of applications count together, whatever their status, which peers choose.
pub(super) fn key(record: &Record) -> u64 {
    let mut hasher = FxHasher::default();
    (record.outcome.flag, record.direction as u8).hash(&mut hasher);
    record.route.hash(&mut hasher);
    record.cluster.hash(&mut hasher);
    // 0 is nothing and 1 is all others.
    hasher.finish().max(OTHERS + 1)
}

impl Tally {
    /// Counts one; true if it is the first of its kind.
    pub(super) fn count(&self, key: u64) -> bool {
        if let Some(place) = self.ways(key).find(|place| place.key.load(Relaxed) == key) {
            place.count.fetch_add(1, Relaxed);
            return false;
        }
        let free = |place: &&Place| place.key.compare_exchange(0, key, Relaxed, Relaxed).is_ok();
        match self.ways(key).find(free) {
            Some(place) => {
                place.count.fetch_add(1, Relaxed);
                true
            }
            None => {
                self.others.fetch_add(1, Relaxed);
                false
            }
        }
    }

    /// Takes out what was counted since the last time.
    pub(super) fn take(&self, mut counted: impl FnMut(u64, u64)) {
        let standing = self.places.iter().map(|place| (place.key.load(Relaxed), &place.count));
        for (key, count) in standing.chain([(OTHERS, &self.others)]) {
            if count.load(Relaxed) > 0 && key != 0 {
                counted(key, count.swap(0, Relaxed));
            }
        }
    }

    /// Gives up the places of a kind. One that is being counted at this moment may be added to the next kind.
    pub(super) fn forget(&self, key: u64) {
        for place in self.ways(key) {
            let _other = place.key.compare_exchange(key, 0, Relaxed, Relaxed);
        }
    }

    /// The places a kind may stand in.
    fn ways(&self, key: u64) -> impl Iterator<Item = &Place> {
        // The upper bits of the hash are the good ones.
        let set = usize::try_from(key >> 32).unwrap_or_default() % (PLACES / WAYS);
        self.places.iter().skip(set * WAYS).take(WAYS)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::error::Flag;

    fn taken(tally: &Tally) -> BTreeMap<u64, u64> {
        let mut all = BTreeMap::new();
        tally.take(|key, count| *all.entry(key).or_default() += count);
        all
    }

    #[test]
    fn every_one_is_counted_once() {
        let tally = Tally::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..10_000 {
                        tally.count((n % 3 + 2) << 32);
                    }
                });
            }
        });
        let all = taken(&tally);
        assert_eq!(all.values().sum::<u64>(), 40_000);
        assert_eq!(all.len(), 3);
        assert_eq!(taken(&tally), BTreeMap::new(), "taken once");
    }

    #[test]
    fn the_first_of_a_kind_is_told() {
        let tally = Tally::default();
        assert!(tally.count(7 << 32));
        assert!(!tally.count(7 << 32));
        tally.forget(7 << 32);
        assert!(tally.count(7 << 32), "it was forgotten");
    }

    #[test]
    fn what_finds_no_place_is_counted_together() {
        let tally = Tally::default();
        // All of one set: the upper halves are alike.
        for n in 0..100 {
            tally.count((7 << 32) + n);
        }
        let all = taken(&tally);
        assert_eq!(all.len(), WAYS + 1);
        assert_eq!(all[&OTHERS], 100 - WAYS as u64);
    }

    #[test]
    fn kinds_are_told_apart_by_what_policy_and_proxy_say() {
        let record = |flag, status, route: &str| {
            let mut record = Record { route: Some(route.into()), ..Record::default() };
            (record.outcome.flag, record.outcome.status) = (flag, status);
            key(&record)
        };
        assert_eq!(record(Flag::None, 500, "a"), record(Flag::None, 599, "a"));
        assert_ne!(record(Flag::None, 503, "a"), record(Flag::Uf, 503, "a"));
        assert_ne!(record(Flag::Uf, 503, "a"), record(Flag::Uf, 503, "b"));
    }
}
