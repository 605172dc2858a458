//! Everything that changes while the control plane runs, as one synchronous state machine.
//!
//! A resource exists from the moment a proxy subscribes to its name until the last one lets go. It is compiled again
//! after every change of the index and compared by version: only proxies that subscribed to one that differs hear of
//! it. Sessions allow one unanswered response of each kind, which bounds what can wait for a slow proxy; what changes
//! meanwhile is sent once, in its latest state.

mod observers;
mod proxy;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use pillion_policy::{ResourceKind, mesh::MeshConfig, name::WorkloadName};
use pillion_xds::{Encoded, discovery::DeltaDiscoveryRequest, kind};
use rustc_hash::FxHashMap;
use tokio::time::Instant;
use tonic::Status;

use self::proxy::{Behind, Proxy};
use super::{
    Command,
    reports::Reports,
    status::{Facts, ProxyStatus, Refusal, StatusReport},
};
use crate::{
    ca::Standing,
    clock,
    compile::{self, Settings},
    index::Index,
    metrics::Metrics,
    problem::{self, Problem, Severity},
    source::Update,
    trace::{Change, Tracer},
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
    settings: Settings,
    authority: Option<Facts>,
    metrics: Metrics,
    tracer: Tracer,
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

impl State {
    pub(crate) fn new(index: Index, settings: Settings, metrics: Metrics) -> Self {
        Self {
            index,
            settings,
            authority: None,
            metrics,
            tracer: Tracer::default(),
            complaints: Vec::new(),
            due: None,
            problems: Vec::new(),
            demand: BTreeMap::new(),
            proxies: BTreeMap::new(),
            reports: Reports::default(),
        }
    }

    /// Tells of changes from now on.
    pub(crate) fn trace(&mut self, tracer: Tracer) {
        self.tracer = tracer;
    }

    /// Takes in what a source has to say, and tells proxies what that changes for them.
    pub(crate) fn update(&mut self, update: Update) {
        if !update.events.is_empty() {
            let loaded = Instant::now();
            let noticed = update.noticed.unwrap_or(loaded);
            self.metrics.changes.loaded(loaded - noticed, clock::now());
            let objects = update.events.len();
            for event in update.events {
                self.index.apply(event);
            }
            self.check_scopes();
            self.recompile(noticed, loaded, objects);
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

    /// Compiles what is in demand after a change of so many objects, and tells whom it concerns.
    fn recompile(&mut self, noticed: Instant, loaded: Instant, objects: usize) {
        let mut affected = BTreeSet::new();
        let mut resources = 0;
        for (kind, names) in &mut self.demand {
            for (asked, demanded) in names {
                let encoded = compile(&self.index, &self.settings, *kind, asked);
                if version(&encoded) == version(&demanded.encoded) {
                    continue;
                }
                demanded.encoded = encoded;
                resources += 1;
                for id in &demanded.by {
                    if let Some(proxy) = self.proxies.get_mut(id) {
                        proxy.session.changed(*kind, &asked.0);
                        affected.insert(*id);
                    }
                }
            }
        }
        let told = Instant::now();
        self.metrics.changes.compiled(told - loaded);
        let proxies = affected.len();
        let change = Change { noticed, loaded, compiled: told, objects, resources, proxies };
        let change = self.tracer.change(&change);
        for id in affected {
            if let Some(proxy) = self.proxies.get_mut(&id) {
                proxy.behind.get_or_insert_with(|| Behind { noticed, told, change: change.clone() });
            }
            self.respond(id);
        }
    }

    /// Obeys a command or answers a question.
    pub(crate) fn handle(&mut self, command: Command) {
        match command {
            Command::Open(stream) => {
                let (id, proxy) = Proxy::new(stream);
                if let Some(peer) = proxy.peer {
                    self.reports.open(peer);
                }
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
        self.settle(id);
    }

    /// Tells of a change once the proxy has answered.
    fn settle(&mut self, id: u64) {
        let Some(proxy) = self.proxies.get_mut(&id) else { return };
        let Some((Behind { noticed, told, change }, is_taken)) = proxy.caught_up() else { return };
        if is_taken {
            self.metrics.changes.pushed(noticed.elapsed());
        }
        if let Some(change) = change {
            let workload = proxy.client().map(|workload| workload.to_string()).unwrap_or_default();
            self.tracer.pushed(&change, told, workload, !is_taken);
        }
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
        let mesh = &mut self.settings.mesh;
        if mesh.trust.as_ref() != Some(&facts.trust) {
            *mesh = Arc::new(MeshConfig { trust: Some(facts.trust.clone()), ..(**mesh).clone() });
            let now = Instant::now();
            self.recompile(now, now, 0);
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
            let (index, settings) = (&self.index, &self.settings);
            let demanded = names.entry((name, client.clone())).or_insert_with_key(|asked| Demanded {
                encoded: compile(index, settings, kind, asked),
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
            compile::resource(&self.index, &self.settings, kind, name, client.as_ref())
        });
        serde_json::to_value(resources.collect::<Vec<_>>()).unwrap_or_default()
    }
}

fn compile(
    index: &Index,
    settings: &Settings,
    kind: ResourceKind,
    (name, client): &Asked,
) -> Option<Encoded> {
    compile::resource(index, settings, kind, name, client.as_ref()).map(|resource| Encoded::of(&resource))
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
