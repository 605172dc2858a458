//! When a change of the root may go on.
//!
//! ```text
//!   settled ── next-root-key.pem appears ──▶ distribute ── everybody knows both ──▶ sign ── everybody has renewed ──▶ settled
//!              one root                      both are believed,                     both are believed,       the new root
//!                                            the old one signs                      the new one signs
//! ```
//!
//! What phase it is stands in the files of the state directory, so a restart goes on where it was. Only who is connected
//! can be asked. A proxy that is away may hold a certificate of the old root and know no other, but not for longer than
//! certificates live: so each phase lasts that long as well ([`nobody_away`]). Whoever was connected in between has been
//! told of the new root, and who was not has nothing left that anybody would take. An operator in a hurry may ask for those
//! who are connected to be enough; a phase then lasts [`DWELL`], for those who are between two streams.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use pillion_policy::identity::Identity;
use rustc_hash::FxHashMap;

use super::certificate::{Certificate, people};

/// How long a phase lasts at least: a proxy that has lost its stream is back by then.
pub(crate) const DWELL: Duration = Duration::from_secs(15);

/// Most names of proxies in what is said of a phase.
const MAX_NAMED: usize = 3;

/// Where a change of the root stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There is none.
    Settled,
    /// The new root is told to everybody; the old one still signs.
    Distribute,
    /// The new root signs; certificates of the old one are still believed.
    Sign,
}

/// Somebody who has certificates signed: replicas share an identity, but not an address.
pub(crate) type Customer = (Identity, Option<IpAddr>);

/// How a connected proxy stands to the authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Its workload.
    pub(crate) name: String,
    /// What it has proved to be; nothing in plain text.
    pub(crate) customer: Option<Customer>,
    /// Whether it has acknowledged what it was last told of the mesh.
    pub(crate) acknowledged: bool,
    /// When the certificate it connected with was issued.
    pub(crate) issued: Option<SystemTime>,
}

/// What is known in the phase [`Phase::Sign`] of certificates.
#[derive(Debug)]
pub(crate) struct Renewals<'a> {
    /// Since when the new root signs.
    pub(crate) since: SystemTime,
    /// When the last certificate of the old one has expired.
    pub(crate) over: SystemTime,
    /// How many certificates somebody has got since.
    pub(crate) by: &'a FxHashMap<Customer, usize>,
}

/// Whether everybody has acknowledged what holds in the present phase. An error says what is waited for.
pub(crate) fn acknowledged(proxies: &[Standing]) -> Result<(), String> {
    let waiting: Vec<&str> =
        proxies.iter().filter(|proxy| !proxy.acknowledged).map(|proxy| &*proxy.name).collect();
    named(&waiting, "acknowledge it")
}

/// Whether nobody needs a certificate of the old root any more. An error says what is waited for.
pub(crate) fn renewed(proxies: &[Standing], renewals: &Renewals<'_>, now: SystemTime) -> Result<(), String> {
    if now >= renewals.over {
        return Ok(());
    }
    let mut old: BTreeMap<&Customer, Vec<&str>> = BTreeMap::new();
    for proxy in proxies {
        let is_new = proxy.issued.is_some_and(|issued| issued >= renewals.since);
        if let (Some(customer), false) = (&proxy.customer, is_new) {
            old.entry(customer).or_default().push(&proxy.name);
        }
    }
    // A proxy may renew without connecting anew. Replicas behind one address cannot be told apart, only counted.
    let waiting: Vec<&str> = old
        .into_iter()
        .filter(|(customer, proxies)| renewals.by.get(customer).is_none_or(|n| *n < proxies.len()))
        .flat_map(|(_, proxies)| proxies)
        .collect();
    named(&waiting, "renew their certificates")
}

