//! Good tokens of late, by their hash.
//!
//! A client sends the same token with every request. What one has proved holds as long as the token lasts, the rules are
//! the same and the keys are. The token itself is not kept. Few large tokens could take much memory, so these are not
//! remembered; of the others there are at most [`CAPACITY`] for each worker, and the oldest gives way.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use rustc_hash::FxHashMap;

use super::{Issuer, Issuers, Verified, keys::Keys};

/// Tokens that are remembered.
const CAPACITY: usize = 1024;

/// Longest token that is remembered, in bytes.
const MAX_LENGTH: usize = 4096;

/// The hash of a token.
type Hash = [u8; SHA256_OUTPUT_LEN];

/// Tokens that were good when they were last seen.
#[derive(Debug, Default)]
pub struct Cache {
    rules: Weak<Issuers>,
    good: FxHashMap<Hash, Good>,
    order: VecDeque<Hash>,
}

#[derive(Debug)]
struct Good {
    verified: Arc<Verified>,
    /// The rule it was judged by, and the keys.
    rule: usize,
    keys: Arc<Keys>,
}

impl Cache {
    /// What a token has proved before, by the rule of that number.
    pub fn get(&mut self, rules: &Arc<Issuers>, rule: usize, token: &str, now: f64) -> Option<Arc<Verified>> {
        if !std::ptr::eq(self.rules.as_ptr(), Arc::as_ptr(rules)) {
            *self = Self { rules: Arc::downgrade(rules), ..Self::default() };
        }
        if self.good.is_empty() || token.len() > MAX_LENGTH {
            return None;
        }
        let good = self.good.get(&hash(token)?)?;
        let keys = rules.all().get(rule)?.keys().current()?;
        let holds = good.rule == rule && Arc::ptr_eq(&good.keys, &keys) && good.verified.is_current(now);
        holds.then(|| Arc::clone(&good.verified))
    }

    /// Remembers what a token has proved.
    pub fn put(
        &mut self,
        rules: &Arc<Issuers>,
        rule: usize,
        token: &str,
        (verified, keys): (&Arc<Verified>, Arc<Keys>),
    ) {
        let is_ours = std::ptr::eq(self.rules.as_ptr(), Arc::as_ptr(rules));
        let Some(hash) = hash(token).filter(|_| is_ours && token.len() <= MAX_LENGTH) else { return };
        let good = Good { verified: Arc::clone(verified), rule, keys };
        if self.good.insert(hash, good).is_none() {
            self.order.push_back(hash);
        }
        while self.order.len() > CAPACITY {
            self.order.pop_front().and_then(|oldest| self.good.remove(&oldest));
        }
    }
}

impl Issuer {
    /// Whether a rule believes a token of this issuer.
    pub fn is_for(&self, issuer: Option<&str>) -> bool {
        issuer == Some(&self.rule.issuer)
    }
}

fn hash(token: &str) -> Option<Hash> {
    digest(&SHA256, token.as_bytes()).as_ref().try_into().ok()
}
