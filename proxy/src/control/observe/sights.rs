//! What this proxy knows of its traffic: its metrics, its rules, and its journal.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use pillion_xds::{
    figures::{Figures, Routed},
    story::{Cause, Filter, Story},
};
use tokio::{sync::mpsc, time::Instant};

use super::Observed;
use crate::{
    telemetry::{Journal, Metrics},
    upstream::breaker::State,
    view::{Destination, Views},
};

/// Most rules whose figures are told: the busiest. An answer about them takes a third of a megabyte.
const MAX_ROUTES: usize = 512;

/// What this proxy knows.
#[derive(Debug)]
pub struct Sights {
    /// What it has counted.
    pub metrics: Arc<Metrics>,
    /// The rules in force.
    pub views: Arc<Views>,
    /// What it remembers.
    pub journal: Journal,
}

impl Observed for Sights {
    fn explain(&self, request_id: &str) -> Vec<Story> {
        self.journal.explain(request_id)
    }

    fn causes(&self, within: Duration) -> Vec<Cause> {
        self.journal.causes(within)
    }

    fn tap(&self, filter: Filter) -> Result<mpsc::Receiver<Arc<Story>>, String> {
        if let Some(mistake) = filter.mistake() {
            return Err(mistake);
        }
        self.journal.tap(filter).map_err(|refusal| refusal.to_string())
    }

    fn figures(&self) -> Figures {
        let now = Instant::now();
        let view = self.views.load();
        let routes = view.destinations().flat_map(|destination| routed(destination, now));
        let mut routes: Vec<Routed> = routes.collect();
        routes.sort_by_key(|routed| Reverse(routed.counted.requests));
        routes.truncate(MAX_ROUTES);
        Figures { traffic: self.metrics.traffic(), routes }
    }
}

/// The rules of a destination that requests have fallen under.
fn routed(destination: &Destination, now: Instant) -> Vec<Routed> {
    let policy = destination.policy();
    let rules = policy.routes().iter().zip(destination.routes());
    let told = rules.filter_map(|(rule, live)| {
        let counted = live.stats.counted();
        let is_open = live.breaker.as_ref().is_some_and(|breaker| breaker.state(now) == State::Open);
        (counted.requests > 0).then(|| Routed {
            route: rule.name.to_string(),
            destination: policy.name().host.to_string(),
            counted,
            retries: live.stats.retries(),
            open_breakers: is_open.into(),
        })
    });
    told.collect()
}
