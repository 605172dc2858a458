//! Istio's DestinationRule; v1alpha3, v1beta1 and v1 have one schema (istio.io/api, `networking/v1alpha3`).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ApiDuration, PortSelector, Unenforced};

schema! {
    struct DestinationRule {
        host: String,
        traffic_policy: Option<TrafficPolicy>,
        subsets: Vec<Subset>,
        export_to: Vec<String>,
        #[expect(dead_code, reason = "reported by its type")]
        workload_selector: Unenforced<WorkloadSelector>,
    }

    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct WorkloadSelector {
        match_labels: BTreeMap<String, String>,
    }

    struct Subset {
        name: String,
        labels: BTreeMap<String, String>,
        traffic_policy: Option<TrafficPolicy>,
    }

    struct TrafficPolicy {
        load_balancer: Option<LoadBalancer>,
        connection_pool: Option<ConnectionPool>,
        outlier_detection: Option<OutlierDetection>,
        tls: Unenforced<ClientTls>,
        port_level_settings: Vec<PortTrafficPolicy>,
        tunnel: Unenforced<Tunnel>,
        proxy_protocol: Unenforced<ProxyProtocol>,
        retry_budget: Option<RetryBudget>,
    }

    struct PortTrafficPolicy {
        port: Option<PortSelector>,
        load_balancer: Option<LoadBalancer>,
        connection_pool: Option<ConnectionPool>,
        outlier_detection: Option<OutlierDetection>,
        tls: Unenforced<ClientTls>,
    }

    struct LoadBalancer {
        simple: Option<SimpleLb>,
        consistent_hash: Option<ConsistentHash>,
        #[expect(dead_code, reason = "reported by its type")]
        locality_lb_setting: Unenforced<LocalityLb>,
        #[expect(dead_code, reason = "reported by its type")]
        zone_aware_lb_setting: Unenforced<ZoneAwareLb>,
        warmup_duration_secs: Option<ApiDuration>,
        warmup: Option<Warmup>,
    }
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
    /// Not Istio's: only for a ResiliencePolicy.
    PeakEwma,
}

schema! {
    struct ConsistentHash {
        http_header_name: Option<String>,
        http_cookie: Option<HttpCookie>,
        use_source_ip: bool,
        http_query_parameter_name: Option<String>,
        ring_hash: Option<RingHash>,
        #[expect(dead_code, reason = "reported by its type")]
        maglev: Unenforced<Maglev>,
        minimum_ring_size: Option<u64>,
    }

    struct HttpCookie {
        name: String,
        path: Option<String>,
        ttl: Option<ApiDuration>,
        #[expect(dead_code, reason = "reported by its type")]
        attributes: Unenforced<Vec<CookieAttribute>>,
    }

    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct CookieAttribute {
        name: String,
        value: Option<String>,
    }

    struct RingHash {
        minimum_ring_size: Option<u64>,
    }

    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct Maglev {
        table_size: Option<u64>,
    }

    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct LocalityLb {
        distribute: Vec<LocalityDistribute>,
        failover: Vec<LocalityFailover>,
        failover_priority: Vec<String>,
        enabled: Option<bool>,
    }

    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct LocalityDistribute {
        from: String,
        to: BTreeMap<String, u32>,
    }

    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct LocalityFailover {
        from: String,
        to: String,
    }

    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct ZoneAwareLb {
        enabled: Option<bool>,
        failover: Vec<LocalityFailover>,
        failover_priority: Vec<String>,
        min_cluster_size: Option<u64>,
    }

    struct Warmup {
        duration: Option<ApiDuration>,
        minimum_percent: Option<f64>,
        aggression: Option<f64>,
    }

    struct ConnectionPool {
        tcp: Option<TcpSettings>,
        http: Option<HttpSettings>,
    }

    struct TcpSettings {
        max_connections: Option<i32>,
        connect_timeout: Option<ApiDuration>,
        tcp_keepalive: Option<TcpKeepalive>,
        max_connection_duration: Option<ApiDuration>,
        idle_timeout: Option<ApiDuration>,
    }

    #[derive(Copy)]
    struct TcpKeepalive {
        probes: Option<u32>,
        time: Option<ApiDuration>,
        interval: Option<ApiDuration>,
    }

    struct HttpSettings {
        http1_max_pending_requests: Option<i32>,
        http2_max_requests: Option<i32>,
        max_requests_per_connection: Option<i32>,
        max_retries: Option<i32>,
        idle_timeout: Option<ApiDuration>,
        h2_upgrade_policy: Option<H2UpgradePolicy>,
        use_client_protocol: bool,
        max_concurrent_streams: Option<i32>,
        #[expect(dead_code, reason = "reported by its type")]
        http2_keep_alive: Unenforced<Http2KeepAlive>,
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum H2UpgradePolicy {
    #[default]
    Default,
    DoNotUpgrade,
    Upgrade,
}

schema! {
    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct Http2KeepAlive {
        interval: Option<ApiDuration>,
        timeout: Option<ApiDuration>,
    }

    struct OutlierDetection {
        consecutive_errors: Option<u32>,
        split_external_local_origin_errors: Option<bool>,
        consecutive_local_origin_failures: Option<u32>,
        consecutive_gateway_errors: Option<u32>,
        #[serde(rename = "consecutive5xxErrors")]
        consecutive_5xx_errors: Option<u32>,
        interval: Option<ApiDuration>,
        base_ejection_time: Option<ApiDuration>,
        max_ejection_percent: Option<i32>,
        min_health_percent: Option<i32>,
        #[expect(dead_code, reason = "reported by its type")]
        outlier_detection_http_error_codes: Unenforced<Vec<u32>>,
        failure_percentage_threshold: Option<u32>,
        failure_percentage_minimum_hosts: Option<u32>,
        failure_percentage_request_volume: Option<u32>,
    }

    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct ClientTls {
        mode: TlsMode,
        client_certificate: Option<String>,
        private_key: Option<String>,
        ca_certificates: Option<String>,
        credential_name: Option<String>,
        subject_alt_names: Vec<String>,
        sni: Option<String>,
        insecure_skip_verify: Option<bool>,
        ca_crl: Option<String>,
    }
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

schema! {
    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct Tunnel {
        protocol: Option<String>,
        target_host: String,
        target_port: u16,
    }

    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct ProxyProtocol {
        version: Option<ProxyProtocolVersion>,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum ProxyProtocolVersion {
    V1,
    V2,
}

schema! {
    #[derive(Copy)]
    struct RetryBudget {
        percent: Option<f64>,
        min_retry_concurrency: Option<u32>,
        budget_interval: Option<ApiDuration>,
    }
}
