//! What shows only when objects are seen together: names that lead nowhere, and rules that contradict each other.
//!
//! One function serves `pillion validate` and `/status`, so their verdicts cannot differ. An object reported here stays
//! in force: what of it works, works, and what leads nowhere answers with the same reason.

mod policies;
mod security;

use std::collections::BTreeMap;

use crate::{
    api::PortRef,
    compile::{Missing, resolve},
    index::Index,
    naming::{Exported, HostPattern},
    object::{Action, Destination, DestinationRule, Kind, Object, Service, Stored, VirtualService},
    problem::{Path, Problem, Severity},
};

/// Every problem of the objects in force: what was noted when they were read, and what they do to each other.
pub(crate) fn check(index: &Index) -> Vec<Problem> {
    let mut checker = Checker { index, has_services: false, taken: BTreeMap::new(), problems: Vec::new() };
    checker.has_services = index.objects().any(|stored| stored.key.kind == Kind::Service);
    let mut rules: Vec<&Stored> = Vec::new();
    let mut policies = Vec::new();
    let mut for_workloads: Vec<&Stored> = Vec::new();
    for stored in index.objects() {
        checker.problems.extend(stored.notes.iter().cloned());
        match &stored.object {
            Object::Service(service) => checker.service(stored, service),
            Object::VirtualService(_) | Object::DestinationRule(_) => rules.push(stored),
            Object::ResiliencePolicy(policy) => policies.push((&**stored, &**policy)),
            Object::PeerAuthentication(_)
            | Object::RequestAuthentication(_)
            | Object::AuthorizationPolicy(_)
            | Object::Telemetry(_) => for_workloads.push(stored),
            Object::EndpointSlice(_) | Object::Pod(_) => {}
        }
    }
    rules.sort_by(|a, b| a.age().cmp(&b.age()));
    for stored in rules {
        match &stored.object {
            Object::VirtualService(rules) => checker.virtual_service(stored, rules),
            Object::DestinationRule(rule) => checker.destination_rule(stored, rule),
            _ => {}
        }
    }
    policies.sort_by(|(a, _), (b, _)| a.age().cmp(&b.age()));
    checker.problems.extend(policies::check(index, &policies));
    for_workloads.sort_by(|a, b| a.age().cmp(&b.age()));
    checker.problems.extend(security::check(index, &for_workloads));
    checker.problems
}

/// A rule, and the clients that see it.
type Claim<'a> = (&'a Stored, &'a Exported);

struct Checker<'a> {
    index: &'a Index,
    /// Without any service there is nothing to compare hosts with: somebody checks rules alone.
    has_services: bool,
    /// Who has the word on a host, oldest first: for VirtualServices everywhere, for DestinationRules in one namespace.
    taken: BTreeMap<(Kind, HostPattern, &'a str), Vec<Claim<'a>>>,
    problems: Vec<Problem>,
}

impl<'a> Checker<'a> {
    fn say(&mut self, severity: Severity, stored: &Stored, path: &str, reason: String) {
        self.problems.push(stored.problem(severity, &Path::parse(path), reason));
    }

    fn service(&mut self, stored: &Stored, service: &Service) {
        let host = self.index.naming().service(stored.key.namespace.as_str(), stored.key.name.as_str());
        let Some(found) = host.ok().and_then(|host| self.index.service(&host, "")) else { return };
        for (position, port) in service.ports.iter().enumerate() {
            let mut pods = self.index.pods_of(&found).peekable();
            if let PortRef::Name(name) = &port.target
                && pods.peek().is_some()
                && pods.all(|(_, pod)| !pod.ports.contains_key(name))
            {
                let reason = format!("no Pod the service selects has a container port called {name:?}");
                self.say(Severity::Warning, stored, &format!("spec.ports[{position}].targetPort"), reason);
            }
        }
        if !service.external && self.index.slices(&found).next().is_none() {
            let reason = match (service.selector.is_empty(), self.index.pods_of(&found).next()) {
                (_, Some(_)) => return,
                (true, None) => {
                    "it has neither a selector nor an EndpointSlice: requests to it are answered 503"
                }
                (false, None) => {
                    "it selects no Pod and has no EndpointSlice: requests to it are answered 503"
                }
            };
            self.say(Severity::Warning, stored, "spec.selector", reason.to_owned());
        }
    }

