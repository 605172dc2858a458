//! From a record to the story people are told.
//!
//! Texts are copied and bounded: what a record shares with the request would keep whole network buffers alive. The query
//! of the target is left out.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use pillion_policy::identity::Identity;
use pillion_xds::story::{self, Facts, Story};

use crate::{
    rt::clock::Rfc3339,
    telemetry::record::{Attempt, Decision, Direction, Event, Record, Verdict},
};

/// Most characters of a text that peers choose, and of one that tells a cause.
const MAX_TEXT: usize = 256;
/// Tries that are told, and decisions.
const MAX_ATTEMPTS: usize = 16;
const MAX_EVENTS: usize = 32;

/// The story of a request, as `proxy` tells it.
pub(super) fn story(record: &Record, proxy: &str) -> Story {
    let outcome = &record.outcome;
    let principal = |identity: &Option<Arc<Identity>>| identity.as_ref().map(|identity| text(identity.uri()));
    Story {
        request_id: request_id(record),
        trace_id: record.trace_id(),
        proxy: proxy.to_owned(),
        start: Rfc3339(record.start).to_string(),
        direction: record.direction.as_str().to_owned(),
        method: text(record.method.as_str()),
        authority: text(record.authority().unwrap_or_default()),
        path: text(record.uri.path()),
        status: outcome.status,
        grpc_status: outcome.grpc_status,
        flag: outcome.flag.as_str().to_owned(),
        cause: record.cause.as_deref().map(text),
        route: record.route.as_deref().map(text),
        cluster: record.cluster.as_deref().map(text),
        peer: record.downstream_peer.map(|peer| peer.to_string()),
        source_principal: principal(&record.source),
        destination_principal: principal(&record.destination),
        attempts: record.attempts.iter().take(MAX_ATTEMPTS).map(attempt).collect(),
        events: record.events.iter().take(MAX_EVENTS).map(event).collect(),
        not_retried: record.not_retried.map(str::to_owned),
        policy_revision: record.policy_revision,
        duration_ms: millis(outcome.duration),
        request_bytes: outcome.request_bytes,
        response_bytes: outcome.response_bytes,
    }
}

/// What filters look at.
pub(super) fn facts<'a>(record: &'a Record, proxy: &'a str) -> Facts<'a> {
    let (caller, callee) = match record.direction {
        Direction::Outbound => (Some(proxy), None),
        Direction::Inbound => (None, Some(proxy)),
    };
    let destination = record.destination.as_ref().map(|identity| identity.uri());
    Facts {
        to: [record.authority(), record.cluster.as_deref(), destination, callee],
        from: [record.source.as_ref().map(|identity| identity.uri()), caller],
        status: record.outcome.status,
        flag: record.outcome.flag.as_str(),
        path: record.uri.path(),
        method: record.method.as_str(),
    }
}

/// An id as stories have it.
pub(super) fn id(id: &str) -> Cow<'_, str> {
    match id.char_indices().nth(MAX_TEXT) {
        None => Cow::Borrowed(id),
        Some(_) => Cow::Owned(text(id)),
    }
}

fn request_id(record: &Record) -> String {
    let bytes = record.request_id.as_ref().map(|id| id.as_bytes()).unwrap_or_default();
    text(&String::from_utf8_lossy(bytes))
}

fn attempt(attempt: &Attempt) -> story::Attempt {
    let waits = attempt.waits;
    story::Attempt {
        at_ms: millis(attempt.began),
        duration_ms: millis(attempt.took),
        endpoint: attempt.endpoint.to_string(),
        status: attempt.status,
        grpc_status: attempt.grpc_status,
        flag: attempt.error.as_ref().map_or("-", |error| error.flag().as_str()).to_owned(),
        cause: attempt.error.as_ref().map(|error| text(&error.in_full())),
        queue_ms: waits.queued.map(millis),
        connect_ms: waits.connecting.map(millis),
        tls_ms: waits.securing.map(millis),
        verdict: match attempt.verdict {
            Verdict::Abandoned => "abandoned".to_owned(),
            Verdict::Final => "final".to_owned(),
            Verdict::Retried => "retried".to_owned(),
            Verdict::Stopped(reason) => format!("not retried: {reason}"),
        },
        backoff_ms: (!attempt.backoff.is_zero()).then(|| millis(attempt.backoff)),
    }
}

fn event(event: &Event) -> story::Event {
    let (what, detail) = decision(&event.what);
    story::Event {
        at_ms: millis(event.at),
        what: what.to_owned(),
        detail: detail.map(|detail| text(&detail)),
    }
}

/// A decision in a word, and more about it.
fn decision(decision: &Decision) -> (&'static str, Option<String>) {
    let told = |detail: &dyn fmt::Display| Some(detail.to_string());
    let time = |time: &Duration| Some(format!("{} ms", millis(*time)));
    match decision {
        Decision::Held(waited) => ("held", time(waited)),
        Decision::RateLimited => ("rate_limit", None),
        Decision::FaultDelay(delay) => ("fault_delay", time(delay)),
        Decision::FaultAbort => ("fault_abort", None),
        Decision::Denied(Some(policy)) => ("denied", told(policy)),
        Decision::Denied(None) => ("denied", Some("no ALLOW policy matches".to_owned())),
        Decision::BadToken => ("bad_token", None),
        Decision::BreakerOpen(breaker) => ("breaker", told(breaker)),
        Decision::Queued(waited) => ("bulkhead", time(waited)),
        Decision::Ejected(endpoint) => ("ejected", told(endpoint)),
        Decision::BudgetSpent => ("budget", None),
        Decision::Fallback => ("fallback", None),
    }
}

/// Milliseconds with three decimals.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// A copy, cut where it is long.
fn text(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}
