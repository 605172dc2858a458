//! Failures made on purpose: `fault` of a VirtualService's rule and of a ResiliencePolicy.

use pillion_policy::{
    ratio::Fraction,
    resilience::{Abort, AbortStatus, Delay, Fault},
};

use super::values::{MILLISECOND, at_least, fraction};
use crate::{
    api,
    problem::{Report, unknown},
};

/// The gRPC statuses, in the order of their numbers (google.rpc.Code).
const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Reads a `fault`.
pub(super) fn read(fault: &api::HttpFault, report: &mut Report) -> Fault {
    if fault.delay.is_none() && fault.abort.is_none() {
        report.error("it has no field: delay or abort is needed");
    }
    let delay = fault.delay.as_ref();
    let abort = fault.abort.as_ref();
    Fault {
        delay: delay.and_then(|delay| report.field("delay", |report| read_delay(delay, report))),
        abort: abort.and_then(|abort| report.field("abort", |report| read_abort(abort, report))),
    }
}

fn read_delay(delay: &api::FaultDelay, report: &mut Report) -> Option<Delay> {
    if delay.exponential_delay.is_some() {
        report.field("exponentialDelay", |report| report.error("not supported, use fixedDelay"));
    } else if delay.fixed_delay.is_none() {
        report.error("fixedDelay is needed");
    }
    if delay.percent.is_some() {
        report.field("percent", |report| match delay.percentage {
            Some(_) => report.error("only one of percent and percentage can be given"),
            None => report.info("deprecated, use percentage.value"),
        });
    }
    let share = delay.percentage.map(|share| share.value).or(delay.percent.map(f64::from));
    let field = if delay.percentage.is_some() { "percentage" } else { "percent" };
    let fraction = share_of(field, share, report);
    let duration = at_least("fixedDelay", MILLISECOND, delay.fixed_delay, report);
    Some(Delay { fraction: fraction?, duration: duration? })
}

fn read_abort(abort: &api::FaultAbort, report: &mut Report) -> Option<Abort> {
    if abort.http2_error.is_some() {
        report.field("http2Error", |report| report.error("not supported, use httpStatus or grpcStatus"));
    }
    let status = match (abort.http_status, abort.grpc_status.as_deref()) {
        (Some(status), None) => report.field("httpStatus", |report| {
            let status = u16::try_from(status).ok().filter(|status| (200..=599).contains(status));
            if status.is_none() {
                report.error("not a status between 200 and 599");
            }
            status.map(AbortStatus::Http)
        }),
        (None, Some(name)) => report.field("grpcStatus", |report| {
            let number = (0_u8..).zip(GRPC).find(|(_, known)| *known == name);
            if number.is_none() {
                report.error(unknown("gRPC status", name, GRPC));
            }
            number.map(|(number, _)| AbortStatus::Grpc(number))
        }),
        _ => {
            if abort.http2_error.is_none() {
                report.error("exactly one of httpStatus and grpcStatus is needed");
            }
            None
        }
    };
    let share = share_of("percentage", abort.percentage.map(|share| share.value), report);
    Some(Abort { fraction: share?, status: status? })
}

/// A share that is nothing when nothing is said, as in Istio.
fn share_of(field: &str, share: Option<f64>, report: &mut Report) -> Option<Fraction> {
    match share {
        Some(_) => report.field(field, |report| fraction(share, report)),
        None => {
            report.info("it never happens: percentage is not given, which means 0");
            Some(Fraction::NONE)
        }
    }
}
