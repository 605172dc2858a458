//! What is remembered of a request for its line in the access log.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{
    HeaderValue, Method, Version,
    uri::{Authority, PathAndQuery},
};

use crate::error::Flag;

/// Which way a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From an app to the sidecar of the same pod.
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

/// A text shared with the request it comes from: making one copies no bytes.
#[derive(Debug, Clone, Default)]
pub enum Value {
    /// Not known; printed as `-` or left out.
    #[default]
    None,
    /// A name from the configuration.
    Name(Arc<str>),
    /// A header.
    Header(HeaderValue),
    /// An authority.
    Authority(Authority),
    /// A path with its query.
    Path(PathAndQuery),
}

impl Value {
    /// The text; bytes that are no UTF-8 are replaced. `None` if there is none.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::None => None,
            Self::Name(name) => Some(Cow::Borrowed(name)),
            Self::Header(value) => Some(String::from_utf8_lossy(value.as_bytes())),
            Self::Authority(authority) => Some(Cow::Borrowed(authority.as_str())),
            Self::Path(path) => Some(Cow::Borrowed(path.as_str())),
        }
    }
}

macro_rules! value_from {
    ($($type:ty => $variant:ident),*) => {
        $(impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(value)
            }
        })*
    };
}

value_from!(Arc<str> => Name, HeaderValue => Header, Authority => Authority, PathAndQuery => Path);

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}

/// A finished request.
#[derive(Debug, Clone)]
pub struct Record {
    /// When its head was read.
    pub start: SystemTime,
    /// From then to the end of the response.
    pub duration: Duration,
    /// Its method.
    pub method: Method,
    /// The host it was for.
    pub authority: Value,
    /// Its path as the client sent it.
    pub path: Value,
    /// The version the client spoke.
    pub version: Version,
    /// The status the client saw; 0 when it saw none.
    pub status: u16,
    /// The gRPC status, where one was seen.
    pub grpc_status: Option<u8>,
    /// What the proxy has to remark.
    pub flag: Flag,
    /// Why, in words, where the proxy made the answer.
    pub cause: Option<Box<str>>,
    /// Which way it went.
    pub direction: Direction,
    /// The rule that matched.
    pub route: Value,
    /// The cluster it went to.
    pub cluster: Value,
    /// The endpoint it went to.
    pub upstream: Option<SocketAddr>,
    /// The client's address.
    pub peer: SocketAddr,
    /// Its `x-request-id`.
    pub request_id: Value,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the response's body.
    pub response_bytes: u64,
    /// Time it waited for a connection.
    pub queued: Option<Duration>,
    /// Time the connection took, if one was made for it.
    pub connecting: Option<Duration>,
    /// Time from the request's head to the response's.
    pub first_byte: Option<Duration>,
}
