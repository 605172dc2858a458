//! Who may call a workload: what AuthorizationPolicy says, as values.
//!
//! The order of decision is Istio's: a DENY policy that matches refuses; with no ALLOW policy everything else is allowed;
//! else one ALLOW policy must match. AUDIT policies only leave a note. A rule matches when one of its sources, one of its
//! operations and all of its conditions do; a list that is empty asks nothing. A policy without rules matches nothing,
//! so that ALLOW without rules refuses everybody.

use std::sync::Arc;

use http::HeaderName;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Invalid, header};

mod decide;
mod index;
#[cfg(test)]
mod tests;

pub use decide::{Asked, Authorization, Claims, Request, Subject, Token, Verdict};

/// Most rules of one policy (Istio's limit).
pub const MAX_RULES: usize = 512;

/// One AuthorizationPolicy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicy {
    /// `namespace/name` of the object: what stands in logs when it decides.
    pub name: Arc<str>,
    /// What it does with requests that match.
    pub action: Action,
    /// Alternatives.
    pub rules: Vec<Rule>,
}

/// What a policy does with requests that match it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Action {
    /// Lets them in, and with them nobody else.
    Allow,
    /// Refuses them.
    Deny,
    /// Notes them.
    Audit,
}

/// One alternative of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Who asks: one of these, or anybody.
    pub from: Vec<Source>,
    /// What for: one of these, or anything.
    pub to: Vec<Operation>,
    /// What else must hold: all of these.
    pub when: Vec<Condition>,
}

/// What a field may hold: one of `any_of`, where there are any, and none of `none_of`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Choice<T> {
    /// Values that match; empty is every value, also none at all.
    #[serde(default = "Vec::new")]
    pub any_of: Vec<T>,
    /// Values that do not match (`not…`); a missing value satisfies this.
    #[serde(default = "Vec::new")]
    pub none_of: Vec<T>,
}

/// Who asks. What is asked of identities is never true of a plaintext connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// Principal of the peer: `DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    pub principals: Choice<TextMatch>,
    /// Principal of the token: `ISSUER/SUBJECT`.
    pub request_principals: Choice<TextMatch>,
    /// Namespace of the peer's identity.
    pub namespaces: Choice<TextMatch>,
    /// `NAMESPACE/ACCOUNT` of the peer's identity.
    pub service_accounts: Choice<String>,
    /// Address the connection comes from.
    pub ip_blocks: Choice<IpNet>,
    /// Address the request comes from, which at a sidecar is that of the connection.
    pub remote_ip_blocks: Choice<IpNet>,
}

/// What is asked for. Only ports are known of opaque connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Operation {
    /// `Host` or `:authority`, without regard to case; with the port where the client sent one, and without.
    pub hosts: Choice<TextMatch>,
    /// Port of the workload.
    pub ports: Choice<u16>,
    /// Method; for gRPC that is always POST.
    pub methods: Choice<TextMatch>,
    /// Normalized path without the query.
    pub paths: Choice<PathPattern>,
}

/// One entry of `when`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Condition {
    /// `request.headers[NAME]`
    Header {
        /// Name of the field.
        #[serde(with = "header::name_text")]
        name: HeaderName,
        /// Its values.
        values: Choice<TextMatch>,
    },
    /// `request.auth.claims[A][B]…`: a claim that is a text or a list of texts.
    Claim {
        /// The way to the claim.
        path: Vec<String>,
        /// Its values.
        values: Choice<TextMatch>,
    },
    /// A text that is known of the connection or the token.
    Text {
        /// Which.
        key: TextKey,
        /// Its values.
        values: Choice<TextMatch>,
    },
    /// An address.
    Address {
        /// Which.
        key: AddressKey,
        /// Its values.
        values: Choice<IpNet>,
    },
    /// `destination.port`
    Port(Choice<u16>),
}

/// The texts a condition can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum TextKey {
    /// `source.namespace`
    SourceNamespace,
    /// `source.principal`
    SourcePrincipal,
    /// `source.serviceAccount`: `NAMESPACE/ACCOUNT`
    SourceServiceAccount,
    /// `request.auth.principal`
    TokenPrincipal,
    /// `request.auth.audiences`
    TokenAudiences,
    /// `request.auth.presenter`: the claim `azp`
    TokenPresenter,
    /// `connection.sni`
    Sni,
}

/// The addresses a condition can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum AddressKey {
    /// `source.ip`
    Source,
    /// `remote.ip`
    Remote,
    /// `destination.ip`
    Destination,
}

