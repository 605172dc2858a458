//! What Service, EndpointSlice and Pod mean to the mesh.

use std::{collections::BTreeSet, net::IpAddr};

use pillion_policy::{Invalid, cluster::Protocol, name::Label};

use crate::{
    api::{self, AddressType, ObjectMeta, PortRef, ServiceType, Transport},
    object::{Member, PodFacts, Service, ServicePort, SliceOfService},
    problem::Report,
};

/// The label that ties a slice to its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Ports whose services speak first or are known not to be HTTP: those of Istio and of Linkerd.
const OPAQUE_PORTS: [u16; 10] = [25, 53, 587, 3306, 4444, 5432, 6379, 9300, 11211, 27017];

pub(super) fn service(service: api::Service, report: &mut Report) -> Option<Service> {
    let spec = service.spec;
    let external = spec.kind == ServiceType::ExternalName;
    let headless = spec.cluster_ip.as_deref() == Some("None");
    report.field("spec", |report| {
        if external {
            report.field("externalName", |report| match spec.external_name {
                Some(_) => report.warn("not resolved by the mesh: requests for it pass through unchanged"),
                None => report.error("a service of type ExternalName needs it"),
            });
        } else if spec.ports.is_empty() && !headless {
            report.error("the service has no ports");
        }
        let ips =
            spec.cluster_ip.iter().chain(&spec.cluster_ips).filter(|ip| !matches!(ip.as_str(), "" | "None"));
        let cluster_ips: BTreeSet<IpAddr> =
            ips.filter_map(|ip| report.field("clusterIP", |report| report.accept(address(ip)))).collect();
        let ports = report.field("ports", |report| service_ports(&spec.ports, report));
        for (field, value, asks) in [
            ("sessionAffinity", &spec.session_affinity, "ClientIP"),
            ("internalTrafficPolicy", &spec.internal_traffic_policy, "Local"),
        ] {
            if value.as_deref() == Some(asks) {
                report.field(field, |report| report.warn("accepted, not enforced yet"));
            }
        }
        if spec.traffic_distribution.is_some() {
            report.field("trafficDistribution", |report| report.warn("accepted, not enforced yet"));
        }
        Some(Service {
            ports,
            selector: super::labels(&spec.selector),
            cluster_ips: cluster_ips.into_iter().collect(),
            external,
            publish_not_ready: spec.publish_not_ready_addresses,
        })
    })
}

fn service_ports(ports: &[api::ServicePort], report: &mut Report) -> Vec<ServicePort> {
    let mut read: Vec<ServicePort> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        report.item(index, |report| {
            let name = port.name.clone().unwrap_or_default();
            if port.port == 0 {
                report.field("port", |report| report.error("a port is a number between 1 and 65535"));
            }
            if name.is_empty() && ports.len() > 1 {
                report.field("name", |report| report.error("needed when a service has several ports"));
            }
            if port.protocol != Transport::Tcp {
                report.field("protocol", |report| report.info("ignored: the mesh carries TCP only"));
                return;
            }
            if read.iter().any(|other| other.port == port.port || (!name.is_empty() && other.name == name)) {
                report.error("another port of the service has the same number or name");
                return;
            }
            if matches!(&port.target_port, Some(PortRef::Name(name)) if name.parse::<u16>().is_ok()) {
                report.field("targetPort", |report| {
                    report.error("in quotes it is a name: write the number without")
                });
            }
            let target = port.target_port.clone().unwrap_or(PortRef::Number(port.port));
            let protocol = protocol(port);
            read.push(ServicePort { name, port: port.port, target, protocol });
        });
    }
    read
}

/// What a port speaks, by its `appProtocol`, else by the prefix of its name, else by its number.
fn protocol(port: &api::ServicePort) -> Protocol {
    let declared = port.app_protocol.as_deref().and_then(named_protocol);
    let prefix = port.name.as_deref().map(|name| name.split('-').next().unwrap_or(name));
    let by_name = || prefix.and_then(named_protocol);
    let by_number = || OPAQUE_PORTS.contains(&port.port).then_some(Protocol::Tcp);
    declared.or_else(by_name).or_else(by_number).unwrap_or_default()
}

fn named_protocol(name: &str) -> Option<Protocol> {
    match name.to_ascii_lowercase().as_str() {
        "http" | "http1" | "ws" | "kubernetes.io/ws" => Some(Protocol::Http1),
        "http2" | "grpc" | "grpc-web" | "h2c" | "kubernetes.io/h2c" => Some(Protocol::Http2),
        "https" | "tls" | "tcp" | "mongo" | "redis" | "mysql" | "wss" | "kubernetes.io/wss" => {
            Some(Protocol::Tcp)
        }
        _ => None,
    }
}

