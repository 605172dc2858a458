//! What happens to a request that a rule is for.

use std::{sync::Arc, time::Duration};

use http::HeaderName;
use serde::{Deserialize, Serialize};

use crate::{
    Invalid, body_text, header,
    header::Edits,
    matching::{Head, RouteMatch, StringMatch},
    name::ClusterName,
    pattern::{Pattern, Substitution},
    ratio::Fraction,
    resilience::RouteResilience,
};

/// Largest body a route may answer with: 1 MiB, as Istio's DirectResponse allows.
pub const MAX_RESPONSE_BODY: usize = 1 << 20;

/// One rule of a destination: for whom, what, and what is changed on the way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Where the rule comes from, as in `VirtualService default/order-service http[0]`; for logs and dumps.
    pub name: Arc<str>,
    /// Alternatives; an empty list is for every request.
    pub matches: Vec<RouteMatch>,
    /// What is done.
    pub action: Action,
    /// Edits to the request before it leaves.
    pub request_headers: Edits,
    /// Edits to the response before it returns.
    pub response_headers: Edits,
    /// Time from the arrival of the request head to the end of the response; absent means no limit.
    pub timeout: Option<Duration>,
    /// Copies sent elsewhere.
    pub mirrors: Vec<Mirror>,
    /// Cross-origin rules.
    pub cors: Option<Cors>,
    /// What is done about failure.
    #[serde(default)]
    pub resilience: RouteResilience,
}

/// What is done with a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Action {
    /// Sent on to a cluster.
    Forward(Forward),
    /// Answered with a redirection.
    Redirect(Redirect),
    /// Answered as written in the policy.
    Respond(DirectResponse),
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Forward {
    /// The destinations and their shares.
    pub backends: Backends,
    /// A new path, if any.
    pub path: Option<PathRewrite>,
    /// A new `Host`/`:authority`, if any.
    pub authority: Option<header::Field>,
}

/// A non-empty list of destinations of which at least one takes traffic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<Backend>", into = "Vec<Backend>")]
pub struct Backends {
    all: Vec<Backend>,
    total: u64,
}

/// One destination of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backend {
    /// The cluster, or what stands in its place when the policy names none that exists.
    pub target: Target,
    /// Share of the traffic, relative to the sum over the rule.
    pub weight: u32,
    /// Edits made after those of the rule.
    pub request_headers: Edits,
    /// Edits made after those of the rule.
    pub response_headers: Edits,
    /// A new `Host`/`:authority`, before that of the rule.
    #[serde(default)]
    pub authority: Option<header::Field>,
}

/// What a destination resolves to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Target {
    /// A cluster defined beside the route.
    Cluster(ClusterName),
    /// A destination that does not exist; its share is answered with 503 and this reason.
    Missing(Arc<str>),
}

/// How the path is changed. The query is always kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum PathRewrite {
    /// Replaces what the rule matched: the prefix of a prefix match, else the whole path. A plain substitution.
    Matched(String),
    /// Replaces the whole path.
    Whole(String),
    /// Replaces every match of an expression.
    Regex {
        /// What is looked for.
        pattern: Pattern,
        /// What it is replaced by.
        substitution: Substitution,
    },
}

/// A redirection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Redirect {
    /// Status: 301, 302, 303, 307 or 308.
    pub code: u16,
    /// New scheme; the request's own when absent.
    pub scheme: Option<String>,
    /// New host; the request's own when absent.
    pub host: Option<String>,
    /// Which port stands in the location.
    pub port: RedirectPort,
    /// New path; the request's own when absent.
    pub path: Option<PathRewrite>,
}

/// The port of a redirection's location. 80 for `http` and 443 for `https` are left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum RedirectPort {
    /// The default port of the location's scheme.
    #[default]
    SchemeDefault,
    /// The port the request came in on.
    Request,
    /// This one.
    Number(u16),
}

/// A response that stands in the policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DirectResponse {
    /// Status, 200 to 599.
    pub status: u16,
    /// Body, at most [`MAX_RESPONSE_BODY`].
    #[serde(with = "body_text")]
    pub body: Arc<[u8]>,
}

/// A copy of the request sent to another cluster, whose answer is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    /// Where the copy goes.
    pub target: Target,
    /// Share of the requests that are copied.
    pub fraction: Fraction,
}

