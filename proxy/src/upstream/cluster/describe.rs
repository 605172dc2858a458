//! A cluster for people: what its endpoints are doing, and why.

use std::{net::SocketAddr, sync::atomic::Ordering};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Upstream;
use crate::upstream::{endpoint::Health, outlier::Outliers, set::Member};

/// An endpoint that is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftAlone {
    /// Where it listens.
    pub address: SocketAddr,
    /// When that began.
    pub since: Instant,
    /// Until when outlier detection leaves it alone; nothing when just no connection can be made.
    pub ejected_until: Option<Instant>,
    /// Why.
    pub reason: String,
}

impl Upstream {
    /// Its endpoints that are left alone. Those that are not cost two atomic loads each.
    pub fn left_alone(&self) -> Vec<LeftAlone> {
        let outliers = self.state.outliers.load();
        let left_alone = |member: &Member| {
            let (live, address) = (&member.live, member.live.address());
            let ejection = outliers.as_ref().filter(|_| live.is_ejected());
            if let Some((time, reason)) = ejection.and_then(|outliers| outliers.ejection(live)) {
                return Some(LeftAlone { address, since: time.start, ejected_until: Some(time.end), reason });
            }
            let (since, reason) = live.unreachable_since()?;
            Some(LeftAlone { address, since, ejected_until: None, reason: reason.to_string() })
        };
        self.endpoints().members().iter().filter_map(left_alone).collect()
    }

    /// Its endpoints, their health and load as JSON.
    pub fn describe(&self, now: Instant) -> Value {
        let endpoints = self.endpoints();
        let outliers = self.state.outliers.load();
        let outliers = outliers.as_deref();
        json!({
            "cluster": self.cluster.name,
            "known": endpoints.is_known(),
            "endpoints": endpoints.members().iter().map(|it| describe(it, outliers, now)).collect::<Vec<_>>(),
            "requestsActive": self.state.under_way.load(Ordering::Relaxed),
            "requestsPending": self.state.waiting.load(Ordering::Relaxed),
            "connections": self.state.connected.load(Ordering::Relaxed),
            "outlierDetection": outliers.map(Outliers::describe),
        })
    }
}

/// One endpoint. `health` is what discovery says of it, `state` what the proxy has found out.
fn describe(member: &Member, outliers: Option<&Outliers>, now: Instant) -> Value {
    let live = &member.live;
    let mut description = json!({
        "address": live.address(),
        "weight": member.endpoint.weight,
        "health": member.endpoint.health,
        "labels": member.endpoint.labels,
        "requestsActive": live.active(),
    });
    let mut add = |key: &str, value: Value| {
        if let Some(object) = description.as_object_mut() {
            object.insert(key.to_owned(), value);
        }
    };
    match live.health(now) {
        Health::Healthy => add("state", "healthy".into()),
        Health::Probing => add("state", "probing".into()),
        Health::Ejected => add("state", "ejected".into()),
        Health::Unreachable { retry_in, reason, times } => {
            add("state", "unreachable".into());
            let retry_in = retry_in.as_millis();
            add("unreachable", json!({ "retryInMs": retry_in, "reason": reason, "times": times }));
        }
    }
    if let Some(outliers) = outliers {
        add("consecutive", live.monitor().describe());
        if let Some(ejection) = outliers.describe_ejection(live, now) {
            add("ejected", ejection);
        }
    }
    if let Some(latency) = live.latency(now) {
        add("latencyMs", (latency.as_secs_f64() * 1e3).into());
    }
    description
}
