//! The small values rules are made of: string matches, header edits, shares, weights.

use std::{collections::BTreeMap, time::Duration};

use http::HeaderName;
use pillion_policy::{
    Invalid,
    header::{self, Edits, Field},
    matching::StringMatch,
    name::Label,
    pattern::Pattern,
    ratio::Fraction,
};

use crate::{
    api::{self, ApiDuration},
    naming::Naming,
    object::Destination,
    problem::Report,
};

/// Shortest time that is told apart from none (Istio's).
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);

/// A condition that must say something.
pub(super) fn string_match(value: &api::StringMatch, report: &mut Report) -> Option<StringMatch> {
    if value.regex.as_deref() == Some("*") {
        let reason =
            "\"*\" is not a regular expression here: only headers and queryParams read it as presence";
        report.field("regex", |report| report.error(reason));
        return None;
    }
    match optional_match(value, report)? {
        StringMatch::Present => {
            report.error("one of exact, prefix and regex is needed");
            None
        }
        condition => Some(condition),
    }
}

/// A condition that asks only for presence when it says nothing, or the regular expression `*`.
pub(super) fn optional_match(value: &api::StringMatch, report: &mut Report) -> Option<StringMatch> {
    match (&value.exact, &value.prefix, &value.regex) {
        (None, None, None) => Some(StringMatch::Present),
        (Some(exact), None, None) => Some(StringMatch::Exact(exact.clone())),
        (None, Some(prefix), None) => Some(StringMatch::Prefix(prefix.clone())),
        (None, None, Some(regex)) if regex == "*" => Some(StringMatch::Present),
        (None, None, Some(regex)) => {
            report.field("regex", |report| report.accept(Pattern::new(regex))).map(StringMatch::Regex)
        }
        _ => {
            report.error("only one of exact, prefix and regex can be given");
            None
        }
    }
}

/// Header edits of a rule or a destination, without those of the host.
pub(super) fn edits(operations: &api::HeaderOperations, report: &mut Report) -> Edits {
    let fields = |fields: &BTreeMap<String, String>, report: &mut Report| {
        let fields = fields.iter().filter(|(name, _)| !is_host(name));
        fields
            .filter_map(|(name, value)| report.field(name, |report| edited_field(name, value, report)))
            .collect()
    };
    let set = report.field("set", |report| fields(&operations.set, report));
    let add = report.field("add", |report| fields(&operations.add, report));
    let remove = report.field("remove", |report| {
        let names = operations.remove.iter().enumerate();
        names
            .filter_map(|(index, name)| {
                report.item(index, |report| {
                    if is_host(name) || name.starts_with(':') {
                        report.error(format!("{name} cannot be removed"));
                        return None;
                    }
                    report.accept(header::name(name))
                })
            })
            .collect()
    });
    Edits { remove, set, add }
}

/// Fields that say how a message travels from one end of a connection to the other.
const HOP_BY_HOP: &[&str] =
    &["connection", "content-length", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];

/// The name of a header field, other than the host, that policy writes into a message.
pub(super) fn written_name(name: &str, report: &mut Report) -> Option<HeaderName> {
    if is_host(name) {
        report.error(format!("{name} cannot be written by a rule of this kind"));
        return None;
    }
    writable(name, report).then(|| report.accept(header::name(name)))?
}

fn writable(name: &str, report: &mut Report) -> bool {
    let of_connection = HOP_BY_HOP.iter().any(|own| name.eq_ignore_ascii_case(own));
    if of_connection {
        report.error(format!("{name} belongs to the connection and cannot be written by a rule"));
    }
    !of_connection
}

/// A header field that policy writes into a message.
pub(super) fn edited_field(name: &str, value: &str, report: &mut Report) -> Option<Field> {
    if !writable(name, report) {
        return None;
    }
    let is_name =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'_'));
    let pieces: Vec<&str> = value.split('%').collect();
    // The first piece stands before the first sign and the last behind the last one.
    if pieces
        .iter()
        .rev()
        .skip(1)
        .rev()
        .skip(1)
        .any(|piece| is_name(piece.split('(').next().unwrap_or_default()))
    {
        report.warn(
            "accepted, not enforced yet: the command between the percent signs (it is written as it stands)",
        );
    }
    report.accept(Field::new(name, value))
}

