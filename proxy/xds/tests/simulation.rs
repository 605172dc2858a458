//! Two sessions, joined by streams that break at any moment, always converge.
//!
//! A seed decides everything: what is edited, what the proxy asks for, in which order and how late either end gets to
//! see what the other sent, and when a stream is lost with all that is on its way. Afterwards the proxy must hold exactly
//! what the control plane has of the names it wants. A failure names its seed; `PILLION_SEED` replays it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use pillion_policy::{
    Invalid, Resource, ResourceKind, Snapshot,
    authentication::PeerTls,
    cluster::{Cluster, Protocol},
    endpoint::{Endpoint, EndpointSet},
    identity::TrustDomain,
    mesh::{MeshConfig, OutboundMode},
    name::{ClusterName, Hostname},
    service::ServicePolicy,
    telemetry::Telemetry,
    workload::WorkloadPolicy,
};
use pillion_xds::{
    Encoded, Node, Version,
    client::{self, Effects, Status},
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    kind, server,
};

const SEEDS: u64 = 256;
const STEPS: usize = 400;
const WORKLOAD: &str = "shop/api";
/// Services and endpoint sets that exist or could.
const NAMES: usize = 6;

type Key = (ResourceKind, String);
type Outcome<T = ()> = Result<T, String>;

/// What the control plane has under a name.
#[derive(Clone)]
enum Content {
    Good(Resource),
    Bad(Bytes),
}

/// A stream with what is on its way in both directions.
#[derive(Default)]
struct Stream {
    session: server::Session,
    to_server: VecDeque<DeltaDiscoveryRequest>,
    to_client: VecDeque<DeltaDiscoveryResponse>,
    unanswered: BTreeMap<String, usize>,
}

struct World {
    rng: fastrand::Rng,
    truth: BTreeMap<Key, Content>,
    /// Every good content a name ever had.
    history: BTreeMap<Key, Vec<Resource>>,
    client: client::Session,
    asked: BTreeSet<Key>,
    snapshot: Snapshot,
    stream: Option<Stream>,
    /// Names of the resources sent since this was last cleared.
    sent: Vec<Key>,
}

#[test]
fn sessions_converge() {
    let seeds = match std::env::var("PILLION_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("PILLION_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..SEEDS,
    };
    for seed in seeds {
        if let Err(problem) = World::new(seed).and_then(World::run) {
            panic!("PILLION_SEED={seed}: {problem}");
        }
    }
}

fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(problem()) }
}

/// What every proxy asks for by itself.
fn own() -> [Key; 2] {
    [(ResourceKind::Mesh, "mesh".to_owned()), (ResourceKind::Workload, WORKLOAD.to_owned())]
}

fn told(invalid: Invalid) -> String {
    invalid.to_string()
}

impl World {
    fn new(seed: u64) -> Outcome<Self> {
        let node = Node::new(WORKLOAD.parse().map_err(told)?);
        let mut world = Self {
            rng: fastrand::Rng::with_seed(seed),
            truth: BTreeMap::new(),
            history: BTreeMap::new(),
            client: client::Session::new(node),
            asked: own().into(),
            snapshot: Snapshot::default(),
            stream: None,
            sent: Vec::new(),
        };
        for _ in 0..2 * NAMES {
            world.edit()?;
        }
        Ok(world)
    }

    fn run(mut self) -> Outcome {
        for _ in 0..STEPS {
            self.step()?;
        }
        self.settle()?;
        self.check()?;
        self.restart()?;
        self.check_only_changes_travel()
    }

    fn step(&mut self) -> Outcome {
        match self.rng.u32(0..100) {
            0..12 => self.edit()?,
            12..20 => self.ask(),
            20..26 => self.drop_one(),
            26..28 => self.disconnect(),
            28..34 => self.connect(),
            34..50 => self.flush_client(),
            50..66 => self.flush_server()?,
            66..83 => self.deliver_to_server()?,
            _ => self.deliver_to_client(),
        }
        self.check_invariants()
    }

    /// A new, different, broken or deleted resource.
    fn edit(&mut self) -> Outcome {
        let key = self.any_key();
        match self.rng.u32(0..10) {
            0 | 1 => {
                self.truth.remove(&key);
            }
            2 => {
                let broken = vec![0xff, self.rng.u8(..)];
                self.truth.insert(key.clone(), Content::Bad(broken.into()));
            }
            _ => {
                let resource = self.any_resource(&key).map_err(told)?;
                self.history.entry(key.clone()).or_default().push(resource.clone());
                self.truth.insert(key.clone(), Content::Good(resource));
            }
        }
        if let Some(stream) = &mut self.stream {
            if self.rng.u8(0..4) == 0 {
                stream.session.changed_all();
            } else {
                stream.session.changed(key.0, &key.1);
            }
        }
        Ok(())
    }

