//! Figures of who was let in: what authorization decided, what became of tokens, and whether issuers' keys can be had.
//!
//! Nothing here is labelled by policy, caller or issuer, so that the number of series is fixed.

use super::{
    counter::Counter,
    exposition::{Audience, Kind},
};

/// Decisions of authorization and authentication.
#[derive(Debug, Default)]
pub struct AccessStats {
    /// Requests and opaque connections that policies let in.
    pub allowed: Counter,
    /// Those a policy denied.
    pub denied: Counter,
    /// Those no policy allowed.
    pub denied_by_default: Counter,
    /// Those an AUDIT policy noted.
    pub audited: Counter,
    /// Connections and requests under way that a new policy broke off.
    pub broken_off: Counter,
    /// Tokens that proved something.
    pub tokens_accepted: Counter,
    /// Tokens that did not.
    pub tokens_refused: Counter,
    /// Key sets fetched.
    pub keys_fetched: Counter,
    /// Key sets that could not be fetched.
    pub keys_failed: Counter,
}

impl AccessStats {
    pub(super) fn write(&self, out: &mut impl Audience) {
        let authorization = [
            ("allowed", &self.allowed),
            ("denied", &self.denied),
            ("denied_by_default", &self.denied_by_default),
            ("audited", &self.audited),
            ("broken_off", &self.broken_off),
        ];
        let tokens = [("accepted", &self.tokens_accepted), ("refused", &self.tokens_refused)];
        let keys = [("fetched", &self.keys_fetched), ("failed", &self.keys_failed)];
        let help = "Requests and opaque connections by what policies said, where there are any.";
        for (name, help, results) in [
            ("pillion_authorization_total", help, &authorization[..]),
            ("pillion_tokens_total", "Tokens of callers by what became of them.", &tokens),
            ("pillion_key_sets_total", "Attempts to fetch the keys of issuers.", &keys),
        ] {
            out.family(name, Kind::Counter, help);
            for (result, counter) in results {
                out.sample(name, &[("result", *result)], counter.get());
            }
        }
    }
}