/// Whether nobody who is away can hold a certificate of the old root that was issued before `since`, when the phase
/// began. Such certificates live for `lifetime` at most, and no longer than their `root`. An error says what is waited
/// for.
pub(crate) fn nobody_away(
    since: SystemTime,
    lifetime: Duration,
    root: &Certificate,
    now: SystemTime,
) -> Result<(), String> {
    let over = (since + lifetime).min(root.not_after());
    if now >= over {
        return Ok(());
    }
    Err(format!("everybody connected is ready; who is away has until {}", people(over)))
}

fn named(waiting: &[&str], to: &str) -> Result<(), String> {
    if waiting.is_empty() {
        return Ok(());
    }
    let names = waiting.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", ");
    let more = waiting.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(format!("waiting for {names}{more} to {to}"))
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Settled => "settled",
            Self::Distribute => "distributing the new root",
            Self::Sign => "signing with the new root",
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::*;
    use crate::ca::Authority;

    fn customer(last: u8) -> Customer {
        ("spiffe://cluster.local/ns/shop/sa/order".parse().unwrap(), Some([10, 0, 0, last].into()))
    }

    fn proxy(name: &str, customer: Option<Customer>, acknowledged: bool) -> Standing {
        Standing { name: name.to_owned(), customer, acknowledged, issued: None }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn everybody_must_have_acknowledged() {
        assert_eq!(acknowledged(&[]), Ok(()));
        assert_eq!(acknowledged(&[proxy("a", None, true), proxy("b", Some(customer(1)), true)]), Ok(()));
        let waiting: Vec<Standing> =
            ["a", "b", "c", "d", "e"].map(|name| proxy(name, None, name == "a")).to_vec();
        let expected = "waiting for b, c, d and 1 more to acknowledge it";
        assert_eq!(acknowledged(&waiting), Err(expected.to_owned()));
    }

    #[test]
    fn everybody_must_have_renewed_or_the_old_certificates_be_over() {
        let with = |issued| Standing { issued: Some(issued), ..proxy("a", Some(customer(1)), true) };
        let twice = [proxy("a", Some(customer(1)), true), proxy("b", Some(customer(1)), true)];
        let waiting = |names: &str| Err(format!("waiting for {names} to renew their certificates"));
        for (proxies, issued, now, expected) in [
            (&[][..], 0, at(101), Ok(())),
            // In plain text there is no certificate.
            (&[proxy("a", None, true)], 0, at(101), Ok(())),
            (&[proxy("a", Some(customer(1)), true)], 0, at(101), waiting("a")),
            (&[proxy("a", Some(customer(1)), true)], 1, at(101), Ok(())),
            (&[proxy("a", Some(customer(2)), true)], 1, at(101), waiting("a")),
            (&twice, 1, at(101), waiting("a, b")),
            (&twice, 2, at(101), Ok(())),
            (&[with(at(99))], 0, at(101), waiting("a")),
            (&[with(at(100))], 0, at(101), Ok(())),
            (&[with(at(99))], 0, at(199), waiting("a")),
            (&[with(at(99))], 0, at(200), Ok(())),
        ] {
            let by = [(customer(1), issued)].into_iter().collect();
            let renewals = Renewals { since: at(100), over: at(200), by: &by };
            assert_eq!(renewed(proxies, &renewals, now), expected, "{proxies:?} {issued} {now:?}");
        }
    }

    #[test]
    fn who_is_away_has_as_long_as_a_certificate_lives() {
        let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));
        let began = at(1_000_000_000);
        let root = Authority::root(&KeyPair::generate().unwrap(), began).unwrap();
        let away = |since, now| nobody_away(since, day, &root, now);
        assert_eq!(
            away(began, began + hour).unwrap_err(),
            "everybody connected is ready; who is away has until Sep 10 01:46:40 2001 +00:00"
        );
        assert!(away(began, began + day - Duration::from_secs(1)).is_err());
        assert_eq!(away(began, began + day), Ok(()));
        // No certificate outlives its root: nobody has one of an expired root.
        let end = root.not_after();
        assert!(away(end - hour, end - Duration::from_secs(1)).is_err());
        assert_eq!(away(end - hour, end), Ok(()));
        assert_eq!(away(end + day, end + day), Ok(()));
    }
}