pub(super) fn endpoint_slice(
    slice: api::EndpointSlice,
    meta: &ObjectMeta,
    report: &mut Report,
) -> Option<SliceOfService> {
    let service = meta.labels.get(SERVICE_NAME).and_then(|name| report.accept(Label::new(name)));
    if service.is_none() {
        report.warn(format!("without the label {SERVICE_NAME} it belongs to no service"));
    }
    if slice.address_type == AddressType::Fqdn {
        report.field("addressType", |report| report.warn("FQDN addresses are not resolved by the mesh"));
        return Some(SliceOfService { service, ports: Vec::new(), members: Vec::new() });
    }
    let ports = slice
        .ports
        .iter()
        .filter_map(|port| Some((port.name.clone().unwrap_or_default(), port.port?)))
        .collect();
    let members = report.field("endpoints", |report| {
        let members = slice.endpoints.iter().enumerate();
        members.map(|(index, endpoint)| report.item(index, |report| member(endpoint, report))).collect()
    });
    Some(SliceOfService { service, ports, members })
}

fn member(endpoint: &api::SliceEndpoint, report: &mut Report) -> Member {
    let addresses = report.field("addresses", |report| {
        let addresses = endpoint.addresses.iter().enumerate();
        addresses.filter_map(|(index, ip)| report.item(index, |report| report.accept(address(ip)))).collect()
    });
    let conditions = endpoint.conditions;
    let ready = conditions.ready.unwrap_or(true);
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod");
    Member {
        addresses,
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        pod: target.and_then(|target| Label::new(&target.name).ok()),
        zone: endpoint.zone.as_deref().unwrap_or_default().into(),
    }
}

pub(super) fn pod(pod: api::Pod, meta: &ObjectMeta, report: &mut Report) -> Option<PodFacts> {
    let ip = report.field("status", |report| {
        report.field("podIP", |report| pod.status.pod_ip.as_deref().and_then(|ip| report.accept(address(ip))))
    });
    if pod.status.pod_ip.is_none() && pod.status.phase.as_deref() != Some("Pending") {
        report.warn("without status.podIP it gives no endpoint");
    }
    let phase = pod.status.phase.as_deref().unwrap_or("Running");
    let condition = pod.status.conditions.iter().find(|condition| condition.kind == "Ready");
    let containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
    let ports = containers.flat_map(|container| &container.ports);
    let ports = ports.filter_map(|port| Some((port.name.clone()?, port.container_port))).collect();
    let service_account = report.field("spec", |report| {
        let name = pod.spec.service_account_name.as_deref().filter(|name| !name.is_empty());
        report.field("serviceAccountName", |report| report.accept(Label::new(name.unwrap_or("default"))))
    });
    let marks = meta.labels.get("security.istio.io/tlsMode").is_some_and(|mode| mode == "istio");
    Some(PodFacts {
        address: ip,
        ready: condition.is_none_or(|condition| condition.status == "True") && phase == "Running",
        terminating: meta.deletion_timestamp.is_some(),
        gone: matches!(phase, "Succeeded" | "Failed"),
        sidecar: marks || meta.annotations.contains_key("sidecar.istio.io/status"),
        service_account: service_account?,
        workload: workload(meta)
            .and_then(|name| Label::new(&name).ok())
            .or_else(|| Label::new(&meta.name).ok())?,
        ports,
    })
}

/// The name of what a pod is an instance of: its owner (a ReplicaSet's without the hash), else what its labels call it.
fn workload(meta: &ObjectMeta) -> Option<String> {
    if let Some(owner) = meta.owner_references.first().filter(|owner| !owner.name.is_empty()) {
        let hash = meta.labels.get("pod-template-hash").map(|hash| format!("-{hash}"));
        let base = hash.as_deref().and_then(|hash| owner.name.strip_suffix(hash));
        let is_replica_set = owner.kind == "ReplicaSet";
        return Some(base.filter(|_| is_replica_set).unwrap_or(&owner.name).to_owned());
    }
    ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]
        .into_iter()
        .find_map(|label| meta.labels.get(label).cloned())
}

fn address(text: &str) -> Result<IpAddr, Invalid> {
    text.parse().map_err(|_| Invalid::new(format!("{text:?} is not an IP address")))
}
