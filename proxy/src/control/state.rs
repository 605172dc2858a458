//! From resources to views.
//!
//! A policy is taken up make-before-break: when it names clusters whose endpoints are still on their way, the old
//! policy stays in force until they are here, or for a second. Hosts are asked for when traffic first names them and
//! dropped when nobody has named them for a while; a host that does not exist is remembered for half a minute, during
//! which it stays subscribed, so that it appears as soon as someone describes it.

use std::{sync::Arc, time::Duration};

use pillion_policy::{
    Resource, ResourceKind, Snapshot,
    cluster::Cluster,
    name::{DestinationName, Label, WorkloadName},
    service::{ServicePolicy, ServiceRef},
    snapshot::Change,
};
use pillion_xds::{
    client::{self, Effects, Session, Status},
    node::Node,
};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::report::{self, Report};
use crate::{
    telemetry::{
        metrics::Metrics,
        requests::{Labels, Reporter},
    },
    upstream::{Guards, Registry, Upstream, breaker::Breaker},
    view::{Destination, Entry, LiveWorkload, Usage, View, Views},
    worker::Demand,
};

/// How long a new policy waits for the endpoints of its clusters.
const SETTLE: Duration = Duration::from_secs(1);

/// How long a host that does not exist, or that nobody answers for, stays asked for.
const ABSENT: Duration = Duration::from_secs(30);

/// Most hosts that do not exist and are remembered.
const MAX_ABSENT: usize = 256;

/// How often the files are looked at that policies name.
const LOOK: Duration = Duration::from_secs(2);

/// What the control task owns.
#[derive(Debug)]
pub struct Control {
    /// The session with the control plane.
    pub session: Session,
    workload: WorkloadName,
    idle: Duration,
    received: Snapshot,
    registry: Registry,
    guards: Guards,
    /// What guards the own workload.
    inbound: Guards,
    own: Option<Arc<LiveWorkload>>,
    hosts: FxHashMap<DestinationName, Host>,
    views: Arc<Views>,
    metrics: Arc<Metrics>,
    revision: u64,
    /// When files were last looked at.
    looked: Option<Instant>,
    /// Nobody can be asked: what is not held does not exist.
    alone: bool,
}

/// What is known of a host that has been asked for.
#[derive(Debug)]
struct Host {
    usage: Arc<Usage>,
    asked: Instant,
    /// Why there is nothing, when the control plane says so.
    absent: Option<Arc<str>>,
    /// The policy in force, and since when a newer one waits.
    live: Option<Arc<Destination>>,
    waiting: Option<Instant>,
}

impl Host {
    /// A host that has just been asked for.
    fn new(usage: &Arc<Usage>, asked: Instant) -> Self {
        Self { usage: Arc::clone(usage), asked, absent: None, live: None, waiting: None }
    }
}

impl Control {
    /// Control over the views of a workload's proxy. Hosts unused for `idle` are dropped.
    pub fn new(node: Node, idle: Duration, views: Arc<Views>, metrics: Arc<Metrics>) -> Self {
        Self {
            workload: node.workload.clone(),
            session: Session::new(node),
            idle,
            received: Snapshot::default(),
            registry: Registry::default(),
            guards: Guards::default(),
            inbound: Guards::default(),
            own: None,
            hosts: FxHashMap::default(),
            views,
            metrics,
            revision: 0,
            looked: None,
            alone: false,
        }
    }

    /// Runs on these resources alone, without a control plane.
    pub fn stand_alone(&mut self, resources: Vec<Resource>, now: Instant) {
        self.alone = true;
        self.restore(resources, now);
    }

    /// Everything received, for dumps and for the disk.
    pub fn received(&self) -> &Snapshot {
        &self.received
    }

    /// The living clusters.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Every breaker, of clusters and of rules, as JSON for people.
    pub fn breakers(&self, now: Instant) -> serde_json::Value {
        self.all_breakers().map(|breaker| breaker.describe(now)).collect()
    }

    /// What is not well, for the control plane.
    pub fn trouble(&self, now: Instant) -> Report {
        let endpoints = self.registry.iter().flat_map(|upstream| {
            upstream.left_alone().into_iter().map(|left| report::Endpoint::of(upstream.name(), left))
        });
        let breakers = self.all_breakers().filter_map(|breaker| report::Breaker::of(breaker.trouble(now)?));
        Report::new(breakers.collect(), endpoints.collect())
    }

    fn all_breakers(&self) -> impl Iterator<Item = Arc<Breaker>> {
        let of_clusters = self.registry.iter().filter_map(|upstream| upstream.breaker().cloned());
        of_clusters.chain(self.guards.breakers())
    }

    /// Starts from what an earlier process held, or from a file.
    pub fn restore(&mut self, resources: Vec<Resource>, now: Instant) {
        for resource in &resources {
            if let Resource::Service(policy) = resource {
                self.host(policy.name(), now);
            }
        }
        let effects = self.session.restore(resources);
        self.apply(effects, now);
    }

