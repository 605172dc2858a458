//! What policies say about identities: whom workloads believe, and who may call them.
//!
//! Which workloads a policy is for is its scope. It follows from the policy and its namespace alone, so that the index
//! can find the policies of a workload without looking at the others.

use std::collections::BTreeMap;

use pillion_policy::{
    authentication::{JwtRule, PeerTls},
    authorization,
    cluster::Labels,
};

/// The workloads of the policy's namespace, or of all namespaces, that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All of them.
    All,
    /// Those that carry these labels, of which there is at least one.
    Labels(Labels),
    /// None: it is for other proxies than sidecars.
    Nobody,
}

impl Scope {
    /// Whether it holds a workload with these labels.
    pub(crate) fn holds(&self, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::Labels(asked) => asked.iter().all(|(key, value)| labels.get(key) == Some(value)),
            Self::Nobody => false,
        }
    }
}

/// What ports accept. What is absent is left to the next wider policy.
#[derive(Debug)]
pub(crate) struct PeerAuthentication {
    pub(crate) scope: Scope,
    pub(crate) mode: Option<PeerTls>,
    /// Of single ports of the pod; absent is what its other ports have.
    pub(crate) ports: BTreeMap<u16, Option<PeerTls>>,
}

/// Whose tokens are believed.
#[derive(Debug)]
pub(crate) struct RequestAuthentication {
    pub(crate) scope: Scope,
    pub(crate) rules: Vec<JwtRule>,
}

/// Who may call.
#[derive(Debug)]
pub(crate) struct AuthorizationPolicy {
    pub(crate) scope: Scope,
    /// As it is carried out: what should be left to an external authorizer is refused, because nobody can be asked.
    pub(crate) policy: authorization::AuthorizationPolicy,
    /// Whether its action is `CUSTOM`.
    pub(crate) custom: bool,
}
