//! Names: of hosts, destinations, clusters, endpoint sets and workloads.
//!
//! Every name is a newtype that parses and prints one text form, because names travel as text in the discovery
//! protocol and stand in logs, metrics and error messages.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// Longest DNS name (RFC 1035 §2.3.4), also the bound for IP literals.
const MAX_HOST: usize = 253;

/// A host as users and clients name it: a DNS name or an IP literal without brackets, in lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(Arc<str>);

impl Hostname {
    /// Accepts letters, digits, `-`, `_`, `.` and `:` (IPv6); folds to lower case and drops one trailing dot.
    pub fn new(host: &str) -> Result<Self, Invalid> {
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.is_empty() {
            return Err(Invalid::new("host is empty"));
        }
        if host.len() > MAX_HOST {
            return Err(Invalid::new(format!("host is longer than {MAX_HOST} bytes")));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
        if let Some(byte) = host.bytes().find(|byte| !allowed(*byte)) {
            return Err(Invalid::new(format!(
                "host {host:?} holds {:?}, which no host name has",
                byte as char
            )));
        }
        Ok(if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Self(host.to_ascii_lowercase().into())
        } else {
            Self(host.into())
        })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A name in a namespace or a subset: what Kubernetes calls a label value or object name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(Arc<str>);

impl Label {
    /// Accepts 1 to 253 bytes of letters, digits, `-`, `_` and `.`.
    pub fn new(label: &str) -> Result<Self, Invalid> {
        if label.is_empty() || label.len() > MAX_HOST {
            return Err(Invalid::new(format!(
                "a name has 1 to {MAX_HOST} bytes, this one has {}",
                label.len()
            )));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        match label.bytes().find(|byte| !allowed(*byte)) {
            Some(byte) => Err(Invalid::new(format!("name {label:?} holds {:?}", byte as char))),
            None => Ok(Self(label.into())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a client asks for: a host and port as it wrote them, seen from its namespace. Text form `namespace/host:port`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DestinationName {
    /// Namespace of the client; short host names are resolved in it.
    pub namespace: Label,
    /// The host the client named.
    pub host: Hostname,
    /// The port the client named, or the default of its scheme.
    pub port: u16,
}

/// A port of a service. Text form `host:port`; the host is fully qualified.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EndpointSetName {
    /// Fully qualified name of the service.
    pub service: Hostname,
    /// Port of the service (not of its endpoints).
    pub port: u16,
}

/// A destination with a policy and state of its own. Text form `host:port` or `host:port/subset`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName {
    /// The service port whose endpoints serve this cluster.
    pub endpoints: EndpointSetName,
    /// The subset of those endpoints, when a rule names one.
    pub subset: Option<Label>,
}

/// A workload: the set of identical pods a proxy stands beside. Text form `namespace/name`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkloadName {
    /// Namespace of the workload.
    pub namespace: Label,
    /// Its name.
    pub name: Label,
}

/// Splits `host:port` at the last colon, so IPv6 literals need no brackets.
fn host_and_port(text: &str) -> Result<(Hostname, u16), Invalid> {
    let (host, port) = text
        .rsplit_once(':')
        .ok_or_else(|| Invalid::new(format!("{text:?} is not of the form host:port")))?;
    let port = port.parse().map_err(|_| Invalid::new(format!("{port:?} is not a port")))?;
    Ok((Hostname::new(host)?, port))
}

fn namespaced(text: &str) -> Result<(Label, &str), Invalid> {
    let (namespace, rest) =
        text.split_once('/').ok_or_else(|| Invalid::new(format!("{text:?} has no namespace")))?;
    Ok((Label::new(namespace)?, rest))
}

impl FromStr for Hostname {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::new(text)
    }
}

impl FromStr for Label {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::new(text)
    }
}

impl FromStr for DestinationName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (namespace, rest) = namespaced(text)?;
        let (host, port) = host_and_port(rest)?;
        Ok(Self { namespace, host, port })
    }
}

impl FromStr for EndpointSetName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (service, port) = host_and_port(text)?;
        Ok(Self { service, port })
    }
}

impl FromStr for ClusterName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (endpoints, subset) = match text.split_once('/') {
            Some((endpoints, subset)) => (endpoints, Some(Label::new(subset)?)),
            None => (text, None),
        };
        Ok(Self { endpoints: endpoints.parse()?, subset })
    }
}

impl FromStr for WorkloadName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (namespace, name) = namespaced(text)?;
        Ok(Self { namespace, name: Label::new(name)? })
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for DestinationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.host, self.port)
    }
}

impl fmt::Display for EndpointSetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.endpoints)?;
        self.subset.as_ref().map_or(Ok(()), |subset| write!(f, "/{subset}"))
    }
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Debug output and serde use the text form: it is what people type and read.
macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{:?}", self.to_string())
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::Invalid;

            fn try_from(text: String) -> Result<Self, $crate::Invalid> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.to_string()
            }
        }
    )*};
}

pub(crate) use as_text;

as_text!(Hostname, Label, DestinationName, EndpointSetName, ClusterName, WorkloadName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_print_what_they_parse() {
        for text in ["default/order-service:80", "default/10.0.0.1:8080", "shop/fd00::1:80"] {
            assert_eq!(text.parse::<DestinationName>().unwrap().to_string(), text);
        }
        for text in ["order.default.svc.cluster.local:80", "order.default.svc.cluster.local:80/v1"] {
            assert_eq!(text.parse::<ClusterName>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn hosts_are_folded_and_bounded() {
        assert_eq!(Hostname::new("Order-Service.").unwrap().as_str(), "order-service");
        for bad in ["", ".", "a b", "a/b", "ünï", &"x".repeat(254)] {
            assert!(Hostname::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn half_a_name_is_refused() {
        for bad in ["order:80", "default/order", "default/order:99999", "/order:80"] {
            assert!(bad.parse::<DestinationName>().is_err(), "{bad:?}");
        }
    }
}
