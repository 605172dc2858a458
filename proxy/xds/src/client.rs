//! The proxy's end of a discovery stream, without I/O.
//!
//! A [`Session`] outlives its streams: it knows what is wanted and which versions are held, and tells every new stream,
//! so that only differences travel. What the caller owes it: [`Session::connected`] and [`Session::disconnected`], every
//! message to [`Session::receive`], and after any call the messages of [`Session::requests`] to the stream. What it
//! returns in [`Effects`] is to be applied in that order.
//!
//! Invariants: only names that are wanted are ever held; a held name keeps its last good version until a good newer one
//! or a removal arrives; an endpoint set is wanted as long as someone asked for it or a held service has a cluster on it.
//!
//! Left to the caller: time (retries, how long to wait for an answer, when to drop what is idle) and make-before-break.
//! A changed service may name endpoint sets that are not here yet; [`Session::status`] says when they are. Whoever keeps
//! the old policy until then must also keep the removals that follow it in the same [`Effects`].

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
};

use pillion_policy::{
    Invalid, Resource, ResourceKind, resource::MESH, service::ServicePolicy, snapshot::Change,
};
use prost::Message;

use crate::{
    Encoded, Node, decode,
    discovery::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    kind::{self, PerKind},
    pillion::Rejection,
    protobuf::Any,
};

/// Code of gRPC for what can never be accepted.
const INVALID_ARGUMENT: i32 = 3;

/// The state of a proxy towards its control plane.
#[derive(Debug)]
pub struct Session {
    node: Node,
    stream: Stream,
    kinds: PerKind<Names>,
    answers: VecDeque<DeltaDiscoveryRequest>,
}

/// What follows from a message or a call, to be applied in this order.
#[derive(Debug, Default)]
#[must_use]
pub struct Effects {
    /// What changes in the snapshot: upserts first, removals last.
    pub changes: Vec<Change>,
    /// Names that were never held and do not exist now.
    pub missing: Vec<(ResourceKind, String)>,
    /// Resources that were refused; what was held of them stays.
    pub rejected: Vec<Rejected>,
}

/// A refused resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub invalid: Invalid,
}

/// Where a wanted name stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// No answer yet.
    Waiting,
    /// Held, in its last good version.
    Held,
    /// The control plane says that it does not exist.
    Missing,
    /// The only versions that ever came were refused.
    Rejected,
}

/// What a call gathers on its way.
#[derive(Debug, Default)]
struct Pass {
    effects: Effects,
    /// Endpoint sets that lost a user, counted down at the end: a service further down may need what another one left.
    released: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Closed,
    Open { greeted: bool },
}

/// The names of one kind.
#[derive(Debug, Default)]
struct Names {
    wanted: BTreeMap<String, Entry>,
    /// Whether the stream knows `wanted`, but for the differences below; before that there are none.
    announced: bool,
    subscribe: BTreeSet<String>,
    unsubscribe: BTreeSet<String>,
}

#[derive(Debug)]
struct Entry {
    /// Whether the caller asked for it.
    asked: bool,
    /// How many held services have a cluster on it.
    users: usize,
    status: Status,
    /// Version held, as the server called it; without meaning when nothing is held.
    version: String,
    /// Endpoint sets of the service held.
    needs: Vec<String>,
}

impl Session {
    /// A session that wants the settings of the mesh and the policy of its own workload.
    pub fn new(node: Node) -> Self {
        let workload = node.workload.to_string();
        let mut session =
            Self { node, stream: Stream::Closed, kinds: PerKind::default(), answers: VecDeque::new() };
        session.subscribe(ResourceKind::Mesh, MESH);
        session.subscribe(ResourceKind::Workload, &workload);
        session
    }

    /// Takes up what an earlier process held; returns what of it is wanted, to be applied to an empty snapshot.
    ///
    /// Services are wanted as if the caller had asked for them, endpoint sets as far as those use them.
    pub fn restore(&mut self, resources: impl IntoIterator<Item = Resource>) -> Effects {
        let mut pass = Pass::default();
        let mut resources: Vec<_> = resources.into_iter().collect();
        resources.sort_by_key(|resource| resource.kind() == ResourceKind::Endpoints);
        for resource in resources {
            let (kind, name) = (resource.kind(), resource.name());
            if kind == ResourceKind::Service {
                self.subscribe(kind, &name);
            }
            let version = Encoded::of(&resource).version.to_string();
            self.hold(kind, &name, version, resource, &mut pass);
        }
        let mut effects = self.finish(pass);
        effects.changes.sort_by_key(|change| match change {
            Change::Upsert(resource) => resource.kind(),
            Change::Remove(kind, _) => *kind,
        });
        effects
    }

