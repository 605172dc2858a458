//! Which requests a rule is for.
//!
//! Semantics are Istio's: the entries of a match list are alternatives, the conditions inside one entry must all
//! hold. Path prefixes are raw strings (`/api` also matches `/apix`), regular expressions match the whole value,
//! repeated header lines compare as one comma-joined value, and a missing header never satisfies a condition.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};

use crate::{header, pattern::Pattern};

/// The parts of a request that a rule can look at.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Request method, as sent.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// `Host` or `:authority`, as sent.
    pub authority: &'a str,
    /// Path without the query.
    pub path: &'a str,
    /// Query without the question mark.
    pub query: Option<&'a str>,
    /// All header fields.
    pub headers: &'a HeaderMap,
}

/// A condition on a piece of text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum StringMatch {
    /// Equal, byte for byte.
    Exact(String),
    /// Starts with.
    Prefix(String),
    /// The whole text matches the expression.
    Regex(Pattern),
    /// Any text, as long as there is one.
    Present,
}

/// A condition on the path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathMatch {
    /// What the path is compared with.
    pub value: StringMatch,
    /// Compare exact values and prefixes without regard to ASCII case.
    pub ignore_case: bool,
}

/// A condition on one header field.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderMatch {
    /// Name of the field.
    #[serde(with = "header::name_text")]
    pub name: HeaderName,
    /// What its value is compared with.
    pub value: StringMatch,
    /// The condition holds when the comparison does not (`withoutHeaders`); a missing field then satisfies it.
    pub negated: bool,
}

/// A condition on one query parameter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueryMatch {
    /// Name of the parameter.
    pub name: String,
    /// What its first value is compared with.
    pub value: StringMatch,
}

/// One alternative of a rule: all its conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteMatch {
    /// Condition on the path.
    pub path: Option<PathMatch>,
    /// Condition on the method; methods are case-sensitive (RFC 9110 §9.1).
    pub method: Option<StringMatch>,
    /// Condition on the scheme.
    pub scheme: Option<StringMatch>,
    /// Condition on `Host` or `:authority`, port included when the client sent one.
    pub authority: Option<StringMatch>,
    /// Conditions on header fields.
    pub headers: Vec<HeaderMatch>,
    /// Conditions on query parameters.
    pub query: Vec<QueryMatch>,
}

impl StringMatch {
    /// Whether `text` satisfies the condition.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(value) => text == value,
            Self::Prefix(value) => text.starts_with(value.as_str()),
            Self::Regex(pattern) => pattern.matches(text),
            Self::Present => true,
        }
    }
}

impl PathMatch {
    /// Whether `path` satisfies the condition.
    pub fn matches(&self, path: &str) -> bool {
        if !self.ignore_case {
            return self.value.matches(path);
        }
        match &self.value {
            StringMatch::Exact(value) => path.eq_ignore_ascii_case(value),
            StringMatch::Prefix(value) => path
                .as_bytes()
                .get(..value.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(value.as_bytes())),
            StringMatch::Regex(_) | StringMatch::Present => self.value.matches(path),
        }
    }
}

impl HeaderMatch {
    fn matches(&self, headers: &HeaderMap) -> bool {
        let found = joined(headers, &self.name).is_some_and(|value| self.value.matches(&value));
        found != self.negated
    }
}

impl QueryMatch {
    fn matches(&self, query: Option<&str>) -> bool {
        query_value(query.unwrap_or_default(), &self.name).is_some_and(|value| self.value.matches(&value))
    }
}

impl RouteMatch {
    /// Whether the request satisfies every condition.
    pub fn matches(&self, head: &Head<'_>) -> bool {
        let holds = |condition: &Option<StringMatch>, text: &str| {
            condition.as_ref().is_none_or(|condition| condition.matches(text))
        };
        self.path.as_ref().is_none_or(|path| path.matches(head.path))
            && holds(&self.method, head.method)
            && holds(&self.scheme, head.scheme)
            && holds(&self.authority, head.authority)
            && self.headers.iter().all(|header| header.matches(head.headers))
            && self.query.iter().all(|query| query.matches(head.query))
    }

