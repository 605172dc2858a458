//! The story of a request, as people are told it: where it went, what was tried, and why it ended as it did.
//!
//! Proxies keep the stories of what was slow or failed, and tell them to whoever explains a request or watches traffic.
//! They travel as JSON, as they are shown; a field that one side does not know is ignored.

use serde::{Deserialize, Serialize};

/// One request as one proxy saw it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Story {
    /// Its `x-request-id`.
    pub request_id: String,
    /// Its trace, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The proxy that tells it: namespace and workload.
    pub proxy: String,
    /// When its head was read, RFC 3339 in UTC.
    pub start: String,
    /// `outbound` or `inbound`.
    pub direction: String,
    /// Its method.
    pub method: String,
    /// Whom it was for.
    pub authority: String,
    /// Its path without the query.
    pub path: String,
    /// The status sent; 0 when the client saw none.
    pub status: u16,
    /// The gRPC status, where one was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
    /// The response flag, `-` for none.
    pub flag: String,
    /// Why, in words, where the proxy made the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The rule that matched, by its object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The cluster it went to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Who sent it, where mutual TLS has proved that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_principal: Option<String>,
    /// Whom it was sent to, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_principal: Option<String>,
    /// Every try, in order.
    pub attempts: Vec<Attempt>,
    /// What was decided about it, in order.
    pub events: Vec<Event>,
    /// Why it was not sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_retried: Option<String>,
    /// The revision of the policy in force.
    pub policy_revision: u64,
    /// From head to end, in milliseconds.
    pub duration_ms: f64,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the response's body.
    pub response_bytes: u64,
}

/// One try.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempt {
    /// When it began, in milliseconds after the request's head.
    pub at_ms: f64,
    /// How long until there was a response head or a reason for none, in milliseconds.
    pub duration_ms: f64,
    /// The endpoint.
    pub endpoint: String,
    /// The status of its response; 0 when there was none.
    pub status: u16,
    /// Its gRPC status, where one was seen in the head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
    /// The flag of its failure, `-` for none.
    pub flag: String,
    /// Why it failed, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Time it waited for a connection, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<f64>,
    /// Time a new connection took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_ms: Option<f64>,
    /// Time securing it took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ms: Option<f64>,
    /// Whether it was sent again after this, and why not.
    pub verdict: String,
    /// The wait before the next try, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_ms: Option<f64>,
}

/// Something that was decided about a request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// When, in milliseconds after the request's head.
    pub at_ms: f64,
    /// What: `breaker`, `rate_limit`, `fault_delay` and so on.
    pub what: String,
    /// More about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}
