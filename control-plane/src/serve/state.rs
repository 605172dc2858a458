//! Everything that changes while the control plane runs, as one synchronous state machine.
//!
//! A resource exists from the moment a proxy subscribes to its name until the last one lets go. It is compiled again
//! after every change of the index and compared by version: only proxies that subscribed to one that differs hear of
//! it. Sessions allow one unanswered response of each kind, which bounds what can wait for a slow proxy; what changes
//! meanwhile is sent once, in its latest state.

mod observers;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use pillion_policy::{ResourceKind, identity::Identity, mesh::MeshConfig, name::WorkloadName};
use pillion_xds::{
    Encoded,
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    kind, server,
};
use rustc_hash::FxHashMap;
use tokio::{sync::mpsc, time::Instant};
use tonic::Status;

use super::{
    Command, Stream,
    observe::Posed,
    reports::Reports,
    scope,
    status::{Facts, ProxyStatus, Refusal, StatusReport},
};
use crate::{
    ca::Standing,
    clock, compile,
    index::Index,
    metrics::Metrics,
    problem::{self, Problem, Severity},
    source::Update,
    validate,
};

/// How long after a change everything is checked.
const CHECK_DELAY: Duration = Duration::from_millis(500);
/// Problems logged after one change.
const MAX_LOGGED: usize = 20;
/// Most names one proxy may subscribe to; an app that calls a tenth of it is not known.
const MAX_NAMES: usize = 100_000;
/// Refusals remembered of one proxy.
const MAX_REFUSALS: usize = 16;

/// The index, the resources in demand, and who demands them.
#[derive(Debug)]
pub(crate) struct State {
    index: Index,
    mesh: Arc<MeshConfig>,
    authority: Option<Facts>,
    metrics: Metrics,
    /// What the source complains about.
    complaints: Vec<Problem>,
    /// When objects have to be checked again; nothing when none has changed since.
    due: Option<Instant>,
    /// Everything found by the last check.
    problems: Vec<Problem>,
    demand: BTreeMap<ResourceKind, FxHashMap<Asked, Demanded>>,
    proxies: BTreeMap<u64, Proxy>,
    reports: Reports,
}

/// A name somebody subscribed to. The policy of a destination depends on which workload asks for it.
type Asked = (String, Option<WorkloadName>);

/// A resource somebody subscribed to.
#[derive(Debug, Default)]
struct Demanded {
    /// Nothing when it does not exist.
    encoded: Option<Encoded>,
    by: BTreeSet<u64>,
}

#[derive(Debug)]
struct Proxy {
    session: server::Session,
    peer: Option<SocketAddr>,
    identity: Option<Identity>,
    /// When the certificate it came with was issued.
    issued: Option<SystemTime>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    since: Instant,
    /// Nonces of responses it has not answered.
    unanswered: BTreeMap<String, String>,
    refusals: VecDeque<Refusal>,
    /// Kinds of which it has refused the latest.
    refused: BTreeSet<ResourceKind>,
    /// The way to ask it about its traffic, while there is one.
    ask: Option<mpsc::Sender<Posed>>,
}

impl Proxy {
    /// The workload it stands beside, once it has said so.
    fn client(&self) -> Option<WorkloadName> {
        self.session.node().map(|node| node.workload.clone())
    }

    /// Whether its identity may speak for its workload. An error says what is in the way.
    fn may_speak(&self, index: &Index) -> Result<(), String> {
        match (&self.identity, self.session.node()) {
            (Some(identity), Some(node)) => scope::may_speak_for(index, identity, &node.workload),
            _ => Ok(()),
        }
    }

    /// Whether it may read these resources. An error says which it may not.
    fn may_read(&self, kind: Option<ResourceKind>, names: &[String]) -> Result<(), String> {
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
    fn has_taken(&self, kind: ResourceKind) -> bool {
        !self.unanswered.contains_key(kind::type_url(kind)) && !self.refused.contains(&kind)
    }

    /// Its workload, where that matters for the answer.
    fn asking(&self, kind: ResourceKind) -> Option<WorkloadName> {
        self.client().filter(|_| depends_on_client(kind))
    }
}

impl State {
    pub(crate) fn new(index: Index, mesh: Arc<MeshConfig>, metrics: Metrics) -> Self {
        Self {
            index,
            mesh,
            authority: None,
            metrics,
            complaints: Vec::new(),
            due: None,
            problems: Vec::new(),
            demand: BTreeMap::new(),
            proxies: BTreeMap::new(),
            reports: Reports::default(),
        }
    }

