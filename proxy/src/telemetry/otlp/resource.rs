//! Who telemetry is of: the workload, as OpenTelemetry's resource attributes say it.
//!
//! `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win over what the proxy knows of itself
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).

use std::net::IpAddr;

use opentelemetry_proto::tonic::{
    common::v1::{InstrumentationScope, KeyValue},
    resource::v1::Resource,
};
use percent_encoding::percent_decode_str;
use pillion_policy::name::WorkloadName;

use super::{attribute, settings::Environment};

/// What the proxy knows of itself.
#[derive(Debug, Clone)]
pub struct Place {
    /// The workload.
    pub workload: WorkloadName,
    /// The address of its pod.
    pub pod_ip: Option<IpAddr>,
    /// The name of the machine, which in Kubernetes is that of the pod.
    pub host: Option<String>,
    /// Whether this is Kubernetes.
    pub is_kubernetes: bool,
}

impl Place {
    /// Where this process runs, beside `workload`.
    pub fn of_process(workload: WorkloadName, pod_ip: Option<IpAddr>) -> Self {
        let host = rustix::system::uname().nodename().to_str().ok().map(str::to_owned);
        // What the kubelet gives every container.
        let is_kubernetes = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        Self { workload, pod_ip, host, is_kubernetes }
    }
}

/// The resource of everything this proxy exports.
pub fn resource(place: &Place, environment: &Environment) -> Resource {
    let mut attributes: Vec<KeyValue> = Vec::new();
    let mut put = |key: &str, value: &str| {
        if !value.is_empty() && !attributes.iter().any(|known| known.key == key) {
            attributes.push(attribute::text(key, value));
        }
    };
    if let Some(name) = environment.get("OTEL_SERVICE_NAME") {
        put("service.name", name);
    }
    for (key, value) in pairs(environment.get("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default()) {
        put(&key, &value);
    }
    let WorkloadName { namespace, name } = &place.workload;
    put("service.name", name.as_str());
    put("service.namespace", namespace.as_str());
    put("k8s.namespace.name", namespace.as_str());
    if let Some(host) = &place.host {
        put("host.name", host);
        if place.is_kubernetes {
            put("k8s.pod.name", host);
        }
    }
    if let Some(pod_ip) = place.pod_ip {
        put("k8s.pod.ip", &pod_ip.to_string());
    }
    put("telemetry.sdk.name", "pillion");
    put("telemetry.sdk.language", "rust");
    put("telemetry.sdk.version", env!("CARGO_PKG_VERSION"));
    Resource { attributes, ..Resource::default() }
}

/// What has made the telemetry.
pub fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "pillion-proxy".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// `key=value` pairs with commas between them, both percent-encoded. The specification has all passed over when one of
/// them is wrong.
fn pairs(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| percent_decode_str(text.trim()).decode_utf8().ok().map(String::from);
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        Some((decoded(key).filter(|key| !key.is_empty())?, decoded(value)?))
    };
    let read: Option<Vec<_>> = text.split(',').filter(|part| !part.trim().is_empty()).map(pair).collect();
    read.unwrap_or_else(|| {
        tracing::warn!("OTEL_RESOURCE_ATTRIBUTES is not key=value,key=value");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;

    use super::*;

    fn resource_with(variables: &[(&str, &str)]) -> Vec<(String, String)> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let place = Place {
            workload: "shop/orders".parse().unwrap(),
            pod_ip: Some("10.0.0.7".parse().unwrap()),
            host: Some("orders-1".to_owned()),
            is_kubernetes: true,
        };
        let text = |value: KeyValue| match value.value.unwrap().value.unwrap() {
            Value::StringValue(text) => (value.key, text),
            other => panic!("{other:?}"),
        };
        resource(&place, &Environment::of(variables)).attributes.into_iter().map(text).collect()
    }

    fn has(all: &[(String, String)], key: &str, value: &str) -> bool {
        all.iter().filter(|(known, _)| known == key).collect::<Vec<_>>()
            == [&(key.to_owned(), value.to_owned())]
    }

    #[test]
    fn the_workload_is_the_service() {
        let all = resource_with(&[]);
        for (key, value) in [
            ("service.name", "orders"),
            ("service.namespace", "shop"),
            ("k8s.namespace.name", "shop"),
            ("k8s.pod.name", "orders-1"),
            ("k8s.pod.ip", "10.0.0.7"),
            ("host.name", "orders-1"),
            ("telemetry.sdk.name", "pillion"),
        ] {
            assert!(has(&all, key, value), "{key}: {all:?}");
        }
    }

    #[test]
    fn the_environment_wins() {
        let attributes = "service.name=other, deployment.environment.name = a%2Cb ,host.name=h";
        let all = resource_with(&[("OTEL_RESOURCE_ATTRIBUTES", attributes)]);
        assert!(has(&all, "service.name", "other") && has(&all, "host.name", "h"), "{all:?}");
        assert!(has(&all, "deployment.environment.name", "a,b"), "{all:?}");
        let all = resource_with(&[("OTEL_SERVICE_NAME", "mine"), ("OTEL_RESOURCE_ATTRIBUTES", attributes)]);
        assert!(has(&all, "service.name", "mine"), "{all:?}");
        let all = resource_with(&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,broken")]);
        assert!(has(&all, "service.name", "orders"), "{all:?}");
    }
}
