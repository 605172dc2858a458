//! Which kinds there are, and what becomes of each.

use crate::{
    object::Kind,
    problem::{Report, suggestion},
    yaml::{Node, Value},
};

/// What is done with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The mesh acts on it.
    Mesh(Kind),
    /// A workload: nothing is read from it, but its fields are known well enough to notice a misspelt one.
    Workload,
    /// Somebody else's.
    Foreign,
    /// It does not say what it is, or says it wrongly.
    Nothing,
}

pub(super) const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";
const TELEMETRY: &str = "telemetry.istio.io";
const POLICY: &str = "policy.pillion.dev";
const ISTIO: &[&str] = &["v1alpha3", "v1beta1", "v1"];
const ISTIO_TELEMETRY: &[&str] = &["v1alpha1", "v1"];
const ISTIO_SECURITY: &[&str] = &["v1beta1", "v1"];

/// The kinds that get more than a glance: group, kind, versions, reading.
const KNOWN: &[(&str, &str, &[&str], Reading)] = &[
    ("", "Service", &["v1"], Reading::Mesh(Kind::Service)),
    ("", "Pod", &["v1"], Reading::Mesh(Kind::Pod)),
    ("discovery.k8s.io", "EndpointSlice", &["v1"], Reading::Mesh(Kind::EndpointSlice)),
    (NETWORKING, "VirtualService", ISTIO, Reading::Mesh(Kind::VirtualService)),
    (NETWORKING, "DestinationRule", ISTIO, Reading::Mesh(Kind::DestinationRule)),
    (POLICY, "ResiliencePolicy", &["v1alpha1"], Reading::Mesh(Kind::ResiliencePolicy)),
    (SECURITY, "PeerAuthentication", ISTIO_SECURITY, Reading::Mesh(Kind::PeerAuthentication)),
    (SECURITY, "RequestAuthentication", ISTIO_SECURITY, Reading::Mesh(Kind::RequestAuthentication)),
    (SECURITY, "AuthorizationPolicy", ISTIO_SECURITY, Reading::Mesh(Kind::AuthorizationPolicy)),
    (TELEMETRY, "Telemetry", ISTIO_TELEMETRY, Reading::Mesh(Kind::Telemetry)),
    ("apps", "Deployment", &["v1"], Reading::Workload),
    ("apps", "StatefulSet", &["v1"], Reading::Workload),
    ("apps", "DaemonSet", &["v1"], Reading::Workload),
    ("apps", "ReplicaSet", &["v1"], Reading::Workload),
    ("apps", "ControllerRevision", &["v1"], Reading::Foreign),
    ("", "ConfigMap", &["v1"], Reading::Foreign),
    ("", "Secret", &["v1"], Reading::Foreign),
    ("", "Namespace", &["v1"], Reading::Foreign),
    ("", "ServiceAccount", &["v1"], Reading::Foreign),
    ("", "Endpoints", &["v1"], Reading::Foreign),
    ("", "Node", &["v1"], Reading::Foreign),
    ("", "Event", &["v1"], Reading::Foreign),
    ("", "PodTemplate", &["v1"], Reading::Foreign),
    ("", "PersistentVolume", &["v1"], Reading::Foreign),
    ("", "PersistentVolumeClaim", &["v1"], Reading::Foreign),
    ("", "ReplicationController", &["v1"], Reading::Foreign),
    ("", "ResourceQuota", &["v1"], Reading::Foreign),
    ("", "LimitRange", &["v1"], Reading::Foreign),
    ("batch", "Job", &["v1"], Reading::Foreign),
    ("batch", "CronJob", &["v1"], Reading::Foreign),
];

/// Groups whose objects are meant for a mesh: one we cannot read is a mistake, not somebody else's.
const MESH_GROUPS: &[&str] = &[NETWORKING, SECURITY, TELEMETRY, "gateway.networking.k8s.io", POLICY];

/// Kubernetes' own groups, whose other kinds are passed over: those named here and those that end in [`KUBERNETES`].
const KUBERNETES_GROUPS: &[&str] = &["autoscaling", "batch", "policy"];
const KUBERNETES: &str = ".k8s.io";

