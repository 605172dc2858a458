//! Which rules cannot match a request for something it has.
//!
//! For each value that excludes many rules there is a set of them, one bit a rule. A request finds the sets of its values
//! by some look-ups, and passes over what is in one of them, 64 rules at a time. A rule that says what must not be in several alternatives is
//! excluded only by what excludes each of them. Values that exclude few rules are left out, so that the sets of all take
//! no more than some bytes for each value that a policy names; and of a request no more than [`MAX_SETS`] are looked at.

use std::iter::successors;

use rustc_hash::FxHashMap;

use super::{Alternative, Key, Tables};
use crate::authorization::decide::Known;

/// Most sets that are held against a request. What is only in others is matched in full.
const MAX_SETS: usize = 16;

/// A value has a set if it excludes at least one rule in so many: a set then has at most one word for each rule in it.
const SHARE: usize = 64;

/// Rules by their numbers, one bit each.
#[derive(Debug, Default)]
pub(super) struct Set(Vec<u64>);

/// Sets of rules by what excludes them.
#[derive(Debug, Default)]
pub(super) struct Excluders(Tables<Set>);

/// The rules that cannot match a request.
#[derive(Debug, Default)]
pub(super) struct Excluded<'a> {
    sets: [&'a [u64]; MAX_SETS],
    n_sets: usize,
}

impl Set {
    /// Adds a rule.
    pub(super) fn insert(&mut self, rule: usize) {
        let (word, bit) = (rule / 64, rule % 64);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << bit;
        }
    }
}

impl Excluders {
    /// What excludes each of these rules: all that one of its demands names in each alternative.
    pub(super) fn new(rules: Vec<Vec<Vec<Alternative>>>) -> Self {
        let n_rules = rules.len();
        let mut by_key: FxHashMap<Key, Vec<usize>> = FxHashMap::default();
        for (rule, demands) in rules.into_iter().enumerate() {
            for key in demands.into_iter().flat_map(in_each) {
                by_key.entry(key).or_default().push(rule);
            }
        }
        let mut sets = Tables::default();
        for (key, rules) in by_key.into_iter().filter(|(_, rules)| rules.len() * SHARE >= n_rules) {
            let set: &mut Set = sets.entry(key);
            rules.into_iter().for_each(|rule| set.insert(rule));
        }
        Self(sets)
    }

    /// The rules that what is known of a request excludes.
    pub(super) fn of(&self, known: &Known<'_>) -> Excluded<'_> {
        let mut excluded = Excluded::default();
        self.0.find(known, &mut |set| !excluded.add(set));
        excluded
    }
}

impl<'a> Excluded<'a> {
    /// Whether the rule of this number is among them.
    pub(super) fn has(&self, rule: usize) -> bool {
        self.word(rule / 64) >> (rule % 64) & 1 == 1
    }

    /// The rules of a set that are not among them.
    pub(super) fn none_of(&self, rules: &Set) -> impl Iterator<Item = usize> {
        let words = rules.0.iter().enumerate();
        words.flat_map(|(at, word)| ones(word & !self.word(at)).map(move |bit| at * 64 + bit))
    }

    /// 64 rules, with a bit for each that is among them.
    fn word(&self, at: usize) -> u64 {
        let sets = self.sets.iter().take(self.n_sets);
        sets.fold(0, |word, set| word | set.get(at).copied().unwrap_or_default())
    }

    /// Takes one more set; says whether there is room for another.
    fn add(&mut self, Set(set): &'a Set) -> bool {
        if let Some(free) = self.sets.get_mut(self.n_sets) {
            *free = set;
            self.n_sets += 1;
        }
        self.n_sets < MAX_SETS
    }
}

/// The places of the bits that are set, from the lowest.
fn ones(word: u64) -> impl Iterator<Item = usize> {
    let words = successors(Some(word), |word| Some(word & word.wrapping_sub(1)));
    words.take_while(|word| *word != 0).map(|word| word.trailing_zeros() as usize)
}

/// The values that all alternatives name.
fn in_each(demand: Vec<Alternative>) -> Vec<Key> {
    let mut alternatives = demand.into_iter();
    let mut shared = alternatives.next().unwrap_or_default().concat();
    for alternative in alternatives {
        shared.retain(|key| alternative.iter().flatten().any(|other| other == key));
    }
    shared
}
