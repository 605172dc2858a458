//! Which calls belong to which request, as far as that stops storms of repetitions.
//!
//! An application hands on `x-request-id` and trace context, and nothing else. By these its sidecar finds out, when a
//! call fails, that the request behind it is being repeated by its caller; and when a response fails, that a call
//! behind it was already repeated here. Then only the hop next to a failure repeats it.
//!
//! The memory is a fixed table that forgets: newer calls take the places of the oldest ones, and after [`MEMORY`] nothing
//! is known any more. To be forgotten costs a repetition the budget still limits; to be taken for someone else costs
//! one repetition, at odds of 2⁻⁴⁶.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use http::{HeaderMap, HeaderName, HeaderValue};

/// Seconds for which a call is remembered.
pub const MEMORY: u16 = 60;

/// Sets of places in the table, a power of two: 64 KiB.
const SETS: usize = 1024;
/// Places one fact may have: a cache line. Only more newer facts than that drive it out.
const WAYS: usize = 8;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");

/// What makes a request and the calls it causes one story.
#[derive(Debug, Clone, Default)]
pub struct Story {
    id: Option<HeaderValue>,
    trace: Option<HeaderValue>,
}

/// What is remembered of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// Its caller sends it again.
    Repeated,
    /// A call it caused has failed, and was repeated or may not be.
    CallFailed,
}

/// The memory of a process.
#[derive(Debug)]
pub struct Kin {
    /// 48 bits of a key's hash and the second it was noted in.
    sets: Box<[[AtomicU64; WAYS]]>,
    hasher: RandomState,
}

impl Default for Kin {
    fn default() -> Self {
        Self { sets: (0..SETS).map(|_| Default::default()).collect(), hasher: RandomState::new() }
    }
}

impl Story {
    /// The story a message belongs to. Copies no bytes.
    pub fn of(headers: &HeaderMap) -> Self {
        let trace = headers.get(TRACEPARENT).or_else(|| headers.get(B3)).or_else(|| headers.get(B3_TRACE));
        Self { id: headers.get(REQUEST_ID).cloned(), trace: trace.cloned() }
    }

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let id = self.id.as_ref().map(HeaderValue::as_bytes);
        id.into_iter().chain(self.trace.as_ref().map(|trace| trace_of(trace.as_bytes())))
    }
}

impl Kin {
    /// Remembers `fact` of a request.
    pub fn note(&self, fact: Fact, story: &Story, second: u64) {
        for key in story.keys() {
            let hash = self.hasher.hash_one((fact as u8, key));
            let set = self.set(hash);
            let age = |place: &&AtomicU64| age(place.load(Relaxed), second);
            // Where all are of this very second, any may go but the same one each time.
            let any = set.get(usize::try_from(hash >> 48).unwrap_or(0) % WAYS);
            let place = set.iter().max_by_key(age).filter(|oldest| age(oldest) > 0).or(any);
            if let Some(place) = place {
                place.store(hash & !0xffff | stamp(second), Relaxed);
            }
        }
    }

    /// Whether `fact` is remembered of a request.
    pub fn knows(&self, fact: Fact, story: &Story, second: u64) -> bool {
        story.keys().any(|key| {
            let hash = self.hasher.hash_one((fact as u8, key));
            self.set(hash).iter().any(|place| {
                let known = place.load(Relaxed);
                known >> 16 == hash >> 16 && age(known, second) <= u64::from(MEMORY)
            })
        })
    }

    fn set(&self, hash: u64) -> &[AtomicU64] {
        self.sets.get(usize::try_from(hash >> 16).unwrap_or(0) & (SETS - 1)).map_or(&[], |set| set)
    }
}

/// The part of a trace context that all calls of one request share: the trace without the span. `traceparent` is
/// version, trace, span and flags (W3C Trace Context §3.2), `b3` trace, span and state.
fn trace_of(context: &[u8]) -> &[u8] {
    let mut fields = context.split(|byte| *byte == b'-');
    let first = fields.next().unwrap_or_default();
    if first.len() == 2 { fields.next().unwrap_or(first) } else { first }
}

/// Seconds, wrapping.
fn stamp(second: u64) -> u64 {
    second & 0xffff
}

/// Seconds since a place was written; an empty one is the oldest of all.
fn age(known: u64, second: u64) -> u64 {
    if known == 0 { u64::MAX } else { stamp(second).wrapping_sub(known) & 0xffff }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(name: &'static str, value: &str) -> Story {
        let value = HeaderValue::from_str(value).unwrap();
        Story::of(&HeaderMap::from_iter([(HeaderName::from_static(name), value)]))
    }

    #[test]
    fn a_story_is_known_by_its_id_for_a_while() {
        let kin = Kin::default();
        let id = story("x-request-id", "a");
        assert!(!kin.knows(Fact::Repeated, &id, 0));
        kin.note(Fact::Repeated, &id, 0);
        assert!(kin.knows(Fact::Repeated, &id, 0));
        assert!(kin.knows(Fact::Repeated, &id, u64::from(MEMORY)));
        assert!(!kin.knows(Fact::Repeated, &id, u64::from(MEMORY) + 1));
        assert!(!kin.knows(Fact::CallFailed, &id, 0));
        assert!(!kin.knows(Fact::Repeated, &story("x-request-id", "b"), 0));
    }

    #[test]
    fn spans_of_one_trace_are_one_story() {
        let kin = Kin::default();
        let of = |span: &str| story("traceparent", &format!("00-0af7651916cd43dd8448eb211c80319c-{span}-01"));
        kin.note(Fact::CallFailed, &of("b7ad6b7169203331"), 5);
        assert!(kin.knows(Fact::CallFailed, &of("00f067aa0ba902b7"), 6));
        kin.note(Fact::CallFailed, &story("b3", "80f198ee56343ba8-e457b5a2e4d86bd1-1"), 5);
        assert!(kin.knows(Fact::CallFailed, &story("b3", "80f198ee56343ba8-05e3ac9a4f6e3b90-1"), 5));
        assert!(kin.knows(Fact::CallFailed, &story("x-b3-traceid", "80f198ee56343ba8"), 5));
    }

    #[test]
    fn what_is_under_way_is_not_forgotten() {
        let kin = Kin::default();
        let id = |n: u32| story("x-request-id", &n.to_string());
        for n in 0..20_000 {
            kin.note(Fact::CallFailed, &id(n), u64::from(n / 1000));
            assert!(n < 20 || kin.knows(Fact::CallFailed, &id(n - 20), u64::from(n / 1000)), "{n}");
        }
    }

    #[test]
    fn a_flood_is_forgotten_and_nobody_is_taken_for_another() {
        let kin = Kin::default();
        for n in 0..100_000 {
            kin.note(Fact::Repeated, &story("x-request-id", &n.to_string()), 1);
        }
        for n in 100_000..200_000 {
            assert!(!kin.knows(Fact::Repeated, &story("x-request-id", &n.to_string()), 1));
        }
    }
}
