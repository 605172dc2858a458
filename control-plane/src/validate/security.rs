//! What policies for workloads say in vain, or otherwise than meant: selectors that pick nobody, an older policy for
//! the same workloads, questions about requests where there are none, an authorizer that nobody can ask, callers told to speak what is refused.
//!
//! Where nothing is known of Pods, somebody checks policies alone, and selectors are not judged.

use std::collections::{BTreeMap, BTreeSet};

use pillion_policy::{
    authentication::PeerTls,
    authorization::{Action, Condition, Operation, Rule, TextKey},
    cluster::{ClusterTls, Labels, Protocol},
    name::Label,
};

use crate::{
    compile::{Level, Workload, target_port},
    index::Index,
    naming::{HostPattern, is_root},
    object::{AuthorizationPolicy, DestinationRule, Kind, Object, PodFacts, Scope, Stored},
    problem::{Path, Problem, Severity},
};

/// Most ports named in one remark.
const MAX_NAMED: usize = 3;

/// Everything to be said about the policies, which come oldest first.
pub(super) fn check<'a>(index: &'a Index, policies: &[&'a Stored]) -> Vec<Problem> {
    if policies.is_empty() {
        return Vec::new();
    }
    let pods = index.objects().filter_map(|stored| match &stored.object {
        Object::Pod(facts) => Some((&**stored, facts)),
        _ => None,
    });
    let believing = policies.iter().filter_map(|stored| match &stored.object {
        Object::RequestAuthentication(policy) if !policy.rules.is_empty() => Some(&stored.key.namespace),
        _ => None,
    });
    let mut checker = Checker {
        index,
        pods: pods.collect(),
        believing: believing.collect(),
        opaque: opaque_ports(index),
        alone: BTreeMap::new(),
        problems: Vec::new(),
    };
    for stored in policies {
        checker.selector(stored);
        match &stored.object {
            Object::PeerAuthentication(policy) => checker.oldest(stored, &policy.scope),
            Object::Telemetry(settings) => checker.oldest(stored, &settings.scope),
            Object::AuthorizationPolicy(policy) => checker.authorization(stored, policy),
            _ => {}
        }
    }
    checker.problems
}

/// What keeps callers who follow a rule from the pods of its host: that its TLS is not theirs.
pub(super) fn mismatch(index: &Index, stored: &Stored, rule: &DestinationRule) -> Option<Problem> {
    let HostPattern::Exact(host) = &rule.host else { return None };
    let service = index.service(host, stored.key.namespace.as_str())?;
    let policy = rule.policy.as_ref()?;
    for port in &service.service.ports {
        let tls = policy.ports.get(&port.port).unwrap_or(&policy.all).tls.as_ref();
        for (pod, facts) in index.pods_of(&service) {
            let Some(number) = target_port(port, facts) else { continue };
            let workload = Workload { namespace: service.namespace, labels: vec![&pod.labels] };
            let (mode, ports) = workload.peer_tls(index);
            let why = match (tls, ports.get(&number).unwrap_or(&mode)) {
                (Some(ClusterTls::Disable), PeerTls::Strict) if facts.sidecar => {
                    "takes mutual TLS only (STRICT)"
                }
                (Some(ClusterTls::Mutual(_)), PeerTls::Disable) => "takes no mutual TLS (DISABLE)",
                (Some(ClusterTls::Mutual(_)), _) if !facts.sidecar => "has no sidecar to take mutual TLS",
                _ => continue,
            };
            let reason = format!(
                "port {} cannot be reached: {}/{} {why}; without tls, what it takes is spoken",
                port.port, service.namespace, facts.workload
            );
            return Some(stored.problem(Severity::Warning, &Path::parse("spec.trafficPolicy"), reason));
        }
    }
    None
}

/// Ports that are declared to carry opaque bytes, by namespace and name of the workload.
type OpaquePorts<'a> = BTreeMap<(&'a Label, &'a Label), BTreeSet<u16>>;

fn opaque_ports(index: &Index) -> OpaquePorts<'_> {
    let mut found = OpaquePorts::new();
    for stored in index.objects() {
        let Object::Service(service) = &stored.object else { continue };
        for port in service.ports.iter().filter(|port| port.protocol == Protocol::Tcp) {
            for (pod, facts) in index.pods_with(&stored.key.namespace, &service.selector) {
                if let Some(number) = target_port(port, facts) {
                    found.entry((&pod.key.namespace, &facts.workload)).or_default().insert(number);
                }
            }
        }
    }
    found
}

