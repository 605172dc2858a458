//! Who has the word: everything said about a cluster or a rule, the most specific first.
//!
//! A block that one layer gives hides the same block of all behind it; what no layer gives is the default. Compiling
//! merges the layers, and checking reads off them which policy is overridden by whom, so the two cannot disagree.

use std::{borrow::Cow, fmt};

use pillion_policy::{
    name::Label,
    resilience::{RateLimit, RateLimitKey},
};

use super::destination::Rules;
use crate::{
    index::{Found, Index},
    object::{
        Key, Kind, ResiliencePolicy, RouteSettings, Rule, ServicePort, Settings, Stored, Subset, Traffic,
    },
};

/// What one object says.
pub(crate) struct Layer<'a, T: Clone> {
    pub(crate) by: By<'a>,
    pub(crate) says: Cow<'a, T>,
}

/// Who says it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum By<'a> {
    Object(&'a Key),
    Rule(&'a Rule),
}

impl By<'_> {
    /// Whether it is the object of that key.
    pub(crate) fn is(&self, key: &Key) -> bool {
        matches!(self, Self::Object(own) if *own == key)
    }
}

impl fmt::Display for By<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(key) => write!(f, "{key}"),
            Self::Rule(rule) => f.write_str(&rule.name),
        }
    }
}

/// What is said about the cluster of a port, or of a subset of it.
pub(crate) fn of_cluster<'a>(
    index: &'a Index,
    service: &Found<'_>,
    port: &ServicePort,
    rules: &Rules<'a>,
    subset: Option<(&'a Key, &'a Subset)>,
) -> Vec<Layer<'a, Settings>> {
    let traffic = |key, traffic: &'a Traffic| (By::Object(key), traffic.ports.get(&port.port), &traffic.all);
    let subset = subset.and_then(|(key, subset)| subset.policy.as_ref().map(|policy| traffic(key, policy)));
    let host = rules.policy().map(|(key, policy)| traffic(key, policy));
    // A block for the port stands in place of the one for all ports, but for the budget, which ports cannot have.
    let all = |(by, _, all): (By<'a>, Option<&'a Settings>, &'a Settings), replaced: bool| {
        let budget = || Settings { budget: all.budget, ..Settings::default() };
        Layer { by, says: if replaced { Cow::Owned(budget()) } else { Cow::Borrowed(all) } }
    };
    let own = |(by, own, _): (By<'a>, Option<&'a Settings>, &'a Settings)| {
        Some(Layer { by, says: Cow::Borrowed(own?) })
    };
    let subset_port = subset.and_then(own);
    let replaced = subset_port.is_some();
    let host_port = host.and_then(own).filter(|_| !replaced);
    let host_replaced = replaced || host_port.is_some();
    let policy = |(stored, policy): (&'a Stored, &'a ResiliencePolicy)| Layer {
        by: By::Object(&stored.key),
        says: Cow::Borrowed(&policy.cluster),
    };
    [
        subset_port,
        subset.map(|subset| all(subset, replaced)),
        of_port(index, service, port).map(policy),
        host_port,
        of_service(index, service).map(policy),
        host.map(|host| all(host, host_replaced)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What is said about the requests of a rule, or of a service that has none; `target` is where they go first of all.
pub(crate) fn of_route<'a>(
    index: &'a Index,
    rule: Option<(&'a Key, &'a Rule)>,
    target: Option<(&Found<'_>, &ServicePort)>,
) -> Vec<Layer<'a, RouteSettings>> {
    // A breaker is the rule's own only when the policy is for the rule.
    let of_rule = |(stored, policy): (&'a Stored, &'a ResiliencePolicy)| {
        let breaker = policy.cluster.breaker.clone();
        Layer {
            by: By::Object(&stored.key),
            says: Cow::Owned(RouteSettings { breaker, ..policy.route.clone() }),
        }
    };
    let mut of_target = target.map(|(service, port)| of_target(index, service, port)).unwrap_or_default();
    // Callers have one client each: only the destination can tell its clients apart.
    if limit(&of_target).is_some_and(is_of_clients) {
        for layer in &mut of_target {
            layer.says.to_mut().rate_limit = None;
        }
    }
    let named = |(key, rule): (&Key, &Rule), whole: bool| {
        let fits = |section: Option<&str>| match section {
            Some(section) => !whole && *section == *rule.section,
            None => whole,
        };
        policy_for(index, Kind::VirtualService, &key.namespace, &key.name, fits)
    };
    [
        rule.and_then(|rule| named(rule, false)).map(of_rule),
        rule.map(|(_, rule)| Layer { by: By::Rule(rule), says: Cow::Borrowed(&rule.limits) }),
        rule.and_then(|rule| named(rule, true)).map(of_rule),
    ]
    .into_iter()
    .flatten()
    .chain(of_target)
    .collect()
}

/// What is said about all requests that come to a port, whatever rule has led them there.
pub(crate) fn of_target<'a>(
    index: &'a Index,
    service: &Found<'_>,
    port: &ServicePort,
) -> Vec<Layer<'a, RouteSettings>> {
    let policies = [of_port(index, service, port), of_service(index, service)];
    let layer = |(stored, policy): (&'a Stored, &'a ResiliencePolicy)| Layer {
        by: By::Object(&stored.key),
        says: Cow::Borrowed(&policy.route),
    };
    policies.into_iter().flatten().map(layer).collect()
}

/// The rate limit that has the word.
pub(crate) fn limit<'a>(layers: &'a [Layer<'_, RouteSettings>]) -> Option<&'a RateLimit> {
    layers.iter().find_map(|layer| layer.says.rate_limit.as_ref())
}

/// Whether each client is limited by itself.
fn is_of_clients(limit: &RateLimit) -> bool {
    matches!(limit.key, Some(RateLimitKey::Peer | RateLimitKey::ClientAddress))
}

/// Whether a policy means the port by this text.
pub(crate) fn is_port(section: &str, port: &ServicePort) -> bool {
    section == port.name || section.parse() == Ok(port.port)
}

fn of_port<'a>(
    index: &'a Index,
    service: &Found<'_>,
    port: &ServicePort,
) -> Option<(&'a Stored, &'a ResiliencePolicy)> {
    let fits = |section: Option<&str>| section.is_some_and(|section| is_port(section, port));
    policy_for(index, Kind::Service, service.namespace, service.name, fits)
}

fn of_service<'a>(index: &'a Index, service: &Found<'_>) -> Option<(&'a Stored, &'a ResiliencePolicy)> {
    policy_for(index, Kind::Service, service.namespace, service.name, |section| section.is_none())
}

/// Of the policies for one target the oldest.
fn policy_for<'a>(
    index: &'a Index,
    kind: Kind,
    namespace: &Label,
    name: &Label,
    fits: impl Fn(Option<&str>) -> bool,
) -> Option<(&'a Stored, &'a ResiliencePolicy)> {
    index.policies(kind, namespace, name).into_iter().find(|(_, policy)| {
        let mut targets = policy.targets.iter().filter(|target| target.kind == kind && target.name == *name);
        targets.any(|target| fits(target.section.as_deref()))
    })
}
