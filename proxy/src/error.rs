//! Everything the proxy itself can say no with: one closed enum, mapped exhaustively.
//!
//! Each error knows its HTTP status, gRPC code, response flag and, by that, whose fault it is. No two causes that are
//! remedied differently share a flag. The text names the thing and, where there is one, the next step; it never repeats
//! its source.

mod refusal;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::StatusCode;
use pillion_policy::resilience::AbortStatus;
use pillion_xds::flag::Answer;

pub use self::refusal::Refusal;
pub use pillion_xds::flag::{Fault, Flag};

/// The header field that names flag and cause on every response of the proxy's own.
pub const HEADER: &str = "x-pillion-error";

/// Why the proxy answered a request itself.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProxyError {
    /// The request is not valid HTTP in a way the HTTP library lets through.
    #[error("{0}")]
    BadRequest(&'static str),
    /// CONNECT, which no route takes.
    #[error("CONNECT is not routed here: send the request itself, or name the host in the Host header")]
    ConnectNotAllowed,
    /// A header list over a limit.
    #[error("request headers exceed {} bytes or {} fields", .0.bytes, .0.fields)]
    HeadersTooLarge(HeadLimits),
    /// A request body over the limit.
    #[error("the request body exceeds {0} bytes")]
    BodyTooLarge(u64),
    /// Nobody has described the host.
    #[error("{0}")]
    UnknownHost(Arc<str>),
    /// The host is known, but no rule is for this request.
    #[error("no rule of {0} matches this request")]
    NoRoute(Arc<str>),
    /// The host could not be looked up in time.
    #[error(
        "{host} is not known yet and the control plane did not answer within {waited:?}: is it reachable?"
    )]
    Undiscovered {
        /// What was asked for.
        host: Arc<str>,
        /// How long the request was held.
        waited: Duration,
    },
    /// Too many requests wait for hosts to be looked up.
    #[error("too many requests wait for hosts the proxy does not know yet")]
    DiscoveryOverflow,
    /// A rule leads to a destination that does not exist.
    #[error("{0}")]
    NoCluster(Arc<str>),
    /// A destination has no endpoint to send to.
    #[error("{cluster} has no healthy endpoint")]
    NoHealthyEndpoint {
        /// The cluster.
        cluster: Arc<str>,
    },
    /// A limit of the connection pool was met.
    #[error("{cluster}: {limit} reached")]
    Overflow {
        /// The cluster.
        cluster: Arc<str>,
        /// The limit, by the name users give it.
        limit: Limit,
    },
    /// No connection could be made.
    #[error("cannot connect to {endpoint}: {reason}")]
    ConnectFailed {
        /// The endpoint tried.
        endpoint: SocketAddr,
        /// The cause.
        reason: Arc<str>,
    },
    /// No connection was made in time.
    #[error("cannot connect to {endpoint}: timed out after {after:?}")]
    ConnectTimeout {
        /// The endpoint tried.
        endpoint: SocketAddr,
        /// The limit in force.
        after: Duration,
    },
    /// A connection was made, but could not be secured as it must be.
    #[error("cannot secure the connection to {endpoint}: {refusal}")]
    Handshake {
        /// The endpoint tried.
        endpoint: SocketAddr,
        /// The cause.
        refusal: Refusal,
    },
    /// The connection ended before a response.
    #[error("{endpoint} closed the connection before it answered")]
    UpstreamClosed {
        /// The endpoint.
        endpoint: SocketAddr,
    },
    /// The stream was reset before a response.
    #[error("{endpoint} reset the request: {reason}")]
    UpstreamReset {
        /// The endpoint.
        endpoint: SocketAddr,
        /// The code it gave.
        reason: Arc<str>,
    },
    /// The response is not valid HTTP.
    #[error("{endpoint} sent an invalid response: {reason}")]
    UpstreamProtocol {
        /// The endpoint.
        endpoint: SocketAddr,
        /// What is wrong with it.
        reason: Arc<str>,
    },
    /// The head of the response is over a limit.
    #[error("the response headers of {endpoint} exceed {} bytes or {} fields", .limits.bytes, .limits.fields)]
    ResponseTooLarge {
        /// The endpoint.
        endpoint: SocketAddr,
        /// The limits in force.
        limits: HeadLimits,
    },
    /// A try took longer than the rule gives one.
    #[error("{endpoint} did not answer within the {after:?} of one try")]
    TryTimeout {
        /// The endpoint.
        endpoint: SocketAddr,
        /// The limit in force.
        after: Duration,
    },
    /// A breaker is open.
    #[error("the circuit breaker of {breaker} is open for another {}", InMillis(.retry_after))]
    BreakerOpen {
        /// What it stands before.
        breaker: Arc<str>,
        /// How long until requests are tried again.
        retry_after: Duration,
    },
    /// A rate limit was met.
    #[error("rate limit of {limit} met: {requests} requests in {per:?}, next one in {}", InMillis(.retry_after))]
    RateLimited {
        /// The policy it comes from.
        limit: Arc<str>,
        /// Requests it lets through.
        requests: u32,
        /// In which time.
        per: Duration,
        /// How long until the next request is let through.
        retry_after: Duration,
        /// How long until all are earned anew.
        reset: Duration,
    },
    /// Authorization policy is against it. The caller is not told which.
    #[error("access denied by policy")]
    Denied {
        /// The policy that denies it; absent where none of those that allow matched.
        policy: Option<Arc<str>>,
    },
    /// A token proves nothing.
    #[error("the token is not accepted: {0}")]
    BadToken(TokenFault),
    /// The policy asks for this failure.
    #[error("fault injected by policy")]
    Injected(AbortStatus),
    /// The total time of the route ran out.
    #[error("no complete response within {after:?}")]
    Timeout {
        /// The limit in force.
        after: Duration,
    },
    /// Nothing has moved either way for too long.
    #[error("{} for {after:?}", if *.of_client { "the request is incomplete, and nothing came" } else { "nothing came" })]
    Idle {
        /// The limit in force.
        after: Duration,
        /// Whether the request was incomplete.
        of_client: bool,
    },
    /// The client has begun its first request and does not end its head.
    #[error("the head of the request did not come within {0:?}")]
    Silent(Duration),
    /// The client went away or broke its request off.
    #[error("the client closed the request")]
    ClientClosed,
    /// The proxy is shutting down.
    #[error("the proxy is draining")]
    Draining,
}

