//! Istio's PeerAuthentication, RequestAuthentication and AuthorizationPolicy; v1beta1 and v1 have one schema
//! (istio.io/api, `security/v1beta1`).
//!
//! A list that must not be empty where it stands is an `Option`: absent, it asks nothing; empty, it is a mistake that
//! would ask nothing as well.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ApiDuration, Unenforced};

schema! {
    /// Which workloads a policy is for.
    struct WorkloadSelector {
        match_labels: BTreeMap<String, String>,
    }

    struct PolicyTargetReference {
        group: Option<String>,
        kind: String,
        name: String,
        namespace: Option<String>,
    }

    struct PeerAuthentication {
        selector: Option<WorkloadSelector>,
        mtls: Option<MutualTls>,
        port_level_mtls: Option<BTreeMap<String, MutualTls>>,
    }

    #[derive(Copy)]
    struct MutualTls {
        mode: MutualTlsMode,
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum MutualTlsMode {
    #[default]
    Unset,
    Disable,
    Permissive,
    Strict,
}

schema! {
    struct RequestAuthentication {
        selector: Option<WorkloadSelector>,
        target_ref: Option<PolicyTargetReference>,
        target_refs: Vec<PolicyTargetReference>,
        jwt_rules: Vec<JwtRule>,
    }

    struct JwtRule {
        issuer: String,
        audiences: Vec<String>,
        jwks_uri: Option<String>,
        /// How early versions of Istio spell it.
        #[serde(rename = "jwks_uri")]
        jwks_uri_of_old: Option<String>,
        jwks: Option<String>,
        from_headers: Vec<JwtHeader>,
        from_params: Vec<String>,
        from_cookies: Vec<String>,
        output_payload_to_header: Option<String>,
        output_claim_to_headers: Vec<ClaimToHeader>,
        forward_original_token: bool,
        timeout: Option<ApiDuration>,
        #[expect(dead_code, reason = "reported by its type")]
        space_delimited_claims: Unenforced<Vec<String>>,
    }

    struct JwtHeader {
        name: String,
        prefix: Option<String>,
    }

    struct ClaimToHeader {
        header: String,
        claim: String,
    }

    struct AuthorizationPolicy {
        selector: Option<WorkloadSelector>,
        target_ref: Option<PolicyTargetReference>,
        target_refs: Vec<PolicyTargetReference>,
        rules: Vec<AuthorizationRule>,
        action: AuthorizationAction,
        provider: Option<ExtensionProvider>,
    }

    struct ExtensionProvider {
        name: String,
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum AuthorizationAction {
    #[default]
    Allow,
    Deny,
    Audit,
    Custom,
}

schema! {
    struct AuthorizationRule {
        from: Option<Vec<AuthorizationFrom>>,
        to: Option<Vec<AuthorizationTo>>,
        when: Vec<AuthorizationCondition>,
    }

    struct AuthorizationFrom {
        source: Option<AuthorizationSource>,
    }

    struct AuthorizationSource {
        principals: Vec<String>,
        not_principals: Vec<String>,
        request_principals: Vec<String>,
        not_request_principals: Vec<String>,
        namespaces: Vec<String>,
        not_namespaces: Vec<String>,
        service_accounts: Vec<String>,
        not_service_accounts: Vec<String>,
        trust_domains: Vec<String>,
        not_trust_domains: Vec<String>,
        ip_blocks: Vec<String>,
        not_ip_blocks: Vec<String>,
        remote_ip_blocks: Vec<String>,
        not_remote_ip_blocks: Vec<String>,
    }

    struct AuthorizationTo {
        operation: Option<AuthorizationOperation>,
    }

    struct AuthorizationOperation {
        hosts: Vec<String>,
        not_hosts: Vec<String>,
        ports: Vec<String>,
        not_ports: Vec<String>,
        methods: Vec<String>,
        not_methods: Vec<String>,
        paths: Vec<String>,
        not_paths: Vec<String>,
    }

    struct AuthorizationCondition {
        key: String,
        values: Vec<String>,
        not_values: Vec<String>,
    }
}
