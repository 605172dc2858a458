//! The control plane's end of a discovery stream, without I/O.
//!
//! A [`Session`] lives as long as its stream and knows what the proxy wants and what it was last told. It keeps no
//! content: [`Session::responses`] looks names up at the moment of sending, so whatever changed while an answer was
//! outstanding is sent once, in its latest state.
//!
//! Invariants: only names that are subscribed to travel, and only when their version differs from what the proxy was
//! told on this stream or says it holds; at most one response of a kind is unanswered; a refused version is not sent
//! again until the content changes; kinds leave in the order mesh, endpoints, services, workload, and what is removed
//! leaves last and in reverse, so that nothing is taken away before its replacement is there.
//!
//! Left to the caller: which names changed, who may see what (the lookup says no by `None`), and for how long an
//! unanswered response is tolerated. Subscriptions are by name only: there is no wildcard, `*` is a name nobody has.

use std::collections::{BTreeMap, BTreeSet};

use pillion_policy::{Invalid, ResourceKind};
use prost::Message;

use crate::{
    Encoded, Node, Version,
    discovery::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    kind::{self, PerKind},
    pillion::Rejection,
    protobuf::Any,
};

/// A response is closed when its content exceeds this; the rest follows once it is answered. A quarter of the 4 MiB at
/// which gRPC implementations refuse messages by default.
const MAX_RESPONSE: usize = 1 << 20;

/// The state of one stream.
#[derive(Debug, Default)]
pub struct Session {
    node: Option<Node>,
    responses: u64,
    kinds: PerKind<Names>,
}

/// A refusal by the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nack {
    /// The kind of the refused resources.
    pub kind: ResourceKind,
    /// The reason, for people.
    pub message: String,
    /// Names and reasons; empty when the proxy gave none.
    pub resources: Vec<(String, String)>,
}

/// The names of one kind.
#[derive(Debug, Default)]
struct Names {
    /// Whether a request of this kind has come on this stream.
    announced: bool,
    subscribed: BTreeMap<String, Told>,
    /// Names to look at before the next response.
    dirty: BTreeSet<String>,
    /// Names the proxy holds and that do not exist any more.
    gone: BTreeSet<String>,
    /// Nonce of the unanswered response.
    outstanding: Option<String>,
}

/// What the proxy knows of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Missing,
    /// This version, or one that is not ours.
    Content(Option<Version>),
}

impl Session {
    /// A session for a new stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Who the proxy is, once its first message has come.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Every name that is subscribed to.
    pub fn names(&self) -> impl Iterator<Item = (ResourceKind, &str)> {
        let names = |kind| self.kinds.get(kind).subscribed.keys().map(move |name| (kind, name.as_str()));
        ResourceKind::ALL.into_iter().flat_map(names)
    }

    /// Takes a message of the proxy. An error is a breach of the protocol, after which the stream should be closed.
    pub fn receive(&mut self, request: DeltaDiscoveryRequest) -> Result<Option<Nack>, Invalid> {
        match (&self.node, request.node) {
            (None, Some(node)) => self.node = Some(node.try_into()?),
            (None, None) => return Err(Invalid::new("the first message names no node")),
            (Some(_), _) => {}
        }
        let kind = kind::from_type_url(&request.type_url).ok_or_else(|| {
            Invalid::new(format!("{:?} is no type of resource", request.type_url)).within("typeUrl")
        })?;
        let names = self.kinds.get_mut(kind);
        if names.outstanding.as_ref() == Some(&request.response_nonce) {
            names.outstanding = None;
        }
        for name in &request.resource_names_unsubscribe {
            names.forget(name);
        }
        let first = !std::mem::replace(&mut names.announced, true);
        for name in request.resource_names_subscribe {
            let held = request.initial_resource_versions.get(&name).filter(|_| first);
            let told = held.map_or(Told::Nothing, |version| Told::Content(version.parse().ok()));
            names.gone.remove(&name);
            names.dirty.insert(name.clone());
            names.subscribed.insert(name, told);
        }
        Ok(request.error_detail.map(|status| nack(kind, status)))
    }

    /// Notes that a resource is new, different or gone.
    pub fn changed(&mut self, kind: ResourceKind, name: &str) {
        let names = self.kinds.get_mut(kind);
        if names.subscribed.contains_key(name) {
            names.gone.remove(name);
            names.dirty.insert(name.to_owned());
        }
    }

