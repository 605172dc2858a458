//! A ketama hash ring: the same key goes to the same endpoint, and when one of n endpoints leaves or joins only about
//! 1/n of the keys move (Karger et al. 1997).
//!
//! The hash is the same in every process, so different proxies agree on where a key goes.

use std::hash::Hasher;

use super::super::set::Member;

/// Most points on a ring, Envoy's default bound: 8 Mi points.
const MAX_POINTS: u64 = 8 * 1024 * 1024;

/// Points on a circle of 64-bit hashes, each belonging to a member.
#[derive(Debug)]
pub(super) struct Ring(Box<[(u64, u32)]>);

impl Ring {
    /// Places each member at points in proportion to its weight, at least `minimum_size` in all.
    pub(super) fn new(members: &[Member], minimum_size: u32) -> Self {
        let weight = |member: &Member| u64::from(member.endpoint.weight.max(1));
        let total: u64 = members.iter().map(weight).sum();
        let size = u64::from(minimum_size).max(members.len() as u64).min(MAX_POINTS);
        let mut points = Vec::new();
        for (index, member) in (0_u32..).zip(members) {
            let replicas = (weight(member) * size).div_ceil(total.max(1));
            let address = member.endpoint.address.to_string();
            points.extend((0..replicas).map(|replica| {
                let mut hasher = xxhash_rust::xxh3::Xxh3::new();
                hasher.write(address.as_bytes());
                hasher.write(&replica.to_le_bytes());
                (hasher.finish(), index)
            }));
        }
        points.sort_unstable();
        Self(points.into_boxed_slice())
    }

    /// Index of the member that owns `hash`: the first point at or after it, wrapping around.
    pub(super) fn at(&self, hash: u64) -> Option<usize> {
        let next = self.0.partition_point(|(point, _)| *point < hash);
        self.0.get(next).or_else(|| self.0.first()).map(|(_, index)| *index as usize)
    }
}

/// Hash of a key.
pub fn hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}
