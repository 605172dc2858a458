//! The CustomResourceDefinitions of Pillion's own kinds, made from the types their objects are read into.

use serde_json::{Value, json};

use crate::api::{Describe, ResiliencePolicy};

/// The definitions as YAML, ready for `kubectl apply`.
pub fn crds() -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(&resilience_policy())
}

fn resilience_policy() -> Value {
    let mut spec = ResiliencePolicy::describe();
    // A policy without a target would be for nothing; a type cannot say so of a list.
    if let Some(spec) = spec.as_object_mut() {
        spec.insert("required".to_owned(), json!(["targetRefs"]));
    }
    if let Some(targets) = spec.pointer_mut("/properties/targetRefs").and_then(Value::as_object_mut) {
        targets.insert("minItems".to_owned(), json!(1));
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "resiliencepolicies.policy.pillion.dev" },
        "spec": {
            "group": "policy.pillion.dev",
            "names": {
                "categories": ["pillion"],
                "kind": "ResiliencePolicy",
                "listKind": "ResiliencePolicyList",
                "plural": "resiliencepolicies",
                "singular": "resiliencepolicy",
            },
            "scope": "Namespaced",
            "versions": [{
                "name": "v1alpha1",
                "served": true,
                "storage": true,
                "additionalPrinterColumns": [
                    { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
                ],
                "subresources": { "status": {} },
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "required": ["spec"],
                        "properties": {
                            "apiVersion": { "type": "string" },
                            "kind": { "type": "string" },
                            "metadata": { "type": "object" },
                            "spec": spec,
                            "status": status(),
                        },
                    },
                },
            }],
        },
    })
}

/// Kubernetes' own conditions.
fn status() -> Value {
    let text = |most: u32| json!({ "type": "string", "maxLength": most });
    json!({
        "type": "object",
        "description": "What the control plane says about the policy.",
        "properties": {
            "conditions": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["type", "status", "lastTransitionTime", "reason", "message"],
                    "properties": {
                        "type": text(316),
                        "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                        "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
                        "lastTransitionTime": { "type": "string", "format": "date-time" },
                        "reason": text(1024),
                        "message": text(32_768),
                    },
                },
            },
        },
    })
}

#[cfg(test)]
mod tests;
