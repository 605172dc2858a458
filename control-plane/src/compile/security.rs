//! What policies about identities mean for one workload: whom it believes, and who may call it.
//!
//! The pods of a workload are alike; where they are not, because a new version brings other labels, a policy that is for
//! one of them is for all. A policy that names a principal of the mesh's trust domain means the same account in every
//! domain that is taken for it.

use std::collections::BTreeMap;

use pillion_policy::{
    authentication::{JwtRule, PeerTls},
    authorization::{AuthorizationPolicy, Choice, Condition, TextKey, TextMatch},
    cluster::Labels,
    identity::TrustDomain,
    mesh::MeshConfig,
    name::Label,
};

use crate::{
    index::Index,
    naming::is_root,
    object::{Key, Kind, Object, PeerAuthentication, Scope, Stored},
};

/// Istio's name for the trust domain of the mesh, whatever it is.
const OWN_DOMAIN: &str = "cluster.local";

/// A workload: its namespace, and the labels of its pods.
pub(crate) struct Workload<'a> {
    pub(crate) namespace: &'a Label,
    pub(crate) labels: Vec<&'a Labels>,
}

impl Workload<'_> {
    /// The policies of a kind that are for it, each once.
    fn policies<'a>(&self, index: &'a Index, kind: Kind) -> BTreeMap<&'a Key, &'a Stored> {
        let none = Labels::new();
        let unknown = self.labels.is_empty().then_some(&none);
        let labels = self.labels.iter().copied().chain(unknown);
        let found = labels.flat_map(|labels| index.securing(kind, self.namespace, labels));
        found.map(|stored| (&stored.key, &**stored)).collect()
    }

    /// What its ports accept: all of them, and single ones.
    pub(crate) fn peer_tls(&self, index: &Index) -> (PeerTls, BTreeMap<u16, PeerTls>) {
        let policies = self.policies(index, Kind::PeerAuthentication);
        let policies = policies.into_values().filter_map(|stored| match &stored.object {
            Object::PeerAuthentication(policy) => Some((stored, policy)),
            _ => None,
        });
        let policies: Vec<_> = policies.collect();
        let oldest = |level: Level| {
            let of_level = policies.iter().filter(|(stored, policy)| Level::of(stored, policy) == level);
            of_level.min_by(|(a, _), (b, _)| a.age().cmp(&b.age())).map(|(_, policy)| *policy)
        };
        let workload = oldest(Level::Workload);
        let modes = [workload, oldest(Level::Namespace), oldest(Level::Mesh)];
        let mode = modes.into_iter().flatten().find_map(|policy| policy.mode).unwrap_or_default();
        let ports = workload.map(|policy| &policy.ports).into_iter().flatten();
        (mode, ports.map(|(port, own)| (*port, own.unwrap_or(mode))).collect())
    }

    /// Who may call it.
    pub(super) fn authorization(&self, index: &Index, mesh: &MeshConfig) -> Vec<AuthorizationPolicy> {
        let domains: Vec<_> = [&mesh.trust_domain].into_iter().chain(&mesh.trust_domain_aliases).collect();
        let policies = self.policies(index, Kind::AuthorizationPolicy);
        let policies = policies.into_values().filter_map(|stored| match &stored.object {
            Object::AuthorizationPolicy(policy) => Some(in_domains(&policy.policy, &domains)),
            _ => None,
        });
        policies.collect()
    }

    /// Whose tokens it believes, the oldest policy first.
    pub(super) fn authentication(&self, index: &Index) -> Vec<JwtRule> {
        let mut policies: Vec<_> = self.policies(index, Kind::RequestAuthentication).into_values().collect();
        policies.sort_by(|a, b| a.age().cmp(&b.age()));
        let rules = policies.into_iter().filter_map(|stored| match &stored.object {
            Object::RequestAuthentication(policy) => Some(&policy.rules),
            _ => None,
        });
        rules.flatten().cloned().collect()
    }
}

/// How wide a PeerAuthentication is; the narrower has the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Mesh,
    Namespace,
    Workload,
}

impl Level {
    /// The level of a policy.
    pub(crate) fn of(stored: &Stored, policy: &PeerAuthentication) -> Self {
        match policy.scope {
            Scope::All if is_root(&stored.key.namespace) => Self::Mesh,
            Scope::All => Self::Namespace,
            Scope::Labels(_) | Scope::Nobody => Self::Workload,
        }
    }
}

/// The policy with its principals in every domain that is taken for that of the mesh.
fn in_domains(policy: &AuthorizationPolicy, domains: &[&TrustDomain]) -> AuthorizationPolicy {
    let mut policy = policy.clone();
    for rule in &mut policy.rules {
        for source in &mut rule.from {
            widen(&mut source.principals, domains);
        }
        for condition in &mut rule.when {
            if let Condition::Text { key: TextKey::SourcePrincipal, values } = condition {
                widen(values, domains);
            }
        }
    }
    policy
}

fn widen(principals: &mut Choice<TextMatch>, domains: &[&TrustDomain]) {
    for list in [&mut principals.any_of, &mut principals.none_of] {
        let mut wide = Vec::with_capacity(list.len());
        for text in list.drain(..) {
            for text in everywhere(text, domains) {
                if !wide.contains(&text) {
                    wide.push(text);
                }
            }
        }
        *list = wide;
    }
}

/// A principal in each of the domains, if it is in one of them.
fn everywhere(text: TextMatch, domains: &[&TrustDomain]) -> Vec<TextMatch> {
    type Make = fn(String) -> TextMatch;
    let (principal, make): (&str, Make) = match &text {
        TextMatch::Exact(exact) => (exact, TextMatch::Exact),
        TextMatch::Prefix(prefix) => (prefix, TextMatch::Prefix),
        TextMatch::Suffix(_) | TextMatch::Present => return vec![text],
    };
    match principal.split_once('/') {
        Some((own, rest)) if own == OWN_DOMAIN || domains.iter().any(|domain| domain.as_str() == own) => {
            domains.iter().map(|domain| make(format!("{domain}/{rest}"))).collect()
        }
        _ => vec![text],
    }
}

#[cfg(test)]
mod tests;
