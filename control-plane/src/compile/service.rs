//! The policy of a host and port as a client names them: its VirtualService's rules, or one default route.

use std::{sync::Arc, time::Duration};

use pillion_policy::{
    cluster::{Cluster, Labels},
    header::Edits,
    name::{DestinationName, Label},
    resilience::RouteResilience,
    route::{self, Backends, Forward, Route, Target},
    service::{ServicePolicy, ServiceRef},
};

use super::{
    destination::{Missing, cluster, place, resolve},
    layers::{Layer, of_route},
};
use crate::{
    index::{Found, Index},
    object::{Action, Backend, Destination, Key, Match, Mirror, RouteSettings, Rule, Stored, VirtualService},
};

/// The policy for a destination, or nothing when neither a service nor a rule names it. `labels` are those of the
/// client, where its pods are known.
pub(crate) fn service_policy(
    index: &Index,
    name: &DestinationName,
    labels: Option<&Labels>,
) -> Option<ServicePolicy> {
    let namespace = &name.namespace;
    let service = index.service(&name.host, namespace.as_str());
    let hosts = match &service {
        Some(found) => found.names(),
        None => vec![index.naming().qualify(name.host.as_str(), namespace.as_str()).ok()?],
    };
    let rules = governing(index.virtual_services(&hosts), namespace);
    let mut builder = Builder { index, namespace, labels, port: name.port, clusters: Vec::new() };
    let routes: Vec<Route> = match (rules, &service) {
        (Some((stored, rules)), _) => {
            rules.rules.iter().filter_map(|rule| builder.route(&stored.key, rule)).collect()
        }
        (None, Some(found)) if !found.service.external => vec![builder.default_route(found)?],
        (None, _) => return None,
    };
    let declared = service.as_ref().and_then(|found| found.port(name.port)).map(|port| port.protocol);
    let reference = service.map(|found| ServiceRef {
        host: found.host,
        name: found.name.clone(),
        namespace: found.namespace.clone(),
    });
    let policy =
        ServicePolicy::new(name.clone(), reference, declared.unwrap_or_default(), routes, builder.clusters);
    policy.inspect_err(|error| tracing::error!(%name, %error, "a policy does not hold together")).ok()
}

/// The timeout of a rule and what it does about failure.
fn merged(layers: &[Layer<'_, RouteSettings>]) -> (Option<Duration>, RouteResilience) {
    let settings = layers.iter().fold(RouteSettings::default(), |settings, layer| settings.or(&layer.says));
    let (breaker, fallback) = settings.breaker.map(|breaker| (breaker.circuit, breaker.fallback)).unzip();
    let resilience = RouteResilience {
        retry: settings.retry,
        breaker,
        fallback: fallback.flatten(),
        rate_limit: settings.rate_limit,
        fault: settings.fault.unwrap_or_default(),
    };
    (settings.timeout.filter(|timeout| !timeout.is_zero()), resilience)
}

/// Of the VirtualServices a client sees, the one that names the host most closely; among equals the oldest.
pub(crate) fn governing<'a>(
    mut rules: Vec<(usize, &'a Arc<Stored>, &'a VirtualService)>,
    client: &Label,
) -> Option<(&'a Stored, &'a VirtualService)> {
    rules.retain(|(_, _, rules)| rules.governs(client.as_str()));
    rules.sort_by(|(a, first, _), (b, second, _)| b.cmp(a).then_with(|| first.age().cmp(&second.age())));
    rules.first().map(|(_, stored, rules)| (&***stored, *rules))
}

struct Builder<'a> {
    index: &'a Index,
    namespace: &'a Label,
    labels: Option<&'a Labels>,
    port: u16,
    clusters: Vec<Cluster>,
}

impl Builder<'_> {
    /// The rule for this client and port, or nothing when none of its matches is for them.
    fn route(&mut self, key: &Key, rule: &Rule) -> Option<Route> {
        let concerns = |entry: &&Match| {
            let carries = |(key, value)| self.labels.is_some_and(|labels| labels.get(key) == Some(value));
            entry.applies
                && entry.labels.iter().all(carries)
                && entry.port.is_none_or(|port| port == self.port)
                && entry.namespace.as_ref().is_none_or(|namespace| namespace == self.namespace)
        };
        let matches: Vec<_> =
            rule.matches.iter().filter(concerns).map(|entry| entry.request.clone()).collect();
        if matches.is_empty() && !rule.matches.is_empty() {
            return None;
        }
        let action = match &rule.action {
            Action::Forward { backends, path, authority } => {
                let backends = backends.iter().map(|backend| self.backend(backend)).collect();
                // Rules with no traffic to give are refused when they are read.
                let backends = Backends::new(backends).ok()?;
                route::Action::Forward(Forward { backends, path: path.clone(), authority: authority.clone() })
            }
            Action::Redirect(redirect) => route::Action::Redirect(redirect.clone()),
            Action::Respond(response) => route::Action::Respond(response.clone()),
        };
        let first = rule.first_destination();
        let found = first.and_then(|first| place(self.index, self.namespace, first, self.port));
        let port = found.as_ref().and_then(|(service, port)| service.port(*port));
        let target = found.as_ref().map(|(service, _)| service).zip(port);
        let (timeout, resilience) = merged(&of_route(self.index, Some((key, rule)), target));
        Some(Route {
            name: rule.name.clone(),
            matches,
            action,
            request_headers: rule.request_headers.clone(),
            response_headers: rule.response_headers.clone(),
            timeout,
            mirrors: rule.mirrors.iter().map(|mirror| self.mirror(mirror)).collect(),
            cors: rule.cors.clone(),
            resilience,
        })
    }

    fn default_route(&mut self, service: &Found<'_>) -> Option<Route> {
        let target = self.target(cluster(self.index, self.namespace, service, self.port, None));
        let backend = route::Backend {
            target,
            weight: 1,
            request_headers: Edits::default(),
            response_headers: Edits::default(),
            authority: None,
        };
        let backends = Backends::new(vec![backend]).ok()?;
        let port = service.port(self.port);
        let (timeout, resilience) = merged(&of_route(self.index, None, port.map(|port| (service, port))));
        Some(Route {
            name: format!("Service {}/{}", service.namespace, service.name).into(),
            matches: Vec::new(),
            action: route::Action::Forward(Forward { backends, path: None, authority: None }),
            request_headers: Edits::default(),
            response_headers: Edits::default(),
            timeout,
            mirrors: Vec::new(),
            cors: None,
            resilience,
        })
    }

    fn backend(&mut self, backend: &Backend) -> route::Backend {
        route::Backend {
            target: self.named(&backend.destination),
            weight: backend.weight,
            request_headers: backend.request_headers.clone(),
            response_headers: backend.response_headers.clone(),
            authority: backend.authority.clone(),
        }
    }

    fn mirror(&mut self, mirror: &Mirror) -> route::Mirror {
        route::Mirror { target: self.named(&mirror.destination), fraction: mirror.fraction }
    }

    fn named(&mut self, destination: &Destination) -> Target {
        self.target(resolve(self.index, self.namespace, destination, self.port))
    }

    fn target(&mut self, resolved: Result<Cluster, Missing>) -> Target {
        match resolved {
            Err(missing) => Target::Missing(missing.to_string().into()),
            Ok(cluster) => {
                let name = cluster.name.clone();
                if !self.clusters.iter().any(|known| known.name == name) {
                    self.clusters.push(cluster);
                }
                Target::Cluster(name)
            }
        }
    }
}
