//! What is remembered of a request for its line in the access log.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderValue, Method, Uri, Version};
use pillion_policy::identity::Identity;

use crate::{error::Flag, telemetry::requests::Outcome};

/// Which way a request went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Direction {
    /// From an app to the sidecar of the same pod.
    #[default]
    Outbound,
    /// To the app, from another pod.
    Inbound,
}

impl Direction {
    /// The direction as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// A request, as far as its log line tells of it. All texts are shared with the request: making one copies no bytes.
#[derive(Debug, Clone)]
pub struct Record {
    /// When its head was read.
    pub start: SystemTime,
    /// Its method.
    pub method: Method,
    /// Its target as the client sent it.
    pub uri: Uri,
    /// Its `Host` header; without one the target's authority is printed.
    pub host: Option<HeaderValue>,
    /// The version the client spoke.
    pub version: Version,
    /// Its `x-request-id`.
    pub request_id: Option<HeaderValue>,
    /// Which way it went.
    pub direction: Direction,
    /// The client's address.
    pub downstream_peer: Option<SocketAddr>,
    /// The rule that matched.
    pub route: Option<Arc<str>>,
    /// The cluster it went to.
    pub cluster: Option<Arc<str>>,
    /// The endpoint it went to.
    pub upstream: Option<SocketAddr>,
    /// Who sent it, where mutual TLS has proved that.
    pub source: Option<Arc<Identity>>,
    /// Whom it was sent to, likewise.
    pub destination: Option<Arc<Identity>>,
    /// How often it was sent again.
    pub repeated: u32,
    /// Why a failed request was not sent again.
    pub not_retried: Option<&'static str>,
    /// Why, in words, where the proxy made the answer.
    pub cause: Option<Box<str>>,
    /// The AUDIT policies that match it, joined by commas.
    pub audit: Option<Box<str>>,
    /// Time it waited for a connection.
    pub queued: Option<Duration>,
    /// Time the connection took, if one was made for it.
    pub connecting: Option<Duration>,
    /// Time from the request's head to the response's.
    pub first_byte: Option<Duration>,
    /// How it ended.
    pub outcome: Outcome,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            start: UNIX_EPOCH,
            method: Method::GET,
            uri: Uri::default(),
            host: None,
            version: Version::HTTP_11,
            request_id: None,
            direction: Direction::Outbound,
            downstream_peer: None,
            route: None,
            cluster: None,
            upstream: None,
            source: None,
            destination: None,
            repeated: 0,
            not_retried: None,
            cause: None,
            audit: None,
            queued: None,
            connecting: None,
            first_byte: None,
            outcome: Outcome {
                status: 0,
                flag: Flag::None,
                grpc: false,
                grpc_status: None,
                secured: false,
                duration: Duration::ZERO,
                request_bytes: 0,
                response_bytes: 0,
            },
        }
    }
}

impl Record {
    /// Completes the record.
    pub fn finish(&mut self, outcome: &Outcome) {
        self.outcome = *outcome;
    }

    /// The host the request was for.
    pub(super) fn authority(&self) -> Option<&str> {
        let host = self.host.as_ref().and_then(|host| host.to_str().ok());
        host.or_else(|| self.uri.authority().map(http::uri::Authority::as_str))
    }

    /// Its path with the query; `*` for `OPTIONS *`, nothing for `CONNECT`.
    pub(super) fn path(&self) -> Option<&str> {
        self.uri.path_and_query().map(http::uri::PathAndQuery::as_str)
    }
}
