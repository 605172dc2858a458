//! From policy to protobuf.
//!
//! Encoding cannot fail and is deterministic: maps are sorted and defaults are left out, so equal policy has equal bytes
//! and therefore an equal [`Version`]. A duration beyond what protobuf can say (292 billion years) is cut to that.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use pillion_policy::{
    Resource,
    cluster::{Balancing, Cluster, ConnectionPool, HashKey, Labels, LoadBalancer, Protocol, Warmup},
    endpoint::{Endpoint, EndpointSet, Health},
    header::{Edits, Field},
    matching::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, StringMatch},
    mesh::{MeshConfig, OutboundMode},
    route::{
        Action, Backend, Cors, DirectResponse, Forward, Mirror, PathRewrite, Redirect, RedirectPort, Route,
        Target,
    },
    service::{ServicePolicy, ServiceRef},
    workload::{WorkloadPolicy, WorkloadPort},
};
use prost::Message;

use crate::{Version, pillion as wire, protobuf};

mod resilience;
mod security;
mod telemetry;

/// A resource as it travels, with the version that its content makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Hash of the content.
    pub version: Version,
    /// The message of the resource's kind; cloning shares it.
    pub content: Bytes,
}

impl Encoded {
    /// Encodes a resource.
    pub fn of(resource: &Resource) -> Self {
        let content: Bytes = match resource {
            Resource::Mesh(mesh) => self::mesh(mesh).encode_to_vec(),
            Resource::Endpoints(set) => endpoints(set).encode_to_vec(),
            Resource::Service(policy) => service(policy).encode_to_vec(),
            Resource::Workload(policy) => workload(policy).encode_to_vec(),
        }
        .into();
        Self { version: Version::of(&content), content }
    }
}

fn mesh(mesh: &MeshConfig) -> wire::Mesh {
    let outbound = match mesh.outbound {
        OutboundMode::AllowAny => wire::OutboundMode::AllowAny,
        OutboundMode::RegistryOnly => wire::OutboundMode::RegistryOnly,
    };
    wire::Mesh {
        cluster_domain: mesh.cluster_domain.to_string(),
        trust_domain: mesh.trust_domain.to_string(),
        outbound: outbound.into(),
        trust_domain_aliases: mesh.trust_domain_aliases.iter().map(ToString::to_string).collect(),
        trust: mesh.trust.as_ref().map(security::trust),
        collector: mesh.collector.as_ref().map(telemetry::collector),
    }
}

fn endpoints(set: &EndpointSet) -> wire::Endpoints {
    wire::Endpoints { name: set.name.to_string(), endpoints: set.endpoints.iter().map(endpoint).collect() }
}

fn endpoint(endpoint: &Endpoint) -> wire::Endpoint {
    let health = match endpoint.health {
        Health::Ready => wire::Health::Ready,
        Health::Draining => wire::Health::Draining,
    };
    wire::Endpoint {
        address: endpoint.address.to_string(),
        weight: unless(endpoint.weight, 1),
        health: health.into(),
        labels: labels(&endpoint.labels),
        workload: endpoint.workload.as_ref().map(ToString::to_string),
        identity: endpoint.identity.as_ref().map(ToString::to_string),
        region: endpoint.locality.region.as_ref().to_owned(),
        zone: endpoint.locality.zone.as_ref().to_owned(),
        sidecar: endpoint.sidecar,
    }
}

fn labels(labels: &Labels) -> std::collections::BTreeMap<String, String> {
    labels.iter().map(|(key, value)| (key.as_ref().to_owned(), value.as_ref().to_owned())).collect()
}

fn workload(policy: &WorkloadPolicy) -> wire::Workload {
    let port = |port: &WorkloadPort| wire::WorkloadPort {
        port: port.port.into(),
        protocol: protocol(port.protocol).into(),
        service: Some(service_ref(&port.service)),
        rate_limit: port.rate_limit.as_ref().map(resilience::rate_limit),
    };
    wire::Workload {
        name: policy.name.to_string(),
        identity: policy.identity.as_ref().map(ToString::to_string),
        ports: policy.ports.iter().map(port).collect(),
        peer_tls: security::peer_tls(policy.peer_tls).into(),
        port_tls: policy
            .port_tls
            .iter()
            .map(|(port, mode)| ((*port).into(), security::peer_tls(*mode).into()))
            .collect(),
        authorization: policy.authorization.iter().map(security::authorization).collect(),
        authentication: policy.authentication.iter().map(security::jwt_rule).collect(),
        telemetry: telemetry::telemetry(&policy.telemetry),
    }
}

fn service(policy: &ServicePolicy) -> wire::Service {
    wire::Service {
        name: policy.name().to_string(),
        service: policy.service().map(service_ref),
        protocol: protocol(policy.protocol()).into(),
        routes: policy.routes().iter().map(route).collect(),
        clusters: policy.clusters().iter().map(cluster).collect(),
    }
}