    /// Notes that a new stream is there; it will be told everything anew.
    pub fn connected(&mut self) {
        self.disconnected();
        self.stream = Stream::Open { greeted: false };
    }

    /// Notes that the stream is gone; what is held stays.
    pub fn disconnected(&mut self) {
        self.stream = Stream::Closed;
        self.answers.clear();
        for kind in ResourceKind::ALL {
            let names = self.kinds.get_mut(kind);
            names.announced = false;
            names.subscribe.clear();
            names.unsubscribe.clear();
        }
    }

    /// Asks for a resource; asking again changes nothing.
    pub fn subscribe(&mut self, kind: ResourceKind, name: &str) {
        self.kinds.get_mut(kind).want(name).asked = true;
    }

    /// Takes back a [`Session::subscribe`]; what nobody needs any more is removed.
    pub fn unsubscribe(&mut self, kind: ResourceKind, name: &str) -> Effects {
        let mut effects = Effects::default();
        if let Some(entry) = self.kinds.get_mut(kind).wanted.get_mut(name) {
            entry.asked = false;
            self.forget_unneeded(kind, name, &mut effects);
        }
        effects
    }

    /// Where a name stands; `None` when it is not wanted.
    pub fn status(&self, kind: ResourceKind, name: &str) -> Option<Status> {
        self.kinds.get(kind).wanted.get(name).map(|entry| entry.status)
    }

    /// Every name that is wanted, and where it stands.
    pub fn names(&self) -> impl Iterator<Item = (ResourceKind, &str, Status)> {
        ResourceKind::ALL.into_iter().flat_map(|kind| {
            let wanted = self.kinds.get(kind).wanted.iter();
            wanted.map(move |(name, entry)| (kind, name.as_str(), entry.status))
        })
    }

    /// Takes a message of the server; without a stream it is a late one and ignored.
    pub fn receive(&mut self, response: DeltaDiscoveryResponse) -> Effects {
        if self.stream == Stream::Closed {
            return Effects::default();
        }
        let Some(kind) = kind::from_type_url(&response.type_url) else {
            let message = format!("{:?} is not a type this proxy asked for", response.type_url);
            self.answer(response, Some(refusal(message, Vec::new())));
            return Effects::default();
        };
        let mut pass = Pass::default();
        for resource in &response.resources {
            self.take(kind, resource, &mut pass);
        }
        for name in &response.removed_resources {
            self.lose(kind, name, &mut pass);
        }
        let effects = self.finish(pass);
        let refused = (!effects.rejected.is_empty()).then(|| rejections(&effects.rejected));
        self.answer(response, refused);
        effects
    }

    /// The messages to send now; nothing without a stream.
    pub fn requests(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let Stream::Open { greeted } = &mut self.stream else { return Vec::new() };
        let mut requests: Vec<_> = mem::take(&mut self.answers).into();
        for kind in ResourceKind::ALL {
            requests.extend(self.kinds.get_mut(kind).request(kind));
        }
        if let (false, Some(first)) = (*greeted, requests.first_mut()) {
            first.node = Some((&self.node).into());
            *greeted = true;
        }
        requests
    }

    fn take(&mut self, kind: ResourceKind, resource: &discovery::Resource, pass: &mut Pass) {
        let name = &resource.name;
        let Some(entry) = self.kinds.get_mut(kind).wanted.get_mut(name) else { return };
        if entry.status == Status::Held && entry.version == resource.version {
            return;
        }
        match decoded(kind, resource) {
            Ok(decoded) => {
                self.hold(kind, name, resource.version.clone(), decoded, pass);
            }
            Err(invalid) => {
                if entry.status != Status::Held {
                    entry.status = Status::Rejected;
                }
                pass.effects.rejected.push(Rejected { kind, name: name.clone(), invalid });
            }
        }
    }

    /// Makes a resource the held one of its name, if that is wanted.
    fn hold(&mut self, kind: ResourceKind, name: &str, version: String, resource: Resource, pass: &mut Pass) {
        let needs = match &resource {
            Resource::Service(policy) => endpoint_sets(policy).into_iter().collect(),
            Resource::Mesh(_) | Resource::Endpoints(_) | Resource::Workload(_) => Vec::new(),
        };
        let Some(entry) = self.kinds.get_mut(kind).wanted.get_mut(name) else { return };
        entry.status = Status::Held;
        entry.version = version;
        pass.released.extend(mem::replace(&mut entry.needs, needs.clone()));
        for needed in needs {
            self.kinds.get_mut(ResourceKind::Endpoints).want(&needed).users += 1;
        }
        pass.effects.changes.push(Change::Upsert(resource));
    }