/// A policy, and for whom it is.
type Scoped<'a> = (&'a Stored, &'a Scope);

struct Checker<'a> {
    index: &'a Index,
    pods: Vec<(&'a Stored, &'a PodFacts)>,
    /// Namespaces in which tokens are believed.
    believing: BTreeSet<&'a Label>,
    opaque: OpaquePorts<'a>,
    /// Policies seen so far of kinds of which one counts: those of a namespace, and those of the mesh under no name.
    alone: BTreeMap<(Kind, Option<&'a Label>), Vec<Scoped<'a>>>,
    problems: Vec<Problem>,
}

impl<'a> Checker<'a> {
    fn say(&mut self, severity: Severity, stored: &Stored, path: &str, reason: String) {
        self.problems.push(stored.problem(severity, &Path::parse(path), reason));
    }

    /// Names a selector that picks no pod: most likely a label is misspelt.
    fn selector(&mut self, stored: &Stored) {
        let Some(Scope::Labels(labels)) = stored.object.scope() else { return };
        let namespace = &stored.key.namespace;
        let picks_one = self.index.pods_with(namespace, labels).next().is_some()
            || is_root(namespace) && self.pods.iter().any(|(pod, _)| carries(pod, labels));
        if !self.pods.is_empty() && !picks_one {
            let reason = "it selects no Pod: the policy is for nobody".to_owned();
            self.say(Severity::Warning, stored, "spec.selector.matchLabels", reason);
        }
    }

    /// Of policies for the same workloads the oldest counts; both are told.
    fn oldest(&mut self, stored: &'a Stored, scope: &'a Scope) {
        let place = (Level::of(stored, scope) != Level::Mesh).then_some(&stored.key.namespace);
        let known = self.alone.entry((stored.key.kind, place)).or_default();
        let older = known.iter().find(|(_, other)| match (scope, other) {
            (Scope::All, Scope::All) => true,
            (Scope::Labels(own), Scope::Labels(other)) => {
                own == other
                    || self.index.pods_with(&stored.key.namespace, own).any(|(pod, _)| carries(pod, other))
            }
            _ => false,
        });
        let older = older.map(|(older, _)| *older);
        known.push((stored, scope));
        if let Some(older) = older {
            let workloads = match scope {
                Scope::All => "for the same workloads",
                Scope::Labels(_) | Scope::Nobody => "for workloads that it selects, too,",
            };
            let reason = format!("not used there: {} is {workloads} and older", older.key);
            self.say(Severity::Warning, stored, "spec", reason);
            let reason = format!("{} is for the same workloads; this one is older and counts", stored.key);
            self.say(Severity::Warning, older, "spec", reason);
        }
    }

    fn authorization(&mut self, stored: &'a Stored, policy: &'a AuthorizationPolicy) {
        if policy.custom {
            let reason = "CUSTOM is not supported: there is no authorizer to ask, so requests that match its rules are \
                          refused; use ALLOW, DENY or AUDIT";
            self.say(Severity::Error, stored, "spec.action", reason.to_owned());
        }
        let ports = self.opaque_ports(stored, policy);
        for (position, rule) in policy.policy.rules.iter().enumerate() {
            let path = format!("spec.rules[{position}]");
            self.tokens(stored, policy, rule, &path);
            self.opaque(stored, policy.policy.action, (rule, &path), &ports);
        }
    }

