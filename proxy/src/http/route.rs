//! Which rule a request falls under: the first that matches, in the order of the policy.

use pillion_policy::{
    matching::{Head, RouteMatch},
    route::Route,
};

use crate::view::{Destination, LiveRoute};

/// The rule found, its living clusters, and the alternative of it that matched.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// The rule.
    pub route: &'a Route,
    /// Its clusters.
    pub live: &'a LiveRoute,
    /// The alternative; `None` when the rule has no conditions.
    pub matched: Option<&'a RouteMatch>,
}

/// Finds the rule for a request.
pub fn find<'a>(destination: &'a Destination, head: &Head<'_>) -> Option<Found<'a>> {
    let mut rules = destination.policy().routes().iter().zip(destination.routes());
    rules.find_map(|(route, live)| route.matched(head).map(|matched| Found { route, live, matched }))
}