    /// Takes in what a source has to say, and tells proxies what that changes for them.
    pub(crate) fn update(&mut self, update: Update) {
        let changed = !update.events.is_empty();
        for event in update.events {
            self.index.apply(event);
        }
        if changed {
            self.check_scopes();
            self.recompile();
        }
        self.metrics.updates.inc();
        self.complaints = update.problems;
        // Checking everything takes longer than telling proxies, so a series of changes is checked once.
        self.due.get_or_insert_with(|| Instant::now() + CHECK_DELAY);
    }

    /// When [`State::check`] should be called.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Finds everything that is wrong, unless nothing has changed since the last time.
    pub(crate) fn check(&mut self) {
        if self.due.take().is_none() {
            return;
        }
        let mut problems = self.complaints.clone();
        problems.extend(validate::check(&self.index));
        problem::sort(&mut problems);
        self.log_new(&problems);
        self.metrics.loaded(self.index.objects().map(|stored| stored.key.kind), &problems);
        self.problems = problems;
    }

    /// Logs what was not known before; infos are left to those who ask.
    fn log_new(&self, problems: &[Problem]) {
        let known: HashSet<&Problem> = self.problems.iter().collect();
        let new =
            problems.iter().filter(|problem| problem.severity != Severity::Info && !known.contains(problem));
        let mut count = 0;
        for problem in new {
            count += 1;
            match problem.severity {
                _ if count > MAX_LOGGED => {}
                Severity::Error => tracing::error!("{problem}"),
                Severity::Warning | Severity::Info => tracing::warn!("{problem}"),
            }
        }
        if count > MAX_LOGGED {
            tracing::warn!(more = count - MAX_LOGGED, "further problems are listed by /status");
        }
    }

    fn recompile(&mut self) {
        let mut affected = BTreeSet::new();
        for (kind, names) in &mut self.demand {
            for (asked, demanded) in names {
                let encoded = compile(&self.index, &self.mesh, *kind, asked);
                if version(&encoded) == version(&demanded.encoded) {
                    continue;
                }
                demanded.encoded = encoded;
                for id in &demanded.by {
                    if let Some(proxy) = self.proxies.get_mut(id) {
                        proxy.session.changed(*kind, &asked.0);
                        affected.insert(*id);
                    }
                }
            }
        }
        for id in affected {
            self.respond(id);
        }
    }

    /// Obeys a command or answers a question.
    pub(crate) fn handle(&mut self, command: Command) {
        match command {
            Command::Open(Stream { id, peer, identity, issued, responses }) => {
                if let Some(peer) = peer {
                    self.reports.open(peer);
                }
                let proxy = Proxy {
                    session: server::Session::new(),
                    peer,
                    identity,
                    issued,
                    responses,
                    since: Instant::now(),
                    unanswered: BTreeMap::new(),
                    refusals: VecDeque::new(),
                    refused: BTreeSet::new(),
                    ask: None,
                };
                self.proxies.insert(id, proxy);
            }
            Command::Receive(id, request) => self.receive(id, *request),
            Command::Close(id) => self.close(id),
            Command::Unhealthy(peer, report, answer) => {
                let is_known = self.reports.receive(peer, report, Instant::now());
                self.metrics.reported(self.reports.totals());
                let _ = answer.send(is_known);
            }
            Command::Attach { peer, identity, ask, answer } => {
                let _ = answer.send(self.attach(peer, identity.as_ref(), ask));
            }
            Command::Observers(answer) => drop(answer.send(self.observers())),
            Command::Standing(answer) => drop(answer.send(self.standing())),
            Command::Authority(facts) => self.set_authority(*facts),
            // Who asked may have gone meanwhile.
            Command::Report(answer) => drop(answer.send(self.report())),
            Command::Dump(answer) => drop(answer.send(self.dump())),
        }
        self.metrics.proxies.set(i64::try_from(self.proxies.len()).unwrap_or(i64::MAX));
    }