    /// Takes the effects of a message or a call.
    pub fn apply(&mut self, effects: Effects, now: Instant) {
        for rejected in &effects.rejected {
            self.metrics.xds.rejected.inc();
            tracing::warn!(kind = %rejected.kind, name = rejected.name, reason = %rejected.invalid, "resource rejected");
        }
        for (kind, name) in &effects.missing {
            if *kind == ResourceKind::Service
                && let Ok(name) = name.parse::<DestinationName>()
            {
                self.host(&name, now).absent = Some(absence(&name));
            }
        }
        for change in &effects.changes {
            match change {
                Change::Upsert(Resource::Service(policy)) => self.host(policy.name(), now).absent = None,
                Change::Remove(ResourceKind::Service, name) => {
                    let Ok(name) = name.parse::<DestinationName>() else { continue };
                    if let Some(host) = self.hosts.get_mut(&name) {
                        *host = Host { absent: Some(absence(&name)), ..Host::new(&host.usage, now) };
                    }
                }
                Change::Upsert(_) | Change::Remove(..) => {}
            }
        }
        if effects.changes.is_empty() && effects.missing.is_empty() {
            return;
        }
        self.metrics.xds.updates.inc();
        self.metrics.xds.touch();
        self.received = self.received.apply(effects.changes);
        self.publish(now);
        // What waits for endpoints is in force later, and counted then.
        if self.hosts.values().all(|host| host.waiting.is_none()) {
            self.metrics.xds.push.record(now.elapsed());
        }
    }

    /// Asks for a host that a request has named.
    pub fn demand(&mut self, demand: Demand, now: Instant) {
        let name = DestinationName {
            namespace: self.workload.namespace.clone(),
            host: demand.host,
            port: demand.port,
        };
        if self.hosts.get(&name).is_some_and(|host| host.absent.is_some() || host.live.is_some()) {
            // Answered while the request was on its way here: the view it waits for is there already.
            self.publish(now);
            return;
        }
        let second = self.views.second(now);
        self.host(&name, now).usage.touch(second);
        if self.alone {
            self.host(&name, now).absent = Some(absence(&name));
            self.bound_absent();
            return self.publish(now);
        }
        self.session.subscribe(ResourceKind::Service, &name.to_string());
        self.bound_absent();
    }

    fn host(&mut self, name: &DestinationName, now: Instant) -> &mut Host {
        let second = self.views.second(now);
        self.hosts.entry(name.clone()).or_insert_with(|| {
            let usage = Arc::new(Usage::default());
            usage.touch(second);
            Host::new(&usage, now)
        })
    }

    /// Forgets the hosts without policy that were asked for first, when there are too many.
    fn bound_absent(&mut self) {
        while self.hosts.values().filter(|host| host.live.is_none()).count() > MAX_ABSENT {
            let unanswered = self.hosts.iter().filter(|(_, host)| host.live.is_none());
            let Some(oldest) = unanswered.min_by_key(|(_, host)| host.asked).map(|(name, _)| name.clone())
            else {
                return;
            };
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, name: &DestinationName) {
        self.hosts.remove(name);
        let effects = self.session.unsubscribe(ResourceKind::Service, &name.to_string());
        self.received = self.received.apply(effects.changes);
    }

    /// Drops what nobody asks for any more, takes up policies that have waited long enough, and looks at files. To be
    /// called every few hundred milliseconds. Without a control plane that could be asked again, what it has said is kept.
    pub fn sweep(&mut self, now: Instant, connected: bool) {
        let second = self.views.second(now);
        let is_over = |host: &Host| match host.live {
            Some(_) => connected && Duration::from_secs(second.saturating_sub(host.usage.last())) > self.idle,
            None if host.absent.is_some() && !connected => false,
            None => now.saturating_duration_since(host.asked) > ABSENT,
        };
        let over: Vec<_> =
            self.hosts.iter().filter(|(_, host)| is_over(host)).map(|(name, _)| name.clone()).collect();
        for name in &over {
            tracing::debug!(dst = %name, "destination dropped");
            self.forget(name);
        }
        let is_due =
            |host: &Host| host.waiting.is_some_and(|since| now.saturating_duration_since(since) >= SETTLE);
        if !over.is_empty() || self.hosts.values().any(is_due) {
            self.publish(now);
        }
        if self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK) {
            self.looked = Some(now);
            self.registry.iter().for_each(|upstream| upstream.look_at_files());
        }
    }

