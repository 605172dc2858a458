//! The field names of Kubernetes' own kinds, to notice a misspelt one without carrying their whole schema.
//!
//! Which fields a value has is told well enough by the key above it. A key that is not among them but close to one is
//! a mistake; a key close to none is a field newer than this list, and somebody else's. What stands below a key that
//! is not listed here is not judged: labels, quantities, probes.

use super::META_FIELDS;
use crate::{
    problem::{Report, suggestion},
    yaml::{Node, Value},
};

/// Reports every key of `document` that is nearly, but not quite, a field of Service, EndpointSlice, Pod or a workload.
pub(crate) fn check(document: &Node, report: &mut Report) {
    check_fields(document, TOP, report);
}

fn check_fields(node: &Node, known: &str, report: &mut Report) {
    match &node.value {
        Value::Scalar { .. } => {}
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                report.item(index, |report| check_fields(item, known, report));
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                report.field(&entry.key, |report| {
                    if known.split_whitespace().any(|word| *word == *entry.key) {
                        if let Some(below) = fields_below(&entry.key, &entry.node) {
                            check_fields(&entry.node, below, report);
                        }
                    } else if let Some(meant) = suggestion(&entry.key, known.split_whitespace()) {
                        report.error(format!("unknown field {:?}, did you mean {meant:?}?", entry.key));
                    }
                });
            }
        }
    }
}

fn fields_below(key: &str, node: &Node) -> Option<&'static str> {
    match key {
        "metadata" => Some(META_FIELDS),
        "spec" => Some(SPEC),
        "template" => Some(TEMPLATE),
        "containers" | "initContainers" | "ephemeralContainers" => Some(CONTAINER),
        "ports" => Some(PORT),
        "env" => Some(ENV),
        "strategy" | "updateStrategy" | "rollingUpdate" => Some(STRATEGY),
        "endpoints" => Some(ENDPOINT),
        "conditions" => Some(CONDITION),
        "targetRef" => Some(TARGET_REF),
        "status" => Some(STATUS),
        "selector" if is_label_selector(node) => Some(SELECTOR),
        _ => None,
    }
}

/// A Service selects by plain labels, a workload by a structure.
fn is_label_selector(node: &Node) -> bool {
    match &node.value {
        Value::Map(entries) => entries.iter().any(|entry| !matches!(entry.node.value, Value::Scalar { .. })),
        Value::Scalar { .. } | Value::List(_) => false,
    }
}

// From the v1.34 API.
const TOP: &str = "addressType apiVersion endpoints kind metadata ports spec status";
const SPEC: &str = "
    activeDeadlineSeconds affinity allocateLoadBalancerNodePorts automountServiceAccountToken clusterIP
    clusterIPs containers dnsConfig dnsPolicy enableServiceLinks ephemeralContainers externalIPs
    externalName externalTrafficPolicy healthCheckNodePort hostAliases hostIPC hostNetwork hostPID hostUsers
    hostname hostnameOverride imagePullSecrets initContainers internalTrafficPolicy ipFamilies
    ipFamilyPolicy loadBalancerClass loadBalancerIP loadBalancerSourceRanges minReadySeconds nodeName
    nodeSelector ordinals os overhead paused persistentVolumeClaimRetentionPolicy podManagementPolicy ports
    preemptionPolicy priority priorityClassName progressDeadlineSeconds publishNotReadyAddresses
    readinessGates replicas resourceClaims resources restartPolicy revisionHistoryLimit runtimeClassName
    schedulerName schedulingGates securityContext selector serviceAccount serviceAccountName serviceName
    sessionAffinity sessionAffinityConfig setHostnameAsFQDN shareProcessNamespace strategy subdomain
    template terminationGracePeriodSeconds tolerations topologySpreadConstraints trafficDistribution type
    updateStrategy volumeClaimTemplates volumes
";
const CONTAINER: &str = "
    args command env envFrom image imagePullPolicy lifecycle livenessProbe name ports readinessProbe
    resizePolicy resources restartPolicy restartPolicyRules securityContext startupProbe stdin stdinOnce
    targetContainerName terminationMessagePath terminationMessagePolicy tty volumeDevices volumeMounts
    workingDir
";
const PORT: &str = "
    appProtocol containerPort error hostIP hostPort name nodePort port protocol targetPort
";
const ENV: &str = "name value valueFrom";
const TEMPLATE: &str = "metadata spec";
const SELECTOR: &str = "matchExpressions matchLabels";
const STRATEGY: &str = "maxSurge maxUnavailable partition rollingUpdate type";
const ENDPOINT: &str = "addresses conditions deprecatedTopology hints hostname nodeName targetRef zone";
const CONDITION: &str = "
    lastProbeTime lastTransitionTime lastUpdateTime message observedGeneration ready reason serving status
    terminating type
";
const TARGET_REF: &str = "apiVersion fieldPath kind name namespace resourceVersion uid";
const STATUS: &str = "
    availableReplicas collisionCount conditions containerStatuses currentReplicas currentRevision
    ephemeralContainerStatuses extendedResourceClaimStatus hostIP hostIPs initContainerStatuses loadBalancer
    message nominatedNodeName observedGeneration phase podIP podIPs qosClass readyReplicas reason replicas
    resize resourceClaimStatuses startTime terminatingReplicas unavailableReplicas updateRevision
    updatedReplicas
";

#[cfg(test)]
mod tests;
