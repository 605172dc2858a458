//! Seeded randomness: one generator per worker, all from one seed that is logged and can be set.
//!
//! Nothing secret is made from it: it picks endpoints, jitter and request ids. Generators are plain values owned by
//! their worker, so drawing a number takes no lock.

/// The seed of the process, from which every generator is derived.
#[derive(Debug, Clone, Copy)]
pub struct Seed(u64);

impl Seed {
    /// The seed given, or a fresh one from the operating system.
    pub fn new(given: Option<u64>) -> Self {
        Self(given.unwrap_or_else(|| fastrand::u64(..)))
    }

    /// The number to log, and to give again to repeat a run.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The generator of one owner; owners with different numbers draw unrelated sequences.
    pub fn generator(self, owner: usize) -> fastrand::Rng {
        let mut root = fastrand::Rng::with_seed(self.0 ^ (owner as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        fastrand::Rng::with_seed(root.u64(..))
    }
}

/// A random UUID (RFC 9562, version 4) as text, without an allocation. The bytes are ASCII.
pub fn uuid_v4(rng: &mut fastrand::Rng) -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let version_and_variant = !(0xf_u128 << 76) & !(0b11_u128 << 62);
    let number = (rng.u128(..) & version_and_variant) | (0x4_u128 << 76) | (0b10_u128 << 62);
    let mut digits = (0..32_u32).rev().map(|digit| HEX[(number >> (4 * digit)) as usize & 0xf]);
    std::array::from_fn(|at| match at {
        8 | 13 | 18 | 23 => b'-',
        _ => digits.next().unwrap_or(b'0'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_repeats_and_owners_differ() {
        let draw = |seed: u64, owner| Seed::new(Some(seed)).generator(owner).u64(..);
        assert_eq!(draw(7, 0), draw(7, 0));
        assert_ne!(draw(7, 0), draw(7, 1));
        assert_ne!(draw(7, 0), draw(8, 0));
    }

    #[test]
    fn uuids_have_the_form_of_version_4() {
        let mut rng = Seed::new(Some(1)).generator(0);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let text = String::from_utf8(uuid_v4(&mut rng).to_vec()).unwrap();
            for (at, c) in text.chars().enumerate() {
                match at {
                    8 | 13 | 18 | 23 => assert_eq!(c, '-', "{text}"),
                    14 => assert_eq!(c, '4', "{text}"),
                    19 => assert!("89ab".contains(c), "{text}"),
                    _ => assert!(c.is_ascii_hexdigit() && !c.is_ascii_uppercase(), "{text}"),
                }
            }
            assert!(seen.insert(text));
        }
    }
}
