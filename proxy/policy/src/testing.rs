//! Proptest strategies for policy values that are valid, with every field varied.
//!
//! They serve the tests of the crates that carry and enforce policy; the model itself does not use them. Lists are short
//! and texts brief, since what matters is that every variant and every field takes values other than its default.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::HeaderName;
use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
    sample::select,
};

use crate::{
    cluster::{
        Balancing, Cluster, ConnectionPool, HashKey, Keepalive, Labels, LoadBalancer, Protocol, Warmup,
    },
    endpoint::{Endpoint, EndpointSet, Health, Locality},
    header::{Edits, Field},
    matching::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, StringMatch},
    mesh::{MeshConfig, OutboundMode},
    name::{ClusterName, DestinationName, EndpointSetName, Hostname, Label, WorkloadName},
    pattern::{Pattern, Substitution},
    ratio::Fraction,
    resource::Resource,
    route::{
        Action, Backend, Backends, Cors, DirectResponse, Forward, Mirror, PathRewrite, Redirect,
        RedirectPort, Route, Target,
    },
    service::{ServicePolicy, ServiceRef},
    workload::{WorkloadPolicy, WorkloadPort},
};

mod resilience;
pub mod security;
pub mod telemetry;

/// Any resource of any kind.
pub fn any_resource() -> impl Strategy<Value = Resource> {
    prop_oneof![
        any_mesh().prop_map(|mesh| Resource::Mesh(Arc::new(mesh))),
        any_endpoint_set().prop_map(|set| Resource::Endpoints(Arc::new(set))),
        any_service().prop_map(|policy| Resource::Service(Arc::new(policy))),
        any_workload().prop_map(|policy| Resource::Workload(Arc::new(policy))),
    ]
}

/// Any settings of the mesh.
pub fn any_mesh() -> impl Strategy<Value = MeshConfig> {
    let outbound = select(vec![OutboundMode::AllowAny, OutboundMode::RegistryOnly]);
    let trust = (vec(security::trust_domain(), 0..=2), option::of(security::trust()));
    let collector = option::of(telemetry::collector());
    (hostname(), security::trust_domain(), outbound, trust, collector).prop_map(
        |(cluster_domain, trust_domain, outbound, (trust_domain_aliases, trust), collector)| MeshConfig {
            cluster_domain,
            trust_domain,
            trust_domain_aliases,
            trust,
            outbound,
            collector,
        },
    )
}

/// Any set of up to five endpoints.
pub fn any_endpoint_set() -> impl Strategy<Value = EndpointSet> {
    (endpoint_set_name(), vec(any_endpoint(), 0..=5)).prop_map(|(name, mut endpoints)| {
        endpoints.sort_by_key(|endpoint| endpoint.address);
        endpoints.dedup_by_key(|endpoint| endpoint.address);
        EndpointSet { name, endpoints }
    })
}

/// Any endpoint.
pub fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let address = (any::<std::net::IpAddr>(), any::<u16>()).prop_map(SocketAddr::from);
    let health = select(vec![Health::Ready, Health::Draining]);
    let locality = (".{0,6}", ".{0,6}");
    let owner = (option::of(workload_name()), option::of(security::identity()));
    (address, 1..=u32::MAX, health, labels(), owner, locality, any::<bool>()).prop_map(
        |(address, weight, health, labels, (workload, identity), (region, zone), sidecar)| Endpoint {
            address,
            weight,
            health,
            labels,
            workload,
            identity,
            locality: Locality { region: region.into(), zone: zone.into() },
            sidecar,
        },
    )
}

/// Any policy of a workload.
pub fn any_workload() -> impl Strategy<Value = WorkloadPolicy> {
    let port = (any::<u16>(), protocol(), service_ref(), option::of(resilience::rate_limit()));
    let port = port.prop_map(|(port, protocol, service, rate_limit)| WorkloadPort {
        port,
        protocol,
        service,
        rate_limit,
    });
    let tls = (security::peer_tls(), security::port_tls());
    let access = (vec(security::authorization(), 0..=2), vec(security::jwt_rule(), 0..=2));
    let whom = (workload_name(), option::of(security::identity()));
    (whom, vec(port, 0..=3), tls, access, telemetry::telemetry())
        .prop_map(|((name, identity), ports, (peer_tls, port_tls), access, telemetry)| WorkloadPolicy {
            name,
            identity,
            ports,
            peer_tls,
            port_tls,
            authorization: access.0,
            authentication: access.1,
            telemetry,
        })
        .boxed()
}

/// Any policy of a destination; its rules lead to the clusters it defines.
pub fn any_service() -> impl Strategy<Value = ServicePolicy> {
    vec(any_cluster(), 0..=3).prop_flat_map(|mut clusters| {
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        clusters.dedup_by(|a, b| a.name == b.name);
        let names = clusters.iter().map(|cluster| cluster.name.clone()).collect();
        let routes = vec(any_route(names), 0..=3);
        (destination_name(), option::of(service_ref()), protocol(), routes).prop_filter_map(
            "the parts are valid, so the whole is",
            move |(name, service, protocol, routes)| {
                ServicePolicy::new(name, service, protocol, routes, clusters.clone()).ok()
            },
        )
    })
}