    fn any_key(&mut self) -> Key {
        let number = self.rng.usize(0..NAMES);
        match self.rng.u32(0..10) {
            0 => (ResourceKind::Mesh, "mesh".to_owned()),
            1 => (ResourceKind::Workload, WORKLOAD.to_owned()),
            2..6 => (ResourceKind::Service, format!("shop/service-{number}:80")),
            _ => (ResourceKind::Endpoints, format!("set-{number}.shop:80")),
        }
    }

    fn any_resource(&mut self, (kind, name): &Key) -> Result<Resource, Invalid> {
        let number = self.rng.u8(..);
        Ok(match kind {
            ResourceKind::Mesh => Resource::Mesh(Arc::new(MeshConfig {
                cluster_domain: Hostname::new(&format!("d{number}"))?,
                trust_domain: TrustDomain::new("d")?,
                trust_domain_aliases: Vec::new(),
                trust: None,
                outbound: OutboundMode::AllowAny,
                collector: None,
            })),
            ResourceKind::Workload => Resource::Workload(Arc::new(WorkloadPolicy {
                name: name.parse()?,
                identity: Some(format!("spiffe://d/ns/default/sa/a{number}").parse()?),
                ports: Vec::new(),
                peer_tls: PeerTls::default(),
                port_tls: BTreeMap::new(),
                authorization: Vec::new(),
                authentication: Vec::new(),
                telemetry: Telemetry::default(),
            })),
            ResourceKind::Endpoints => Resource::Endpoints(Arc::new(EndpointSet {
                name: name.parse()?,
                endpoints: vec![Endpoint::at(([127, 0, 0, number], 80).into())],
            })),
            ResourceKind::Service => {
                let mut clusters = BTreeMap::new();
                for _ in 0..self.rng.u8(0..4) {
                    let cluster: ClusterName = format!("set-{}.shop:80", self.rng.usize(0..NAMES)).parse()?;
                    clusters.insert(cluster.clone(), Cluster::plain(cluster, Protocol::Http1));
                }
                let clusters = clusters.into_values().collect();
                let policy = ServicePolicy::new(name.parse()?, None, Protocol::Http1, Vec::new(), clusters)?;
                Resource::Service(Arc::new(policy))
            }
        })
    }

    fn ask(&mut self) {
        let key = self.any_key();
        self.client.subscribe(key.0, &key.1);
        self.asked.insert(key);
    }

    fn drop_one(&mut self) {
        let key = self.any_key();
        let effects = self.client.unsubscribe(key.0, &key.1);
        self.asked.remove(&key);
        self.apply(effects);
    }

    fn apply(&mut self, effects: Effects) {
        self.snapshot = self.snapshot.apply(effects.changes);
    }

    fn connect(&mut self) {
        if self.stream.is_none() {
            self.stream = Some(Stream::default());
            self.client.connected();
        }
    }

    /// All that is on its way is lost.
    fn disconnect(&mut self) {
        if self.stream.take().is_some() {
            self.client.disconnected();
        }
    }

    fn flush_client(&mut self) {
        let requests = self.client.requests();
        if let Some(stream) = &mut self.stream {
            stream.to_server.extend(requests);
        }
    }

    fn flush_server(&mut self) -> Outcome {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let truth = &self.truth;
        let responses = stream.session.responses(|kind, name| {
            truth.get(&(kind, name.to_owned())).map(|content| match content {
                Content::Good(resource) => Encoded::of(resource),
                Content::Bad(bytes) => Encoded { version: Version::of(bytes), content: bytes.clone() },
            })
        });
        let subscribed: BTreeSet<_> =
            stream.session.names().map(|(kind, name)| (kind, name.to_owned())).collect();
        for response in responses {
            let kind = kind::from_type_url(&response.type_url).ok_or("a type of its own")?;
            let unanswered = stream.unanswered.entry(response.type_url.clone()).or_default();
            *unanswered += 1;
            ensure(*unanswered == 1, || format!("{unanswered} responses of {kind} are unanswered"))?;
            let resources = response.resources.iter().map(|resource| &resource.name);
            for name in resources.clone().chain(&response.removed_resources) {
                let key = (kind, name.clone());
                ensure(subscribed.contains(&key), || format!("{key:?} travels uncalled"))?;
            }
            self.sent.extend(resources.map(|name| (kind, name.clone())));
            stream.to_client.push_back(response);
        }
        Ok(())
    }

    fn deliver_to_server(&mut self) -> Outcome {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let Some(request) = stream.to_server.pop_front() else { return Ok(()) };
        if !request.response_nonce.is_empty() {
            stream.unanswered.insert(request.type_url.clone(), 0);
        }
        stream.session.receive(request).map_err(told)?;
        Ok(())
    }

    fn deliver_to_client(&mut self) {
        let response = self.stream.as_mut().and_then(|stream| stream.to_client.pop_front());
        if let Some(response) = response {
            let effects = self.client.receive(response);
            self.apply(effects);
        }
    }