    /// Notes that a name does not exist.
    fn lose(&mut self, kind: ResourceKind, name: &str, pass: &mut Pass) {
        let Some(entry) = self.kinds.get_mut(kind).wanted.get_mut(name) else { return };
        if entry.status == Status::Held {
            pass.effects.changes.push(Change::Remove(kind, name.to_owned()));
        } else {
            pass.effects.missing.push((kind, name.to_owned()));
        }
        entry.status = Status::Missing;
        pass.released.append(&mut entry.needs);
    }

    fn finish(&mut self, mut pass: Pass) -> Effects {
        self.release(pass.released, &mut pass.effects);
        pass.effects
    }

    /// Counts down the users of endpoint sets.
    fn release(&mut self, released: Vec<String>, effects: &mut Effects) {
        for name in released {
            if let Some(entry) = self.kinds.get_mut(ResourceKind::Endpoints).wanted.get_mut(&name) {
                entry.users -= 1;
                self.forget_unneeded(ResourceKind::Endpoints, &name, effects);
            }
        }
    }

    /// Drops a name that neither the caller nor a service wants.
    fn forget_unneeded(&mut self, kind: ResourceKind, name: &str, effects: &mut Effects) {
        let names = self.kinds.get_mut(kind);
        if names.wanted.get(name).is_none_or(|entry| entry.asked || entry.users > 0) {
            return;
        }
        let Some(entry) = names.wanted.remove(name) else { return };
        if names.announced {
            names.subscribe.remove(name);
            names.unsubscribe.insert(name.to_owned());
        }
        if entry.status == Status::Held {
            effects.changes.push(Change::Remove(kind, name.to_owned()));
        }
        self.release(entry.needs, effects);
    }

    fn answer(&mut self, response: DeltaDiscoveryResponse, error_detail: Option<discovery::Status>) {
        self.answers.push_back(DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            error_detail,
            ..DeltaDiscoveryRequest::default()
        });
    }
}

impl Names {
    /// The entry of a wanted name. A name that was just dropped is announced again, which makes the server send it again
    /// whether or not it has heard of that.
    fn want(&mut self, name: &str) -> &mut Entry {
        self.wanted.entry(name.to_owned()).or_insert_with(|| {
            if self.announced {
                self.unsubscribe.remove(name);
                self.subscribe.insert(name.to_owned());
            }
            Entry {
                asked: false,
                users: 0,
                status: Status::Waiting,
                version: String::new(),
                needs: Vec::new(),
            }
        })
    }

    fn request(&mut self, kind: ResourceKind) -> Option<DeltaDiscoveryRequest> {
        let mut request =
            DeltaDiscoveryRequest { type_url: kind::type_url(kind).to_owned(), ..Default::default() };
        if self.announced {
            request.resource_names_subscribe = mem::take(&mut self.subscribe).into_iter().collect();
            request.resource_names_unsubscribe = mem::take(&mut self.unsubscribe).into_iter().collect();
        } else {
            let held = self.wanted.iter().filter(|(_, entry)| entry.status == Status::Held);
            request.resource_names_subscribe = self.wanted.keys().cloned().collect();
            request.initial_resource_versions =
                held.map(|(name, entry)| (name.clone(), entry.version.clone())).collect();
            self.announced = !self.wanted.is_empty();
        }
        let empty =
            request.resource_names_subscribe.is_empty() && request.resource_names_unsubscribe.is_empty();
        (!empty).then_some(request)
    }
}

/// The endpoint sets that a service needs: those of its clusters.
pub fn endpoint_sets(policy: &ServicePolicy) -> BTreeSet<String> {
    policy.clusters().iter().map(|cluster| cluster.name.endpoints.to_string()).collect()
}

fn decoded(kind: ResourceKind, resource: &discovery::Resource) -> Result<Resource, Invalid> {
    let any = resource.resource.as_ref().ok_or_else(|| Invalid::new("is empty"))?;
    let decoded = decode::from_any(any)?;
    if decoded.kind() != kind || decoded.name() != resource.name {
        return Err(Invalid::new(format!("holds {} {}", decoded.kind(), decoded.name())));
    }
    Ok(decoded)
}

fn rejections(rejected: &[Rejected]) -> discovery::Status {
    let lines: Vec<_> =
        rejected.iter().map(|one| format!("{} {}: {}", one.kind, one.name, one.invalid)).collect();
    let detail = |one: &Rejected| Rejection { name: one.name.clone(), reason: one.invalid.to_string() };
    refusal(lines.join("; "), rejected.iter().map(detail).collect())
}

fn refusal(message: String, details: Vec<Rejection>) -> discovery::Status {
    let detail = |rejection: Rejection| Any {
        type_url: kind::REJECTION.to_owned(),
        value: rejection.encode_to_vec().into(),
    };
    discovery::Status { code: INVALID_ARGUMENT, message, details: details.into_iter().map(detail).collect() }
}

#[cfg(test)]
mod tests;
