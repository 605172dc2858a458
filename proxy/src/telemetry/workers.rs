//! Figures of the data threads: how busy each is, and with how much.
//!
//! A thread counts in a place of its own, which no other thread writes to. Beyond [`TOLD_APART`] threads the rest is told
//! together.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::runtime::{Handle, RuntimeMetrics};

use super::{
    counter::Gauge,
    exposition::{Audience, Kind},
};

/// Threads that have series of their own.
const TOLD_APART: usize = 16;

/// Series of all threads together, at most.
pub(super) const SERIES: usize = (TOLD_APART + 1) * COLUMNS.len();

/// The figures of one data thread.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Connections from clients it serves.
    connections: Gauge,
    /// Requests under way on them.
    pub requests: Gauge,
    /// What its runtime counts; absent outside of one.
    runtime: Option<RuntimeMetrics>,
}

/// Counts a connection as served until it is dropped.
#[derive(Debug)]
pub struct Serving(Arc<WorkerStats>);

/// All data threads of the process, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Workers(Mutex<Vec<Arc<WorkerStats>>>);

/// What one figure of a thread is called, is for, and how it is read.
struct Column {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    read: fn(&WorkerStats) -> f64,
}

const COLUMNS: [Column; 5] = [
    Column {
        name: "pillion_worker_connections",
        kind: Kind::Gauge,
        help: "Connections from clients, by data thread.",
        read: |worker| small(worker.connections.get()),
    },
    Column {
        name: "pillion_worker_requests",
        kind: Kind::Gauge,
        help: "Requests under way, by data thread.",
        read: |worker| small(worker.requests.get()),
    },
    Column {
        name: "pillion_worker_tasks",
        kind: Kind::Gauge,
        help: "Tasks alive, by data thread.",
        read: |worker| {
            let tasks = worker.runtime.as_ref().map_or(0, RuntimeMetrics::num_alive_tasks);
            small(i64::try_from(tasks).unwrap_or(i64::MAX))
        },
    },
    Column {
        name: "pillion_worker_busy_seconds_total",
        kind: Kind::Counter,
        help: "Time in which a data thread was not waiting for anything.",
        read: |worker| worker.busy().as_secs_f64(),
    },
    Column {
        name: "pillion_worker_parks_total",
        kind: Kind::Counter,
        help: "How often a data thread has begun to wait.",
        read: |worker| small(i64::try_from(worker.parks()).unwrap_or(i64::MAX)),
    },
];

#[expect(clippy::cast_precision_loss, reason = "from 2^53 on, the last digits do not matter")]
fn small(count: i64) -> f64 {
    count as f64
}

impl WorkerStats {
    /// Counts a connection.
    pub fn serving(self: &Arc<Self>) -> Serving {
        self.connections.inc();
        Serving(Arc::clone(self))
    }

    #[cfg(target_has_atomic = "64")]
    fn busy(&self) -> Duration {
        self.runtime.as_ref().map_or(Duration::ZERO, |runtime| runtime.worker_total_busy_duration(0))
    }

    #[cfg(not(target_has_atomic = "64"))]
    fn busy(&self) -> Duration {
        Duration::ZERO
    }

    #[cfg(target_has_atomic = "64")]
    fn parks(&self) -> u64 {
        self.runtime.as_ref().map_or(0, |runtime| runtime.worker_park_count(0))
    }

    #[cfg(not(target_has_atomic = "64"))]
    fn parks(&self) -> u64 {
        0
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

impl Workers {
    /// The figures of the thread that calls, from now on told with those of others.
    pub(super) fn join(&self) -> Arc<WorkerStats> {
        let runtime = Handle::try_current().ok().map(|runtime| runtime.metrics());
        let stats = Arc::new(WorkerStats { runtime, ..WorkerStats::default() });
        self.all().push(Arc::clone(&stats));
        stats
    }

    pub(super) fn write(&self, out: &mut impl Audience) {
        let all = self.all().clone();
        let (apart, together) = all.split_at(all.len().min(TOLD_APART));
        for column in &COLUMNS {
            out.family(column.name, column.kind, column.help);
            for (index, worker) in apart.iter().enumerate() {
                out.sample(column.name, &[("worker", &*index.to_string())], (column.read)(worker));
            }
            if !together.is_empty() {
                let sum: f64 = together.iter().map(|worker| (column.read)(worker)).sum();
                out.sample(column.name, &[("worker", "overflow")], sum);
            }
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<WorkerStats>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::exposition::Text, *};

    fn told(workers: &Workers) -> String {
        let mut text = Text::default();
        workers.write(&mut text);
        text.finish()
    }

    #[tokio::test]
    async fn a_thread_tells_what_its_runtime_counts() {
        let workers = Workers::default();
        let stats = workers.join();
        let serving = (stats.serving(), stats.serving());
        stats.requests.inc();
        tokio::time::sleep(Duration::from_millis(2)).await;
        let text = told(&workers);
        for line in ["pillion_worker_connections{worker=\"0\"} 2", "pillion_worker_requests{worker=\"0\"} 1"]
        {
            assert!(text.lines().any(|told| told == line), "{text}");
        }
        assert!(!text.contains("pillion_worker_parks_total{worker=\"0\"} 0\n"), "{text}");
        drop(serving);
        assert!(told(&workers).contains("pillion_worker_connections{worker=\"0\"} 0\n"));
    }

    #[test]
    fn many_threads_are_told_together() {
        let workers = Workers::default();
        let all: Vec<_> = (0..100).map(|_| workers.join()).collect();
        for worker in &all {
            worker.requests.inc();
        }
        let text = told(&workers);
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        assert_eq!(samples.count(), SERIES);
        assert!(text.contains("pillion_worker_requests{worker=\"overflow\"} 84\n"), "{text}");
    }
}