    /// Lets everything arrive. Each round moves something, or the world is at rest.
    fn settle(&mut self) -> Outcome {
        self.connect();
        for _ in 0..1000 {
            self.flush_client();
            while self.stream.as_ref().is_some_and(|stream| !stream.to_server.is_empty()) {
                self.deliver_to_server()?;
            }
            self.flush_server()?;
            if self.stream.as_ref().is_some_and(|stream| stream.to_client.is_empty()) {
                return Ok(());
            }
            while self.stream.as_ref().is_some_and(|stream| !stream.to_client.is_empty()) {
                self.deliver_to_client();
            }
        }
        Err("the sessions never come to rest".into())
    }

    /// What holds at any moment: the snapshot is what the session says it holds, and the session wants what was asked for
    /// and what held services need.
    fn check_invariants(&self) -> Outcome {
        let held: BTreeSet<Key> = self.snapshot.resources().map(|one| (one.kind(), one.name())).collect();
        let mut wanted = self.asked.clone();
        for policy in self.snapshot.services() {
            let sets = client::endpoint_sets(policy).into_iter();
            wanted.extend(sets.map(|name| (ResourceKind::Endpoints, name)));
        }
        let names: BTreeMap<Key, Status> =
            self.client.names().map(|(kind, name, status)| ((kind, name.to_owned()), status)).collect();
        let status_held: BTreeSet<_> =
            names.iter().filter(|(_, status)| **status == Status::Held).map(|(key, _)| key.clone()).collect();
        ensure(held == status_held, || format!("snapshot {held:?}, session {status_held:?}"))?;
        let names: BTreeSet<_> = names.into_keys().collect();
        ensure(names == wanted, || format!("session wants {names:?}, should want {wanted:?}"))
    }

    /// What holds when everything has arrived.
    fn check(&self) -> Outcome {
        let held: BTreeMap<Key, Resource> =
            self.snapshot.resources().map(|one| ((one.kind(), one.name()), one)).collect();
        for (kind, name, status) in self.client.names() {
            let key = (kind, name.to_owned());
            let found = held.get(&key);
            let right = match self.truth.get(&key) {
                Some(Content::Good(resource)) => status == Status::Held && found == Some(resource),
                Some(Content::Bad(_)) => match found {
                    Some(old) => self.history.get(&key).is_some_and(|known| known.contains(old)),
                    None => status == Status::Rejected,
                },
                None => status == Status::Missing && found.is_none(),
            };
            ensure(right, || format!("{key:?} is {status:?}, held as {found:?}"))?;
        }
        let stream = self.stream.as_ref().ok_or("no stream at rest")?;
        let subscribed: BTreeSet<_> = stream.session.names().collect();
        let wanted: BTreeSet<_> = self.client.names().map(|(kind, name, _)| (kind, name)).collect();
        ensure(subscribed == wanted, || format!("server knows {subscribed:?}, proxy wants {wanted:?}"))?;
        self.check_invariants()
    }

    /// A proxy that comes back with what it held asks for the same and holds the same.
    fn restart(&mut self) -> Outcome {
        let node = Node::new(WORKLOAD.parse().map_err(told)?);
        self.disconnect();
        self.client = client::Session::new(node);
        self.asked.extend(own());
        let effects = self.client.restore(self.snapshot.resources().collect::<Vec<_>>());
        self.snapshot = Snapshot::default();
        self.apply(effects);
        for (kind, name) in &self.asked {
            self.client.subscribe(*kind, name);
        }
        let held: BTreeSet<Key> = self
            .snapshot
            .services()
            .map(|policy| policy.name().to_string())
            .map(|name| (ResourceKind::Service, name))
            .collect();
        ensure(held.is_subset(&self.asked), || format!("{held:?} came back uncalled"))?;
        self.settle()?;
        self.check()
    }

    /// Over a new stream nothing travels but what is refused anyway; then exactly what is edited.
    fn check_only_changes_travel(&mut self) -> Outcome {
        self.disconnect();
        self.sent.clear();
        self.settle()?;
        for key in &self.sent {
            let bad = matches!(self.truth.get(key), Some(Content::Bad(_)));
            ensure(bad, || format!("{key:?} travels again without a change"))?;
        }
        let wanted = self.client.names().map(|(kind, name, _)| (kind, name.to_owned()));
        let keys: Vec<Key> = wanted.filter(|(kind, _)| *kind == ResourceKind::Endpoints).collect();
        for key in keys {
            let before = self.truth.get(&key).cloned();
            let resource = self.any_resource(&key).map_err(told)?;
            let same = matches!(before, Some(Content::Good(old)) if old == resource);
            self.truth.insert(key.clone(), Content::Good(resource));
            if let Some(stream) = &mut self.stream {
                stream.session.changed(key.0, &key.1);
            }
            self.sent.clear();
            self.settle()?;
            let expected = if same { vec![] } else { vec![key] };
            ensure(self.sent == expected, || format!("{:?} travels instead of {expected:?}", self.sent))?;
        }
        self.check()
    }
}