/// Any cluster.
pub fn any_cluster() -> impl Strategy<Value = Cluster> {
    let balancing =
        (balancer(), option::of(warmup())).prop_map(|(policy, warmup)| Balancing { policy, warmup });
    let rest = (resilience::cluster(), security::cluster_tls());
    (cluster_name(), labels(), protocol(), balancing, pool(), rest).prop_map(
        |(name, labels, protocol, balancing, pool, (resilience, tls))| Cluster {
            name,
            labels,
            protocol,
            balancing,
            pool,
            tls,
            resilience,
        },
    )
}

fn balancer() -> impl Strategy<Value = LoadBalancer> {
    let cookie = ("[a-z]{1,5}", option::of("/[a-z]{0,5}"), option::of(duration()))
        .prop_map(|(name, path, ttl)| HashKey::Cookie { name, path, ttl });
    let key = prop_oneof![
        header_name().prop_map(HashKey::Header),
        cookie,
        Just(HashKey::SourceIp),
        ".{0,6}".prop_map(HashKey::Query),
    ];
    prop_oneof![
        Just(LoadBalancer::LeastRequest),
        Just(LoadBalancer::PeakEwma),
        Just(LoadBalancer::RoundRobin),
        Just(LoadBalancer::Random),
        (key, any::<u32>()).prop_map(|(key, minimum_size)| LoadBalancer::RingHash { key, minimum_size }),
    ]
}

fn warmup() -> impl Strategy<Value = Warmup> {
    (duration(), 0..=100u8, any::<u32>()).prop_map(|(duration, minimum_percent, aggression_thousandths)| {
        Warmup { duration, minimum_percent, aggression_thousandths }
    })
}

fn pool() -> impl Strategy<Value = ConnectionPool> {
    let keepalive = (option::of(any::<u32>()), option::of(duration()), option::of(duration()))
        .prop_map(|(probes, time, interval)| Keepalive { probes, time, interval });
    let limit = || prop_oneof![Just(u32::MAX), any::<u32>()];
    let limits = (limit(), limit(), limit(), limit(), limit());
    let times = (duration(), duration(), duration(), option::of(duration()));
    (limits, times, option::of(keepalive)).prop_map(|(limits, times, keepalive)| ConnectionPool {
        max_connections: limits.0,
        connect_timeout: times.0,
        keepalive,
        max_pending: limits.1,
        max_requests: limits.2,
        max_requests_per_connection: limits.3,
        max_concurrent_streams: limits.4,
        idle_timeout: times.1,
        tcp_idle_timeout: times.2,
        max_connection_duration: times.3,
    })
}

/// Any rule that leads to the clusters of those names.
pub fn any_route(clusters: Vec<ClusterName>) -> impl Strategy<Value = Route> {
    let mirror =
        (target(clusters.clone()), fraction()).prop_map(|(target, fraction)| Mirror { target, fraction });
    let edits = (edits(), edits());
    let rest = (option::of(duration()), vec(mirror, 0..=2), option::of(cors()), resilience::route());
    (".{0,10}", vec(route_match(), 0..=2), action(clusters), edits, rest).prop_map(
        |(name, matches, action, edits, (timeout, mirrors, cors, resilience))| Route {
            name: name.into(),
            matches,
            action,
            request_headers: edits.0,
            response_headers: edits.1,
            timeout,
            mirrors,
            cors,
            resilience,
        },
    )
}

fn route_match() -> impl Strategy<Value = RouteMatch> {
    let path =
        (string_match(), any::<bool>()).prop_map(|(value, ignore_case)| PathMatch { value, ignore_case });
    let header = (header_name(), string_match(), any::<bool>())
        .prop_map(|(name, value, negated)| HeaderMatch { name, value, negated });
    let query = (".{0,6}", string_match()).prop_map(|(name, value)| QueryMatch { name, value });
    let text = || option::of(string_match());
    (option::of(path), text(), text(), text(), vec(header, 0..=2), vec(query, 0..=2)).prop_map(
        |(path, method, scheme, authority, headers, query)| RouteMatch {
            path,
            method,
            scheme,
            authority,
            headers,
            query,
        },
    )
}

fn action(clusters: Vec<ClusterName>) -> impl Strategy<Value = Action> {
    let backend = (target(clusters), any::<u32>(), edits(), edits(), option::of(field())).prop_map(
        |(target, weight, request_headers, response_headers, authority)| Backend {
            target,
            weight,
            request_headers,
            response_headers,
            authority,
        },
    );
    let backends = vec(backend, 1..=3).prop_filter_map("a weight is positive", |all| Backends::new(all).ok());
    let forward = (backends, option::of(rewrite()), option::of(field()))
        .prop_map(|(backends, path, authority)| Forward { backends, path, authority });
    let port = prop_oneof![
        Just(RedirectPort::SchemeDefault),
        Just(RedirectPort::Request),
        any::<u16>().prop_map(RedirectPort::Number),
    ];
    let code = select(vec![301, 302, 303, 307, 308]);
    let redirect = (code, option::of(".{0,6}"), option::of(".{0,6}"), port, option::of(rewrite()))
        .prop_map(|(code, scheme, host, port, path)| Redirect { code, scheme, host, port, path });
    let respond = (200..=599u16, vec(any::<u8>(), 0..=20))
        .prop_map(|(status, body)| DirectResponse { status, body: body.into() });
    prop_oneof![
        forward.prop_map(Action::Forward),
        redirect.prop_map(Action::Redirect),
        respond.prop_map(Action::Respond),
    ]
}

