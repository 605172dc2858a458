//! What ResiliencePolicies say in vain: targets that do not exist or have another policy, and fields that somebody more
//! specific has the word on.
//!
//! A place is a cluster or a rule that a policy could decide about. Each is judged by the very layers it is compiled
//! from, as clients in the namespace of the target see it. A field is reported only when it counts in no place at all.

use std::collections::{BTreeMap, BTreeSet};

use pillion_policy::{
    cluster::Protocol,
    name::{Hostname, Label},
};
use rustc_hash::FxHashMap;

use crate::{
    compile::{Layer, Rules, governing, is_port, of_cluster, of_route, of_target, place},
    index::{Found, Index},
    object::{
        Given, Key, Kind, Object, PolicyTarget, ResiliencePolicy, RouteSettings, Rule, ServicePort, Settings,
        Stored,
    },
    problem::{Path, Problem, Severity},
};

/// Most names of overriders in one remark.
const MAX_NAMED: usize = 3;
/// Fields of clusters that only requests can follow, and not opaque bytes.
const OF_REQUESTS: [&str; 3] = ["retry.budget", "circuitBreaker", "bulkhead"];

/// A rule that leads to a service, and the port; 0 when the client's port decides.
type Leading<'a> = (&'a Stored, &'a Rule, u16);

/// Everything to be said about the policies, which come oldest first.
pub(super) fn check<'a>(index: &'a Index, policies: &[(&'a Stored, &'a ResiliencePolicy)]) -> Vec<Problem> {
    let mut checker =
        Checker { index, leading: FxHashMap::default(), taken: BTreeMap::new(), problems: Vec::new() };
    if !policies.is_empty() {
        checker.find_leading();
    }
    for (stored, policy) in policies {
        checker.policy(stored, policy);
    }
    checker.problems
}

struct Checker<'a> {
    index: &'a Index,
    leading: FxHashMap<Hostname, Vec<Leading<'a>>>,
    /// Which policy has the word on an object or a part of it.
    taken: BTreeMap<(Kind, &'a Label, &'a Label, Option<String>), &'a Stored>,
    problems: Vec<Problem>,
}

