//! The figures of requests as the mesh is told them: what `pillion stat` is made of.
//!
//! They are read from the same counters as the metrics, when somebody asks; a request pays nothing for it.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use pillion_xds::figures::{Bucket, Counted, Traffic};
use rustc_hash::FxHashMap;

use super::{
    histogram::Histogram,
    metrics::Metrics,
    requests::{Labels, RequestStats},
    upstreams::ClusterGauges,
};

/// What `breaker_state` is while a breaker lets nothing through.
const OPEN: u64 = 2;

impl Metrics {
    /// The requests of every living pair of caller and cluster that has had one.
    pub fn traffic(&self) -> Vec<Traffic> {
        let (requests, clusters) = self.living();
        let clusters: FxHashMap<&str, &ClusterGauges> =
            clusters.iter().map(|gauges| (&*gauges.cluster, &**gauges)).collect();
        requests.iter().filter_map(|stats| traffic(stats, &clusters)).collect()
    }
}

fn traffic(stats: &Arc<RequestStats>, clusters: &FxHashMap<&str, &ClusterGauges>) -> Option<Traffic> {
    let (labels, counted) = (&stats.labels, stats.counted()?);
    let gauges = clusters.get(&*labels.cluster);
    let figure = |read: fn(&ClusterGauges) -> u64| gauges.map_or(0, |gauges| read(gauges));
    Some(Traffic {
        reporter: labels.reporter.as_str().to_owned(),
        source: workload(&labels.source_workload_namespace, &labels.source_workload),
        destination: destination(labels),
        cluster: labels.cluster.to_string(),
        counted,
        retries: figure(|gauges| gauges.retries.load(Relaxed)),
        open_breakers: figure(|gauges| u64::from(gauges.breaker_state.load(Relaxed) == OPEN)),
    })
}

fn workload(namespace: &str, name: &str) -> String {
    if name.is_empty() { String::new() } else { format!("{namespace}/{name}") }
}

fn destination(labels: &Labels) -> String {
    if labels.destination_service.is_empty() {
        workload(&labels.destination_workload_namespace, &labels.destination_workload)
    } else {
        labels.destination_service.to_string()
    }
}

impl<const N: usize> Histogram<N> {
    /// The requests whose durations it holds, of which so many have failed.
    pub(super) fn counted(&self, failures: u64) -> Counted {
        let reading = self.read();
        let mut before = 0;
        let durations = reading.buckets.iter().map(|bucket| {
            let count = bucket.count.saturating_sub(before);
            before = bucket.count;
            Bucket { up_to_ms: bucket.bound.is_finite().then_some(bucket.bound), count }
        });
        Counted { requests: reading.count, failures, durations: durations.collect() }
    }
}