fn target(clusters: Vec<ClusterName>) -> BoxedStrategy<Target> {
    let missing = ".{0,10}".prop_map(|reason| Target::Missing(reason.into()));
    if clusters.is_empty() {
        return missing.boxed();
    }
    prop_oneof![1 => missing, 3 => select(clusters).prop_map(Target::Cluster)].boxed()
}

fn rewrite() -> impl Strategy<Value = PathRewrite> {
    let substitution = select(vec!["", "/x", r"/\1/y", r"\0$\\"])
        .prop_filter_map("is one", |source| Substitution::new(source).ok());
    prop_oneof![
        ".{0,8}".prop_map(PathRewrite::Matched),
        ".{0,8}".prop_map(PathRewrite::Whole),
        (pattern(), substitution)
            .prop_map(|(pattern, substitution)| PathRewrite::Regex { pattern, substitution }),
    ]
}

fn cors() -> impl Strategy<Value = Cors> {
    let names = || vec(header_name(), 0..=2);
    let lists = (vec(string_match(), 0..=2), vec("[A-Z]{1,6}", 0..=2), names(), names());
    (lists, option::of(duration()), any::<bool>(), any::<bool>()).prop_map(
        |(lists, max_age, allow_credentials, forward_unmatched_preflights)| Cors {
            allow_origins: lists.0,
            allow_methods: lists.1,
            allow_headers: lists.2,
            expose_headers: lists.3,
            max_age,
            allow_credentials,
            forward_unmatched_preflights,
        },
    )
}

fn edits() -> impl Strategy<Value = Edits> {
    let fields = || vec(field(), 0..=2);
    (vec(header_name(), 0..=2), fields(), fields()).prop_map(|(remove, set, add)| Edits { remove, set, add })
}

fn field() -> impl Strategy<Value = Field> {
    ("[a-z][a-z0-9-]{0,8}", "[!-~][ -~]{0,8}|")
        .prop_filter_map("is one", |(name, value)| Field::new(&name, &value).ok())
}

fn header_name() -> impl Strategy<Value = HeaderName> {
    "[a-z][a-z0-9-]{0,8}".prop_filter_map("is one", |name| crate::header::name(&name).ok())
}

fn string_match() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        ".{0,8}".prop_map(StringMatch::Exact),
        ".{0,8}".prop_map(StringMatch::Prefix),
        pattern().prop_map(StringMatch::Regex),
        Just(StringMatch::Present),
    ]
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let sources = vec!["", "a|b", "/api/(v[0-9]+)/.*", "(?i)x{1,3}", "[^/]+"];
    select(sources).prop_filter_map("is one", |source| Pattern::new(source).ok())
}

fn fraction() -> impl Strategy<Value = Fraction> {
    (0..=1_000_000u32).prop_filter_map("is one", |parts| Fraction::from_parts_per_million(parts).ok())
}

fn duration() -> impl Strategy<Value = Duration> {
    (prop_oneof![0..=3600u64, 0..=i64::MAX.unsigned_abs()], 0..1_000_000_000u32)
        .prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Auto, Protocol::Http1, Protocol::Http2, Protocol::Tcp])
}

fn labels() -> impl Strategy<Value = Labels> {
    let text = || ".{0,6}".prop_map(Arc::from);
    btree_map(text(), text(), 0..=2)
}

fn service_ref() -> impl Strategy<Value = ServiceRef> {
    (hostname(), label(), label()).prop_map(|(host, name, namespace)| ServiceRef { host, name, namespace })
}

fn hostname() -> impl Strategy<Value = Hostname> {
    "[a-z0-9_]([a-z0-9._:-]{0,8}[a-z0-9_])?".prop_filter_map("is one", |host| Hostname::new(&host).ok())
}

fn label() -> impl Strategy<Value = Label> {
    "[a-zA-Z0-9._-]{1,8}".prop_filter_map("is one", |label| Label::new(&label).ok())
}

fn endpoint_set_name() -> impl Strategy<Value = EndpointSetName> {
    (hostname(), any::<u16>()).prop_map(|(service, port)| EndpointSetName { service, port })
}

fn cluster_name() -> impl Strategy<Value = ClusterName> {
    (endpoint_set_name(), option::of(label()))
        .prop_map(|(endpoints, subset)| ClusterName { endpoints, subset })
}

fn destination_name() -> impl Strategy<Value = DestinationName> {
    (label(), hostname(), any::<u16>()).prop_map(|(namespace, host, port)| DestinationName {
        namespace,
        host,
        port,
    })
}

fn workload_name() -> impl Strategy<Value = WorkloadName> {
    (label(), label()).prop_map(|(namespace, name)| WorkloadName { namespace, name })
}