    /// Notes that anything may have changed: everything is compared, what differs is sent.
    pub fn changed_all(&mut self) {
        for kind in ResourceKind::ALL {
            let names = self.kinds.get_mut(kind);
            names.gone.clear();
            names.dirty = names.subscribed.keys().cloned().collect();
        }
    }

    /// The messages to send now. `lookup` must answer from one consistent state.
    pub fn responses(
        &mut self,
        mut lookup: impl FnMut(ResourceKind, &str) -> Option<Encoded>,
    ) -> Vec<DeltaDiscoveryResponse> {
        let mut responses = Vec::new();
        for kind in ResourceKind::ALL {
            let names = self.kinds.get_mut(kind);
            if names.outstanding.is_none()
                && let Some(response) = names.upserts(kind, &mut lookup)
            {
                responses.push(names.sent(response, &mut self.responses));
            }
            if !names.dirty.is_empty() {
                // Later kinds may build on what is left, and removals on everything.
                return responses;
            }
        }
        for kind in ResourceKind::ALL.into_iter().rev() {
            let names = self.kinds.get_mut(kind);
            if names.outstanding.is_none()
                && let Some(response) = names.removals(kind)
            {
                responses.push(names.sent(response, &mut self.responses));
            }
        }
        responses
    }
}

impl Names {
    fn forget(&mut self, name: &str) {
        self.subscribed.remove(name);
        self.dirty.remove(name);
        self.gone.remove(name);
    }

    /// Looks at the dirty names, up to a full response: what is new or different, and what was asked for in vain.
    fn upserts(
        &mut self,
        kind: ResourceKind,
        lookup: &mut impl FnMut(ResourceKind, &str) -> Option<Encoded>,
    ) -> Option<DeltaDiscoveryResponse> {
        let mut response = empty(kind);
        let mut size = 0;
        while size < MAX_RESPONSE
            && let Some(name) = self.dirty.pop_first()
        {
            let Some(told) = self.subscribed.get_mut(&name) else { continue };
            match (lookup(kind, &name), *told) {
                (Some(found), Told::Content(Some(version))) if found.version == version => {}
                (Some(found), _) => {
                    *told = Told::Content(Some(found.version));
                    size += found.content.len() + name.len();
                    response.resources.push(resource(kind, name, found));
                }
                (None, Told::Nothing) => {
                    *told = Told::Missing;
                    size += name.len();
                    response.removed_resources.push(name);
                }
                (None, Told::Missing) => {}
                (None, Told::Content(_)) => {
                    self.gone.insert(name);
                }
            }
        }
        (!response.resources.is_empty() || !response.removed_resources.is_empty()).then_some(response)
    }

    fn removals(&mut self, kind: ResourceKind) -> Option<DeltaDiscoveryResponse> {
        let gone = std::mem::take(&mut self.gone);
        for name in &gone {
            if let Some(told) = self.subscribed.get_mut(name) {
                *told = Told::Missing;
            }
        }
        (!gone.is_empty())
            .then(|| DeltaDiscoveryResponse { removed_resources: gone.into_iter().collect(), ..empty(kind) })
    }

    /// Numbers a response and notes that it is unanswered.
    fn sent(&mut self, response: DeltaDiscoveryResponse, count: &mut u64) -> DeltaDiscoveryResponse {
        *count += 1;
        let nonce = count.to_string();
        self.outstanding = Some(nonce.clone());
        DeltaDiscoveryResponse { nonce, ..response }
    }
}

fn empty(kind: ResourceKind) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse { type_url: kind::type_url(kind).to_owned(), ..Default::default() }
}

fn resource(kind: ResourceKind, name: String, encoded: Encoded) -> discovery::Resource {
    discovery::Resource {
        version: encoded.version.to_string(),
        resource: Some(Any { type_url: kind::type_url(kind).to_owned(), value: encoded.content }),
        name,
        ..discovery::Resource::default()
    }
}

/// Details that are not ours are skipped: the message says it all to people.
fn nack(kind: ResourceKind, status: discovery::Status) -> Nack {
    let ours = status.details.iter().filter(|detail| detail.type_url == kind::REJECTION);
    let rejection = |detail: &Any| Rejection::decode(detail.value.clone()).ok();
    let resources = ours.filter_map(rejection).map(|rejection| (rejection.name, rejection.reason)).collect();
    Nack { kind, message: status.message, resources }
}

#[cfg(test)]
mod tests;
