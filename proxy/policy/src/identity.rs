//! Who a workload is: its SPIFFE identity, the only notion of "who" there is.
//!
//! The form is Istio's: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT` ([SPIFFE ID], sections 2.1 to 2.4). Two
//! identities are equal when their texts are; nothing in them is folded or decoded.
//!
//! [SPIFFE ID]: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Invalid, name::Label};

const SCHEME: &str = "spiffe://";

/// Longest SPIFFE ID (section 2.3), in bytes.
const MAX_LENGTH: usize = 2048;

/// Longest trust domain name (section 2.1), in bytes.
const MAX_TRUST_DOMAIN: usize = 255;

/// The name of a domain of trust: lower-case letters, digits, `.`, `-` and `_`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

/// A SPIFFE identity.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity {
    uri: Arc<str>,
    /// Where the namespace ends and the service account begins in `uri`.
    namespace: (usize, usize),
    service_account: usize,
}

impl TrustDomain {
    /// Accepts what SPIFFE does.
    pub fn new(name: &str) -> Result<Self, Invalid> {
        let allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
        };
        if name.is_empty() || name.len() > MAX_TRUST_DOMAIN {
            return Err(Invalid::new(format!("a trust domain has 1 to {MAX_TRUST_DOMAIN} bytes")));
        }
        match name.bytes().find(|byte| !allowed(*byte)) {
            Some(byte) => Err(Invalid::new(format!(
                "trust domain {name:?} holds {:?}: use lower-case letters, digits, '.', '-' and '_'",
                byte as char
            ))),
            None => Ok(Self(name.into())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Identity {
    /// The identity of what runs as `service_account` in `namespace`.
    pub fn new(trust_domain: &TrustDomain, namespace: &Label, service_account: &Label) -> Self {
        let uri = format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}");
        let end = uri.len() - service_account.as_str().len() - "/sa/".len();
        let namespace = (end - namespace.as_str().len(), end);
        Self { uri: uri.into(), namespace, service_account: end + "/sa/".len() }
    }

    /// The whole identity, with its scheme: what stands in a certificate.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The identity as policies name it: without the scheme.
    pub fn principal(&self) -> &str {
        self.uri.get(SCHEME.len()..).unwrap_or_default()
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &str {
        self.uri.get(SCHEME.len()..self.namespace.0 - "/ns/".len()).unwrap_or_default()
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.uri.get(self.namespace.0..self.namespace.1).unwrap_or_default()
    }

    /// Its service account.
    pub fn service_account(&self) -> &str {
        self.uri.get(self.service_account..).unwrap_or_default()
    }
}

impl FromStr for TrustDomain {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::new(text)
    }
}

impl FromStr for Identity {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad =
            || Invalid::new(format!("{text:?} is not of the form spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT"));
        if text.len() > MAX_LENGTH {
            return Err(Invalid::new(format!("an identity has at most {MAX_LENGTH} bytes")));
        }
        let mut parts = text.strip_prefix(SCHEME).ok_or_else(bad)?.split('/');
        let mut next = || parts.next().ok_or_else(bad);
        let trust_domain = TrustDomain::new(next()?)?;
        let (ns, namespace, sa, account) = (next()?, next()?, next()?, next()?);
        if (ns, sa) != ("ns", "sa") || parts.next().is_some() {
            return Err(bad());
        }
        Ok(Self::new(&trust_domain, &Label::new(namespace)?, &Label::new(account)?))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

crate::name::as_text!(TrustDomain, Identity);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_its_parts() {
        let text = "spiffe://cluster.local/ns/shop/sa/order-service";
        let identity: Identity = text.parse().unwrap();
        assert_eq!((identity.uri(), identity.to_string().as_str()), (text, text));
        assert_eq!(identity.principal(), "cluster.local/ns/shop/sa/order-service");
        assert_eq!(identity.trust_domain(), "cluster.local");
        assert_eq!((identity.namespace(), identity.service_account()), ("shop", "order-service"));
    }

    #[test]
    fn what_is_no_identity_is_refused() {
        for bad in [
            "",
            "spiffe://",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/shop",
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe://cluster.local/ns/shop/sa/a/b",
            "spiffe://cluster.local/ns//sa/a",
            "spiffe://Cluster.local/ns/shop/sa/a",
            "spiffe://cluster.local:80/ns/shop/sa/a",
            "https://cluster.local/ns/shop/sa/a",
            "spiffe://cluster.local/sa/shop/ns/a",
            "spiffe://cluster.local/ns/shop/sa/%61",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad:?}");
        }
    }
}
