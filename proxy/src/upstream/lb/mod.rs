//! Which endpoint takes a request.
//!
//! Decisions are synchronous and take `now` and the random generator. All algorithms respect weights; all but random
//! and ring hash also respect the warm-up window of an endpoint that has just joined or returned (Envoy's slow start).
//! Endpoints are looked at one by one only while some of them are to be left alone (`impaired`).

mod impaired;
mod ring;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};

use pillion_policy::cluster::{Balancing, LoadBalancer, Warmup};
use tokio::time::Instant;

use self::ring::Ring;
use super::{endpoint::Probe, set::Member};

pub use self::ring::hash;

/// Longest schedule of a weighted round-robin; weights are scaled down to it.
const MAX_SCHEDULE: u64 = 4096;

/// How often a warming endpoint may be passed over in one pick.
const WARMUP_TRIES: usize = 4;

/// What a request asks of a balancer.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Hash of its key, for the ring.
    pub hash: Option<u64>,
    /// Where it was tried before; another endpoint is picked while there is one.
    pub tried: Tried<'a>,
    /// When fewer endpoints than this share, in percent, are healthy, ejections are ignored.
    pub min_health_percent: u8,
    /// The time.
    pub now: Instant,
}

/// Endpoints that a request has tried before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tried<'a> {
    /// Their ids.
    pub ids: &'a [u64],
    /// Whether the last one could not even be sent to: then one that was unreachable a moment ago is the better guess.
    pub is_gone: bool,
}

/// The member that was picked.
#[derive(Debug)]
pub(super) struct Picked<'a> {
    pub(super) member: &'a Member,
    /// What the request finds out about it.
    pub(super) probe: Probe,
}

/// A load balancer with everything precomputed that a set of endpoints allows.
#[derive(Debug)]
pub(super) struct Balancer {
    algorithm: Algorithm,
    warmup: Option<Warmup>,
    /// Running sums of the weights, when they differ.
    cumulative: Option<Box<[u64]>>,
}

#[derive(Debug)]
enum Algorithm {
    LeastRequest,
    PeakEwma,
    RoundRobin { schedule: Box<[u32]>, next: AtomicUsize },
    Random,
    Ring(Ring),
}

impl Balancer {
    /// Prepares the algorithm for these members.
    pub(super) fn new(balancing: &Balancing, members: &[Member]) -> Self {
        let algorithm = match &balancing.policy {
            LoadBalancer::LeastRequest => Algorithm::LeastRequest,
            LoadBalancer::PeakEwma => Algorithm::PeakEwma,
            LoadBalancer::Random => Algorithm::Random,
            LoadBalancer::RoundRobin => {
                Algorithm::RoundRobin { schedule: schedule(members), next: AtomicUsize::new(0) }
            }
            LoadBalancer::RingHash { minimum_size, .. } => Algorithm::Ring(Ring::new(members, *minimum_size)),
        };
        Self { algorithm, warmup: balancing.warmup, cumulative: cumulative(members) }
    }

