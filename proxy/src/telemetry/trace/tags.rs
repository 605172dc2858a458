//! Attributes that policy wants on every span: what stands there, in the environment, or in a request's head.
//!
//! The first two are settled when policy comes. Of heads those fields are kept that are wanted, shared with the request;
//! they are read when spans are made.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use pillion_policy::telemetry::{Tag, TagValue};

use crate::telemetry::otlp::attribute;

/// Most attributes policy can add.
const MOST: usize = 32;

/// A header field that becomes an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The attribute.
    pub(super) name: Arc<str>,
    header: HeaderName,
    default: Option<HeaderValue>,
}

/// What of `tags` is the same for all spans, and what each request must say.
pub(super) fn settle(
    tags: &[Tag],
    environment: impl Fn(&str) -> Option<String>,
) -> (Vec<KeyValue>, Vec<Wanted>) {
    let (mut settled, mut wanted) = (Vec::new(), Vec::new());
    for tag in tags.iter().take(MOST) {
        match &tag.value {
            TagValue::Literal(text) => settled.push(attribute::text(&tag.name, text)),
            TagValue::Environment { name, default } => {
                if let Some(text) = environment(name).or_else(|| default.clone()) {
                    settled.push(attribute::text(&tag.name, &text));
                }
            }
            TagValue::Header { name, default } => {
                // A name that is none is in no head.
                let Ok(header) = HeaderName::try_from(name.as_str()) else { continue };
                let default = default.as_ref().and_then(|text| HeaderValue::from_str(text).ok());
                wanted.push(Wanted { name: tag.name.as_str().into(), header, default });
            }
        }
    }
    (settled, wanted)
}

/// Keeps the wanted fields of a head.
pub(super) fn keep(wanted: &[Wanted], headers: &HeaderMap, kept: &mut Vec<(Arc<str>, HeaderValue)>) {
    let value = |wanted: &Wanted| headers.get(&wanted.header).or(wanted.default.as_ref()).cloned();
    kept.extend(wanted.iter().filter_map(|wanted| Some((Arc::clone(&wanted.name), value(wanted)?))));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_from_policy_environment_and_head() {
        let header = |name: &str, default: Option<&str>| TagValue::Header {
            name: name.to_owned(),
            default: default.map(str::to_owned),
        };
        let variable = |name: &str, default: Option<&str>| TagValue::Environment {
            name: name.to_owned(),
            default: default.map(str::to_owned),
        };
        let tags = [
            ("literal", TagValue::Literal("here".to_owned())),
            ("tenant", header("x-tenant", None)),
            ("plan", header("x-plan", Some("free"))),
            ("absent", header("x-absent", None)),
            ("odd", header("no name", Some("never"))),
            ("zone", variable("ZONE", Some("nowhere"))),
            ("region", variable("REGION", Some("nowhere"))),
            ("unset", variable("UNSET", None)),
        ]
        .map(|(name, value)| Tag { name: name.to_owned(), value });
        let (settled, wanted) = settle(&tags, |name| (name == "ZONE").then(|| "b".to_owned()));
        let expected = [("literal", "here"), ("zone", "b"), ("region", "nowhere")];
        assert_eq!(settled, expected.map(|(name, value)| attribute::text(name, value)));
        let head =
            HeaderMap::from_iter([(HeaderName::from_static("x-tenant"), HeaderValue::from_static("t"))]);
        let mut kept = Vec::new();
        keep(&wanted, &head, &mut kept);
        let kept: Vec<_> = kept.iter().map(|(name, value)| (&**name, value.to_str().unwrap())).collect();
        assert_eq!(kept, [("tenant", "t"), ("plan", "free")]);
    }
}