    /// Whether every request satisfies this alternative, which makes later rules unreachable.
    pub fn is_catch_all(&self) -> bool {
        let whole_path = self.path.as_ref().is_none_or(|path| match &path.value {
            StringMatch::Prefix(prefix) => prefix.is_empty() || prefix == "/",
            StringMatch::Present => true,
            StringMatch::Exact(_) | StringMatch::Regex(_) => false,
        });
        whole_path
            && self.method.is_none()
            && self.scheme.is_none()
            && self.authority.is_none()
            && self.headers.is_empty()
            && self.query.is_empty()
    }
}

/// The value of a header field; repeated lines are joined by commas (RFC 9110 §5.3). Values that are not text are
/// compared with their odd bytes replaced.
pub fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut values = headers.get_all(name).iter();
    let first = String::from_utf8_lossy(values.next()?.as_bytes());
    let Some(second) = values.next() else { return Some(first) };
    let mut all = first.into_owned();
    for value in std::iter::once(second).chain(values) {
        all.push(',');
        all.push_str(&String::from_utf8_lossy(value.as_bytes()));
    }
    Some(Cow::Owned(all))
}

/// The first value of a query parameter, percent-decoded; a plus stays a plus, as in Envoy. A parameter without `=`
/// has the empty value.
pub fn query_value<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (percent_decoded(key) == name).then(|| percent_decoded(value))
    })
}

/// Decodes `%XX`; sequences that are not two hexadecimal digits stay as they are.
fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (byte, hex(ahead.next()), hex(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                bytes = ahead;
            }
            _ => decoded.push(byte),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn head<'a>(path: &'a str, query: Option<&'a str>, headers: &'a HeaderMap) -> Head<'a> {
        Head { method: "GET", scheme: "http", authority: "shop:80", path, query, headers }
    }

    fn prefix(value: &str, ignore_case: bool) -> RouteMatch {
        let path = PathMatch { value: StringMatch::Prefix(value.into()), ignore_case };
        RouteMatch { path: Some(path), ..RouteMatch::default() }
    }

    #[test]
    fn a_prefix_is_a_raw_string() {
        let none = HeaderMap::new();
        assert!(prefix("/api", false).matches(&head("/apix", None, &none)));
        assert!(!prefix("/api", false).matches(&head("/API", None, &none)));
        assert!(prefix("/api", true).matches(&head("/API/x", None, &none)));
        assert!(!prefix("/api", true).matches(&head("/a", None, &none)));
    }

    #[test]
    fn repeated_headers_compare_as_one_value() {
        let mut headers = HeaderMap::new();
        headers.append("x-tag", HeaderValue::from_static("a"));
        headers.append("x-tag", HeaderValue::from_static("b"));
        let rule = |value, negated| RouteMatch {
            headers: vec![HeaderMatch { name: HeaderName::from_static("x-tag"), value, negated }],
            ..RouteMatch::default()
        };
        assert!(rule(StringMatch::Exact("a,b".into()), false).matches(&head("/", None, &headers)));
        assert!(rule(StringMatch::Exact("a".into()), true).matches(&head("/", None, &headers)));
        assert!(rule(StringMatch::Present, true).matches(&head("/", None, &HeaderMap::new())));
        assert!(!rule(StringMatch::Present, false).matches(&head("/", None, &HeaderMap::new())));
    }

    #[test]
    fn query_parameters_are_found_and_decoded() {
        assert_eq!(query_value("a=1&b=x%20y&a=2", "a").unwrap(), "1");
        assert_eq!(query_value("a=1&b=x%20y", "b").unwrap(), "x y");
        assert_eq!(query_value("flag&x", "flag").unwrap(), "");
        assert_eq!(query_value("bad=%4&z=%zz", "z").unwrap(), "%zz");
        assert!(query_value("", "a").is_none());
    }

    #[test]
    fn catch_all_is_recognized() {
        assert!(RouteMatch::default().is_catch_all() && prefix("/", false).is_catch_all());
        assert!(!prefix("/api", false).is_catch_all());
    }
}
