//! Picks where some endpoints are to be left alone: ejected, unreachable, or tried before by the same request.
//!
//! This is the slow way, taken only while a gate of the cluster is shut or a request is repeated: it looks at every
//! member. An endpoint whose time is over takes one request, the probe. Among the rest the best class there is takes
//! part: reachable and not tried yet, then reachable, then not tried yet (these two the other way round after a try that
//! could not be sent), then all that are not ejected, so that a dead service is answered by its real error. Each algorithm keeps its promises among those who take part.

#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering;

use super::{Algorithm, Ask, Balancer, Picked, share};
use crate::upstream::{endpoint::Probe, set::Member};

/// Which members take part.
struct Turnout<'a, 'b> {
    ask: &'b Ask<'a>,
    /// Ejections are ignored, for too few would be left.
    panic: bool,
    class: Class,
}

/// Classes of members, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Fresh,
    Reachable,
    Untried,
    Admitted,
}

impl Turnout<'_, '_> {
    fn includes(&self, member: &Member) -> bool {
        let availability = member.live.availability(self.ask.now);
        let is_admitted = self.panic || !availability.ejected;
        is_admitted
            && match self.class {
                Class::Fresh => availability.reachable && self.is_untried(member),
                Class::Reachable => availability.reachable,
                Class::Untried => self.is_untried(member),
                Class::Admitted => true,
            }
    }

    fn is_untried(&self, member: &Member) -> bool {
        !self.ask.tried.ids.contains(&member.live.id())
    }

    /// Whether nobody takes part.
    fn is_empty(&self, members: &[Member]) -> bool {
        !members.iter().any(|member| self.includes(member))
    }
}

impl Balancer {
    /// Picks one of the members the balancer was made for, or none where all are ejected.
    pub(in crate::upstream) fn pick_impaired<'a>(
        &self,
        members: &'a [Member],
        ask: &Ask<'_>,
        rng: &mut fastrand::Rng,
    ) -> Option<Picked<'a>> {
        let panic = is_panic(members, ask);
        let turnout = |class| Turnout { ask, panic, class };
        // A request that has failed before is not risked on a probe while there is better.
        let may_probe = ask.tried.ids.is_empty() || turnout(Class::Fresh).is_empty(members);
        if may_probe
            && !matches!(self.algorithm, Algorithm::Ring(_))
            && let Some(picked) = members.iter().find_map(|member| probe(member, ask))
        {
            return Some(picked);
        }
        let classes = if ask.tried.is_gone {
            [Class::Fresh, Class::Untried, Class::Reachable, Class::Admitted]
        } else {
            [Class::Fresh, Class::Reachable, Class::Untried, Class::Admitted]
        };
        classes.into_iter().find_map(|class| self.pick_among(members, &turnout(class), may_probe, rng))
    }

    /// Picks among those who take part. On a ring only the requests that belong to an endpoint probe it.
    fn pick_among<'a>(
        &self,
        members: &'a [Member],
        turnout: &Turnout<'_, '_>,
        may_probe: bool,
        rng: &mut fastrand::Rng,
    ) -> Option<Picked<'a>> {
        let ask = turnout.ask;
        let member = match &self.algorithm {
            Algorithm::LeastRequest | Algorithm::PeakEwma => self.two_choices_of(members, turnout, rng),
            Algorithm::RoundRobin { schedule, next } => self.warmed(ask.now, rng, |_| {
                let turn = next.fetch_add(1, Ordering::Relaxed);
                if schedule.is_empty() {
                    return nth(members.iter().filter(|member| turnout.includes(member)), turn);
                }
                let turns = schedule.iter().filter_map(|index| members.get(*index as usize));
                nth(turns.filter(|member| turnout.includes(member)), turn)
            }),
            Algorithm::Random => self.draw(members, rng, |member| turnout.includes(member)),
            Algorithm::Ring(_) if turnout.is_empty(members) => None,
            Algorithm::Ring(ring) => {
                let hash = ask.hash.unwrap_or_else(|| rng.u64(..));
                let mut around = ring.from(hash).filter_map(|index| members.get(index));
                return around.find_map(|member| {
                    let probed = if may_probe { probe(member, ask) } else { None };
                    probed.or_else(|| {
                        turnout.includes(member).then_some(Picked { member, probe: Probe::default() })
                    })
                });
            }
        };
        Some(Picked { member: member?, probe: Probe::default() })
    }

    fn two_choices_of<'a>(
        &self,
        members: &'a [Member],
        turnout: &Turnout<'_, '_>,
        rng: &mut fastrand::Rng,
    ) -> Option<&'a Member> {
        let now = turnout.ask.now;
        let first =
            self.warmed(now, rng, |rng| self.draw(members, rng, |member| turnout.includes(member)))?;
        let is_other = |member: &Member| self.cumulative.is_some() || !std::ptr::eq(member, first);
        let Some(second) = self.draw(members, rng, |member| is_other(member) && turnout.includes(member))
        else {
            return Some(first);
        };
        if self.warmup.is_some_and(|warmup| rng.f64() >= share(&warmup, second, now)) {
            return Some(first);
        }
        Some(self.better(first, second, now))
    }

    /// One of those members that `includes` takes, by weighted dice.
    fn draw<'a>(
        &self,
        members: &'a [Member],
        rng: &mut fastrand::Rng,
        includes: impl Fn(&Member) -> bool,
    ) -> Option<&'a Member> {
        let weight = |member: &Member| match self.cumulative {
            Some(_) => u64::from(member.endpoint.weight.max(1)),
            None => 1,
        };
        let total: u64 = members.iter().filter(|member| includes(member)).map(weight).sum();
        let mut point = rng.u64(..total.max(1));
        let mut last = None;
        for member in members.iter().filter(|member| includes(member)) {
            last = Some(member);
            match point.checked_sub(weight(member)) {
                Some(rest) => point = rest,
                None => break,
            }
        }
        last
    }
}

/// Makes the request a probe, if the member waits for one.
fn probe<'a>(member: &'a Member, ask: &Ask<'_>) -> Option<Picked<'a>> {
    if !member.live.availability(ask.now).due || ask.tried.ids.contains(&member.live.id()) {
        return None;
    }
    let probe = member.live.probe(ask.now)?;
    Some(Picked { member, probe })
}

/// Whether fewer members are healthy than policy asks for.
fn is_panic(members: &[Member], ask: &Ask<'_>) -> bool {
    let healthy = members.iter().filter(|member| !member.live.is_ejected()).count();
    healthy * 100 < members.len() * usize::from(ask.min_health_percent)
}

/// The nth of those that remain, in turn.
fn nth<'a>(members: impl Iterator<Item = &'a Member> + Clone, turn: usize) -> Option<&'a Member> {
    let turns = members.clone().count();
    members.clone().nth(turn.checked_rem(turns)?)
}
