//! Istio's VirtualService; v1alpha3, v1beta1 and v1 have one schema (istio.io/api, `networking/v1alpha3`).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ApiDuration, Unenforced};

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct VirtualService {
    pub(crate) hosts: Vec<String>,
    pub(crate) gateways: Vec<String>,
    pub(crate) http: Vec<HttpRoute>,
    pub(crate) tls: Unenforced<Vec<TlsRoute>>,
    pub(crate) tcp: Unenforced<Vec<TcpRoute>>,
    pub(crate) export_to: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct HttpRoute {
    pub(crate) name: String,
    #[serde(rename = "match")]
    pub(crate) matches: Vec<HttpMatch>,
    pub(crate) route: Vec<HttpRouteDestination>,
    pub(crate) redirect: Option<HttpRedirect>,
    pub(crate) direct_response: Option<HttpDirectResponse>,
    pub(crate) delegate: Unenforced<Delegate>,
    pub(crate) rewrite: Option<HttpRewrite>,
    pub(crate) timeout: Option<ApiDuration>,
    pub(crate) retries: Unenforced<HttpRetry>,
    pub(crate) fault: Unenforced<HttpFault>,
    pub(crate) mirror: Option<Destination>,
    pub(crate) mirrors: Vec<HttpMirror>,
    pub(crate) mirror_percent: Option<u32>,
    pub(crate) mirror_percentage: Option<Percent>,
    pub(crate) cors_policy: Option<CorsPolicy>,
    pub(crate) headers: Option<Headers>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct HttpMatch {
    #[expect(dead_code, reason = "a name for people, it changes nothing")]
    pub(crate) name: String,
    pub(crate) uri: Option<StringMatch>,
    pub(crate) scheme: Option<StringMatch>,
    pub(crate) method: Option<StringMatch>,
    pub(crate) authority: Option<StringMatch>,
    pub(crate) headers: BTreeMap<String, StringMatch>,
    pub(crate) port: Option<u16>,
    pub(crate) source_labels: BTreeMap<String, String>,
    pub(crate) gateways: Vec<String>,
    pub(crate) query_params: BTreeMap<String, StringMatch>,
    pub(crate) ignore_uri_case: bool,
    pub(crate) without_headers: BTreeMap<String, StringMatch>,
    pub(crate) source_namespace: Option<String>,
    pub(crate) stat_prefix: Unenforced<String>,
}

/// A test of a string; none of the fields set means that it is present.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StringMatch {
    pub(crate) exact: Option<String>,
    pub(crate) prefix: Option<String>,
    pub(crate) regex: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HttpRouteDestination {
    pub(crate) destination: Option<Destination>,
    pub(crate) weight: Option<i64>,
    pub(crate) headers: Option<Headers>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Destination {
    pub(crate) host: String,
    pub(crate) subset: Option<String>,
    pub(crate) port: Option<PortSelector>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PortSelector {
    pub(crate) number: u16,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct HttpRedirect {
    pub(crate) uri: Option<String>,
    pub(crate) authority: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) derive_port: Option<RedirectPort>,
    pub(crate) scheme: Option<String>,
    pub(crate) redirect_code: Option<u16>,
    pub(crate) prefix_rewrite: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum RedirectPort {
    FromProtocolDefault,
    FromRequestPort,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HttpDirectResponse {
    pub(crate) status: u16,
    pub(crate) body: Option<HttpBody>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HttpBody {
    pub(crate) string: Option<String>,
    /// Base64.
    pub(crate) bytes: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct HttpRewrite {
    pub(crate) uri: Option<String>,
    pub(crate) authority: Option<String>,
    pub(crate) uri_regex_rewrite: Option<RegexRewrite>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RegexRewrite {
    #[serde(rename = "match")]
    pub(crate) pattern: String,
    pub(crate) rewrite: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HttpMirror {
    pub(crate) destination: Option<Destination>,
    pub(crate) percentage: Option<Percent>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Percent {
    pub(crate) value: f64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct CorsPolicy {
    pub(crate) allow_origin: Vec<String>,
    pub(crate) allow_origins: Vec<StringMatch>,
    pub(crate) allow_methods: Vec<String>,
    pub(crate) allow_headers: Vec<String>,
    pub(crate) expose_headers: Vec<String>,
    pub(crate) max_age: Option<ApiDuration>,
    pub(crate) allow_credentials: bool,
    pub(crate) unmatched_preflights: Option<UnmatchedPreflights>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum UnmatchedPreflights {
    Unspecified,
    Forward,
    Ignore,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Headers {
    pub(crate) request: HeaderOperations,
    pub(crate) response: HeaderOperations,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HeaderOperations {
    pub(crate) set: BTreeMap<String, String>,
    pub(crate) add: BTreeMap<String, String>,
    pub(crate) remove: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct HttpRetry {
    pub(crate) attempts: i32,
    pub(crate) per_try_timeout: Option<ApiDuration>,
    pub(crate) retry_on: Option<String>,
    pub(crate) retry_remote_localities: Option<bool>,
    pub(crate) retry_ignore_previous_hosts: Option<bool>,
    pub(crate) backoff: Option<ApiDuration>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HttpFault {
    pub(crate) delay: Option<FaultDelay>,
    pub(crate) abort: Option<FaultAbort>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct FaultDelay {
    pub(crate) percent: Option<u32>,
    pub(crate) fixed_delay: Option<ApiDuration>,
    pub(crate) exponential_delay: Option<ApiDuration>,
    pub(crate) percentage: Option<Percent>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct FaultAbort {
    pub(crate) http_status: Option<i32>,
    pub(crate) grpc_status: Option<String>,
    pub(crate) http2_error: Option<String>,
    pub(crate) percentage: Option<Percent>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct Delegate {
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct TlsRoute {
    #[serde(rename = "match")]
    pub(crate) matches: Vec<TlsMatch>,
    pub(crate) route: Vec<RouteDestination>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct TlsMatch {
    pub(crate) sni_hosts: Vec<String>,
    pub(crate) destination_subnets: Vec<String>,
    pub(crate) port: Option<u16>,
    pub(crate) source_labels: BTreeMap<String, String>,
    pub(crate) gateways: Vec<String>,
    pub(crate) source_namespace: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct TcpRoute {
    #[serde(rename = "match")]
    pub(crate) matches: Vec<L4Match>,
    pub(crate) route: Vec<RouteDestination>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct L4Match {
    pub(crate) destination_subnets: Vec<String>,
    pub(crate) port: Option<u16>,
    pub(crate) source_subnet: Option<String>,
    pub(crate) source_labels: BTreeMap<String, String>,
    pub(crate) gateways: Vec<String>,
    pub(crate) source_namespace: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct RouteDestination {
    pub(crate) destination: Option<Destination>,
    pub(crate) weight: Option<i64>,
}
