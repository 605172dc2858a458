//! Istio's DestinationRule; v1alpha3, v1beta1 and v1 have one schema (istio.io/api, `networking/v1alpha3`).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ApiDuration, PortSelector, Unenforced, WorkloadSelector};

schema! {
    struct DestinationRule {
        host: String,
        traffic_policy: Option<TrafficPolicy>,
        subsets: Vec<Subset>,
        export_to: Vec<String>,
        #[expect(dead_code, reason = "reported by its type")]
        workload_selector: Unenforced<WorkloadSelector>,
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
        tls: Option<ClientTls>,
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
        tls: Option<ClientTls>,
    }
}

described! {
    /// How an endpoint is chosen.
    struct LoadBalancer {
        /// The algorithm; default LEAST_REQUEST. PEAK_EWMA only in a ResiliencePolicy.
        simple: Option<SimpleLb>,
        /// The same key goes to the same endpoint.
        consistent_hash: Option<ConsistentHash>,
        /// Preference for near endpoints.
        #[expect(dead_code, reason = "reported by its type")]
        locality_lb_setting: Unenforced<LocalityLb>,
        /// Preference for endpoints of the same zone.
        #[expect(dead_code, reason = "reported by its type")]
        zone_aware_lb_setting: Unenforced<ZoneAwareLb>,
        /// Deprecated: use warmup.duration.
        warmup_duration_secs: Option<ApiDuration>,
        /// How a new endpoint is led up to its full share.
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

described! {
    /// The same key goes to the same endpoint: exactly one key.
    struct ConsistentHash {
        /// A header.
        http_header_name: Option<String>,
        /// A cookie.
        http_cookie: Option<HttpCookie>,
        /// The address of the client.
        use_source_ip: bool,
        /// A query parameter.
        http_query_parameter_name: Option<String>,
        /// The ring.
        ring_hash: Option<RingHash>,
        /// Google's Maglev in place of the ring.
        #[expect(dead_code, reason = "reported by its type")]
        maglev: Unenforced<Maglev>,
        /// Deprecated: use ringHash.minimumRingSize.
        minimum_ring_size: Option<u64>,
    }

    /// A cookie that is made up when it is absent.
    struct HttpCookie {
        /// Its name.
        name: String,
        /// Its path.
        path: Option<String>,
        /// Its lifetime; 0s makes a session cookie, absent makes none up.
        ttl: Option<ApiDuration>,
        /// Further attributes.
        #[expect(dead_code, reason = "reported by its type")]
        attributes: Unenforced<Vec<CookieAttribute>>,
    }

    /// An attribute of a cookie.
    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct CookieAttribute {
        /// Its name.
        name: String,
        /// Its value.
        value: Option<String>,
    }

    /// The ring.
    struct RingHash {
        /// Fewest points on it; default 1024.
        minimum_ring_size: Option<u64>,
    }

    /// Google's Maglev.
    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct Maglev {
        /// Size of its table.
        table_size: Option<u64>,
    }

    /// Preference for near endpoints.
    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct LocalityLb {
        /// Shares by locality.
        distribute: Vec<LocalityDistribute>,
        /// Where to go when a region fails.
        failover: Vec<LocalityFailover>,
        /// Labels that make an endpoint near.
        failover_priority: Vec<String>,
        /// Whether it is switched on.
        enabled: Option<bool>,
    }

    /// Shares of the traffic from a locality.
    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct LocalityDistribute {
        /// Where it comes from.
        from: String,
        /// Where it goes, in percent.
        to: BTreeMap<String, u32>,
    }

    /// A region that stands in for another.
    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct LocalityFailover {
        /// The region that fails.
        from: String,
        /// The region that stands in.
        to: String,
    }

    /// Preference for endpoints of the same zone.
    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct ZoneAwareLb {
        /// Whether it is switched on.
        enabled: Option<bool>,
        /// Where to go when a region fails.
        failover: Vec<LocalityFailover>,
        /// Labels that make an endpoint near.
        failover_priority: Vec<String>,
        /// Fewer endpoints are not told apart.
        min_cluster_size: Option<u64>,
    }

    /// How a new endpoint is led up to its full share.
    struct Warmup {
        /// How long that takes.
        duration: Option<ApiDuration>,
        /// Share at the start; default 10.
        minimum_percent: Option<f64>,
        /// How the share grows, 1 to 1000; default 1 is linear.
        aggression: Option<f64>,
    }

    /// Limits and timeouts of connections, counted over all endpoints in one proxy.
    struct ConnectionPool {
        /// Of connections.
        tcp: Option<TcpSettings>,
        /// Of requests.
        http: Option<HttpSettings>,
    }

    /// Limits and timeouts of connections.
    struct TcpSettings {
        /// Connections; default no limit.
        max_connections: Option<i32>,
        /// Time in which a connection must stand; default 10s.
        connect_timeout: Option<ApiDuration>,
        /// Probes on silent connections; default off.
        tcp_keepalive: Option<TcpKeepalive>,
        /// Age at which a connection is closed; default no limit.
        max_connection_duration: Option<ApiDuration>,
        /// How long opaque bytes may stay away; default 1h, 0s is no limit.
        idle_timeout: Option<ApiDuration>,
    }

    /// Probes on silent connections; what is absent is left to the operating system.
    #[derive(Copy)]
    struct TcpKeepalive {
        /// Probes before the peer is taken for dead.
        probes: Option<u32>,
        /// Silence before the first probe.
        time: Option<ApiDuration>,
        /// Time between probes.
        interval: Option<ApiDuration>,
    }

    /// Limits and timeouts of requests.
    struct HttpSettings {
        /// Requests that wait for a connection; default no limit.
        http1_max_pending_requests: Option<i32>,
        /// Requests under way, whatever the version; default no limit.
        http2_max_requests: Option<i32>,
        /// Default no limit; 1 switches keep-alive off.
        max_requests_per_connection: Option<i32>,
        /// Repetitions under way; default no limit but the budget.
        max_retries: Option<i32>,
        /// How long an unused connection is kept; default 1h, 0s for ever.
        idle_timeout: Option<ApiDuration>,
        /// Whether HTTP/2 is spoken to an HTTP/1.1 port.
        h2_upgrade_policy: Option<H2UpgradePolicy>,
        /// Whether the version of the client is spoken.
        use_client_protocol: bool,
        /// Requests under way on one HTTP/2 connection.
        max_concurrent_streams: Option<i32>,
        /// Pings on HTTP/2 connections.
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

described! {
    /// Pings on HTTP/2 connections.
    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct Http2KeepAlive {
        /// Time between pings.
        interval: Option<ApiDuration>,
        /// Time for an answer.
        timeout: Option<ApiDuration>,
    }

    /// When an endpoint that fails is left alone.
    struct OutlierDetection {
        /// Deprecated: read as consecutiveGatewayErrors, without consecutive5xxErrors unless that is given.
        consecutive_errors: Option<u32>,
        /// Whether failures of the connection are counted apart from statuses; default false.
        split_external_local_origin_errors: Option<bool>,
        /// Failures of the connection in a row, when counted apart; default 5.
        consecutive_local_origin_failures: Option<u32>,
        /// 502, 503 and 504 in a row; default off.
        consecutive_gateway_errors: Option<u32>,
        /// 5xx in a row, 0 is off; default 5.
        #[serde(rename = "consecutive5xxErrors")]
        consecutive_5xx_errors: Option<u32>,
        /// How often shares are looked at and ejected endpoints return; default 10s.
        interval: Option<ApiDuration>,
        /// Length of the first ejection, each further one is as much longer; default 30s.
        base_ejection_time: Option<ApiDuration>,
        /// Largest share that may be ejected; default 10, but always one endpoint.
        max_ejection_percent: Option<i32>,
        /// When fewer are healthy, ejections are ignored; default 0 never does.
        min_health_percent: Option<i32>,
        /// Statuses that count as errors in place of 5xx.
        #[expect(dead_code, reason = "reported by its type")]
        outlier_detection_http_error_codes: Unenforced<Vec<u32>>,
        /// Ejects at this share of failures over one interval, in percent; default off, or 85. Only in a ResiliencePolicy.
        failure_percentage_threshold: Option<u32>,
        /// Fewer endpoints with enough traffic decide nothing; default 5. Only in a ResiliencePolicy.
        failure_percentage_minimum_hosts: Option<u32>,
        /// Requests an endpoint must have had in the interval; default 50. Only in a ResiliencePolicy.
        failure_percentage_request_volume: Option<u32>,
    }

}

schema! {
    struct ClientTls {
        mode: Option<TlsMode>,
        client_certificate: Option<String>,
        private_key: Option<String>,
        ca_certificates: Option<String>,
        #[expect(dead_code, reason = "reported by its type")]
        credential_name: Unenforced<String>,
        subject_alt_names: Vec<String>,
        sni: Option<String>,
        insecure_skip_verify: Option<bool>,
        #[expect(dead_code, reason = "reported by its type")]
        ca_crl: Unenforced<String>,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum TlsMode {
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