    fn receive(&mut self, id: u64, request: DeltaDiscoveryRequest) {
        let Some(proxy) = self.proxies.get_mut(&id) else { return };
        proxy.unanswered.retain(|_, nonce| *nonce != request.response_nonce);
        let kind = kind::from_type_url(&request.type_url);
        let subscribed = request.resource_names_subscribe.clone();
        let unsubscribed = request.resource_names_unsubscribe.clone();
        match proxy.session.receive(request) {
            Err(breach) => {
                tracing::warn!(peer = id, error = %breach, "closing the stream of a proxy that breaks the protocol");
                // The stream ends with the channel, told or not.
                drop(proxy.responses.try_send(Err(Status::invalid_argument(breach.to_string()))));
                return self.close(id);
            }
            Ok(Some(nack)) => {
                let workload = proxy.session.node().map(|node| node.workload.to_string()).unwrap_or_default();
                tracing::error!(peer = workload, kind = %nack.kind, error = nack.message, "a proxy refused resources");
                self.metrics.nacks.inc();
                proxy.refused.insert(nack.kind);
                proxy.refusals.truncate(MAX_REFUSALS - 1);
                proxy.refusals.push_front(Refusal {
                    kind: nack.kind,
                    message: nack.message,
                    resources: nack.resources,
                });
            }
            Ok(None) => {}
        }
        if proxy.session.names().count() > MAX_NAMES {
            let reason = format!("a proxy may subscribe to {MAX_NAMES} names");
            drop(proxy.responses.try_send(Err(Status::resource_exhausted(reason))));
            return self.close(id);
        }
        if let Err(reason) = proxy.may_speak(&self.index).and_then(|()| proxy.may_read(kind, &subscribed)) {
            return self.deny(id, &reason);
        }
        if let Some(kind) = kind {
            self.demand(id, kind, subscribed, unsubscribed);
        }
        self.respond(id);
    }

    /// Ends the streams of proxies whose workloads have turned out to be somebody else's.
    fn check_scopes(&mut self) {
        let denied = |(id, proxy): (&u64, &Proxy)| proxy.may_speak(&self.index).err().map(|why| (*id, why));
        let denied: Vec<(u64, String)> = self.proxies.iter().filter_map(denied).collect();
        for (id, reason) in denied {
            self.deny(id, &reason);
        }
    }

    /// Ends the stream of a proxy that wants what is not its own.
    fn deny(&mut self, id: u64, reason: &str) {
        if let Some(proxy) = self.proxies.get(&id) {
            tracing::warn!(
                peer = proxy.peer.map(|peer| peer.to_string()),
                error = reason,
                "closing the stream of a proxy that may not have what it asks for"
            );
            drop(proxy.responses.try_send(Err(Status::permission_denied(reason))));
        }
        self.close(id);
    }

    /// Takes in what the authority is now, and tells proxies whom to believe.
    pub(crate) fn set_authority(&mut self, facts: Facts) {
        if self.mesh.trust.as_ref() != Some(&facts.trust) {
            self.mesh = Arc::new(MeshConfig { trust: Some(facts.trust.clone()), ..(*self.mesh).clone() });
            self.recompile();
        }
        self.authority = Some(facts);
    }

    /// How the connected proxies stand to the authority.
    fn standing(&self) -> Vec<Standing> {
        let standing = self.proxies.values().map(|proxy| {
            let peer = proxy.peer.map(|peer| peer.ip());
            let name = proxy.client().map(|workload| workload.to_string());
            Standing {
                acknowledged: name.is_some() && proxy.has_taken(ResourceKind::Mesh),
                name: name.unwrap_or_else(|| "a proxy that has just connected".to_owned()),
                customer: proxy.identity.clone().map(|identity| (identity, peer)),
                issued: proxy.issued,
            }
        });
        standing.collect()
    }

    fn demand(&mut self, id: u64, kind: ResourceKind, subscribed: Vec<String>, unsubscribed: Vec<String>) {
        let client = self.proxies.get(&id).and_then(|proxy| proxy.asking(kind));
        for name in unsubscribed {
            self.release(id, kind, &(name, client.clone()));
        }
        let names = self.demand.entry(kind).or_default();
        for name in subscribed {
            let (index, mesh) = (&self.index, &self.mesh);
            let demanded = names.entry((name, client.clone())).or_insert_with_key(|asked| Demanded {
                encoded: compile(index, mesh, kind, asked),
                by: BTreeSet::new(),
            });
            demanded.by.insert(id);
        }
    }

    fn release(&mut self, id: u64, kind: ResourceKind, asked: &Asked) {
        if let Some(names) = self.demand.get_mut(&kind)
            && let Some(demanded) = names.get_mut(asked)
        {
            demanded.by.remove(&id);
            if demanded.by.is_empty() {
                names.remove(asked);
            }
        }
    }