/// A new authority of requests.
pub(super) fn authority(value: &str, report: &mut Report) -> Option<Field> {
    let checked = http::uri::Authority::try_from(value);
    let checked =
        checked.map_err(|_| Invalid::new(format!("{value:?} is not an authority: host or host:port")));
    report.accept(checked)?;
    report.accept(Field::new("host", value))
}

/// Whether a header name stands for the authority of the request.
pub(super) fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name == ":authority"
}

/// A share in percent; all of it when nothing is said.
pub(super) fn fraction(percent: Option<f64>, report: &mut Report) -> Option<Fraction> {
    match percent {
        None => Some(Fraction::ALL),
        Some(percent) => report.accept(Fraction::from_percent(percent)),
    }
}

/// A duration that must not be shorter than `least`.
pub(super) fn at_least(
    field: &str,
    least: Duration,
    given: Option<ApiDuration>,
    report: &mut Report,
) -> Option<Duration> {
    let given = given?.0;
    if given < least {
        report.field(field, |report| report.error(format!("must be at least {least:?}")));
        return None;
    }
    Some(given)
}

/// The time for a whole request; zero is no limit.
pub(super) fn timeout(given: Option<ApiDuration>, report: &mut Report) -> Option<Duration> {
    report.field("timeout", |report| match given {
        Some(timeout) if !timeout.0.is_zero() && timeout.0 < MILLISECOND => {
            report.error("the shortest timeout is 1ms");
            None
        }
        timeout => timeout.map(|timeout| timeout.0),
    })
}

/// A destination, with its host qualified in the rule's namespace.
pub(super) fn destination(
    destination: Option<&api::Destination>,
    namespace: &Label,
    naming: &Naming,
    report: &mut Report,
) -> Option<Destination> {
    let Some(destination) = destination else {
        report.error("destination is missing");
        return None;
    };
    report.field("destination", |report| place(destination, namespace, naming, report))
}

/// A destination that stands at the present field.
pub(super) fn place(
    destination: &api::Destination,
    namespace: &Label,
    naming: &Naming,
    report: &mut Report,
) -> Option<Destination> {
    let host = report.field("host", |report| {
        if destination.host.starts_with('*') {
            report.error("a destination is one host, not a wildcard");
            return None;
        }
        report.accept(naming.qualify(&destination.host, namespace.as_str()))
    });
    let subset = destination.subset.as_deref().filter(|subset| !subset.is_empty());
    let subset = report
        .field("subset", |report| subset.map(|subset| report.accept(Label::new(subset))))
        .map_or(Some(None), |subset| subset.map(Some));
    let port = report.field("port", |report| match destination.port {
        Some(port) if port.number == 0 => {
            report.error("number must be between 1 and 65535");
            None
        }
        port => Some(port.map(|port| port.number)),
    });
    Some(Destination { host: host?, port: port?, subset: subset?, path: report.here() })
}

/// A limit that is a positive number, or nothing when it is 0: Istio cannot tell that from absence.
pub(super) fn limit(value: Option<i32>, report: &mut Report) -> Option<u32> {
    match value.map(u32::try_from) {
        None | Some(Ok(0)) => None,
        Some(Ok(limit)) => Some(limit),
        Some(Err(_)) => {
            report.error("cannot be negative");
            None
        }
    }
}

/// A weight relative to its siblings.
pub(super) fn weight(value: Option<i64>, siblings: usize, report: &mut Report) -> Option<u32> {
    report.field("weight", |report| match value {
        None if siblings > 1 => {
            report.warn("without a weight this destination takes no traffic");
            Some(0)
        }
        None => Some(1),
        Some(weight) => {
            let checked = i32::try_from(weight).ok().and_then(|weight| u32::try_from(weight).ok());
            let reason = || Invalid::new(format!("{weight} is not a weight: 0 to {}", i32::MAX));
            report.accept(checked.ok_or_else(reason))
        }
    })
}