fn service_ref(service: &ServiceRef) -> wire::ServiceRef {
    wire::ServiceRef {
        host: service.host.to_string(),
        name: service.name.to_string(),
        namespace: service.namespace.to_string(),
    }
}

fn protocol(protocol: Protocol) -> wire::Protocol {
    match protocol {
        Protocol::Auto => wire::Protocol::Auto,
        Protocol::Http1 => wire::Protocol::Http1,
        Protocol::Http2 => wire::Protocol::Http2,
        Protocol::Tcp => wire::Protocol::Tcp,
    }
}

fn cluster(cluster: &Cluster) -> wire::Cluster {
    let Balancing { policy, warmup } = &cluster.balancing;
    let (algorithm, ring_hash) = match policy {
        LoadBalancer::LeastRequest => (wire::Algorithm::LeastRequest, None),
        LoadBalancer::PeakEwma => (wire::Algorithm::PeakEwma, None),
        LoadBalancer::RoundRobin => (wire::Algorithm::RoundRobin, None),
        LoadBalancer::Random => (wire::Algorithm::Random, None),
        LoadBalancer::RingHash { key, minimum_size } => {
            let ring = wire::RingHash { minimum_size: *minimum_size, key: Some(hash_key(key)) };
            (wire::Algorithm::RingHash, Some(ring))
        }
    };
    wire::Cluster {
        name: cluster.name.to_string(),
        labels: labels(&cluster.labels),
        protocol: protocol(cluster.protocol).into(),
        algorithm: algorithm.into(),
        ring_hash,
        warmup: warmup.map(|warmup: Warmup| wire::Warmup {
            duration: Some(duration(warmup.duration)),
            minimum_percent: warmup.minimum_percent.into(),
            aggression_thousandths: warmup.aggression_thousandths,
        }),
        pool: Some(pool(&cluster.pool)).filter(|pool| *pool != wire::ConnectionPool::default()),
        resilience: resilience::cluster(&cluster.resilience),
        tls: security::cluster_tls(&cluster.tls),
    }
}

fn hash_key(key: &HashKey) -> wire::ring_hash::Key {
    match key {
        HashKey::Header(name) => wire::ring_hash::Key::Header(name.as_str().to_owned()),
        HashKey::Cookie { name, path, ttl } => wire::ring_hash::Key::Cookie(wire::HashCookie {
            name: name.clone(),
            path: path.clone(),
            ttl: ttl.map(duration),
        }),
        HashKey::SourceIp => wire::ring_hash::Key::SourceIp(wire::SourceIp {}),
        HashKey::Query(name) => wire::ring_hash::Key::Query(name.clone()),
    }
}

fn pool(pool: &ConnectionPool) -> wire::ConnectionPool {
    let default = ConnectionPool::default();
    let time = |value, default| unless(value, default).map(duration);
    wire::ConnectionPool {
        max_connections: unless(pool.max_connections, default.max_connections),
        connect_timeout: time(pool.connect_timeout, default.connect_timeout),
        keepalive: pool.keepalive.map(|keepalive| wire::Keepalive {
            probes: keepalive.probes,
            time: keepalive.time.map(duration),
            interval: keepalive.interval.map(duration),
        }),
        max_pending: unless(pool.max_pending, default.max_pending),
        max_requests: unless(pool.max_requests, default.max_requests),
        max_requests_per_connection: unless(
            pool.max_requests_per_connection,
            default.max_requests_per_connection,
        ),
        max_concurrent_streams: unless(pool.max_concurrent_streams, default.max_concurrent_streams),
        idle_timeout: time(pool.idle_timeout, default.idle_timeout),
        tcp_idle_timeout: time(pool.tcp_idle_timeout, default.tcp_idle_timeout),
        max_connection_duration: pool.max_connection_duration.map(duration),
    }
}

fn route(route: &Route) -> wire::Route {
    let action = match &route.action {
        Action::Forward(forward) => wire::route::Action::Forward(self::forward(forward)),
        Action::Redirect(redirect) => wire::route::Action::Redirect(self::redirect(redirect)),
        Action::Respond(DirectResponse { status, body }) => {
            let body = Bytes::copy_from_slice(body);
            wire::route::Action::Respond(wire::DirectResponse { status: (*status).into(), body })
        }
    };
    let mirror = |mirror: &Mirror| wire::Mirror {
        target: Some(target(&mirror.target)),
        fraction: mirror.fraction.parts_per_million(),
    };
    wire::Route {
        name: route.name.as_ref().to_owned(),
        matches: route.matches.iter().map(route_match).collect(),
        action: Some(action),
        request_headers: edits(&route.request_headers),
        response_headers: edits(&route.response_headers),
        timeout: route.timeout.map(duration),
        mirrors: route.mirrors.iter().map(mirror).collect(),
        cors: route.cors.as_ref().map(cors),
        resilience: resilience::route(&route.resilience),
    }
}

