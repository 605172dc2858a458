//! Everything a certificate can be wrong in, each by its own reason.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};

use super::*;
use crate::tls::{
    credentials,
    testing::{Authority, workload},
};

const SHOP: &str = "spiffe://cluster.local/ns/shop/sa/cart";

/// 2026-11-21, in seconds.
const NOW: u64 = 1_795_219_200;

/// A key of 1024 bits, which no library makes any more.
const WEAK: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCx/AluuwKtNtbBMB/DU3sujXiY
vmXJEvl4estAHx8ReVFAqd549WARORwVw9O8R1AQC/bagqz5gv8EvZfqXY71evZ4
ZozsvBlbMVQuZiA8DgC6KvB9Rx8m/4tCnwpwzlkW+gN3/SC0+7RBiEVMc70UE++9
zO8oITxEl+/ME/UZXwIDAQAB
-----END PUBLIC KEY-----";

fn trust(authority: &Authority) -> Trust {
    let domains = ["cluster.local", "old.example"].map(|name| TrustDomain::new(name).unwrap());
    Trust::new(std::slice::from_ref(&authority.certificate), Box::new(domains), credentials::provider())
        .unwrap()
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// How a certificate that differs from a good one in `change` is judged in both roles.
fn judged(change: impl FnOnce(&mut CertificateParams)) -> [Result<Identity, Refusal>; 2] {
    let authority = Authority::new("root");
    let mut params = workload(SHOP);
    change(&mut params);
    let (leaf, _) = authority.sign(&params);
    [Role::Client, Role::Server].map(|role| trust(&authority).identify(&leaf, &[], role, at(NOW)))
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn a_good_one_proves_its_identity() {
    let identity: Identity = SHOP.parse().unwrap();
    assert_eq!(judged(|_| {}), [Ok(identity.clone()), Ok(identity.clone())]);
    let with_dns =
        judged(|params| params.subject_alt_names.push(SanType::DnsName("x.y".try_into().unwrap())));
    assert_eq!(with_dns, [Ok(identity.clone()), Ok(identity)], "names beside the identity prove nothing");
    let alias = "spiffe://old.example/ns/shop/sa/cart";
    let [of_alias, _] = judged(|params| params.subject_alt_names = vec![uri(alias)]);
    assert_eq!(of_alias.unwrap().uri(), alias);
}

#[test]
fn a_bad_one_has_its_own_reason() {
    type Change = fn(&mut CertificateParams);
    let table: [(&str, Refusal, Change); 13] = [
        ("over", Refusal::Expired, |it| it.not_after = rcgen::date_time_ymd(2026, 1, 1)),
        ("to come", Refusal::NotYetValid, |it| it.not_before = rcgen::date_time_ymd(2027, 1, 1)),
        ("other mesh", Refusal::ForeignTrustDomain, |it| {
            it.subject_alt_names = vec![uri("spiffe://other.example/ns/shop/sa/cart")];
        }),
        ("two", Refusal::SeveralIdentities, |it| it.subject_alt_names.push(uri(SHOP))),
        ("two schemes", Refusal::SeveralIdentities, |it| it.subject_alt_names.push(uri("https://x"))),
        ("nameless", Refusal::NoIdentity, |it| it.subject_alt_names.clear()),
        ("DNS name only", Refusal::NoIdentity, |it| {
            it.subject_alt_names = vec![SanType::DnsName("cart.shop".try_into().unwrap())];
        }),
        ("CN only", Refusal::CommonNameOnly, |it| {
            it.subject_alt_names.clear();
            it.distinguished_name.push(DnType::CommonName, SHOP);
        }),
        ("no SPIFFE", Refusal::BadIdentity, |it| {
            it.subject_alt_names = vec![uri("https://cluster.local/ns/shop/sa/cart")];
        }),
        ("SPIFFE of no workload", Refusal::BadIdentity, |it| {
            it.subject_alt_names = vec![uri("spiffe://cluster.local/cart")];
        }),
        ("no use", Refusal::WrongUsage, |it| it.extended_key_usages.clear()),
        ("other use", Refusal::WrongUsage, |it| {
            it.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
        }),
        ("authority", Refusal::CaLeaf, |it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
    ];
    for (what, refusal, change) in table {
        assert_eq!(judged(change), [Err(refusal), Err(refusal)], "{what}");
    }
}

#[test]
fn each_end_needs_its_own_use() {
    let only = |usage| judged(move |params| params.extended_key_usages = vec![usage]).map(|it| it.err());
    assert_eq!(only(ExtendedKeyUsagePurpose::ServerAuth), [Some(Refusal::WrongUsage), None]);
    assert_eq!(only(ExtendedKeyUsagePurpose::ClientAuth), [None, Some(Refusal::WrongUsage)]);
}

#[test]
fn others_authorities_are_unknown() {
    let ours = Authority::new("root");
    // Of another name, and of the same one with another key.
    for name in ["other", "root"] {
        let (leaf, _) = Authority::new(name).sign(&workload(SHOP));
        let judged = trust(&ours).identify(&leaf, &[], Role::Client, at(NOW));
        assert_eq!(judged, Err(Refusal::UnknownCa), "{name}");
    }
    let leaf = workload(SHOP).self_signed(&KeyPair::generate().unwrap()).unwrap();
    let judged = trust(&ours).identify(leaf.der(), &[], Role::Client, at(NOW));
    assert_eq!(judged, Err(Refusal::SelfSigned));
}

#[test]
fn chains_may_have_some_length() {
    let root = Authority::new("root");
    let mut chain = vec![root.intermediate("one")];
    for name in ["two", "three", "four", "five"] {
        chain.push(chain.last().unwrap().intermediate(name));
    }
    let judge = |length: usize, extra: usize| {
        let (leaf, _) = chain[length - 1].sign(&workload(SHOP));
        let mut shown: Vec<_> = chain[..length].iter().rev().map(|it| it.certificate.clone()).collect();
        shown.extend(std::iter::repeat_n(root.certificate.clone(), extra));
        trust(&root).identify(&leaf, &shown, Role::Server, at(NOW)).map(drop)
    };
    assert_eq!(judge(1, 0), Ok(()));
    assert_eq!(judge(3, 1), Ok(()), "the root may be sent along");
    assert_eq!(judge(4, 1), Err(Refusal::ChainTooLong));
    assert_eq!(judge(5, 0), Err(Refusal::ChainTooLong));
    let (leaf, _) = chain[1].sign(&workload(SHOP));
    let judged =
        trust(&root).identify(&leaf, std::slice::from_ref(&chain[1].certificate), Role::Server, at(NOW));
    assert_eq!(judged, Err(Refusal::UnknownCa), "a link is missing");
}

#[test]
fn keys_that_can_be_forged_are_refused() {
    let authority = Authority::new("root");
    let weak = rcgen::SubjectPublicKeyInfo::from_pem(WEAK).unwrap();
    let leaf = workload(SHOP).signed_by(&weak, &authority.issuer).unwrap();
    let judged = trust(&authority).identify(leaf.der(), &[], Role::Client, at(NOW));
    assert_eq!(judged, Err(Refusal::WeakKey));
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let leaf = workload(SHOP).signed_by(&key, &authority.issuer).unwrap();
        assert!(trust(&authority).identify(leaf.der(), &[], Role::Client, at(NOW)).is_ok());
    }
}

#[test]
fn no_bytes_are_too_strange() {
    let authority = Authority::new("root");
    let (leaf, _) = authority.sign(&workload(SHOP));
    let trust = trust(&authority);
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..2000 {
        let mut bytes = leaf.to_vec();
        let at_byte = rng.usize(..bytes.len());
        bytes[at_byte] ^= rng.u8(1..);
        bytes.truncate(rng.usize(bytes.len() / 2..=bytes.len()));
        let judged = trust.identify(&CertificateDer::from(bytes), &[], Role::Client, at(NOW));
        assert!(judged.is_err(), "every bit is signed");
    }
}

#[test]
fn reasons_survive_the_way_through_rustls() {
    for refusal in Refusal::ALL {
        assert_eq!(super::refusal(&refuse(refusal)), refusal);
    }
}

#[test]
fn the_expected_are_known_by_any_name_of_the_trust_domain() {
    let trust = trust(&Authority::new("root"));
    let identity = |text: &str| text.parse::<Identity>().unwrap();
    let proved = identity(SHOP);
    let is = |expected: &[&str]| {
        trust.is_among(&proved, &expected.iter().map(|text| identity(text)).collect::<Vec<_>>())
    };
    assert!(is(&[]) && is(&[SHOP]) && is(&["spiffe://old.example/ns/shop/sa/cart"]));
    assert!(is(&["spiffe://cluster.local/ns/shop/sa/other", SHOP]));
    assert!(!is(&["spiffe://cluster.local/ns/shop/sa/other"]));
    assert!(!is(&["spiffe://cluster.local/ns/other/sa/cart"]));
    assert!(!is(&["spiffe://other.example/ns/shop/sa/cart"]));
}
