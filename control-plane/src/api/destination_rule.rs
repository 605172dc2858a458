//! Istio's DestinationRule; v1alpha3, v1beta1 and v1 have one schema (istio.io/api, `networking/v1alpha3`).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ApiDuration, PortSelector, Unenforced};

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct DestinationRule {
    pub(crate) host: String,
    pub(crate) traffic_policy: Option<TrafficPolicy>,
    pub(crate) subsets: Vec<Subset>,
    pub(crate) export_to: Vec<String>,
    pub(crate) workload_selector: Unenforced<WorkloadSelector>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct WorkloadSelector {
    pub(crate) match_labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Subset {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) traffic_policy: Option<TrafficPolicy>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct TrafficPolicy {
    pub(crate) load_balancer: Option<LoadBalancer>,
    pub(crate) connection_pool: Option<ConnectionPool>,
    pub(crate) outlier_detection: Unenforced<OutlierDetection>,
    pub(crate) tls: Unenforced<ClientTls>,
    pub(crate) port_level_settings: Vec<PortTrafficPolicy>,
    pub(crate) tunnel: Unenforced<Tunnel>,
    pub(crate) proxy_protocol: Unenforced<ProxyProtocol>,
    pub(crate) retry_budget: Unenforced<RetryBudget>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PortTrafficPolicy {
    pub(crate) port: Option<PortSelector>,
    pub(crate) load_balancer: Option<LoadBalancer>,
    pub(crate) connection_pool: Option<ConnectionPool>,
    pub(crate) outlier_detection: Unenforced<OutlierDetection>,
    pub(crate) tls: Unenforced<ClientTls>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct LoadBalancer {
    pub(crate) simple: Option<SimpleLb>,
    pub(crate) consistent_hash: Option<ConsistentHash>,
    pub(crate) locality_lb_setting: Unenforced<LocalityLb>,
    pub(crate) zone_aware_lb_setting: Unenforced<ZoneAwareLb>,
    pub(crate) warmup_duration_secs: Option<ApiDuration>,
    pub(crate) warmup: Option<Warmup>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum SimpleLb {
    Unspecified,
    LeastConn,
    Random,
    Passthrough,
    RoundRobin,
    LeastRequest,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ConsistentHash {
    pub(crate) http_header_name: Option<String>,
    pub(crate) http_cookie: Option<HttpCookie>,
    pub(crate) use_source_ip: bool,
    pub(crate) http_query_parameter_name: Option<String>,
    pub(crate) ring_hash: Option<RingHash>,
    pub(crate) maglev: Unenforced<Maglev>,
    pub(crate) minimum_ring_size: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HttpCookie {
    pub(crate) name: String,
    pub(crate) path: Option<String>,
    pub(crate) ttl: Option<ApiDuration>,
    pub(crate) attributes: Unenforced<Vec<CookieAttribute>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct CookieAttribute {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct RingHash {
    pub(crate) minimum_ring_size: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct Maglev {
    pub(crate) table_size: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct LocalityLb {
    pub(crate) distribute: Vec<LocalityDistribute>,
    pub(crate) failover: Vec<LocalityFailover>,
    pub(crate) failover_priority: Vec<String>,
    pub(crate) enabled: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct LocalityDistribute {
    pub(crate) from: String,
    pub(crate) to: BTreeMap<String, u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct LocalityFailover {
    pub(crate) from: String,
    pub(crate) to: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct ZoneAwareLb {
    pub(crate) enabled: Option<bool>,
    pub(crate) failover: Vec<LocalityFailover>,
    pub(crate) failover_priority: Vec<String>,
    pub(crate) min_cluster_size: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Warmup {
    pub(crate) duration: Option<ApiDuration>,
    pub(crate) minimum_percent: Option<f64>,
    pub(crate) aggression: Option<f64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConnectionPool {
    pub(crate) tcp: Option<TcpSettings>,
    pub(crate) http: Option<HttpSettings>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct TcpSettings {
    pub(crate) max_connections: Option<i32>,
    pub(crate) connect_timeout: Option<ApiDuration>,
    pub(crate) tcp_keepalive: Option<TcpKeepalive>,
    pub(crate) max_connection_duration: Option<ApiDuration>,
    pub(crate) idle_timeout: Option<ApiDuration>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TcpKeepalive {
    pub(crate) probes: Option<u32>,
    pub(crate) time: Option<ApiDuration>,
    pub(crate) interval: Option<ApiDuration>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct HttpSettings {
    pub(crate) http1_max_pending_requests: Option<i32>,
    pub(crate) http2_max_requests: Option<i32>,
    pub(crate) max_requests_per_connection: Option<i32>,
    pub(crate) max_retries: Unenforced<i32>,
    pub(crate) idle_timeout: Option<ApiDuration>,
    pub(crate) h2_upgrade_policy: Unenforced<H2UpgradePolicy>,
    pub(crate) use_client_protocol: Unenforced<bool>,
    pub(crate) max_concurrent_streams: Option<i32>,
    pub(crate) http2_keep_alive: Unenforced<Http2KeepAlive>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum H2UpgradePolicy {
    #[default]
    Default,
    DoNotUpgrade,
    Upgrade,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct Http2KeepAlive {
    pub(crate) interval: Option<ApiDuration>,
    pub(crate) timeout: Option<ApiDuration>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct OutlierDetection {
    pub(crate) consecutive_errors: Option<i32>,
    pub(crate) split_external_local_origin_errors: Option<bool>,
    pub(crate) consecutive_local_origin_failures: Option<u32>,
    pub(crate) consecutive_gateway_errors: Option<u32>,
    #[serde(rename = "consecutive5xxErrors")]
    pub(crate) consecutive_5xx_errors: Option<u32>,
    pub(crate) interval: Option<ApiDuration>,
    pub(crate) base_ejection_time: Option<ApiDuration>,
    pub(crate) max_ejection_percent: Option<i32>,
    pub(crate) min_health_percent: Option<i32>,
    pub(crate) outlier_detection_http_error_codes: Vec<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct ClientTls {
    pub(crate) mode: TlsMode,
    pub(crate) client_certificate: Option<String>,
    pub(crate) private_key: Option<String>,
    pub(crate) ca_certificates: Option<String>,
    pub(crate) credential_name: Option<String>,
    pub(crate) subject_alt_names: Vec<String>,
    pub(crate) sni: Option<String>,
    pub(crate) insecure_skip_verify: Option<bool>,
    pub(crate) ca_crl: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum TlsMode {
    #[default]
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct Tunnel {
    pub(crate) protocol: Option<String>,
    pub(crate) target_host: String,
    pub(crate) target_port: u16,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct ProxyProtocol {
    pub(crate) version: Option<ProxyProtocolVersion>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum ProxyProtocolVersion {
    V1,
    V2,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
pub(crate) struct RetryBudget {
    pub(crate) percent: Option<f64>,
    pub(crate) min_retry_concurrency: Option<u32>,
    pub(crate) budget_interval: Option<ApiDuration>,
}
