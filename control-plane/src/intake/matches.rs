//! The conditions of a rule: which clients it is for, and which requests.

use pillion_policy::{
    cluster::Labels,
    header,
    matching::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, StringMatch},
    name::Label,
};

use super::values::{optional_match, string_match};
use crate::{api, object::Match, problem::Report};

/// The gateway that means every sidecar.
const MESH: &str = "mesh";

/// Reads one alternative of a rule.
pub(super) fn read_match(entry: &api::HttpMatch, report: &mut Report) -> Option<Match> {
    let mut empty = entry.port.is_none() && entry.source_namespace.is_none();
    empty &= entry.source_labels.is_empty() && entry.gateways.is_empty() && entry.query_params.is_empty();
    empty &= entry.headers.is_empty() && entry.without_headers.is_empty();
    empty &= [&entry.uri, &entry.scheme, &entry.method, &entry.authority].iter().all(|value| value.is_none());
    if empty {
        report.error("an empty match is ambiguous: leave match out to match every request");
    }
    let mut applies = report.field("gateways", |report| for_sidecars(&entry.gateways, report));
    let labels = entry.source_labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into()));
    let labels: Labels = labels.collect();
    let path = entry.uri.as_ref().and_then(|uri| {
        let value = report.field("uri", |report| string_match(uri, report))?;
        Some(PathMatch { value, ignore_case: entry.ignore_uri_case })
    });
    if entry.ignore_uri_case && !matches!(&path, Some(path) if !matches!(path.value, StringMatch::Regex(_))) {
        report.field("ignoreUriCase", |report| report.warn("has no effect without an exact or prefix uri"));
    }
    let mut single = |name: &str, value: &Option<api::StringMatch>| {
        value.as_ref().and_then(|value| report.field(name, |report| string_match(value, report)))
    };
    let method = single("method", &entry.method);
    let scheme = single("scheme", &entry.scheme);
    let authority = single("authority", &entry.authority);
    let mut headers = Vec::new();
    for (field, tests, negated) in
        [("headers", &entry.headers, false), ("withoutHeaders", &entry.without_headers, true)]
    {
        for (name, test) in tests {
            report.field(field, |report| {
                report.field(name, |report| match header_match(name, test, negated, report) {
                    Some(Some(test)) => headers.push(test),
                    Some(None) => applies = false,
                    None => {}
                });
            });
        }
    }
    let query = report.field("queryParams", |report| {
        let tests = entry.query_params.iter();
        let tests = tests.filter_map(|(name, test)| {
            let value = report.field(name, |report| optional_match(test, report))?;
            Some(QueryMatch { name: name.clone(), value })
        });
        tests.collect()
    });
    let namespace = report.field("sourceNamespace", |report| {
        let namespace = entry.source_namespace.as_deref().filter(|namespace| !namespace.is_empty());
        namespace.and_then(|namespace| report.accept(Label::new(namespace)))
    });
    let request = RouteMatch { path, method, scheme, authority, headers, query };
    Some(Match { port: entry.port.filter(|port| *port != 0), namespace, labels, applies, request })
}

/// A test of a header; `Some(None)` when the test can hold for no request yet.
fn header_match(
    name: &str,
    test: &api::StringMatch,
    negated: bool,
    report: &mut Report,
) -> Option<Option<HeaderMatch>> {
    if matches!(name, "uri" | "scheme" | "method" | "authority") {
        report.warn(format!("ignored: use the field {name} beside headers"));
        return None;
    }
    if name.starts_with('@') {
        report.warn("accepted, not enforced yet: until then this match applies to no request");
        return Some(None);
    }
    let name = report.accept(header::name(name))?;
    let value = optional_match(test, report)?;
    Some(Some(HeaderMatch { name, value, negated }))
}

/// Whether a list of gateways includes the sidecars; the others are reported.
pub(super) fn for_sidecars(gateways: &[String], report: &mut Report) -> bool {
    for (index, gateway) in gateways.iter().enumerate().filter(|(_, gateway)| *gateway != MESH) {
        report.item(index, |report| {
            report.warn(format!("accepted, not enforced yet: gateway {gateway} (only {MESH} is)"));
        });
    }
    gateways.is_empty() || gateways.iter().any(|gateway| gateway == MESH)
}
