//! What a workload's proxy tells of its traffic: which requests are traced, which are logged, and in which form.
//!
//! The mesh's settings, those of a namespace and those of a workload are merged by the control plane: a proxy sees what
//! is in force for it. Where spans are sent is the mesh's matter ([`Collector`]); a proxy's own environment wins.

use serde::{Deserialize, Serialize};

use crate::ratio::Fraction;

/// What is in force for one workload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Telemetry {
    /// Which requests are traced.
    pub tracing: Tracing,
    /// Which are logged, and how; absent where the proxy's command line alone says so.
    pub access_log: Option<AccessLogging>,
}

/// Which requests are traced.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tracing {
    /// Share of the traces that begin here which are recorded. Those that came with a decision keep it.
    pub sampling: Fraction,
    /// Whether spans are reported at all. Trace context is handed on either way.
    pub reporting: bool,
    /// Whether the proxy's own spans are reported, whatever the sampling says, when it answered with an error itself.
    pub errors: bool,
    /// Attributes every span gets.
    pub tags: Vec<Tag>,
}

impl Default for Tracing {
    /// 1 % of new traces, as in Istio, and every error of our own.
    fn default() -> Self {
        Self { sampling: Fraction::ONE_PERCENT, reporting: true, errors: true, tags: Vec::new() }
    }
}

/// An attribute every span gets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tag {
    /// Its name.
    pub name: String,
    /// Where its value comes from.
    pub value: TagValue,
}

/// Where the value of an attribute comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum TagValue {
    /// It stands here.
    Literal(String),
    /// From a request header, in lower case; the default stands in for one that is absent, and without one there is no
    /// attribute.
    Header {
        /// The header.
        name: String,
        /// What stands in for it.
        default: Option<String>,
    },
    /// From an environment variable of the proxy, likewise.
    Environment {
        /// The variable.
        name: String,
        /// What stands in for it.
        default: Option<String>,
    },
}

/// Which requests are logged, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessLogging {
    /// Where lines go; nowhere when empty.
    pub sinks: Vec<LogSink>,
    /// Which requests are logged; all when absent.
    #[serde(default)]
    pub filter: Option<LogFilter>,
}

/// Where lines of the access log go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum LogSink {
    /// Where the proxy's command line says (standard output without a word), in the form it says.
    Configured,
    /// To the same place, as text.
    Text,
    /// To the same place, as JSON.
    Json,
    /// To the collector, as OTLP log records.
    Otlp,
}

/// Which requests are logged.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum LogFilter {
    /// Those for which all hold.
    All(Vec<Self>),
    /// Those for which any holds.
    Any(Vec<Self>),
    /// Those for which it does not hold.
    Not(Box<Self>),
    /// By the response's status, 0 where there was none.
    Status(Comparison, u16),
    /// By the gRPC status; requests without one are not logged.
    GrpcStatus(Comparison, u16),
    /// By the time from the request's head to the response's end, in milliseconds.
    DurationMillis(Comparison, u64),
    /// Those with a response flag: whatever did not go as it should.
    Flagged,
    /// Those that travelled over mutual TLS.
    Secured,
    /// Those the app sent.
    Outbound,
    /// Those that came to the app.
    Inbound,
    /// By method.
    Method(String),
    /// By the whole path without its query.
    PathIs(String),
    /// By how the path begins.
    PathStartsWith(String),
    /// By what the path contains.
    PathContains(String),
    /// By the host.
    HostIs(String),
    /// A share of the requests, chosen by chance.
    Sampled(Fraction),
}

/// How a number compares with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Comparison {
    /// It is the same.
    Equal,
    /// It is another.
    NotEqual,
    /// It is smaller.
    Less,
    /// It is not larger.
    AtMost,
    /// It is larger.
    Greater,
    /// It is not smaller.
    AtLeast,
}

impl Comparison {
    /// Whether `left` compares with `right` like this.
    pub fn holds<T: Ord>(self, left: T, right: T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Less => left < right,
            Self::AtMost => left <= right,
            Self::Greater => left > right,
            Self::AtLeast => left >= right,
        }
    }
}

/// Where telemetry is sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Collector {
    /// Its address: `http://` or `https://` with host and port.
    pub endpoint: String,
    /// What it speaks.
    pub protocol: OtlpProtocol,
}

/// How OTLP travels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum OtlpProtocol {
    /// gRPC, by custom on port 4317.
    #[default]
    Grpc,
    /// Protobuf over HTTP, by custom on port 4318.
    HttpProtobuf,
}

impl OtlpProtocol {
    /// What a collector at this address is taken to speak where nobody says: gRPC on port 4317, else HTTP, which is
    /// OpenTelemetry's default.
    pub fn by_port(address: &str) -> Self {
        let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        match authority.rsplit_once(':') {
            Some((_, "4317")) => Self::Grpc,
            Some(_) | None => Self::HttpProtobuf,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::OtlpProtocol::{self, Grpc, HttpProtobuf};

    #[test]
    fn what_a_collector_speaks_shows_in_its_port() {
        for (address, expected) in [
            ("http://collector:4317", Grpc),
            ("https://collector:4317/", Grpc),
            ("collector:4317", Grpc),
            ("http://[::1]:4317", Grpc),
            ("http://[fd00::4317]", HttpProtobuf),
            ("http://collector:4318", HttpProtobuf),
            ("http://collector:14317", HttpProtobuf),
            ("http://collector/v1/traces:4317", HttpProtobuf),
            ("https://collector", HttpProtobuf),
            ("", HttpProtobuf),
        ] {
            assert_eq!(OtlpProtocol::by_port(address), expected, "{address}");
        }
    }
}
