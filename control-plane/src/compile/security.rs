//! What policies about identities mean for one workload: whom it believes, and who may call it.
//!
//! The pods of a workload are alike; where they are not, because a new version brings other labels, a policy that is for
//! one of them is for all. Texts are carried as they are written: that a principal is meant in every name of the mesh's
//! trust domain is known where it is compared.

use std::collections::BTreeMap;

use pillion_policy::{
    authentication::{JwtRule, PeerTls},
    authorization::AuthorizationPolicy,
    cluster::Labels,
    name::Label,
};

use crate::{
    index::Index,
    naming::is_root,
    object::{Key, Kind, Object, Scope, Stored},
};

/// A workload: its namespace, and the labels of its pods.
pub(crate) struct Workload<'a> {
    pub(crate) namespace: &'a Label,
    pub(crate) labels: Vec<&'a Labels>,
}

impl Workload<'_> {
    /// The policies of a kind that are for it, each once.
    pub(super) fn policies<'a>(&self, index: &'a Index, kind: Kind) -> BTreeMap<&'a Key, &'a Stored> {
        let none = Labels::new();
        let unknown = self.labels.is_empty().then_some(&none);
        let labels = self.labels.iter().copied().chain(unknown);
        let found = labels.flat_map(|labels| index.governing(kind, self.namespace, labels));
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
            let of_level =
                policies.iter().filter(|(stored, policy)| Level::of(stored, &policy.scope) == level);
            of_level.min_by(|(a, _), (b, _)| a.age().cmp(&b.age())).map(|(_, policy)| *policy)
        };
        let workload = oldest(Level::Workload);
        let modes = [workload, oldest(Level::Namespace), oldest(Level::Mesh)];
        let mode = modes.into_iter().flatten().find_map(|policy| policy.mode).unwrap_or_default();
        let ports = workload.map(|policy| &policy.ports).into_iter().flatten();
        (mode, ports.map(|(port, own)| (*port, own.unwrap_or(mode))).collect())
    }

    /// Who may call it.
    pub(super) fn authorization(&self, index: &Index) -> Vec<AuthorizationPolicy> {
        let policies = self.policies(index, Kind::AuthorizationPolicy);
        let policies = policies.into_values().filter_map(|stored| match &stored.object {
            Object::AuthorizationPolicy(policy) => Some(policy.policy.clone()),
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

/// How wide a policy is; the narrower has the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Mesh,
    Namespace,
    Workload,
}

impl Level {
    /// The level of a policy with that scope.
    pub(crate) fn of(stored: &Stored, scope: &Scope) -> Self {
        match scope {
            Scope::All if is_root(&stored.key.namespace) => Self::Mesh,
            Scope::All => Self::Namespace,
            Scope::Labels(_) | Scope::Nobody => Self::Workload,
        }
    }
}

#[cfg(test)]
mod tests;
