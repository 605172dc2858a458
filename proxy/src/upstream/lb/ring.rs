//! A ketama hash ring: the same key goes to the same endpoint, and when one of n endpoints leaves or joins only about
//! 1/n of the keys move (Karger et al. 1997).
//!
//! The hash is the same in every process, so different proxies agree on where a key goes.

use std::hash::Hasher;

use super::super::set::Member;

/// Points on a ring beyond which members get fewer points each: 1 MiB of memory.
const MAX_POINTS: u64 = 64 * 1024;

/// Points on a circle of 64-bit hashes, each belonging to a member.
#[derive(Debug)]
pub(super) struct Ring(Box<[(u64, u32)]>);

impl Ring {
    /// Places the heaviest member at `minimum_size` points and the others in proportion to their weight. How many
    /// points a member has does not depend on how many members there are (until they are many), so that those who
    /// stay keep their keys.
    pub(super) fn new(members: &[Member], minimum_size: u32) -> Self {
        let weight = |member: &Member| u64::from(member.endpoint.weight.max(1));
        let heaviest = members.iter().map(weight).max().unwrap_or(1);
        let affordable = (MAX_POINTS / (members.len() as u64).max(1)).max(1);
        let most = u64::from(minimum_size).clamp(1, 1 << affordable.ilog2());
        let mut points = Vec::new();
        for (index, member) in (0_u32..).zip(members) {
            let replicas = (weight(member) * most).div_ceil(heaviest);
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

    /// The owner of `hash` and those who come after it, once around the ring.
    pub(super) fn from(&self, hash: u64) -> impl Iterator<Item = usize> {
        let next = self.0.partition_point(|(point, _)| *point < hash);
        let (before, after) = self.0.split_at(next);
        after.iter().chain(before).map(|(_, index)| *index as usize)
    }
}

/// Hash of a key.
pub fn hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}
