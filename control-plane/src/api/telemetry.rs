//! Istio's Telemetry; v1alpha1 and v1 have one schema (istio.io/api, `telemetry/v1alpha1`).
//!
//! Wrapped numbers and booleans are absent where Istio tells an absent one from a zero: a narrower object then says nothing
//! about them. Metrics are part of the schema and enforced by nothing.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ApiDuration, PolicyTargetReference, Unenforced, WorkloadSelector};

schema! {
    struct Telemetry {
        selector: Option<WorkloadSelector>,
        target_ref: Option<PolicyTargetReference>,
        target_refs: Vec<PolicyTargetReference>,
        tracing: Vec<Tracing>,
        access_logging: Vec<AccessLogging>,
        #[expect(dead_code, reason = "reported by its type")]
        metrics: Unenforced<Vec<Metrics>>,
    }

    struct Tracing {
        #[serde(rename = "match")]
        selector: Option<TelemetryMatch>,
        providers: Vec<ProviderRef>,
        random_sampling_percentage: Option<f64>,
        disable_span_reporting: Option<bool>,
        custom_tags: BTreeMap<String, CustomTag>,
        #[serde(rename = "useRequestIdForTraceSampling")]
        #[expect(dead_code, reason = "reported by its type")]
        use_request_id: Unenforced<bool>,
        #[expect(dead_code, reason = "reported by its type")]
        enable_istio_tags: Unenforced<bool>,
        #[expect(dead_code, reason = "reported by its type")]
        disable_context_propagation: Unenforced<bool>,
    }

    /// Which way requests go that an entry is for.
    #[derive(Copy)]
    struct TelemetryMatch {
        mode: WorkloadMode,
    }
}

/// `CLIENT` is the traffic a workload sends, `SERVER` what comes to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum WorkloadMode {
    #[default]
    ClientAndServer,
    Client,
    Server,
}

schema! {
    struct ProviderRef {
        name: String,
    }

    struct CustomTag {
        literal: Option<LiteralTag>,
        header: Option<TagOrigin>,
        environment: Option<TagOrigin>,
        #[expect(dead_code, reason = "reported by its type")]
        formatter: Unenforced<LiteralTag>,
    }

    struct LiteralTag {
        value: String,
    }

    struct TagOrigin {
        name: String,
        default_value: Option<String>,
    }

    struct AccessLogging {
        #[serde(rename = "match")]
        selector: Option<TelemetryMatch>,
        providers: Vec<ProviderRef>,
        disabled: bool,
        filter: Option<LogFilter>,
    }

    struct LogFilter {
        expression: String,
    }

    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct Metrics {
        providers: Vec<ProviderRef>,
        overrides: Vec<MetricsOverrides>,
        reporting_interval: Option<ApiDuration>,
    }

    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct MetricsOverrides {
        #[serde(rename = "match")]
        selector: Option<MetricSelector>,
        disabled: Option<bool>,
        tag_overrides: BTreeMap<String, TagOverride>,
    }

    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct MetricSelector {
        metric: Option<IstioMetric>,
        custom_metric: Option<String>,
        mode: WorkloadMode,
    }

    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct TagOverride {
        operation: Option<TagOperation>,
        value: Option<String>,
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum IstioMetric {
    AllMetrics,
    RequestCount,
    RequestDuration,
    RequestSize,
    ResponseSize,
    TcpOpenedConnections,
    TcpClosedConnections,
    TcpSentBytes,
    TcpReceivedBytes,
    GrpcRequestMessages,
    GrpcResponseMessages,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum TagOperation {
    Upsert,
    Remove,
}