    /// The ports without requests of the workloads that a policy is for.
    fn opaque_ports(&self, stored: &Stored, policy: &'a AuthorizationPolicy) -> OpaquePorts<'a> {
        let mut workloads = BTreeSet::new();
        let namespace = &stored.key.namespace;
        let is_root = is_root(namespace);
        match &policy.scope {
            Scope::Nobody => {}
            Scope::All => {
                let all = self.opaque.keys().filter(|(own, _)| is_root || *own == namespace);
                workloads.extend(all.copied());
            }
            Scope::Labels(labels) if is_root => {
                let pods = self.pods.iter().filter(|(pod, _)| carries(pod, labels));
                workloads.extend(pods.map(|(pod, facts)| (&pod.key.namespace, &facts.workload)));
            }
            Scope::Labels(labels) => {
                let pods = self.index.pods_with(namespace, labels);
                workloads.extend(pods.map(|(pod, facts)| (&pod.key.namespace, &facts.workload)));
            }
        }
        let ports = |workload| Some((workload, self.opaque.get(&workload)?.clone()));
        workloads.into_iter().filter_map(ports).collect()
    }

    /// Names rules that ask about tokens where none is believed.
    fn tokens(&mut self, stored: &Stored, policy: &AuthorizationPolicy, rule: &Rule, path: &str) {
        let namespace = &stored.key.namespace;
        let believed = match is_root(namespace) {
            true => !self.believing.is_empty(),
            false => self.believing.iter().any(|believing| *believing == namespace || is_root(believing)),
        };
        let asks = rule.from.iter().any(|source| !source.request_principals.is_empty())
            || rule.when.iter().any(about_token);
        if asks && !believed && policy.scope != Scope::Nobody {
            let reason =
                format!("no RequestAuthentication is for workloads in {namespace}: no token is known there");
            self.say(Severity::Warning, stored, path, reason);
        }
    }

    /// Names rules that ask about requests where opaque bytes are carried.
    fn opaque(
        &mut self,
        stored: &Stored,
        action: Action,
        (rule, path): (&Rule, &str),
        opaque: &OpaquePorts<'a>,
    ) {
        let mut fields = BTreeSet::new();
        let mut ports = Vec::new();
        for ((namespace, workload), numbers) in opaque {
            for port in numbers {
                let asked = of_requests(rule, action, *port);
                if !asked.is_empty() {
                    ports.push(format!("{port} of {namespace}/{workload}"));
                    fields.extend(asked);
                }
            }
        }
        if ports.is_empty() {
            return;
        }
        let more = ports.len().saturating_sub(MAX_NAMED);
        ports.truncate(MAX_NAMED);
        ports.extend((more > 0).then(|| format!("{more} more")));
        let (ports, fields) = (ports.join(", "), fields.into_iter().collect::<Vec<_>>().join(", "));
        let reason = match action {
            Action::Allow => format!(
                "no effect on port {ports}, which is TCP and has no {fields}: nobody is allowed by it"
            ),
            Action::Deny | Action::Audit => {
                format!(
                    "on port {ports}, which is TCP, it matches whatever the {fields}: limit it to other ports"
                )
            }
        };
        self.say(Severity::Warning, stored, path, reason);
    }
}

fn carries(pod: &Stored, labels: &Labels) -> bool {
    labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
}

fn about_token(condition: &Condition) -> bool {
    match condition {
        Condition::Claim { .. } => true,
        Condition::Text { key, .. } => {
            matches!(key, TextKey::TokenPrincipal | TextKey::TokenAudiences | TextKey::TokenPresenter)
        }
        Condition::Header { .. } | Condition::Address { .. } | Condition::Port(_) => false,
    }
}

/// What a rule asks about requests to a port, if it is for that port at all. A rule that allows is left out as a whole
/// where there are no requests, whichever of its operations asks about them.
fn of_requests(rule: &Rule, action: Action, port: u16) -> BTreeSet<&'static str> {
    let is_for_port = |operation: &Operation| {
        let ports = &operation.ports;
        (ports.any_of.is_empty() || ports.any_of.contains(&port)) && !ports.none_of.contains(&port)
    };
    if !rule.to.is_empty() && !rule.to.iter().any(is_for_port) {
        return BTreeSet::new();
    }
    let operations = rule.to.iter().filter(|operation| action == Action::Allow || is_for_port(operation));
    let of_operations = operations.flat_map(|operation| {
        [
            ("hosts", !operation.hosts.is_empty()),
            ("methods", !operation.methods.is_empty()),
            ("paths", !operation.paths.is_empty()),
        ]
    });
    let of_sources =
        rule.from.iter().map(|source| ("requestPrincipals", !source.request_principals.is_empty()));
    let of_conditions = rule.when.iter().map(|condition| {
        let header = matches!(condition, Condition::Header { .. });
        (if header { "headers" } else { "tokens" }, header || about_token(condition))
    });
    let asked = of_operations.chain(of_sources).chain(of_conditions);
    asked.filter(|(_, asked)| *asked).map(|(field, _)| field).collect()
}

#[cfg(test)]
mod tests;