/// A comparison with text as policies write it: `exact`, `prefix*`, `*suffix` or `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum TextMatch {
    /// The same.
    Exact(String),
    /// It begins so.
    Prefix(String),
    /// It ends so.
    Suffix(String),
    /// There is one, and it is not empty.
    Present,
}

/// A comparison with a path: as text, or segment by segment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum PathPattern {
    /// As text.
    Text(TextMatch),
    /// A template such as `/users/{*}/orders/{**}`.
    Template(PathTemplate),
}

/// A path in segments, of which some may be anything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathTemplate(Box<[Segment]>);

/// A part of a path between slashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    /// This text.
    Literal(Box<str>),
    /// `{*}`: one segment, not empty.
    Any,
    /// `{**}`: the rest of the path, also none; only at the end.
    Rest,
}

impl<T> Default for Choice<T> {
    fn default() -> Self {
        Self { any_of: Vec::new(), none_of: Vec::new() }
    }
}

impl<T> Choice<T> {
    /// Whether it asks nothing.
    pub fn is_empty(&self) -> bool {
        self.any_of.is_empty() && self.none_of.is_empty()
    }
}

impl TextMatch {
    /// Reads a value as policies write it.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        let inner = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => return Ok(Self::Present),
            (Some(suffix), None) => (suffix, Self::Suffix(suffix.to_owned())),
            (None, Some(prefix)) => (prefix, Self::Prefix(prefix.to_owned())),
            (None, None) => (text, Self::Exact(text.to_owned())),
            (Some(_), Some(_)) => (text, Self::Present),
        };
        if text.is_empty() {
            return Err(Invalid::new("is empty"));
        }
        if inner.0.contains('*') {
            return Err(Invalid::new(format!(
                "{text:?} has '*' in the middle: it may only begin or end a value"
            )));
        }
        Ok(inner.1)
    }

    /// The value as policies write it.
    pub fn text(&self) -> String {
        match self {
            Self::Exact(text) => text.clone(),
            Self::Prefix(prefix) => format!("{prefix}*"),
            Self::Suffix(suffix) => format!("*{suffix}"),
            Self::Present => "*".to_owned(),
        }
    }

    /// Whether `text` satisfies it.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(value) => text == value,
            Self::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => text.ends_with(suffix.as_str()),
            Self::Present => !text.is_empty(),
        }
    }
}

impl PathPattern {
    /// Reads a value as policies write it.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        if text.contains(['{', '}']) {
            PathTemplate::new(text).map(Self::Template)
        } else {
            TextMatch::new(text).map(Self::Text)
        }
    }

    /// The value as policies write it.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.text(),
            Self::Template(template) => template.clone().into(),
        }
    }

    /// Whether `path` satisfies it.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Text(text) => text.matches(path),
            Self::Template(template) => template.matches(path),
        }
    }
}

impl PathTemplate {
    /// Reads `/literal/{*}/{**}`.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        let rest = text
            .strip_prefix('/')
            .ok_or_else(|| Invalid::new(format!("{text:?}: a path template begins with '/'")))?;
        let segment = |segment: &str| match segment {
            "{*}" => Ok(Segment::Any),
            "{**}" => Ok(Segment::Rest),
            literal if literal.contains(['{', '}', '*']) => {
                Err(Invalid::new(format!("{text:?}: {literal:?} is neither plain text nor {{*}} nor {{**}}")))
            }
            literal => Ok(Segment::Literal(literal.into())),
        };
        let segments: Box<[Segment]> = rest.split('/').map(segment).collect::<Result<_, _>>()?;
        let early = segments.iter().rev().skip(1).any(|segment| *segment == Segment::Rest);
        if early {
            return Err(Invalid::new(format!("{text:?}: {{**}} may only be the last segment")));
        }
        Ok(Self(segments))
    }

    /// Whether `path` has the form.
    pub fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        let mut parts = path.split('/');
        for segment in &self.0 {
            match (segment, parts.next()) {
                (Segment::Rest, _) => return true,
                (Segment::Any, Some(part)) if !part.is_empty() => {}
                (Segment::Literal(literal), Some(part)) if **literal == *part => {}
                (Segment::Any | Segment::Literal(_), _) => return false,
            }
        }
        parts.next().is_none()
    }
}

impl TryFrom<String> for PathTemplate {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        Self::new(&text)
    }
}

impl From<PathTemplate> for String {
    fn from(template: PathTemplate) -> Self {
        let part = |segment: &Segment| match segment {
            Segment::Literal(literal) => format!("/{literal}"),
            Segment::Any => "/{*}".to_owned(),
            Segment::Rest => "/{**}".to_owned(),
        };
        template.0.iter().map(part).collect()
    }
}
