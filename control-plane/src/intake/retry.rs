//! When failed requests are repeated: `retries` of a VirtualService and `retry` of a ResiliencePolicy.
//!
//! Both have the same conditions. They differ in who is trusted: a VirtualService that lists conditions gets what
//! Istio does, also for requests that are not idempotent, with a warning; a ResiliencePolicy has to ask for that.

use std::time::Duration;

use pillion_policy::{
    header,
    retry::{Backoff, Jitter, Retry, RetryBudget, RetryOn, RetrySet},
};

use super::values::{MILLISECOND, at_least, fraction};
use crate::{
    api::{self, ApiDuration},
    problem::{Report, unknown},
};

/// Repetitions when there is a block that does not say how many (Istio's).
const ATTEMPTS: u32 = 2;
/// What is repeated when there is a block that does not say what (Istio's).
const CONDITIONS: [RetryOn; 5] = [
    RetryOn::ConnectFailure,
    RetryOn::RefusedStream,
    RetryOn::Unavailable,
    RetryOn::Cancelled,
    RetryOn::RetriableStatusCodes,
];
/// A condition of Envoy's that cannot happen here.
const HTTP3: &str = "http3-post-connect-failure";

/// Reads a rule's `retries`; `timeout` is the rule's, and `may_post` says whether it can match a POST.
pub(super) fn of_rule(
    given: &api::HttpRetry,
    timeout: Option<ApiDuration>,
    may_post: bool,
    report: &mut Report,
) -> Option<Retry> {
    let listed: Vec<&str> = given.retry_on.iter().flat_map(|list| list.split(',')).map(str::trim).collect();
    let listed: Vec<&str> = listed.into_iter().filter(|token| !token.is_empty()).collect();
    let details = given.per_try_timeout.is_some()
        || given.retry_on.is_some()
        || given.retry_remote_localities.is_some();
    let attempts = report.field("attempts", |report| match given.attempts.map(u32::try_from) {
        None => Some(ATTEMPTS),
        Some(Ok(attempts)) => check_attempts(attempts, details, report),
        Some(Err(_)) => {
            report.error("cannot be negative");
            None
        }
    });
    let per_try_timeout = per_try_timeout(given.per_try_timeout, timeout, report);
    let mut conditions = Conditions::default();
    report.field("retryOn", |report| {
        listed.iter().for_each(|token| conditions.add(token, report));
        conditions.check(report);
        if may_post && !conditions.on.is_safe() && attempts != Some(0) {
            let unsafe_ones = conditions.on.iter().filter(|on| !RetrySet::SAFE.has(*on)).map(RetryOn::as_str);
            let unsafe_ones: Vec<_> = unsafe_ones.collect();
            report.warn(format!(
                "retries after {} repeat also requests that are not idempotent, such as POST",
                unsafe_ones.join(", ")
            ));
        }
    });
    if listed.is_empty() {
        conditions.on = CONDITIONS.into_iter().collect();
    }
    report.field("retryRemoteLocalities", |report| match given.retry_remote_localities {
        Some(false) => report.warn("accepted, not enforced yet: retries go to every locality"),
        Some(true) => report.info("nothing to switch on: retries go to every locality"),
        None => {}
    });
    let mut backoff = Backoff::default();
    if let Some(base) = at_least("backoff", MILLISECOND, given.backoff, report) {
        backoff = Backoff { base, max: base.saturating_mul(10), ..backoff };
    }
    Some(Retry {
        attempts: attempts?,
        on: conditions.on,
        statuses: conditions.statuses,
        headers: Vec::new(),
        per_try_timeout,
        backoff,
        non_idempotent: !listed.is_empty(),
        avoid_previous: given.retry_ignore_previous_hosts.unwrap_or(true),
    })
}