    /// Builds the next view and swaps it in.
    fn publish(&mut self, now: Instant) {
        let in_force = self.in_force(now);
        let metrics = Arc::clone(&self.metrics);
        let workload = self.workload.clone();
        let services: FxHashMap<_, _> = in_force
            .services()
            .flat_map(|policy| policy.clusters().iter().map(|cluster| (&cluster.name, policy.service())))
            .collect();
        self.registry.reconcile(&in_force, now, |cluster| {
            let service = services.get(&cluster.name).copied().flatten();
            let labels = labels(&workload, service, Some(cluster));
            Upstream::new(cluster.clone(), metrics.cluster(&labels.cluster), metrics.request_stats(&labels))
        });
        self.revision += 1;
        let own = self.received.workload();
        let mesh = self.received.mesh().map(|mesh| &**mesh);
        let is_current = match (&self.own, own) {
            (Some(live), Some(policy)) => live.is_current(policy, mesh),
            (live, policy) => live.is_none() && policy.is_none(),
        };
        if !is_current {
            let previous = self.own.take();
            let live = |policy: &Arc<_>| {
                LiveWorkload::following(previous.as_deref(), Arc::clone(policy), mesh, &mut self.inbound)
            };
            self.own = own.map(live).map(Arc::new);
        }
        let mut view = View::new(self.revision, self.received.mesh().cloned(), self.own.clone());
        for (name, host) in &mut self.hosts {
            if let Some(policy) = in_force.service(name) {
                let live = match host.live.take() {
                    Some(live) if live.is_current(policy, &self.registry) => live,
                    Some(_) | None => {
                        let stats =
                            self.metrics.request_stats(&labels(&self.workload, policy.service(), None));
                        let usage = Arc::clone(&host.usage);
                        let live = (&self.registry, &mut self.guards);
                        Arc::new(Destination::new(Arc::clone(policy), live, stats, usage))
                    }
                };
                host.live = Some(Arc::clone(&live));
                view.insert(&name.host, name.port, Entry::Known(live));
            } else if let Some(reason) = &host.absent {
                view.insert(&name.host, name.port, Entry::Absent(Arc::clone(reason)));
            }
        }
        self.guards.sweep();
        self.inbound.sweep();
        self.count();
        self.views.publish(view);
    }

    /// What was received, with the old policy in place of each new one that waits for endpoints.
    fn in_force(&mut self, now: Instant) -> Snapshot {
        let mut held_back = Vec::new();
        for (name, host) in &mut self.hosts {
            let Some(policy) = self.received.service(name) else {
                host.waiting = None;
                continue;
            };
            let is_new = host.live.as_ref().is_none_or(|live| !Arc::ptr_eq(live.policy(), policy));
            if !is_new || is_settled(&self.session, policy) {
                if let Some(since) = host.waiting.take() {
                    self.metrics.xds.push.record(now.saturating_duration_since(since));
                }
                continue;
            }
            let waited = now.saturating_duration_since(*host.waiting.get_or_insert(now));
            if waited >= SETTLE {
                host.waiting = None;
                self.metrics.xds.push.record(waited);
            } else {
                held_back.push(match &host.live {
                    Some(live) => Change::Upsert(Resource::Service(Arc::clone(live.policy()))),
                    None => Change::Remove(ResourceKind::Service, name.to_string()),
                });
            }
        }
        if held_back.is_empty() { self.received.clone() } else { self.received.apply(held_back) }
    }

    fn count(&self) {
        let xds = &self.metrics.xds;
        xds.revision.set(usize::try_from(self.revision).unwrap_or(usize::MAX));
        xds.known.set(self.hosts.values().filter(|host| host.live.is_some()).count());
        xds.absent.set(self.hosts.values().filter(|host| host.absent.is_some()).count());
        xds.subscriptions.set(self.session.names().count());
    }
}

/// Whether the endpoints of every cluster of a policy are known, or known not to exist.
fn is_settled(session: &Session, policy: &ServicePolicy) -> bool {
    client::endpoint_sets(policy)
        .iter()
        .all(|name| !matches!(session.status(ResourceKind::Endpoints, name), None | Some(Status::Waiting)))
}

/// Under which labels traffic is measured.
fn labels(workload: &WorkloadName, service: Option<&ServiceRef>, cluster: Option<&Cluster>) -> Labels {
    let label = |label: Option<&Label>| label.map(|label| label.as_str().into()).unwrap_or_default();
    let host =
        cluster.map(|cluster| &cluster.name.endpoints.service).or(service.map(|service| &service.host));
    let of_cluster = service.filter(|service| host.is_none_or(|host| *host == service.host));
    Labels {
        reporter: Reporter::Source,
        source_workload: workload.name.as_str().into(),
        source_workload_namespace: workload.namespace.as_str().into(),
        destination_service: host.map(|host| host.as_str().into()).unwrap_or_default(),
        destination_service_name: label(of_cluster.map(|service| &service.name)),
        destination_service_namespace: label(of_cluster.map(|service| &service.namespace)),
        cluster: cluster.map(|cluster| cluster.name.to_string().into()).unwrap_or_default(),
        ..Labels::default()
    }
}

fn absence(name: &DestinationName) -> Arc<str> {
    format!(
        "nothing is known of {}:{}: no Service or VirtualService names it, seen from namespace {}",
        name.host, name.port, name.namespace
    )
    .into()
}
