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

/// Which stories are wanted: those that fit all that is given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Whom they are for.
    pub to: Option<String>,
    /// Who called.
    pub from: Option<String>,
    /// A status, or a class of them such as `5xx`.
    pub status: Option<String>,
    /// The response flag.
    pub flag: Option<String>,
    /// What the path begins with.
    pub path: Option<String>,
    /// The method.
    pub method: Option<String>,
}

/// Why requests have failed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    /// The response flag.
    pub flag: String,
    /// Why, in words.
    pub cause: String,
    /// The rule they fell under.
    pub route: Option<String>,
    /// The cluster they went to.
    pub cluster: Option<String>,
    /// How many.
    pub count: u64,
    /// When the last of them came, RFC 3339 in UTC.
    pub last: String,
    /// The id of one of them.
    pub request_id: String,
}

/// What filters look at, borrowed from a story or from what one is made of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// Names of whom it was for: authority, cluster, identity, and the proxy that told of what came in.
    pub to: [Option<&'a str>; 4],
    /// Names of who called: identity, and the proxy that told of what went out.
    pub from: [Option<&'a str>; 2],
    /// The status.
    pub status: u16,
    /// The response flag.
    pub flag: &'a str,
    /// The path without the query.
    pub path: &'a str,
    /// The method.
    pub method: &'a str,
}

impl Story {
    /// What filters look at.
    pub fn facts(&self) -> Facts<'_> {
        let proxy = Some(self.proxy.as_str());
        let (caller, callee) = if self.direction == "inbound" { (None, proxy) } else { (proxy, None) };
        Facts {
            to: [
                Some(&self.authority),
                self.cluster.as_deref(),
                self.destination_principal.as_deref(),
                callee,
            ],
            from: [self.source_principal.as_deref(), caller],
            status: self.status,
            flag: &self.flag,
            path: &self.path,
            method: &self.method,
        }
    }
}

impl Filter {
    /// Why no story could ever fit, where that is so.
    pub fn mistake(&self) -> Option<String> {
        let status = self.status.as_deref()?;
        let is_class = matches!(status.as_bytes(), [b'1'..=b'5', b'x' | b'X', b'x' | b'X']);
        let is_code = status.parse::<u16>().is_ok_and(|code| code < 600);
        (!is_class && !is_code).then(|| format!("{status:?} is no status: write 503, or 5xx"))
    }

    /// Whether a story is wanted.
    pub fn matches(&self, story: &Story) -> bool {
        self.admits(&story.facts())
    }

    /// Whether a story of these facts is wanted.
    pub fn admits(&self, facts: &Facts<'_>) -> bool {
        let named = |wanted: &Option<String>, names: &[Option<&str>]| {
            wanted.as_deref().is_none_or(|wanted| names.iter().flatten().any(|name| is_named(name, wanted)))
        };
        named(&self.to, &facts.to)
            && named(&self.from, &facts.from)
            && self.status.as_deref().is_none_or(|wanted| is_status(facts.status, wanted))
            && self.flag.as_deref().is_none_or(|wanted| facts.flag.eq_ignore_ascii_case(wanted))
            && self.path.as_deref().is_none_or(|wanted| facts.path.starts_with(wanted))
            && self.method.as_deref().is_none_or(|wanted| facts.method.eq_ignore_ascii_case(wanted))
    }
}

/// Whether `name` is what somebody calls `wanted`: itself, its host without the port, its first labels
/// (`order.default.svc.cluster.local:80` is `order` and `order.default`), or the end of a path
/// (`default/order` and `spiffe://cluster.local/ns/default/sa/order` are `order`).
fn is_named(name: &str, wanted: &str) -> bool {
    let begins = |name: &str| {
        let same = name.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted));
        same && matches!(name.as_bytes().get(wanted.len()), None | Some(b'.' | b':'))
    };
    !wanted.is_empty() && (begins(name) || name.rsplit_once('/').is_some_and(|(_, end)| begins(end)))
}

/// Whether a status is the wanted one or of the wanted class.
fn is_status(status: u16, wanted: &str) -> bool {
    match wanted.as_bytes() {
        [class @ b'1'..=b'5', b'x' | b'X', b'x' | b'X'] => status / 100 == u16::from(class - b'0'),
        _ => wanted.parse() == Ok(status),
    }
}

#[cfg(test)]
mod tests;
