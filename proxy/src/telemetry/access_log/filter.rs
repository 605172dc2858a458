//! Whether a finished request fulfils the conditions of the log: comparisons alone, nothing is allocated.

use pillion_policy::telemetry::LogFilter;

use super::{Direction, Record};
use crate::error::Flag;

/// Whether a filter holds for a request.
pub(super) fn holds(filter: &LogFilter, record: &Record) -> bool {
    let outcome = &record.outcome;
    match filter {
        LogFilter::All(all) => all.iter().all(|filter| holds(filter, record)),
        LogFilter::Any(any) => any.iter().any(|filter| holds(filter, record)),
        LogFilter::Not(filter) => !holds(filter, record),
        LogFilter::Status(compares, status) => compares.holds(outcome.status, *status),
        LogFilter::GrpcStatus(compares, status) => {
            outcome.grpc_status.is_some_and(|seen| compares.holds(u16::from(seen), *status))
        }
        LogFilter::DurationMillis(compares, limit) => {
            compares.holds(outcome.duration.as_millis(), u128::from(*limit))
        }
        LogFilter::Flagged => outcome.flag != Flag::None,
        LogFilter::Secured => outcome.secured,
        LogFilter::Outbound => record.direction == Direction::Outbound,
        LogFilter::Inbound => record.direction == Direction::Inbound,
        LogFilter::Method(method) => record.method.as_str() == method,
        LogFilter::PathIs(path) => record.uri.path() == path,
        LogFilter::PathStartsWith(start) => record.uri.path().starts_with(start.as_str()),
        LogFilter::PathContains(part) => record.uri.path().contains(part.as_str()),
        LogFilter::HostIs(host) => record.authority().is_some_and(|authority| is_host(authority, host)),
        LogFilter::Sampled(share) => share.admits(record.dice),
    }
}

/// Whether an authority names a host, with or without its port.
fn is_host(authority: &str, host: &str) -> bool {
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let bare = authority.rsplit_once(':').filter(|(_, port)| digits(port)).map(|(bare, _)| bare);
    [Some(authority), bare].into_iter().flatten().any(|name| name.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;
    use pillion_policy::{ratio::Fraction, telemetry::Comparison};

    use super::*;

    #[test]
    fn conditions_are_those_of_the_policy() {
        let mut record = Record {
            uri: "/orders/7?page=2".parse().unwrap(),
            host: Some(HeaderValue::from_static("Shop.default:8080")),
            dice: 9_999,
            ..Record::default()
        };
        record.outcome.status = 503;
        record.outcome.flag = Flag::Uf;
        record.outcome.duration = Duration::from_millis(250);
        let share = |parts| LogFilter::Sampled(Fraction::from_parts_per_million(parts).unwrap());
        for (filter, expected) in [
            (LogFilter::Status(Comparison::AtLeast, 500), true),
            (LogFilter::Status(Comparison::Less, 500), false),
            (LogFilter::GrpcStatus(Comparison::NotEqual, 0), false),
            (LogFilter::DurationMillis(Comparison::Greater, 249), true),
            (LogFilter::DurationMillis(Comparison::Greater, 250), false),
            (LogFilter::Flagged, true),
            (LogFilter::Secured, false),
            (LogFilter::Outbound, true),
            (LogFilter::Inbound, false),
            (LogFilter::Method("GET".to_owned()), true),
            (LogFilter::Method("POST".to_owned()), false),
            (LogFilter::PathIs("/orders/7".to_owned()), true),
            (LogFilter::PathIs("/orders/7?page=2".to_owned()), false),
            (LogFilter::PathStartsWith("/orders".to_owned()), true),
            (LogFilter::PathContains("ders/".to_owned()), true),
            (LogFilter::PathContains("page".to_owned()), false),
            (LogFilter::HostIs("shop.default".to_owned()), true),
            (LogFilter::HostIs("shop.default:8080".to_owned()), true),
            (LogFilter::HostIs("shop".to_owned()), false),
            (share(10_000), true),
            (share(9_999), false),
        ] {
            assert_eq!(holds(&filter, &record), expected, "{filter:?}");
            assert_eq!(holds(&LogFilter::Not(Box::new(filter.clone())), &record), !expected);
            assert_eq!(holds(&LogFilter::All(vec![LogFilter::Flagged, filter.clone()]), &record), expected);
            assert!(holds(&LogFilter::Any(vec![filter, LogFilter::Flagged]), &record));
        }
        assert!(holds(&LogFilter::All(Vec::new()), &record) && !holds(&LogFilter::Any(Vec::new()), &record));
    }
}