/// Cross-origin resource sharing (the Fetch standard's CORS protocol).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cors {
    /// Origins that may ask.
    pub allow_origins: Vec<StringMatch>,
    /// Methods named in answers to preflights.
    pub allow_methods: Vec<String>,
    /// Header names named in answers to preflights.
    #[serde(with = "header::names_text")]
    pub allow_headers: Vec<HeaderName>,
    /// Response headers a page may read.
    #[serde(with = "header::names_text")]
    pub expose_headers: Vec<HeaderName>,
    /// How long a preflight may be cached.
    pub max_age: Option<Duration>,
    /// Whether credentials may be sent.
    pub allow_credentials: bool,
    /// Whether a preflight from an unknown origin is passed to the application instead of being answered here.
    pub forward_unmatched_preflights: bool,
}

impl Route {
    /// The alternative that the request satisfies; `Some(None)` when the rule has no conditions.
    pub fn matched(&self, head: &Head<'_>) -> Option<Option<&RouteMatch>> {
        if self.matches.is_empty() {
            return Some(None);
        }
        self.matches.iter().find(|entry| entry.matches(head)).map(Some)
    }

    /// Whether every request satisfies the rule.
    pub fn is_catch_all(&self) -> bool {
        self.matches.is_empty() || self.matches.iter().any(RouteMatch::is_catch_all)
    }
}

impl Backends {
    /// Refuses an empty list, and a list of several in which no weight is positive. A single destination takes all
    /// traffic whatever its weight says, as in Istio.
    pub fn new(mut all: Vec<Backend>) -> Result<Self, Invalid> {
        if let [only] = all.as_mut_slice() {
            only.weight = only.weight.max(1);
        }
        let total = all.iter().map(|backend| u64::from(backend.weight)).sum();
        match (all.len(), total) {
            (0, _) => Err(Invalid::new("names no destination")),
            (_, 0) => Err(Invalid::new("all weights are 0: no destination would take traffic")),
            _ => Ok(Self { all, total }),
        }
    }

    /// All destinations, also those of weight 0.
    pub fn all(&self) -> &[Backend] {
        &self.all
    }

    /// Sum of the weights, at least 1.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The destination whose share covers `point`, taken modulo the total; its index in [`Backends::all`].
    pub fn pick(&self, point: u64) -> usize {
        let mut left = point % self.total;
        for (index, backend) in self.all.iter().enumerate() {
            let weight = u64::from(backend.weight);
            if left < weight {
                return index;
            }
            left -= weight;
        }
        0
    }
}

impl TryFrom<Vec<Backend>> for Backends {
    type Error = Invalid;

    fn try_from(all: Vec<Backend>) -> Result<Self, Invalid> {
        Self::new(all)
    }
}

impl From<Backends> for Vec<Backend> {
    fn from(backends: Backends) -> Self {
        backends.all
    }
}

impl Redirect {
    /// Refuses codes that are no redirection.
    pub fn check(&self) -> Result<(), Invalid> {
        match self.code {
            301 | 302 | 303 | 307 | 308 => Ok(()),
            code => Err(Invalid::new(format!("{code} is no redirection: use 301, 302, 303, 307 or 308"))),
        }
    }
}

impl DirectResponse {
    /// Refuses statuses outside 200 to 599 and bodies over [`MAX_RESPONSE_BODY`].
    pub fn check(&self) -> Result<(), Invalid> {
        if !(200..=599).contains(&self.status) {
            return Err(Invalid::new(format!("{} is not a status between 200 and 599", self.status)));
        }
        if self.body.len() > MAX_RESPONSE_BODY {
            return Err(Invalid::new(format!(
                "the body has {} bytes, at most {MAX_RESPONSE_BODY} are allowed",
                self.body.len()
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(weight: u32) -> Backend {
        Backend {
            target: Target::Missing("test".into()),
            weight,
            request_headers: Edits::default(),
            response_headers: Edits::default(),
            authority: None,
        }
    }

    #[test]
    fn shares_are_exact_over_a_period() {
        let backends = Backends::new(vec![backend(90), backend(0), backend(10)]).unwrap();
        let mut counts = [0; 3];
        for point in 0..backends.total() {
            counts[backends.pick(point)] += 1;
        }
        assert_eq!(counts, [90, 0, 10]);
    }

    #[test]
    fn a_single_destination_takes_all() {
        assert_eq!(Backends::new(vec![backend(0)]).unwrap().pick(17), 0);
    }

    #[test]
    fn nothing_to_send_to_is_refused() {
        assert!(Backends::new(vec![]).is_err());
        assert!(Backends::new(vec![backend(0), backend(0)]).is_err());
    }
}
