//! Istio's VirtualService; v1alpha3, v1beta1 and v1 have one schema (istio.io/api, `networking/v1alpha3`).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ApiDuration, Unenforced};

schema! {
    struct VirtualService {
        hosts: Vec<String>,
        gateways: Vec<String>,
        http: Vec<HttpRoute>,
        tls: Unenforced<Vec<TlsRoute>>,
        tcp: Unenforced<Vec<TcpRoute>>,
        export_to: Vec<String>,
    }

    struct HttpRoute {
        name: String,
        #[serde(rename = "match")]
        matches: Vec<HttpMatch>,
        route: Vec<HttpRouteDestination>,
        redirect: Option<HttpRedirect>,
        direct_response: Option<HttpDirectResponse>,
        #[expect(dead_code, reason = "reported by its type")]
        delegate: Unenforced<Delegate>,
        rewrite: Option<HttpRewrite>,
        timeout: Option<ApiDuration>,
        retries: Option<HttpRetry>,
        fault: Option<HttpFault>,
        mirror: Option<Destination>,
        mirrors: Vec<HttpMirror>,
        #[serde(alias = "mirror_percent")]
        mirror_percent: Option<u32>,
        mirror_percentage: Option<Percent>,
        cors_policy: Option<CorsPolicy>,
        headers: Option<Headers>,
    }

    struct HttpMatch {
        #[expect(dead_code, reason = "a name for people, it changes nothing")]
        name: String,
        uri: Option<StringMatch>,
        scheme: Option<StringMatch>,
        method: Option<StringMatch>,
        authority: Option<StringMatch>,
        headers: BTreeMap<String, StringMatch>,
        port: Option<u16>,
        source_labels: BTreeMap<String, String>,
        gateways: Vec<String>,
        query_params: BTreeMap<String, StringMatch>,
        ignore_uri_case: bool,
        without_headers: BTreeMap<String, StringMatch>,
        source_namespace: Option<String>,
        #[expect(dead_code, reason = "reported by its type")]
        stat_prefix: Unenforced<String>,
    }

    /// A test of a string; none of the fields set means that it is present.
    struct StringMatch {
        exact: Option<String>,
        prefix: Option<String>,
        regex: Option<String>,
    }

    struct HttpRouteDestination {
        destination: Option<Destination>,
        weight: Option<i64>,
        headers: Option<Headers>,
    }

    struct Destination {
        host: String,
        subset: Option<String>,
        port: Option<PortSelector>,
    }

    #[derive(Copy)]
    struct PortSelector {
        number: u16,
    }

    struct HttpRedirect {
        uri: Option<String>,
        authority: Option<String>,
        port: Option<u16>,
        derive_port: Option<RedirectPort>,
        scheme: Option<String>,
        redirect_code: Option<u16>,
        prefix_rewrite: Option<String>,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum RedirectPort {
    FromProtocolDefault,
    FromRequestPort,
}

schema! {
    struct HttpDirectResponse {
        status: u16,
        body: Option<HttpBody>,
    }

    struct HttpBody {
        string: Option<String>,
        /// Base64.
        bytes: Option<String>,
    }

    struct HttpRewrite {
        uri: Option<String>,
        authority: Option<String>,
        uri_regex_rewrite: Option<RegexRewrite>,
    }

    struct RegexRewrite {
        #[serde(rename = "match")]
        pattern: String,
        rewrite: String,
    }

    struct HttpMirror {
        destination: Option<Destination>,
        percentage: Option<Percent>,
    }

    struct CorsPolicy {
        allow_origin: Vec<String>,
        allow_origins: Vec<StringMatch>,
        allow_methods: Vec<String>,
        allow_headers: Vec<String>,
        expose_headers: Vec<String>,
        max_age: Option<ApiDuration>,
        allow_credentials: bool,
        unmatched_preflights: Option<UnmatchedPreflights>,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum UnmatchedPreflights {
    Unspecified,
    Forward,
    Ignore,
}

schema! {
    struct Headers {
        request: HeaderOperations,
        response: HeaderOperations,
    }

    struct HeaderOperations {
        set: BTreeMap<String, String>,
        add: BTreeMap<String, String>,
        remove: Vec<String>,
    }

    struct HttpRetry {
        attempts: Option<i32>,
        per_try_timeout: Option<ApiDuration>,
        retry_on: Option<String>,
        retry_remote_localities: Option<bool>,
        retry_ignore_previous_hosts: Option<bool>,
        backoff: Option<ApiDuration>,
    }
}

described! {
    /// Failures made on purpose.
    struct HttpFault {
        /// A wait before the request goes on.
        delay: Option<FaultDelay>,
        /// An answer in its place.
        abort: Option<FaultAbort>,
    }

    /// A wait before the request goes on.
    struct FaultDelay {
        /// Deprecated: use percentage.
        percent: Option<u32>,
        /// How long.
        fixed_delay: Option<ApiDuration>,
        /// Not supported.
        exponential_delay: Option<ApiDuration>,
        /// Share of the requests; none when absent.
        percentage: Option<Percent>,
    }

    /// An answer in place of the destination's: exactly one of httpStatus and grpcStatus.
    struct FaultAbort {
        /// Status, 200 to 599.
        http_status: Option<i32>,
        /// Name of the gRPC status in capitals, such as UNAVAILABLE.
        grpc_status: Option<String>,
        /// Not supported.
        http2_error: Option<String>,
        /// Share of the requests; none when absent.
        percentage: Option<Percent>,
    }

    /// A share.
    #[derive(Copy)]
    struct Percent {
        /// In percent, from 0 to 100; the finest step is 0.0001.
        value: f64,
    }
}

schema! {
    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct Delegate {
        name: String,
        namespace: Option<String>,
    }

    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct TlsRoute {
        #[serde(rename = "match")]
        matches: Vec<TlsMatch>,
        route: Vec<RouteDestination>,
    }

    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct TlsMatch {
        sni_hosts: Vec<String>,
        destination_subnets: Vec<String>,
        port: Option<u16>,
        source_labels: BTreeMap<String, String>,
        gateways: Vec<String>,
        source_namespace: Option<String>,
    }

    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct TcpRoute {
        #[serde(rename = "match")]
        matches: Vec<L4Match>,
        route: Vec<RouteDestination>,
    }

    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct L4Match {
        destination_subnets: Vec<String>,
        port: Option<u16>,
        source_subnet: Option<String>,
        source_labels: BTreeMap<String, String>,
        gateways: Vec<String>,
        source_namespace: Option<String>,
    }

    #[expect(dead_code, reason = "part of the schema, enforced by nothing yet")]
    struct RouteDestination {
        destination: Option<Destination>,
        weight: Option<i64>,
    }
}
