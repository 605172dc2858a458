//! From protobuf to policy.
//!
//! Every value goes through the constructors of the model, so what comes out is as valid as what the control plane
//! builds; what does not is refused with path and reason. Fields that are not known here are skipped. An enum value or a
//! oneof member that is not known here refuses the resource, because doing without it would change what it means; only in
//! telemetry it is left out.

use std::{fmt::Display, str::FromStr, sync::Arc, time::Duration};

use pillion_policy::{
    Invalid, Resource, ResourceKind,
    cluster::{
        Balancing, Cluster, ConnectionPool, HashKey, Keepalive, Labels, LoadBalancer, Protocol, Warmup,
    },
    endpoint::{Endpoint, EndpointSet, Health, Locality},
    mesh::{MeshConfig, OutboundMode},
    name::Hostname,
    ratio::Fraction,
    service::{ServicePolicy, ServiceRef},
    workload::{WorkloadPolicy, WorkloadPort},
};
use prost::Message;

use crate::{kind, pillion as wire, protobuf};

mod resilience;
mod route;
mod security;
mod telemetry;

/// Decodes the message of a resource of that kind.
pub fn resource(kind: ResourceKind, content: &[u8]) -> Result<Resource, Invalid> {
    fn message<M: Message + Default>(content: &[u8]) -> Result<M, Invalid> {
        M::decode(content).map_err(|error| Invalid::new(format!("is not protobuf: {error}")))
    }
    Ok(match kind {
        ResourceKind::Mesh => Resource::Mesh(Arc::new(mesh(message(content)?)?)),
        ResourceKind::Endpoints => Resource::Endpoints(Arc::new(endpoints(message(content)?)?)),
        ResourceKind::Service => Resource::Service(Arc::new(service(message(content)?)?)),
        ResourceKind::Workload => Resource::Workload(Arc::new(workload(message(content)?)?)),
    })
}

/// Decodes a resource with its type URL.
pub fn from_any(any: &protobuf::Any) -> Result<Resource, Invalid> {
    let kind = kind::from_type_url(&any.type_url)
        .ok_or_else(|| Invalid::new(format!("{:?} is no type of resource", any.type_url)))?;
    resource(kind, &any.value)
}

fn mesh(mesh: wire::Mesh) -> Result<MeshConfig, Invalid> {
    Ok(MeshConfig {
        cluster_domain: text("clusterDomain", &mesh.cluster_domain)?,
        trust_domain: text("trustDomain", &mesh.trust_domain)?,
        outbound: match known("outbound", mesh.outbound)? {
            wire::OutboundMode::AllowAny => OutboundMode::AllowAny,
            wire::OutboundMode::RegistryOnly => OutboundMode::RegistryOnly,
        },
        trust_domain_aliases: list("trustDomainAliases", mesh.trust_domain_aliases, |name| {
            text("name", &name)
        })?,
        trust: optional("trust", mesh.trust, security::trust)?,
        collector: mesh.collector.and_then(telemetry::collector),
    })
}

fn endpoints(set: wire::Endpoints) -> Result<EndpointSet, Invalid> {
    Ok(EndpointSet { name: text("name", &set.name)?, endpoints: list("endpoints", set.endpoints, endpoint)? })
}

fn endpoint(endpoint: wire::Endpoint) -> Result<Endpoint, Invalid> {
    Ok(Endpoint {
        address: text("address", &endpoint.address)?,
        weight: match endpoint.weight.unwrap_or(1) {
            0 => return Err(Invalid::new("is less than 1").within("weight")),
            weight => weight,
        },
        health: match known("health", endpoint.health)? {
            wire::Health::Ready => Health::Ready,
            wire::Health::Draining => Health::Draining,
        },
        labels: labels(endpoint.labels),
        workload: endpoint.workload.map(|name| text("workload", &name)).transpose()?,
        identity: endpoint.identity.map(|name| text("identity", &name)).transpose()?,
        locality: Locality { region: endpoint.region.into(), zone: endpoint.zone.into() },
        sidecar: endpoint.sidecar,
    })
}