/// Reads `apiVersion` and `kind`.
pub(crate) fn identify(node: &Node, report: &mut Report) -> Reading {
    let Value::Map(entries) = &node.value else {
        report.error(format!("expected an object, found {}", node.describe()));
        return Reading::Nothing;
    };
    let mut field = |name: &str| match node.get(name).and_then(Node::text) {
        Some(text) if !text.is_empty() => Some(text),
        _ => {
            let misspelt = entries.iter().find(|entry| suggestion(&entry.key, [name]).is_some());
            match misspelt {
                Some(entry) => report.field(&entry.key, |report| {
                    report.error(format!("unknown field {:?}, did you mean {name:?}?", entry.key));
                }),
                None => report.error(format!("{name} is missing")),
            }
            None
        }
    };
    let (Some(version), Some(kind)) = (field("apiVersion"), field("kind")) else {
        return Reading::Nothing;
    };
    if let Some(listed) = kind.strip_suffix("List").filter(|listed| listed.is_empty() || is_known(listed)) {
        let what = if listed.is_empty() { "objects" } else { listed };
        let misspelt = entries.iter().find(|entry| suggestion(&entry.key, ["items"]).is_some());
        match misspelt.map(|entry| &*entry.key).filter(|key| *key != "items") {
            Some(key) => report.error(format!("unknown field {key:?}, did you mean \"items\"?")),
            None => report.error(format!("a {kind} needs items: a list of {what}")),
        }
        return Reading::Nothing;
    }
    let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
    match KNOWN.iter().find(|known| known.0 == group && known.1 == kind) {
        Some((_, _, versions, reading)) if versions.contains(&version) => {
            if matches!(reading, Reading::Workload | Reading::Foreign) {
                report.info("ignored: not read by the mesh");
            }
            *reading
        }
        Some((_, _, versions, _)) => {
            let supported =
                versions.iter().map(|version| join(group, version)).collect::<Vec<_>>().join(", ");
            report.field("apiVersion", |report| {
                report.error(format!("{kind} has no version {version:?}, supported: {supported}"));
            });
            Reading::Nothing
        }
        None => unlisted(group, version, kind, report),
    }
}

/// Whether the mesh reads objects of that kind, of whatever group.
pub(super) fn is_known(kind: &str) -> bool {
    KNOWN.iter().any(|known| known.1 == kind)
}

fn unlisted(group: &str, version: &str, kind: &str, report: &mut Report) -> Reading {
    let in_group = KNOWN.iter().filter(|known| known.0 == group).map(|known| known.1);
    let near_kind = suggestion(kind, in_group);
    let groups = KNOWN.iter().map(|known| known.0).chain(MESH_GROUPS.iter().copied());
    let near_group = suggestion(group, groups.filter(|known| !known.is_empty() && *known != group));
    let elsewhere =
        KNOWN.iter().find(|known| known.1 == kind && (group.is_empty() || near_group == Some(known.0)));
    if let Some(meant) = near_kind {
        report
            .field("kind", |report| report.error(format!("unknown kind {kind:?}, did you mean {meant:?}?")));
    } else if MESH_GROUPS.contains(&group) {
        report.field("kind", |report| {
            report.error(format!("{kind} of {group} is not supported; the mesh reads {}", read_kinds()));
        });
        return Reading::Foreign;
    } else if KUBERNETES_GROUPS.contains(&group) || group.ends_with(KUBERNETES) {
        report.info("ignored: not read by the mesh");
        return Reading::Foreign;
    } else if let Some((right, _, versions, _)) = elsewhere {
        let right = join(right, versions.first().copied().unwrap_or(version));
        report.field("apiVersion", |report| {
            report.error(format!("{kind} is not in {:?}, did you mean {right:?}?", join(group, version)));
        });
    } else if let Some(meant) = near_group {
        let meant = join(meant, version);
        report.field("apiVersion", |report| {
            report.error(format!("unknown group {group:?}, did you mean {meant:?}?"));
        });
    } else {
        report.field("kind", |report| {
            let version = join(group, version);
            report.error(format!("unknown kind {kind:?} of {version:?}; the mesh reads {}", read_kinds()));
        });
        return Reading::Foreign;
    }
    Reading::Nothing
}

fn read_kinds() -> String {
    let read = KNOWN.iter().filter(|known| matches!(known.3, Reading::Mesh(_)));
    read.map(|known| known.1).collect::<Vec<_>>().join(", ")
}

fn join(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}