/// Where the fields of one policy count, and who overrides them.
#[derive(Default)]
struct Verdicts(BTreeMap<&'static str, Verdict>);

#[derive(Default)]
struct Verdict {
    counts: bool,
    overridden: BTreeSet<String>,
}

impl Verdicts {
    /// Looks who has the word on each field of a place that the policy decides about.
    fn judge<T: Clone>(&mut self, own: &Key, layers: &[Layer<'_, T>], fields: &[Given<T>]) {
        for (field, given) in fields {
            let mut saying = layers.iter().filter(|layer| given(&layer.says));
            let Some(first) = saying.next() else { continue };
            if first.by.is(own) {
                self.0.entry(field).or_default().counts = true;
            } else if saying.any(|layer| layer.by.is(own)) {
                self.0.entry(field).or_default().overridden.insert(first.by.to_string());
            }
        }
    }
}

impl<'a> Checker<'a> {
    fn say(&mut self, severity: Severity, stored: &Stored, path: &str, reason: String) {
        self.problems.push(stored.problem(severity, &Path::parse(path), reason));
    }

    fn find_leading(&mut self) {
        for stored in self.index.objects() {
            let Object::VirtualService(rules) = &stored.object else { continue };
            for rule in rules.rules.iter().filter(|_| rules.mesh) {
                let first = rule.first_destination();
                let found = first.and_then(|first| place(self.index, &stored.key.namespace, first, 0));
                if let Some((service, port)) = found {
                    self.leading.entry(service.host).or_default().push((stored, rule, port));
                }
            }
        }
    }

    fn policy(&mut self, stored: &'a Stored, policy: &'a ResiliencePolicy) {
        let mut verdicts = Verdicts::default();
        for (position, target) in policy.targets.iter().enumerate() {
            let path = format!("spec.targetRefs[{position}]");
            let result = match target.kind {
                Kind::VirtualService => self.rules(stored, target, &mut verdicts),
                _ => self.service(stored, policy, target, &mut verdicts),
            };
            if let Err(reason) = result {
                self.say(Severity::Warning, stored, &path, reason);
            }
        }
        for (field, verdict) in verdicts.0 {
            if verdict.counts || verdict.overridden.is_empty() {
                continue;
            }
            let more = verdict.overridden.len().saturating_sub(MAX_NAMED);
            let mut by: Vec<_> = verdict.overridden.into_iter().take(MAX_NAMED).collect();
            by.extend((more > 0).then(|| format!("{more} more")));
            let plural = if by.len() == 1 { "says so itself" } else { "say so themselves" };
            let reason = format!("not used: {} {plural}", by.join(", "));
            self.say(Severity::Info, stored, &format!("spec.{field}"), reason);
        }
    }

    /// Takes an object, or a part of it, for a policy, unless an older one has it.
    fn claim(
        &mut self,
        stored: &'a Stored,
        target: &'a PolicyTarget,
        section: Option<String>,
    ) -> Result<(), String> {
        let claim = (target.kind, &stored.key.namespace, &target.name, section);
        match self.taken.get(&claim) {
            Some(first) if first.key == stored.key => {
                Err("stands here twice, under several of its names".to_owned())
            }
            Some(first) => Err(format!("not used here: {} has the same target and is older", first.key)),
            None => {
                self.taken.insert(claim, stored);
                Ok(())
            }
        }
    }

    fn service(
        &mut self,
        stored: &'a Stored,
        policy: &ResiliencePolicy,
        target: &'a PolicyTarget,
        verdicts: &mut Verdicts,
    ) -> Result<(), String> {
        let (namespace, name) = (&stored.key.namespace, &target.name);
        let host = self.index.naming().service(namespace.as_str(), name.as_str()).ok();
        let found = host.and_then(|host| self.index.service(&host, ""));
        let found = found.ok_or_else(|| format!("there is no Service {namespace}/{name}"))?;
        let section = target.section.as_deref();
        let concerned = |port: &&ServicePort| section.is_none_or(|section| is_port(section, port));
        let ports: Vec<&ServicePort> = found.service.ports.iter().filter(concerned).collect();
        if let (Some(section), []) = (section, ports.as_slice()) {
            let known = found.service.ports.iter().map(|port| match port.name.as_str() {
                "" => port.port.to_string(),
                name => format!("{} ({name})", port.port),
            });
            let known = known.collect::<Vec<_>>().join(", ");
            return Err(format!("Service {namespace}/{name} has no port {section:?}, its ports: {known}"));
        }
        let part = section.and_then(|_| ports.first()).map(|port| port.port.to_string());
        self.claim(stored, target, part)?;
        self.opaque(stored, policy, &ports);
        for port in ports {
            self.clusters(stored, &found, port, verdicts);
            self.routes(stored, &found, port, verdicts);
        }
        Ok(())
    }

    /// Names what only requests can follow where there are none.
    fn opaque(&mut self, stored: &Stored, policy: &ResiliencePolicy, ports: &[&ServicePort]) {
        if ports.is_empty() || ports.iter().any(|port| port.protocol != Protocol::Tcp) {
            return;
        }
        let cluster = Settings::FIELDS
            .iter()
            .filter(|(field, given)| OF_REQUESTS.contains(field) && given(&policy.cluster));
        let route = RouteSettings::FIELDS.iter().filter(|(_, given)| given(&policy.route));
        let fields: Vec<_> = route.map(|(field, _)| *field).chain(cluster.map(|(field, _)| *field)).collect();
        if !fields.is_empty() {
            let numbers: Vec<_> = ports.iter().map(|port| port.port.to_string()).collect();
            let reason = format!(
                "no effect on port {}, which is TCP and has no requests: {}",
                numbers.join(", "),
                fields.join(", ")
            );
            self.say(Severity::Warning, stored, "spec", reason);
        }
    }

    fn clusters(&self, stored: &Stored, found: &Found<'_>, port: &ServicePort, verdicts: &mut Verdicts) {
        let rules = Rules::find(self.index, found.namespace, found);
        for subset in [None].into_iter().chain(rules.subsets().map(Some)) {
            let layers = of_cluster(self.index, found, port, &rules, subset);
            verdicts.judge(&stored.key, &layers, &Settings::FIELDS);
        }
    }

    fn routes(&self, stored: &Stored, found: &Found<'_>, port: &ServicePort, verdicts: &mut Verdicts) {
        // Whatever rule leads there, the destination limits what comes in.
        let layers = of_target(self.index, found, port);
        verdicts.judge(&stored.key, &layers, &[RouteSettings::RATE_LIMIT]);
        let mut judge = |rule| {
            let layers = of_route(self.index, rule, Some((found, port)));
            verdicts.judge(&stored.key, &layers, &RouteSettings::FIELDS);
        };
        if governing(self.index.virtual_services(&found.names()), found.namespace).is_none() {
            judge(None);
        }
        for (leading, rule, number) in self.leading.get(&found.host).into_iter().flatten() {
            if *number == port.port || *number == 0 {
                judge(Some((&leading.key, rule)));
            }
        }
    }

    fn rules(
        &mut self,
        stored: &'a Stored,
        target: &'a PolicyTarget,
        verdicts: &mut Verdicts,
    ) -> Result<(), String> {
        let (namespace, name) = (&stored.key.namespace, &target.name);
        let found = self.index.virtual_service(namespace, name);
        let (rules_of, rules) =
            found.ok_or_else(|| format!("there is no VirtualService {namespace}/{name}"))?;
        let section = target.section.as_deref();
        let concerned = |rule: &&Rule| section.is_none_or(|section| *section == *rule.section);
        let concerned: Vec<&Rule> = rules.rules.iter().filter(concerned).collect();
        if let (Some(section), []) = (section, concerned.as_slice()) {
            let known: Vec<&str> =
                rules.rules.iter().map(|rule| &*rule.section).filter(|name| !name.is_empty()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(format!("{} has no http rule named {section:?}, its names: {known}", rules_of.key));
        }
        self.claim(stored, target, target.section.clone())?;
        for rule in concerned {
            let first = rule.first_destination();
            let found = first.and_then(|first| place(self.index, namespace, first, 0));
            let port = found.as_ref().and_then(|(service, port)| service.port(*port));
            let target = found.as_ref().map(|(service, _)| service).zip(port);
            let layers = of_route(self.index, Some((&rules_of.key, rule)), target);
            verdicts.judge(&stored.key, &layers, &RouteSettings::FIELDS);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
