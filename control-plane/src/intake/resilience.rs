//! What a ResiliencePolicy says, as settings of clusters and of rules.
//!
//! The blocks it shares with Istio's kinds are read by the same functions. Whether its targets exist, and whether
//! somebody else has the word there, is a question to the index.

use std::{collections::BTreeMap, time::Duration};

use pillion_policy::{
    header,
    name::Label,
    ratio::Fraction,
    resilience::{Bulkhead, CircuitBreaker, ErrorRate, Fallback, RateLimit, RateLimitKey},
};

use super::{
    fault,
    kinds::NETWORKING,
    retry, traffic,
    values::{MILLISECOND, at_least, edited_field, timeout},
};
use crate::{
    api::{self, TargetKind},
    object::{Breaker, Key, Kind, PolicyTarget, ResiliencePolicy, RouteSettings, Settings},
    problem::Report,
};

/// Failures in a row that open a breaker which says nothing else.
const CONSECUTIVE_FAILURES: u32 = 5;

pub(super) fn read(spec: &api::ResiliencePolicy, key: &Key, report: &mut Report) -> ResiliencePolicy {
    let targets = report.field("targetRefs", |report| targets(&spec.target_refs, report));
    let (retry, budget) = match &spec.retry {
        Some(retry) => report.field("retry", |report| retry::of_policy(retry, spec.timeout, report)),
        None => (None, None),
    };
    let breaker = spec.circuit_breaker.as_ref();
    let breaker =
        breaker.and_then(|breaker| report.field("circuitBreaker", |report| read_breaker(breaker, report)));
    let bulkhead = spec.bulkhead;
    let limit = spec.rate_limit.as_ref();
    let fault = spec.fault.as_ref();
    let cluster = Settings {
        balancing: traffic::balancing(spec.load_balancer.as_ref(), key.kind, report),
        pool: traffic::connection_pool(spec.connection_pool.as_ref(), report),
        outlier: traffic::outlier(spec.outlier_detection.as_ref(), key.kind, report),
        budget,
        tls: None,
        connect_timeout: at_least("connectTimeout", MILLISECOND, spec.connect_timeout, report),
        breaker,
        bulkhead: bulkhead.and_then(|given| report.field("bulkhead", |report| read_bulkhead(given, report))),
    };
    let route = RouteSettings {
        timeout: timeout(spec.timeout, report),
        retry,
        rate_limit: limit
            .and_then(|given| report.field("rateLimit", |report| read_limit(given, key, report))),
        fault: fault.map(|given| report.field("fault", |report| fault::read(given, report))),
        // A breaker belongs to a rule only where the policy is for one.
        breaker: None,
    };
    let policy = ResiliencePolicy { targets, cluster, route };
    check_reach(&policy, report);
    policy
}

fn targets(refs: &[api::PolicyTarget], report: &mut Report) -> Vec<PolicyTarget> {
    if refs.is_empty() {
        report.error("at least one target is needed");
    }
    let mut targets: Vec<PolicyTarget> = Vec::new();
    for (index, given) in refs.iter().enumerate() {
        report.item(index, |report| {
            let kind = target_kind(given, report);
            let name = report.field("name", |report| report.accept(Label::new(&given.name)));
            let section = given.section_name.clone().filter(|section| !section.is_empty());
            let (Some(kind), Some(name)) = (kind, name) else { return };
            let target = PolicyTarget { kind, name, section };
            if targets.contains(&target) {
                report.error("stands here twice");
            }
            targets.push(target);
        });
    }
    targets
}

fn target_kind(given: &api::PolicyTarget, report: &mut Report) -> Option<Kind> {
    let (kind, own) = match given.kind {
        TargetKind::Service => (Kind::Service, ""),
        TargetKind::VirtualService => (Kind::VirtualService, NETWORKING),
        TargetKind::Absent => {
            report.error("kind is missing");
            return None;
        }
    };
    let group = given.group.as_deref().unwrap_or_default();
    if group != own {
        report
            .field("group", |report| report.error(format!("the group of {kind} is {own:?}, not {group:?}")));
    }
    Some(kind)
}

/// Says what a policy says in vain, as far as that can be told from the policy alone.
fn check_reach(policy: &ResiliencePolicy, report: &mut Report) {
    let given: Vec<&str> = Settings::FIELDS
        .iter()
        .filter(|(_, given)| given(&policy.cluster))
        .map(|(field, _)| *field)
        .collect();
    let silent = given.is_empty() && RouteSettings::FIELDS.iter().all(|(_, given)| !given(&policy.route));
    // A field that could not be read was meant to say something.
    if silent && !report.has_errors() {
        report.error("it says nothing about its targets");
    }
    let for_rules = policy.targets.iter().any(|target| target.kind == Kind::VirtualService);
    if let (true, Some(limit)) = (for_rules, &policy.route.rate_limit) {
        check_key(limit, report);
    }
    let for_service = policy.targets.iter().any(|target| target.kind == Kind::Service);
    for field in given.into_iter().filter(|field| !for_service && *field != "circuitBreaker") {
        let warn = |report: &mut Report| report.warn("has no effect on a VirtualService: target the Service");
        match field.split_once('.') {
            Some((block, field)) => report.field(block, |report| report.field(field, warn)),
            None => report.field(field, warn),
        }
    }
}

