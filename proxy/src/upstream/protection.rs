//! What stands before a cluster: breaker, bulkhead and retry budget, each kept as long as its own policy is the same.

use std::sync::Arc;

use pillion_policy::resilience::ClusterResilience;

use super::{breaker::Breaker, budget::Budget, bulkhead::Bulkhead};
use crate::telemetry::ClusterGauges;

/// The protection of a cluster, shared by all workers.
#[derive(Debug, Clone)]
pub struct Protection {
    /// Refuses requests while the cluster fails.
    pub breaker: Option<Arc<Breaker>>,
    /// Limits the requests under way.
    pub bulkhead: Option<Arc<Bulkhead>>,
    /// Limits repetitions.
    pub budget: Arc<Budget>,
}

impl Protection {
    /// The protection a policy asks for. What `previous` has for the same policy goes on; the rest starts anew.
    pub fn new(
        policy: &ClusterResilience,
        previous: Option<&Self>,
        name: &Arc<str>,
        gauges: &Arc<ClusterGauges>,
    ) -> Self {
        let breaker = policy.breaker.as_ref().map(|policy| {
            let known = previous.and_then(|previous| previous.breaker.as_ref());
            known.filter(|breaker| breaker.is_for(policy)).map_or_else(
                || {
                    let breaker = Breaker::new(policy, Arc::clone(name));
                    Arc::new(breaker.counted_in(Arc::clone(gauges)))
                },
                Arc::clone,
            )
        });
        let bulkhead = policy.bulkhead.as_ref().map(|policy| {
            let known = previous.and_then(|previous| previous.bulkhead.as_ref());
            known
                .filter(|bulkhead| bulkhead.is_for(policy))
                .map_or_else(|| Arc::new(Bulkhead::new(policy)), Arc::clone)
        });
        let known = previous.map(|previous| &previous.budget);
        let budget = known
            .filter(|budget| budget.is_for(&policy.budget, policy.max_retries))
            .map_or_else(|| Arc::new(Budget::new(&policy.budget, policy.max_retries)), Arc::clone);
        Self { breaker, bulkhead, budget }
    }
}