/// Reads a policy's `retry`: what is repeated, and how much of that is allowed.
pub(super) fn of_policy(
    given: &api::PolicyRetry,
    timeout: Option<ApiDuration>,
    report: &mut Report,
) -> (Option<Retry>, Option<RetryBudget>) {
    let budget = given.budget.and_then(|budget| report.field("budget", |report| read_budget(budget, report)));
    let details = given.per_try_timeout.is_some()
        || given.backoff.is_some()
        || given.retry_non_idempotent
        || !given.retry_on.is_empty()
        || !given.status_codes.is_empty()
        || !given.headers.is_empty();
    if given.attempts.is_none() && !details {
        if given.budget.is_none() {
            report.error("it has no field: leave it out");
        }
        return (None, budget);
    }
    let attempts = given.attempts.unwrap_or(ATTEMPTS);
    let attempts = report.field("attempts", |report| check_attempts(attempts, details, report));
    let mut conditions = Conditions::default();
    if given.retry_on.is_empty() {
        conditions.on = CONDITIONS.into_iter().chain([RetryOn::ResetBeforeRequest]).collect();
    }
    let mut headers = Vec::new();
    report.field("headers", |report| {
        for (index, name) in given.headers.iter().enumerate() {
            headers.extend(report.item(index, |report| report.accept(header::name(name))));
            conditions.on = conditions.on.with(RetryOn::RetriableHeaders);
        }
    });
    report.field("statusCodes", |report| {
        for (index, status) in given.status_codes.iter().enumerate() {
            report.item(index, |report| conditions.add_status(*status, report));
        }
    });
    report.field("retryOn", |report| {
        for (index, token) in given.retry_on.iter().enumerate() {
            report.item(index, |report| conditions.add(token, report));
        }
        if !given.retry_on.is_empty() && headers.is_empty() {
            conditions.check(report);
        }
    });
    let backoff = given.backoff.as_ref();
    let backoff = backoff.map(|backoff| report.field("backoff", |report| read_backoff(backoff, report)));
    let retry = |attempts| Retry {
        attempts,
        on: conditions.on,
        statuses: conditions.statuses,
        headers,
        per_try_timeout: per_try_timeout(given.per_try_timeout, timeout, report),
        backoff: backoff.unwrap_or(Backoff { jitter: Jitter::Half, ..Backoff::default() }),
        non_idempotent: given.retry_non_idempotent,
        avoid_previous: true,
    };
    (attempts.map(retry), budget)
}

fn check_attempts(attempts: u32, details: bool, report: &mut Report) -> Option<u32> {
    if attempts == 0 && details {
        report.error("0 switches retries off and leaves the other fields without effect");
        return None;
    }
    Some(attempts)
}

fn per_try_timeout(
    given: Option<ApiDuration>,
    timeout: Option<ApiDuration>,
    report: &mut Report,
) -> Option<Duration> {
    let total = timeout.map(|total| total.0).filter(|total| !total.is_zero());
    if given.is_some_and(|given| total.is_some_and(|total| given.0 > total)) {
        report.field("perTryTimeout", |report| report.error("longer than the timeout of the route"));
    }
    at_least("perTryTimeout", MILLISECOND, given, report)
}

fn read_backoff(given: &api::PolicyBackoff, report: &mut Report) -> Backoff {
    let defaults = Backoff::default();
    let base = at_least("base", MILLISECOND, given.base, report).unwrap_or(defaults.base);
    let max = given.max.map_or(base.saturating_mul(10), |max| max.0);
    if max < base {
        report.field("max", |report| report.error("shorter than the base"));
    }
    let multiplier = given.multiplier.unwrap_or(2.0);
    if !(1.0..=1000.0).contains(&multiplier) {
        report.field("multiplier", |report| report.error("must be between 1 and 1000"));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to a range the integer holds"
    )]
    let multiplier_thousandths = (multiplier.clamp(1.0, 1000.0) * 1000.0).round() as u32;
    Backoff { base, max, multiplier_thousandths, jitter: Jitter::Half }
}

fn read_budget(given: api::PolicyBudget, report: &mut Report) -> Option<RetryBudget> {
    let share = report.field("percent", |report| fraction(Some(given.percent.unwrap_or(20.0)), report));
    let second = Duration::from_secs(1);
    let interval = at_least("interval", second, given.interval, report);
    Some(RetryBudget::Rate {
        share: share?,
        min_per_second: given.min_retries_per_second.unwrap_or(10),
        interval: interval.unwrap_or(10 * second),
    })
}

/// Conditions as they are read, one token after the other.
#[derive(Default)]
struct Conditions {
    on: RetrySet,
    statuses: Vec<u16>,
}

impl Conditions {
    fn add(&mut self, token: &str, report: &mut Report) {
        match (RetryOn::from_token(token), token.parse()) {
            (Some(on), _) => self.on = self.on.with(on),
            (None, Ok(status)) => self.add_status(status, report),
            (None, Err(_)) if token == HTTP3 => {
                report.info(format!("{HTTP3} never happens: there is no HTTP/3"))
            }
            (None, Err(_)) => {
                let known = RetryOn::ALL.iter().map(|on| on.as_str()).chain([HTTP3]);
                report.error(unknown("condition", token, known));
            }
        }
    }

    fn add_status(&mut self, status: u16, report: &mut Report) {
        if !(100..=599).contains(&status) {
            return report.error(format!("{status} is not a status between 100 and 599"));
        }
        self.on = self.on.with(RetryOn::RetriableStatusCodes);
        if !self.statuses.contains(&status) {
            self.statuses.push(status);
        }
    }

    /// Says which listed conditions cannot be met.
    fn check(&self, report: &mut Report) {
        if self.on.has(RetryOn::RetriableStatusCodes) && self.statuses.is_empty() {
            report.info("retriable-status-codes repeats nothing: no status is listed");
        }
        if self.on.has(RetryOn::RetriableHeaders) {
            report.info("retriable-headers repeats nothing: no header is listed");
        }
    }
}
