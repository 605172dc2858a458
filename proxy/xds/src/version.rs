//! Versions of resources: a hash of the content, so that equal content has equal versions everywhere.
//!
//! The hash is FNV-1a with 64 bits over the encoded resource (draft-eastlake-fnv, offset basis and prime from its
//! section 5), chosen because it is a handful of lines and fixed for all times: versions outlive processes, since a proxy
//! tells a restarted control plane what it holds. Only versions of one name are ever compared, so 64 bits are plenty.
//! It is no defence against someone who crafts collisions; the control plane is trusted with content anyway.

use std::{fmt, str::FromStr};

use pillion_policy::Invalid;

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// The version of a resource as Pillion's control plane makes it. Text form: 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(u64);

impl Version {
    /// The version of that content.
    pub fn of(content: &[u8]) -> Self {
        Self(content.iter().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Version {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = u64::from_str_radix(text, 16).ok().filter(|_| digits);
        value
            .map(Self)
            .ok_or_else(|| Invalid::new(format!("{text:?} is not a version of this control plane")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        for (content, hash) in
            [("", "cbf29ce484222325"), ("a", "af63dc4c8601ec8c"), ("foobar", "85944171f73967e8")]
        {
            assert_eq!(Version::of(content.as_bytes()).to_string(), hash);
        }
    }

    #[test]
    fn versions_parse_what_they_print() {
        let version = Version::of(b"b");
        assert_eq!(version.to_string().parse(), Ok(version));
        for foreign in ["", "1", "+123456789abcdef", "af63dc4c8601ec8cx", "ünïcödé-ünïcö"] {
            assert!(foreign.parse::<Version>().is_err(), "{foreign}");
        }
    }
}