fn labels(labels: impl IntoIterator<Item = (String, String)>) -> Labels {
    labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

fn workload(workload: wire::Workload) -> Result<WorkloadPolicy, Invalid> {
    let port = |port: wire::WorkloadPort| {
        Ok(WorkloadPort {
            port: number("port", port.port)?,
            protocol: protocol(port.protocol)?,
            service: required("service", port.service, service_ref)?,
            rate_limit: optional("rateLimit", port.rate_limit, resilience::rate_limit)?,
        })
    };
    Ok(WorkloadPolicy {
        name: text("name", &workload.name)?,
        identity: workload.identity.map(|name| text("identity", &name)).transpose()?,
        ports: list("ports", workload.ports, port)?,
        peer_tls: security::peer_tls("peerTls", workload.peer_tls)?,
        port_tls: workload
            .port_tls
            .into_iter()
            .map(|(port, mode)| Ok((number("portTls", port)?, security::peer_tls("portTls", mode)?)))
            .collect::<Result<_, Invalid>>()?,
        authorization: list("authorization", workload.authorization, security::authorization)?,
        authentication: list("authentication", workload.authentication, security::jwt_rule)?,
        telemetry: optional("telemetry", workload.telemetry, telemetry::telemetry)?.unwrap_or_default(),
    })
}

fn service(service: wire::Service) -> Result<ServicePolicy, Invalid> {
    ServicePolicy::new(
        text("name", &service.name)?,
        optional("service", service.service, service_ref)?,
        protocol(service.protocol)?,
        list("routes", service.routes, route::route)?,
        list("clusters", service.clusters, cluster)?,
    )
}

fn service_ref(service: wire::ServiceRef) -> Result<ServiceRef, Invalid> {
    Ok(ServiceRef {
        host: text::<Hostname>("host", &service.host)?,
        name: text("name", &service.name)?,
        namespace: text("namespace", &service.namespace)?,
    })
}

fn protocol(protocol: i32) -> Result<Protocol, Invalid> {
    Ok(match known("protocol", protocol)? {
        wire::Protocol::Auto => Protocol::Auto,
        wire::Protocol::Http1 => Protocol::Http1,
        wire::Protocol::Http2 => Protocol::Http2,
        wire::Protocol::Tcp => Protocol::Tcp,
    })
}

fn cluster(cluster: wire::Cluster) -> Result<Cluster, Invalid> {
    let policy = match known("algorithm", cluster.algorithm)? {
        wire::Algorithm::LeastRequest => LoadBalancer::LeastRequest,
        wire::Algorithm::PeakEwma => LoadBalancer::PeakEwma,
        wire::Algorithm::RoundRobin => LoadBalancer::RoundRobin,
        wire::Algorithm::Random => LoadBalancer::Random,
        wire::Algorithm::RingHash => required("ringHash", cluster.ring_hash, ring_hash)?,
    };
    Ok(Cluster {
        name: text("name", &cluster.name)?,
        labels: labels(cluster.labels),
        protocol: protocol(cluster.protocol)?,
        balancing: Balancing { policy, warmup: optional("warmup", cluster.warmup, warmup)? },
        pool: pool(cluster.pool.unwrap_or_default()).map_err(|invalid| invalid.within("pool"))?,
        resilience: optional("resilience", cluster.resilience, resilience::cluster)?.unwrap_or_default(),
        tls: optional("tls", cluster.tls, security::cluster_tls)?.unwrap_or_default(),
    })
}

fn ring_hash(ring: wire::RingHash) -> Result<LoadBalancer, Invalid> {
    use wire::ring_hash::Key;
    let key = match ring.key {
        Some(Key::Header(name)) => HashKey::Header(header_name("header", &name)?),
        Some(Key::Cookie(cookie)) => HashKey::Cookie {
            name: cookie.name,
            path: cookie.path,
            ttl: optional("ttl", cookie.ttl, duration).map_err(|invalid| invalid.within("cookie"))?,
        },
        Some(Key::SourceIp(wire::SourceIp {})) => HashKey::SourceIp,
        Some(Key::Query(name)) => HashKey::Query(name),
        None => return Err(unknown("key")),
    };
    Ok(LoadBalancer::RingHash { key, minimum_size: ring.minimum_size })
}

fn warmup(warmup: wire::Warmup) -> Result<Warmup, Invalid> {
    Ok(Warmup {
        duration: required("duration", warmup.duration, duration)?,
        minimum_percent: match number("minimumPercent", warmup.minimum_percent)? {
            percent @ 0..=100 => percent,
            percent => return Err(Invalid::new(format!("{percent} is over 100")).within("minimumPercent")),
        },
        aggression_thousandths: warmup.aggression_thousandths,
    })
}

fn pool(pool: wire::ConnectionPool) -> Result<ConnectionPool, Invalid> {
    let default = ConnectionPool::default();
    let time = |field, value, default| Ok(optional(field, value, duration)?.unwrap_or(default));
    let keepalive = |keepalive: wire::Keepalive| {
        Ok(Keepalive {
            probes: keepalive.probes,
            time: optional("time", keepalive.time, duration)?,
            interval: optional("interval", keepalive.interval, duration)?,
        })
    };
    Ok(ConnectionPool {
        max_connections: pool.max_connections.unwrap_or(default.max_connections),
        connect_timeout: time("connectTimeout", pool.connect_timeout, default.connect_timeout)?,
        keepalive: optional("keepalive", pool.keepalive, keepalive)?,
        max_pending: pool.max_pending.unwrap_or(default.max_pending),
        max_requests: pool.max_requests.unwrap_or(default.max_requests),
        max_requests_per_connection: pool
            .max_requests_per_connection
            .unwrap_or(default.max_requests_per_connection),
        max_concurrent_streams: pool.max_concurrent_streams.unwrap_or(default.max_concurrent_streams),
        idle_timeout: time("idleTimeout", pool.idle_timeout, default.idle_timeout)?,
        tcp_idle_timeout: time("tcpIdleTimeout", pool.tcp_idle_timeout, default.tcp_idle_timeout)?,
        max_connection_duration: optional("maxConnectionDuration", pool.max_connection_duration, duration)?,
    })
}

fn duration(duration: protobuf::Duration) -> Result<Duration, Invalid> {
    let seconds = u64::try_from(duration.seconds).ok();
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    match (seconds, nanos) {
        (Some(seconds), Some(nanos)) => Ok(Duration::new(seconds, nanos)),
        _ => Err(Invalid::new(format!("{} s {} ns is not a duration", duration.seconds, duration.nanos))),
    }
}

/// Parses a value that travels as text.
fn text<T: FromStr<Err: Display>>(field: &str, text: &str) -> Result<T, Invalid> {
    text.parse().map_err(|error| Invalid::new(format!("{text:?}: {error}")).within(field))
}

fn header_name(field: &str, name: &str) -> Result<http::HeaderName, Invalid> {
    pillion_policy::header::name(name).map_err(|invalid| invalid.within(field))
}

fn number<T: TryFrom<u32>>(field: &str, value: u32) -> Result<T, Invalid> {
    T::try_from(value).map_err(|_| Invalid::new(format!("{value} is out of range")).within(field))
}

fn fraction(field: &str, parts: u32) -> Result<Fraction, Invalid> {
    Fraction::from_parts_per_million(parts).map_err(|invalid| invalid.within(field))
}

/// A value of an enum that is known here.
fn known<T: TryFrom<i32>>(field: &str, value: i32) -> Result<T, Invalid> {
    T::try_from(value).map_err(|_| Invalid::new(format!("{value} is not a value known here")).within(field))
}

/// The refusal of a oneof without a member that is known here.
fn unknown(field: &str) -> Invalid {
    Invalid::new("holds nothing that is known here").within(field)
}

fn optional<M, T>(
    field: &str,
    message: Option<M>,
    decode: impl FnOnce(M) -> Result<T, Invalid>,
) -> Result<Option<T>, Invalid> {
    message.map(decode).transpose().map_err(|invalid| invalid.within(field))
}

fn required<M, T>(
    field: &str,
    message: Option<M>,
    decode: impl FnOnce(M) -> Result<T, Invalid>,
) -> Result<T, Invalid> {
    optional(field, message, decode)?.ok_or_else(|| Invalid::new("is missing").within(field))
}

fn list<M, T>(
    field: &str,
    messages: Vec<M>,
    decode: impl Fn(M) -> Result<T, Invalid>,
) -> Result<Vec<T>, Invalid> {
    let decode = |(index, message)| decode(message).map_err(|invalid| invalid.at_index(index).within(field));
    messages.into_iter().enumerate().map(decode).collect()
}

#[cfg(test)]
mod tests;