    /// Takes a host for a rule; returns the older rule that has it for some of the same clients.
    fn claim(
        &mut self,
        kind: Kind,
        host: &HostPattern,
        namespace: &'a str,
        stored: &'a Stored,
        exported: &'a Exported,
    ) -> Option<&'a Stored> {
        // A service goes by several names, all of which are the same host.
        let found = match host {
            HostPattern::Exact(host) => self.index.service(host, ""),
            HostPattern::Suffix(_) => None,
        };
        let host = found.map_or_else(|| host.clone(), |found| HostPattern::Exact(found.host));
        let claims = self.taken.entry((kind, host, namespace)).or_default();
        let first = claims.iter().find(|(_, other)| other.overlaps(exported)).map(|(first, _)| *first);
        claims.push((stored, exported));
        first
    }

    fn virtual_service(&mut self, stored: &'a Stored, rules: &'a VirtualService) {
        for (position, host) in rules.hosts.iter().enumerate() {
            if !rules.mesh || rules.rules.is_empty() {
                continue;
            }
            if let Some(first) = self.claim(Kind::VirtualService, host, "", stored, &rules.exported) {
                let by_itself = format!("{host} stands here twice, under several of its names");
                let by_other = format!(
                    "{host} already has {} ({}:{}), the older one wins: these rules are not used for it",
                    first.key, first.origin.file, first.origin.line
                );
                let reason = if first.key == stored.key { by_itself } else { by_other };
                self.say(Severity::Error, stored, &format!("spec.hosts[{position}]"), reason);
            } else if let HostPattern::Exact(name) = host
                && self.has_services
                && self.index.naming().is_of_cluster(name)
                && self.index.service(name, "").is_none()
            {
                let reason = format!("there is no Service {name}");
                self.say(Severity::Warning, stored, &format!("spec.hosts[{position}]"), reason);
            }
        }
        for rule in &rules.rules {
            let backends = match &rule.action {
                Action::Forward { backends, .. } => backends.as_slice(),
                Action::Redirect(_) | Action::Respond(_) => &[],
            };
            let destinations = backends.iter().map(|backend| &backend.destination);
            for destination in destinations.chain(rule.mirrors.iter().map(|mirror| &mirror.destination)) {
                self.destination(stored, rules, destination);
            }
        }
    }

    /// Says where a destination leads nowhere, as clients in the rule's own namespace see it.
    fn destination(&mut self, stored: &Stored, rules: &VirtualService, destination: &Destination) {
        // A destination without a port means the port the client came for, which is any the host has.
        let port = self.ports(rules, destination);
        let Err(missing) = resolve(self.index, &stored.key.namespace, destination, port) else { return };
        let field = match &missing {
            Missing::Host(_) | Missing::External(_) => "host",
            Missing::Port(..) if destination.port.is_none() => return,
            Missing::Port(..) => "port",
            Missing::Subset(..) => "subset",
        };
        // A rule that leads to its own host may be for one that is described elsewhere; another host is a mistake.
        let own = rules.hosts.iter().any(|host| *host == HostPattern::Exact(destination.host.clone()));
        let unknowable = matches!(missing, Missing::Host(_)) && (own || !self.has_services);
        let severity = if unknowable { Severity::Warning } else { Severity::Error };
        let path = destination.path.then(field);
        self.problems.push(stored.problem(severity, &path, format!("{missing}: its share is answered 503")));
        if unknowable && let Some(subset) = &destination.subset {
            self.undefined_subset(stored, destination, subset.as_str());
        }
    }

    fn ports(&self, rules: &VirtualService, destination: &Destination) -> u16 {
        let hosts = rules.hosts.iter().filter_map(|host| match host {
            HostPattern::Exact(host) => Some(host),
            HostPattern::Suffix(_) => None,
        });
        let mut services = hosts.chain([&destination.host]).filter_map(|host| self.index.service(host, ""));
        services.find_map(|found| found.service.ports.first().map(|port| port.port)).unwrap_or_default()
    }

    /// Compares a subset with the rules alone, where there are no services to ask about.
    fn undefined_subset(&mut self, stored: &Stored, destination: &Destination, subset: &str) {
        let rules = self.index.destination_rules(std::slice::from_ref(&destination.host));
        let subsets = rules.iter().flat_map(|(_, _, rule)| &rule.subsets);
        let defined = subsets.clone().any(|known| known.name.as_str() == subset);
        if !defined {
            let known: Vec<&str> = subsets.map(|subset| subset.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let reason = format!(
                "no DestinationRule defines subset {subset} of {}, its subsets: {known}: its share is answered 503",
                destination.host
            );
            self.problems.push(stored.problem(Severity::Error, &destination.path.then("subset"), reason));
        }
    }

    fn destination_rule(&mut self, stored: &'a Stored, rule: &'a DestinationRule) {
        let namespace = stored.key.namespace.as_str();
        let first = self.claim(Kind::DestinationRule, &rule.host, namespace, stored, &rule.exported);
        if let Some(first) = first
            && rule.policy.is_some()
        {
            let reason =
                format!("not used: {} has the same host and is older; only its subsets are added", first.key);
            self.say(Severity::Warning, stored, "spec.trafficPolicy", reason);
        }
        self.problems.extend(security::mismatch(self.index, stored, rule));
        if let HostPattern::Exact(host) = &rule.host
            && self.has_services
            && self.index.service(host, stored.key.namespace.as_str()).is_none()
        {
            self.say(Severity::Warning, stored, "spec.host", format!("there is no Service {host}"));
        }
    }
}

#[cfg(test)]
mod tests;
