use std::path::PathBuf;

use super::*;

/// Every schema must be structural: each value has one type, and all that may stand in it is listed.
fn assert_structural(at: &str, schema: &Value) {
    let kind = schema["type"].as_str().unwrap_or_else(|| panic!("{at} has no type"));
    assert!(["object", "array", "string", "boolean", "integer", "number"].contains(&kind), "{at}: {kind}");
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        assert_structural(&format!("{at}.{name}"), property);
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(schema["properties"].get(required.as_str().unwrap()).is_some(), "{at}: {required}");
    }
    for items in ["items", "additionalProperties"].iter().filter_map(|word| schema.get(word)) {
        assert_structural(&format!("{at}[]"), items);
    }
}

fn schema() -> Value {
    resilience_policy()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

#[test]
fn the_schema_is_structural_and_complete() {
    let schema = schema();
    assert_structural("", &schema);
    let spec = &schema["properties"]["spec"]["properties"];
    assert_eq!(
        spec["timeout"],
        json!({
            "type": "string",
            "pattern": r"^([0-9]+(\.[0-9]+)?(h|m|s|ms|us|ns))+$",
            "description": "Time for a whole request, with all its tries; 0s is no limit.",
        })
    );
    assert_eq!(
        spec["targetRefs"]["items"]["properties"]["kind"]["enum"],
        json!(["Service", "VirtualService"])
    );
    assert_eq!(spec["rateLimit"]["required"], json!(["requests", "per"]));
    assert_eq!(spec["outlierDetection"]["properties"]["consecutive5xxErrors"]["type"], "integer");
    let unenforced = &spec["loadBalancer"]["properties"]["localityLbSetting"]["description"];
    assert!(unenforced.as_str().unwrap().ends_with("Accepted, not enforced yet."), "{unenforced}");
    for (name, property) in spec.as_object().unwrap() {
        assert!(property["description"].as_str().is_some_and(|text| text.ends_with('.')), "{name}");
    }
}

/// What the generator wrote is what the types say; `cargo xtask codegen` writes it anew.
#[test]
fn the_checked_in_definition_is_fresh() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../k8s/crds");
    let text = std::fs::read_to_string(root.join("policy.pillion.dev_resiliencepolicies.yaml")).unwrap();
    assert!(text.ends_with(&crds().unwrap()));
}