    fn close(&mut self, id: u64) {
        let Some(proxy) = self.proxies.remove(&id) else { return };
        for (kind, name) in proxy.session.names() {
            self.release(id, kind, &(name.to_owned(), proxy.asking(kind)));
        }
        if let Some(peer) = proxy.peer {
            self.reports.close(peer);
            self.metrics.reported(self.reports.totals());
        }
    }

    /// When [`State::expire`] should be called.
    pub(crate) fn expiry(&self) -> Option<Instant> {
        self.reports.expiry()
    }

    /// Forgets reports that have not been repeated.
    pub(crate) fn expire(&mut self) {
        self.reports.expire(Instant::now());
        self.metrics.reported(self.reports.totals());
    }

    /// Sends a proxy what it has not been told yet.
    fn respond(&mut self, id: u64) {
        let Some(proxy) = self.proxies.get_mut(&id) else { return };
        let demand = &self.demand;
        let client = proxy.client();
        let responses = proxy.session.responses(|kind, name| {
            let asked = (name.to_owned(), client.clone().filter(|_| depends_on_client(kind)));
            demand.get(&kind)?.get(&asked)?.encoded.clone()
        });
        for response in responses {
            self.metrics.sent(response.resources.len(), response.removed_resources.len());
            proxy.unanswered.insert(response.type_url.clone(), response.nonce.clone());
            if let Some(kind) = kind::from_type_url(&response.type_url) {
                proxy.refused.remove(&kind);
            }
            // The channel holds one response of each kind, the most a session leaves unanswered; so this fails only
            // when the stream is gone, of which we shall hear.
            drop(proxy.responses.try_send(Ok(response)));
        }
    }

    fn report(&mut self) -> StatusReport {
        self.check();
        let proxies = self.proxies.values().filter_map(|proxy| {
            let node = proxy.session.node()?;
            let resources = proxy.session.names().map(|(kind, name)| {
                let asked = (name.to_owned(), proxy.asking(kind));
                let found = self.demand.get(&kind).and_then(|names| names.get(&asked));
                let version = found.and_then(|found| version(&found.encoded));
                (format!("{kind} {name}"), version.map(|version| version.to_string()))
            });
            Some(ProxyStatus {
                workload: node.workload.to_string(),
                identity: proxy.identity.as_ref().map(ToString::to_string),
                metadata: node.metadata.clone(),
                connected_seconds: proxy.since.elapsed().as_secs(),
                in_sync: proxy.unanswered.is_empty(),
                resources: resources.collect(),
                refusals: proxy.refusals.iter().cloned().collect(),
            })
        });
        let now = Instant::now();
        let unhealthy = self.proxies.values().filter_map(|proxy| {
            let node = proxy.session.node()?;
            let address = node.metadata.get("pod_ip").map(|ip| format!("@{ip}")).unwrap_or_default();
            self.reports.of(proxy.peer?, format!("{}{address}", node.workload), now)
        });
        let mut objects: BTreeMap<String, usize> = BTreeMap::new();
        for stored in self.index.objects() {
            *objects.entry(stored.key.kind.to_string()).or_default() += 1;
        }
        StatusReport {
            objects,
            problems: self.problems.clone(),
            authority: self.authority.as_ref().map(|authority| authority.status(clock::now())),
            proxies: proxies.collect(),
            unhealthy: unhealthy.collect(),
        }
    }

    fn dump(&self) -> serde_json::Value {
        let names = self.demand.iter().flat_map(|(kind, names)| names.keys().map(move |name| (*kind, name)));
        let resources = names.filter_map(|(kind, (name, client))| {
            compile::resource(&self.index, &self.mesh, kind, name, client.as_ref())
        });
        serde_json::to_value(resources.collect::<Vec<_>>()).unwrap_or_default()
    }
}

fn compile(
    index: &Index,
    mesh: &Arc<MeshConfig>,
    kind: ResourceKind,
    (name, client): &Asked,
) -> Option<Encoded> {
    compile::resource(index, mesh, kind, name, client.as_ref()).map(|resource| Encoded::of(&resource))
}

/// Whether two workloads that ask for the same name may be told different things.
fn depends_on_client(kind: ResourceKind) -> bool {
    kind == ResourceKind::Service
}

fn version(encoded: &Option<Encoded>) -> Option<pillion_xds::Version> {
    encoded.as_ref().map(|encoded| encoded.version)
}

#[cfg(test)]
mod tests;