/// How large the head of a message may be.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Largest header list in bytes.
    pub bytes: usize,
    /// Most header fields.
    pub fields: usize,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TokenFault {
    /// It cannot be read.
    #[error("it is not a JSON Web Token")]
    Malformed,
    /// No rule believes who issued it.
    #[error("its issuer is not trusted here")]
    Issuer,
    /// It is for somebody else.
    #[error("it is not meant for this audience")]
    Audience,
    /// It is over.
    #[error("it has expired")]
    Expired,
    /// It has not begun.
    #[error("it is not valid yet")]
    Early,
    /// No key of the issuer may be used as it says.
    #[error("no key of its issuer fits its key id and algorithm")]
    NoKey,
    /// Its signature was not made with a key of the issuer.
    #[error("its signature is wrong")]
    Signature,
    /// The keys of the issuer could not be fetched or read.
    #[error("the keys of its issuer are not available")]
    KeysMissing,
}

/// A limit of a connection pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// `connectionPool.tcp.maxConnections`
    MaxConnections,
    /// `connectionPool.http.http1MaxPendingRequests`
    MaxPendingRequests,
    /// `connectionPool.http.http2MaxRequests`
    MaxRequests,
    /// `bulkhead.maxPending`: as many run and wait as may.
    MaxPending,
    /// `bulkhead.queueTimeout`: waited too long for others to end.
    QueueTimeout,
}

/// A time for people: whole milliseconds.
struct InMillis<'a>(&'a Duration);

impl std::fmt::Display for InMillis<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ms", self.0.as_micros().div_ceil(1000))
    }
}

impl Limit {
    fn flag(self) -> Flag {
        match self {
            Self::MaxConnections => Flag::Uoc,
            Self::MaxPendingRequests => Flag::Uop,
            Self::MaxRequests => Flag::Uo,
            Self::MaxPending => Flag::Bhf,
            Self::QueueTimeout => Flag::Bhq,
        }
    }

