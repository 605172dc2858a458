//! One connected proxy: its session, who it is, and what it has not answered.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::SystemTime,
};

use opentelemetry::trace::SpanContext;
use pillion_policy::{ResourceKind, identity::Identity, name::WorkloadName};
use pillion_xds::{discovery::DeltaDiscoveryResponse, kind, server};
use tokio::{sync::mpsc, time::Instant};
use tonic::Status;

use super::{
    super::{Stream, observe::Posed, scope, status::Refusal},
    depends_on_client,
};
use crate::index::Index;

#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) session: server::Session,
    pub(super) peer: Option<SocketAddr>,
    pub(super) identity: Option<Identity>,
    /// When the certificate it came with was issued.
    pub(super) issued: Option<SystemTime>,
    pub(super) responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    pub(super) since: Instant,
    /// Nonces of responses it has not answered.
    pub(super) unanswered: BTreeMap<String, String>,
    pub(super) refusals: VecDeque<Refusal>,
    /// Kinds of which it has refused the latest.
    pub(super) refused: BTreeSet<ResourceKind>,
    /// The oldest change that it has been told of and has not taken.
    pub(super) behind: Option<Behind>,
    /// The way to ask it about its traffic, while there is one.
    pub(super) ask: Option<mpsc::Sender<Posed>>,
}

/// A change that a proxy has been told of.
#[derive(Debug)]
pub(super) struct Behind {
    /// When it was noticed.
    pub(super) noticed: Instant,
    /// When the proxy was told.
    pub(super) told: Instant,
    /// Its span.
    pub(super) change: Option<SpanContext>,
}

impl Proxy {
    /// A proxy that has said nothing yet.
    pub(super) fn new(stream: Stream) -> (u64, Self) {
        let Stream { id, peer, identity, issued, responses } = stream;
        let proxy = Self {
            session: server::Session::new(),
            peer,
            identity,
            issued,
            responses,
            since: Instant::now(),
            unanswered: BTreeMap::new(),
            refusals: VecDeque::new(),
            refused: BTreeSet::new(),
            behind: None,
            ask: None,
        };
        (id, proxy)
    }

    /// The workload it stands beside, once it has said so.
    pub(super) fn client(&self) -> Option<WorkloadName> {
        self.session.node().map(|node| node.workload.clone())
    }

    /// Whether its identity may speak for its workload. An error says what is in the way.
    pub(super) fn may_speak(&self, index: &Index) -> Result<(), String> {
        match (&self.identity, self.session.node()) {
            (Some(identity), Some(node)) => scope::may_speak_for(index, identity, &node.workload),
            _ => Ok(()),
        }
    }

    /// Whether it may read these resources. An error says which it may not.
    pub(super) fn may_read(&self, kind: Option<ResourceKind>, names: &[String]) -> Result<(), String> {
        let (Some(_), Some(node), Some(kind)) = (&self.identity, self.session.node(), kind) else {
            return Ok(());
        };
        match names.iter().find(|name| !scope::may_read(&node.workload, kind, name)) {
            Some(name) => Err(format!("{kind} {name} is not for workload {}", node.workload)),
            None => Ok(()),
        }
    }

    /// Whether it has acknowledged all it was told of that kind. What changes is told at once unless something
    /// of the kind is unanswered; so nothing unanswered is nothing untold.
    pub(super) fn has_taken(&self, kind: ResourceKind) -> bool {
        !self.unanswered.contains_key(kind::type_url(kind)) && !self.refused.contains(&kind)
    }

    /// Its workload, where that matters for the answer.
    pub(super) fn asking(&self, kind: ResourceKind) -> Option<WorkloadName> {
        self.client().filter(|_| depends_on_client(kind))
    }

    /// The oldest of the changes it has now answered, if it has nothing left to answer, and whether it has taken them.
    pub(super) fn caught_up(&mut self) -> Option<(Behind, bool)> {
        let change = self.behind.take_if(|_| self.unanswered.is_empty())?;
        Some((change, self.refused.is_empty()))
    }
}
