//! Tokens: what they prove, by the keys of those who issue them.
//!
//! [`Issuers`] is the compiled form of a workload's rules. A token is judged by the rule of its issuer: the key decides
//! which algorithms may be used with it, so that a token cannot choose a weaker one, and there is no key for `none` or
//! for shared secrets. [`keys`] holds the keys, also those that have to be fetched, which happens elsewhere; [`cache`]
//! remembers good tokens by their hash, so that a signature is verified once and not for each request. Where tokens stand
//! in a request, and what the application sees of them, is the business of `http`.

pub mod cache;
pub mod keys;
#[cfg(test)]
pub(crate) mod testing;
mod token;

use std::sync::Arc;

use pillion_policy::authentication::{JwtKeys, JwtRule};

use self::keys::{KeySource, Keys};
pub use self::token::{Unverified, Verified};
use crate::error::TokenFault;

/// How far clocks may differ, in seconds (Envoy's default).
pub const LEEWAY: f64 = 60.0;

/// The rules of a workload about tokens.
#[derive(Debug)]
pub struct Issuers(Vec<Issuer>);

/// One rule, with its keys.
#[derive(Debug)]
pub struct Issuer {
    rule: JwtRule,
    keys: Arc<KeySource>,
}

impl Issuers {
    /// Compiles rules; `None` when there are none. Keys that were fetched for `previous` rules are kept.
    pub fn new(rules: &[JwtRule], previous: Option<&Self>) -> Option<Arc<Self>> {
        let known = |uri: &str| {
            let sources = previous.into_iter().flat_map(Self::sources);
            sources.into_iter().find(|source| source.uri() == Some(uri)).cloned()
        };
        let issuer = |rule: &JwtRule| {
            let keys = match &rule.keys {
                JwtKeys::Inline(json) => Arc::new(KeySource::inline(json, &rule.issuer)),
                JwtKeys::Remote(uri) => known(uri)
                    .filter(|source| source.timeout() == rule.timeout)
                    .unwrap_or_else(|| Arc::new(KeySource::remote(uri, rule.timeout))),
            };
            Issuer { rule: rule.clone(), keys }
        };
        (!rules.is_empty()).then(|| Arc::new(Self(rules.iter().map(issuer).collect())))
    }

    /// Whether they are compiled from these rules.
    pub fn are(&self, rules: &[JwtRule]) -> bool {
        self.0.iter().map(|issuer| &issuer.rule).eq(rules)
    }

    /// The rules, in the order of the policy.
    pub fn all(&self) -> &[Issuer] {
        &self.0
    }

    /// Where their keys come from.
    pub fn sources(&self) -> impl Iterator<Item = &Arc<KeySource>> {
        self.0.iter().map(|issuer| &issuer.keys)
    }
}

impl Issuer {
    /// The rule.
    pub fn rule(&self) -> &JwtRule {
        &self.rule
    }

    /// Its keys.
    pub fn keys(&self) -> &KeySource {
        &self.keys
    }

    /// Judges a token of this issuer by `keys`, at a time in seconds since 1970.
    pub fn verify(
        &self,
        token: &Unverified<'_>,
        keys: Option<&Arc<Keys>>,
        now: f64,
    ) -> Result<Verified, TokenFault> {
        token.judge(&self.rule, now)?;
        token.verify(keys.ok_or(TokenFault::KeysMissing)?)?;
        Ok(token.proves(&self.rule))
    }
}

#[cfg(test)]
mod tests;