    /// The limit as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxConnections => "maxConnections",
            Self::MaxPendingRequests => "http1MaxPendingRequests",
            Self::MaxRequests => "http2MaxRequests",
            Self::MaxPending => "bulkhead.maxPending",
            Self::QueueTimeout => "bulkhead.queueTimeout",
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl ProxyError {
    /// Why the HTTP library has answered a request head with this status.
    pub fn unreadable_head(status: u16, limits: HeadLimits) -> Self {
        match status {
            431 => Self::HeadersTooLarge(limits),
            414 => Self::BadRequest("the request target is too long"),
            _ => Self::BadRequest("the request head is not valid HTTP"),
        }
    }

    /// The cause for those who run the proxy: with what callers are not told.
    pub fn in_full(&self) -> String {
        match self {
            Self::Denied { policy: Some(policy) } => format!("{self} {policy}"),
            Self::Denied { policy: None } => format!("{self}: no ALLOW policy matches"),
            other => other.to_string(),
        }
    }

    /// Status of the answer. A client that is gone sees none; its log line has 0.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::ConnectNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::HeadersTooLarge(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Silent(_) | Self::Idle { of_client: true, .. } => StatusCode::REQUEST_TIMEOUT,
            Self::UnknownHost(_) | Self::NoRoute(_) => StatusCode::NOT_FOUND,
            Self::Undiscovered { .. } | Self::UpstreamProtocol { .. } | Self::ResponseTooLarge { .. } => {
                StatusCode::BAD_GATEWAY
            }
            Self::Timeout { .. } | Self::TryTimeout { .. } | Self::Idle { of_client: false, .. } => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Denied { .. } => StatusCode::FORBIDDEN,
            Self::BadToken(_) => StatusCode::UNAUTHORIZED,
            Self::Injected(AbortStatus::Http(status)) => {
                // The model admits nothing outside 200 to 599.
                StatusCode::from_u16(*status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
            }
            Self::Injected(AbortStatus::Grpc(_)) => StatusCode::OK,
            Self::DiscoveryOverflow
            | Self::NoCluster(_)
            | Self::NoHealthyEndpoint { .. }
            | Self::Overflow { .. }
            | Self::BreakerOpen { .. }
            | Self::ConnectFailed { .. }
            | Self::ConnectTimeout { .. }
            | Self::Handshake { .. }
            | Self::UpstreamClosed { .. }
            | Self::UpstreamReset { .. }
            | Self::ClientClosed
            | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The gRPC code a gRPC caller gets (`google.rpc.Code`).
    pub fn grpc_code(&self) -> u8 {
        const CANCELLED: u8 = 1;
        const UNAVAILABLE: u8 = 14;
        match self {
            Self::Injected(AbortStatus::Grpc(code)) => *code,
            Self::ClientClosed => CANCELLED,
            other => match other.flag().explanation().answer {
                Answer::Own(_, code) => code,
                Answer::Worded | Answer::Passed | Answer::CutOff => UNAVAILABLE,
            },
        }
    }

    /// The response flag.
    pub fn flag(&self) -> Flag {
        match self {
            Self::BadRequest(_) => Flag::Dpe,
            Self::ConnectNotAllowed => Flag::Conn,
            Self::HeadersTooLarge(_) => Flag::Dhl,
            Self::BodyTooLarge(_) => Flag::Dbl,
            Self::UnknownHost(_) => Flag::Nh,
            Self::NoRoute(_) => Flag::Nr,
            Self::Undiscovered { .. } => Flag::Dsc,
            Self::DiscoveryOverflow => Flag::Dso,
            Self::NoCluster(_) => Flag::Nc,
            Self::NoHealthyEndpoint { .. } => Flag::Uh,
            Self::Overflow { limit, .. } => limit.flag(),
            Self::ConnectFailed { .. } => Flag::Uf,
            Self::ConnectTimeout { .. } => Flag::Uct,
            Self::Handshake { refusal, .. } => match refusal {
                Refusal::WrongIdentity | Refusal::ForeignTrustDomain => Flag::Tlsid,
                refusal if refusal.is_ours() => Flag::Tlsown,
                _ => Flag::Tls,
            },
            Self::UpstreamClosed { .. } => Flag::Uc,
            Self::UpstreamReset { .. } => Flag::Ur,
            Self::UpstreamProtocol { .. } => Flag::Upe,
            Self::ResponseTooLarge { .. } => Flag::Uhl,
            Self::Timeout { .. } => Flag::Ut,
            Self::TryTimeout { .. } => Flag::Upt,
            Self::Idle { .. } => Flag::Si,
            Self::BreakerOpen { .. } => Flag::Brk,
            Self::RateLimited { .. } => Flag::Rl,
            Self::Denied { .. } => Flag::Authz,
            Self::BadToken(_) => Flag::Jwt,
            Self::Injected(_) => Flag::Fi,
            Self::Silent(_) => Flag::Det,
            Self::ClientClosed => Flag::Dc,
            Self::Draining => Flag::Drn,
        }
    }

    /// Whether it is certain that the application has not seen the request.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::ConnectFailed { .. } | Self::ConnectTimeout { .. } | Self::Handshake { .. })
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Idle { of_client: true, .. } => Fault::Client,
            other => other.flag().fault(),
        }
    }

    /// Whether the rest of the request may still be on its way when this is answered, so that on HTTP/1 nothing more can
    /// be read from its connection.
    pub fn ends_connection(&self) -> bool {
        matches!(
            self,
            Self::BadRequest(_)
                | Self::ConnectNotAllowed
                | Self::HeadersTooLarge(_)
                | Self::BodyTooLarge(_)
                | Self::Idle { of_client: true, .. }
        )
    }
}