fn route_match(entry: &RouteMatch) -> wire::RouteMatch {
    let path = |PathMatch { value, ignore_case }: &PathMatch| wire::PathMatch {
        value: Some(string_match(value)),
        ignore_case: *ignore_case,
    };
    let header = |HeaderMatch { name, value, negated }: &HeaderMatch| wire::HeaderMatch {
        name: name.as_str().to_owned(),
        value: Some(string_match(value)),
        negated: *negated,
    };
    let query = |QueryMatch { name, value }: &QueryMatch| wire::QueryMatch {
        name: name.clone(),
        value: Some(string_match(value)),
    };
    wire::RouteMatch {
        path: entry.path.as_ref().map(path),
        method: entry.method.as_ref().map(string_match),
        scheme: entry.scheme.as_ref().map(string_match),
        authority: entry.authority.as_ref().map(string_match),
        headers: entry.headers.iter().map(header).collect(),
        query: entry.query.iter().map(query).collect(),
    }
}

fn string_match(condition: &StringMatch) -> wire::StringMatch {
    use wire::string_match::Value;
    let value = match condition {
        StringMatch::Exact(text) => Value::Exact(text.clone()),
        StringMatch::Prefix(text) => Value::Prefix(text.clone()),
        StringMatch::Regex(pattern) => Value::Regex(pattern.as_str().to_owned()),
        StringMatch::Present => Value::Present(wire::Present {}),
    };
    wire::StringMatch { value: Some(value) }
}

fn edits(edits: &Edits) -> Option<wire::Edits> {
    (!edits.is_empty()).then(|| wire::Edits {
        remove: names(&edits.remove),
        set: edits.set.iter().map(field).collect(),
        add: edits.add.iter().map(field).collect(),
    })
}

fn field(field: &Field) -> wire::Field {
    let (name, value) = field.clone().into();
    wire::Field { name, value }
}

fn names(names: &[HeaderName]) -> Vec<String> {
    names.iter().map(|name| name.as_str().to_owned()).collect()
}

fn forward(forward: &Forward) -> wire::Forward {
    let backend = |backend: &Backend| wire::Backend {
        target: Some(target(&backend.target)),
        weight: backend.weight,
        request_headers: edits(&backend.request_headers),
        response_headers: edits(&backend.response_headers),
        authority: backend.authority.as_ref().map(field),
    };
    wire::Forward {
        backends: forward.backends.all().iter().map(backend).collect(),
        path: forward.path.as_ref().map(rewrite),
        authority: forward.authority.as_ref().map(field),
    }
}

fn target(target: &Target) -> wire::Target {
    let target = match target {
        Target::Cluster(name) => wire::target::Target::Cluster(name.to_string()),
        Target::Missing(reason) => wire::target::Target::Missing(reason.as_ref().to_owned()),
    };
    wire::Target { target: Some(target) }
}

fn rewrite(rewrite: &PathRewrite) -> wire::PathRewrite {
    use wire::path_rewrite::Rewrite;
    let rewrite = match rewrite {
        PathRewrite::Matched(path) => Rewrite::Matched(path.clone()),
        PathRewrite::Whole(path) => Rewrite::Whole(path.clone()),
        PathRewrite::Regex { pattern, substitution } => Rewrite::Regex(wire::RegexRewrite {
            pattern: pattern.as_str().to_owned(),
            substitution: substitution.as_str().to_owned(),
        }),
    };
    wire::PathRewrite { rewrite: Some(rewrite) }
}

fn redirect(redirect: &Redirect) -> wire::Redirect {
    let (port, port_number) = match redirect.port {
        RedirectPort::SchemeDefault => (wire::RedirectPort::SchemeDefault, 0),
        RedirectPort::Request => (wire::RedirectPort::Request, 0),
        RedirectPort::Number(number) => (wire::RedirectPort::Number, number),
    };
    wire::Redirect {
        code: redirect.code.into(),
        scheme: redirect.scheme.clone(),
        host: redirect.host.clone(),
        port: port.into(),
        port_number: port_number.into(),
        path: redirect.path.as_ref().map(rewrite),
    }
}

fn cors(cors: &Cors) -> wire::Cors {
    wire::Cors {
        allow_origins: cors.allow_origins.iter().map(string_match).collect(),
        allow_methods: cors.allow_methods.clone(),
        allow_headers: names(&cors.allow_headers),
        expose_headers: names(&cors.expose_headers),
        max_age: cors.max_age.map(duration),
        allow_credentials: cors.allow_credentials,
        forward_unmatched_preflights: cors.forward_unmatched_preflights,
    }
}

/// A value that is left out when it is what the reader assumes.
fn unless<T: PartialEq>(value: T, default: T) -> Option<T> {
    (value != default).then_some(value)
}

fn duration(duration: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}
