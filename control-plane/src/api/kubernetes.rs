//! Service, EndpointSlice and Pod: the fields a mesh reads.

use std::collections::BTreeMap;

use serde::Deserialize;

schema! {
    /// A Service.
    struct Service {
        spec: ServiceSpec,
    }

    struct ServiceSpec {
        selector: BTreeMap<String, String>,
        ports: Vec<ServicePort>,
        #[serde(rename = "clusterIP")]
        cluster_ip: Option<String>,
        #[serde(rename = "clusterIPs")]
        cluster_ips: Vec<String>,
        #[serde(rename = "type")]
        kind: ServiceType,
        external_name: Option<String>,
        publish_not_ready_addresses: bool,
        session_affinity: Option<String>,
        internal_traffic_policy: Option<String>,
        traffic_distribution: Option<String>,
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum ServiceType {
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

schema! {
    struct ServicePort {
        name: Option<String>,
        protocol: Transport,
        port: u16,
        target_port: Option<PortRef>,
        app_protocol: Option<String>,
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum Transport {
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
    #[serde(rename = "SCTP")]
    Sctp,
}

/// A port by number or by the name a container gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PortRef {
    Number(u16),
    Name(String),
}

impl<'de> Deserialize<'de> for PortRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Port;
        impl serde::de::Visitor<'_> for Port {
            type Value = PortRef;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a port number or name")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<PortRef, E> {
                match u16::try_from(number) {
                    Ok(number) if number > 0 => Ok(PortRef::Number(number)),
                    _ => Err(E::custom(format!("{number} is not a port between 1 and 65535"))),
                }
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<PortRef, E> {
                Ok(PortRef::Name(name.to_owned()))
            }
        }
        deserializer.deserialize_any(Port)
    }
}

schema! {
    /// An EndpointSlice.
    struct EndpointSlice {
        address_type: AddressType,
        endpoints: Vec<SliceEndpoint>,
        ports: Vec<SlicePort>,
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum AddressType {
    #[default]
    IPv4,
    IPv6,
    #[serde(rename = "FQDN")]
    Fqdn,
}

schema! {
    struct SliceEndpoint {
        addresses: Vec<String>,
        conditions: Conditions,
        target_ref: Option<TargetRef>,
        zone: Option<String>,
    }

    #[derive(Copy)]
    struct Conditions {
        ready: Option<bool>,
        serving: Option<bool>,
        terminating: Option<bool>,
    }

    struct TargetRef {
        kind: String,
        name: String,
    }

    struct SlicePort {
        name: Option<String>,
        port: Option<u16>,
    }

    /// A Pod.
    struct Pod {
        spec: PodSpec,
        status: PodStatus,
    }

    struct PodSpec {
        service_account_name: Option<String>,
        containers: Vec<Container>,
        init_containers: Vec<Container>,
    }

    struct Container {
        ports: Vec<ContainerPort>,
    }

    struct ContainerPort {
        name: Option<String>,
        container_port: u16,
    }

    struct PodStatus {
        phase: Option<String>,
        #[serde(rename = "podIP")]
        pod_ip: Option<String>,
        conditions: Vec<PodCondition>,
    }

    struct PodCondition {
        #[serde(rename = "type")]
        kind: String,
        status: String,
    }
}
