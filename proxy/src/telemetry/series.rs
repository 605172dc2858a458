//! How many series there may be, and which sets of labels have them.
//!
//! Label sets come from configuration and status codes from peers, so both could grow without end. Every set pays for
//! its series from one [`Budget`] and gives them back when the last user drops it; when the budget is spent, new sets
//! share one *overflow* set, so that nothing is lost but the distinction.

use std::{
    hash::Hash,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use rustc_hash::FxHashMap;

/// The series that may still be made.
#[derive(Debug)]
pub struct Budget(AtomicUsize);

impl Budget {
    /// A budget of `series`.
    pub fn new(series: usize) -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(series)))
    }

    fn take(&self, series: usize) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |free| free.checked_sub(series)).is_ok()
    }

    fn give_back(&self, series: usize) {
        self.0.fetch_add(series, Relaxed);
    }
}

/// Series taken from a budget, given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    taken: AtomicUsize,
}

impl Share {
    /// Takes `series` if there are that many.
    pub fn take(budget: &Arc<Budget>, series: usize) -> Option<Self> {
        budget.take(series).then(|| Self { budget: Arc::clone(budget), taken: AtomicUsize::new(series) })
    }

    /// Takes one more, unless none is left.
    pub fn grow(&self) -> bool {
        let grown = self.budget.take(1);
        if grown {
            self.taken.fetch_add(1, Relaxed);
        }
        grown
    }

    /// Gives one back.
    pub fn shrink(&self) {
        self.taken.fetch_sub(1, Relaxed);
        self.budget.give_back(1);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.give_back(*self.taken.get_mut());
    }
}

/// The living sets of one kind, by their labels.
#[derive(Debug)]
pub struct Sets<K, V> {
    known: FxHashMap<K, Weak<V>>,
    overflow: Arc<V>,
}

impl<K: Clone + Eq + Hash, V> Sets<K, V> {
    /// No sets yet; `overflow` takes what finds no room.
    pub fn new(overflow: Arc<V>) -> Self {
        Self { known: FxHashMap::default(), overflow }
    }

    /// The set with those labels, made if there is none. `make` answers `None` when there is no room.
    pub fn get(&mut self, labels: &K, make: impl FnOnce() -> Option<V>) -> Arc<V> {
        if let Some(living) = self.known.get(labels).and_then(Weak::upgrade) {
            return living;
        }
        self.known.retain(|_, set| set.strong_count() > 0);
        match make() {
            Some(made) => {
                let made = Arc::new(made);
                self.known.insert(labels.clone(), Arc::downgrade(&made));
                made
            }
            None => Arc::clone(&self.overflow),
        }
    }

    /// All living sets, the overflow last.
    pub fn living(&self) -> Vec<Arc<V>> {
        self.known.values().filter_map(Weak::upgrade).chain([Arc::clone(&self.overflow)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_live_and_die_with_their_users() {
        let budget = Budget::new(10);
        let mut sets = Sets::new(Arc::new(None));
        let a = sets.get(&"a", || Share::take(&budget, 6).map(Some));
        let again = sets.get(&"a", || Share::take(&budget, 6).map(Some));
        assert!(Arc::ptr_eq(&a, &again));
        let b = sets.get(&"b", || Share::take(&budget, 6).map(Some));
        assert!(b.is_none(), "6 of 10 are taken, so b overflows");
        assert_eq!(sets.living().len(), 2);

        drop((a, again));
        assert_eq!(sets.living().len(), 1);
        let b = sets.get(&"b", || Share::take(&budget, 6).map(Some));
        assert!(b.is_some());
    }

    #[test]
    fn shares_grow_to_the_budget_and_no_further() {
        let budget = Budget::new(3);
        let share = Share::take(&budget, 2).unwrap();
        assert!(share.grow());
        assert!(!share.grow());
        share.shrink();
        assert!(share.grow());
        drop(share);
        assert!(Share::take(&budget, 4).is_none());
        assert!(Share::take(&budget, 3).is_some());
    }
}