/// Warns of clients that cannot be told apart: rules are followed beside the caller, who is the only peer there.
fn check_key(limit: &RateLimit, report: &mut Report) {
    let reason = match limit.key {
        Some(RateLimitKey::Peer) => {
            "counts each calling pod as a whole for a VirtualService: target the Service"
        }
        Some(RateLimitKey::ClientAddress) => {
            "counts each calling pod as a whole for a VirtualService, unless the application sends X-Forwarded-For: \
             target the Service"
        }
        Some(RateLimitKey::Header(_)) | None => return,
    };
    report.field("rateLimit", |report| report.field("key", |report| report.warn(reason)));
}

fn read_breaker(given: &api::CircuitBreaker, report: &mut Report) -> Option<Breaker> {
    let error_rate =
        given.error_rate.map(|rate| report.field("errorRate", |report| read_error_rate(rate, report)));
    let alone = given.error_rate.is_none().then_some(CONSECUTIVE_FAILURES);
    let circuit = CircuitBreaker {
        consecutive_failures: given.consecutive_failures.or(alone),
        error_rate: error_rate.flatten(),
        open_duration: given.open_duration.map_or(Duration::from_secs(30), |duration| duration.0),
        success_threshold: given.success_threshold.unwrap_or(2),
        count_rate_limited: given.count_rate_limited,
        count_unknown: given.count_unknown,
    };
    let fallback = given.fallback.as_ref();
    let fallback =
        fallback.map(|fallback| report.field("fallback", |report| read_fallback(fallback, report)));
    // What is wrong with the rate has been said.
    if error_rate != Some(None) {
        report.accept(circuit.check());
    }
    Some(Breaker { circuit, fallback })
}

fn read_error_rate(given: api::ErrorRate, report: &mut Report) -> Option<ErrorRate> {
    let percent = given.threshold_percent.unwrap_or(50.0);
    let threshold =
        report.field("thresholdPercent", |report| report.accept(Fraction::from_percent(percent)))?;
    Some(ErrorRate {
        threshold,
        minimum_requests: given.minimum_requests.unwrap_or(10),
        window: given.window.map_or(Duration::from_secs(10), |window| window.0),
        buckets: given.buckets.unwrap_or(10),
    })
}

fn read_fallback(given: &api::Fallback, report: &mut Report) -> Fallback {
    let headers = report.field("headers", |report| fields(&given.headers, report));
    let body = given.body.as_deref().unwrap_or_default().as_bytes().into();
    let fallback = Fallback { status: given.status, headers, body, on_failure: given.on_failure };
    report.accept(fallback.check());
    fallback
}

fn fields(given: &BTreeMap<String, String>, report: &mut Report) -> Vec<header::Field> {
    let fields = given.iter();
    fields
        .filter_map(|(name, value)| report.field(name, |report| edited_field(name, value, report)))
        .collect()
}

fn read_bulkhead(given: api::Bulkhead, report: &mut Report) -> Option<Bulkhead> {
    if given.max_concurrent == 0 {
        report.field("maxConcurrent", |report| report.error("must be at least 1"));
    }
    let max_pending = given.max_pending.unwrap_or_default();
    if given.queue_timeout.is_some() && max_pending == 0 {
        report.field("queueTimeout", |report| report.warn("has no effect: without maxPending nobody waits"));
    }
    let queue_timeout = at_least("queueTimeout", MILLISECOND, given.queue_timeout, report);
    Some(Bulkhead {
        max_concurrent: given.max_concurrent,
        max_pending,
        queue_timeout: queue_timeout.unwrap_or(Duration::from_secs(3)),
    })
}

fn read_limit(given: &api::RateLimit, key: &Key, report: &mut Report) -> Option<RateLimit> {
    let key_of = given.key.as_ref();
    let key_of = key_of.map(|given| report.field("key", |report| read_key(given, report)));
    let limit = RateLimit {
        name: key.to_string().into(),
        requests: given.requests,
        per: given.per.0,
        key: key_of.flatten(),
    };
    report.accept(limit.check())?;
    Some(limit)
}

fn read_key(given: &api::RateLimitKey, report: &mut Report) -> Option<RateLimitKey> {
    match (&given.header, given.peer, given.client_address) {
        (Some(name), None, None) => {
            report.field("header", |report| report.accept(header::name(name))).map(RateLimitKey::Header)
        }
        (None, Some(_), None) => Some(RateLimitKey::Peer),
        (None, None, Some(_)) => Some(RateLimitKey::ClientAddress),
        _ => {
            report.error("exactly one of header, peer and clientAddress is needed");
            None
        }
    }
}

#[cfg(test)]
mod tests;