    /// Picks one of the members the balancer was made for, all of which take requests.
    pub(super) fn pick<'a>(
        &self,
        members: &'a [Member],
        hash: Option<u64>,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<&'a Member> {
        if members.len() <= 1 {
            return members.first();
        }
        match &self.algorithm {
            Algorithm::LeastRequest | Algorithm::PeakEwma => self.two_choices(members, now, rng),
            Algorithm::RoundRobin { schedule, next } => self.warmed(now, rng, |_| {
                let turn = next.fetch_add(1, Ordering::Relaxed);
                match schedule.len() {
                    0 => members.get(turn % members.len()),
                    turns => members.get(*schedule.get(turn % turns)? as usize),
                }
            }),
            Algorithm::Random => self.dice(members, rng),
            Algorithm::Ring(ring) => members.get(ring.at(hash.unwrap_or_else(|| rng.u64(..)))?),
        }
    }

    /// Power of two choices: of two random members, drawn by weight, the one with less to do.
    fn two_choices<'a>(
        &self,
        members: &'a [Member],
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<&'a Member> {
        let first = self.warmed(now, rng, |rng| self.dice(members, rng))?;
        let mut second = self.warmed(now, rng, |rng| self.dice(members, rng))?;
        if std::ptr::eq(first, second) && self.cumulative.is_some() {
            return Some(first);
        }
        if std::ptr::eq(first, second) {
            let index = members.iter().position(|member| std::ptr::eq(member, first))?;
            let step = if self.warmup.is_none() { rng.usize(1..members.len()) } else { 1 };
            second = members.get((index + step) % members.len())?;
            if self.warmup.is_some_and(|warmup| rng.f64() >= share(&warmup, second, now)) {
                return Some(first);
            }
        }
        Some(self.better(first, second, now))
    }

    /// The one with fewer requests, or that promises the sooner answer. The draws follow the weights already; at rest
    /// the first one stands.
    fn better<'a>(&self, first: &'a Member, second: &'a Member, now: Instant) -> &'a Member {
        let is_better = match self.algorithm {
            Algorithm::PeakEwma => second.live.load(now) < first.live.load(now),
            _ => second.live.active() < first.live.active(),
        };
        if is_better { second } else { first }
    }

    /// One member by weighted dice.
    fn dice<'a>(&self, members: &'a [Member], rng: &mut fastrand::Rng) -> Option<&'a Member> {
        let Some(cumulative) = &self.cumulative else {
            return members.get(rng.usize(..members.len()));
        };
        let point = rng.u64(..*cumulative.last()?);
        members.get(cumulative.partition_point(|sum| *sum <= point))
    }

    /// Passes a warming endpoint over with the probability that its share is not yet complete.
    fn warmed<'a>(
        &self,
        now: Instant,
        rng: &mut fastrand::Rng,
        mut draw: impl FnMut(&mut fastrand::Rng) -> Option<&'a Member>,
    ) -> Option<&'a Member> {
        let Some(warmup) = &self.warmup else { return draw(rng) };
        for _ in 1..WARMUP_TRIES {
            let member = draw(rng)?;
            if rng.f64() < share(warmup, member, now) {
                return Some(member);
            }
        }
        draw(rng)
    }
}

/// The share of its weight an endpoint has reached, 0 to 1.
fn share(warmup: &Warmup, member: &Member, now: Instant) -> f64 {
    let Some(since) = member.live.since() else { return 1.0 };
    let age = now.saturating_duration_since(since);
    if age >= warmup.duration {
        return 1.0;
    }
    let progress = age.as_secs_f64() / warmup.duration.as_secs_f64();
    let aggression = f64::from(warmup.aggression_thousandths.max(1)) / 1000.0;
    progress.powf(1.0 / aggression).max(f64::from(warmup.minimum_percent) / 100.0)
}

/// Running sums of the weights; `None` when all are equal and a plain die will do.
fn cumulative(members: &[Member]) -> Option<Box<[u64]>> {
    let first = members.first()?.endpoint.weight;
    if members.iter().all(|member| member.endpoint.weight == first) {
        return None;
    }
    let mut sum = 0;
    Some(
        members
            .iter()
            .map(|member| {
                sum += u64::from(member.endpoint.weight.max(1));
                sum
            })
            .collect(),
    )
}

/// Smooth weighted round-robin (nginx's): spreads the turns of a heavy member evenly. Empty when all weights are
/// equal, which needs no schedule.
fn schedule(members: &[Member]) -> Box<[u32]> {
    let Some(sums) = cumulative(members) else { return Box::default() };
    let total = sums.last().copied().unwrap_or(1);
    let divisor = members.iter().fold(0, |divisor, member| gcd(divisor, u64::from(member.endpoint.weight)));
    let scale = divisor.max(total.div_ceil(MAX_SCHEDULE)).max(1);
    let weights: Vec<i64> = members
        .iter()
        .map(|member| i64::try_from((u64::from(member.endpoint.weight) / scale).max(1)).unwrap_or(1))
        .collect();
    let turns: i64 = weights.iter().sum();
    let mut current = vec![0_i64; weights.len()];
    (0..turns)
        .filter_map(|_| {
            for (sum, weight) in current.iter_mut().zip(&weights) {
                *sum += weight;
            }
            let (index, best) =
                current.iter_mut().enumerate().max_by_key(|(index, sum)| (**sum, -signed(*index)))?;
            *best -= turns;
            u32::try_from(index).ok()
        })
        .collect()
}

fn signed(index: usize) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
