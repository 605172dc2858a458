use std::time::{Duration, UNIX_EPOCH};

use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, PublicKeyData, date_time_ymd};

use super::{super::tests::pem, *};
use crate::tls::testing::{Authority, authority, workload};

const URI: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn identity() -> Identity {
    URI.parse().unwrap()
}

/// What an authority answers that signs for the key of a request but what it likes.
fn answer(request: &Request, by: &Authority, params: &CertificateParams) -> String {
    params.signed_by(&request.key, &by.issuer).unwrap().pem()
}

#[test]
fn a_request_asks_for_one_identity_and_proves_its_key() {
    let request = Request::new(&identity()).unwrap();
    let csr = CertificateSigningRequestParams::from_pem(&request.csr().unwrap()).unwrap();
    assert_eq!(csr.params.subject_alt_names, [SanType::URI(URI.try_into().unwrap())]);
    assert_eq!(csr.params.distinguished_name.iter().count(), 0);
    assert_eq!(csr.public_key.der_bytes(), request.key.der_bytes());
    let other = Request::new(&identity()).unwrap();
    assert_ne!(other.key.der_bytes(), request.key.der_bytes(), "each has a key of its own");
}

#[test]
fn an_answer_is_taken_with_its_root_or_to_a_known_one() {
    let root = Authority::new("root");
    let below = root.intermediate("below");
    let known = [root.certificate.clone()];
    for (roots, issuers) in
        [(&[][..], vec![&below, &root]), (&known, vec![&below]), (&known, vec![&below, &root])]
    {
        let request = Request::new(&identity()).unwrap();
        let mut chain = vec![answer(&request, &below, &workload(URI))];
        chain.extend(issuers.iter().map(|issuer| pem(&issuer.certificate)));
        let together = vec![chain.join("")];
        let leaf = request.accept(&together, roots, now()).unwrap();
        assert_eq!(leaf.chain.len(), chain.len());
        assert_eq!(format!("{leaf:?}"), format!("Leaf {{ chain: {}, .. }}", chain.len()));
    }
}

#[test]
fn what_peers_would_not_take_is_not_taken() {
    let (root, other) = (Authority::new("root"), Authority::new("other"));
    let pem = pem(&root.certificate);
    let with = |change: fn(&mut CertificateParams)| {
        let mut params = workload(URI);
        change(&mut params);
        params
    };
    let refused: &[(CertificateParams, &str)] = &[
        (workload("spiffe://cluster.local/ns/shop/sa/other"), "the certificate is for spiffe://"),
        (workload("spiffe://example.org/ns/shop/sa/web"), "would be refused"),
        (with(|it| it.not_after = date_time_ymd(2021, 1, 1)), "would be refused"),
        (with(|it| it.not_before = date_time_ymd(2100, 1, 1)), "would be refused"),
        (with(|it| it.subject_alt_names.clear()), "would be refused"),
        (
            with(|it| {
                it.subject_alt_names.push(SanType::URI("spiffe://cluster.local/x".try_into().unwrap()))
            }),
            "would be refused",
        ),
        (with(|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]), "would be refused"),
        (with(|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]), "would be refused"),
        (with(|it| it.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)), "would be refused"),
        (authority("root"), "would be refused"),
    ];
    for (params, says) in refused {
        let request = Request::new(&identity()).unwrap();
        let chain = [answer(&request, &root, params), pem.clone()];
        let error = request.accept(&chain, &[], now()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let request = Request::new(&identity()).unwrap();
    let chain = [answer(&request, &other, &workload(URI)), pem.clone()];
    let error = request.accept(&chain, &[], now()).unwrap_err();
    assert!(matches!(error, Unusable::Refused(_)), "a root that has not signed it: {error}");
    let request = Request::new(&identity()).unwrap();
    let chain = [answer(&request, &root, &workload(URI))];
    assert_eq!(request.accept(&chain, &[], now()).unwrap_err(), Unusable::NoRoot);
    let (one, another) = (Request::new(&identity()).unwrap(), Request::new(&identity()).unwrap());
    let chain = [answer(&one, &root, &workload(URI)), pem];
    assert_eq!(another.accept(&chain, &[], now()).unwrap_err(), Unusable::OtherKey);
}

#[test]
fn what_is_no_answer_is_refused() {
    let broken = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    for answer in [vec![], vec![String::new()], vec!["nonsense".to_owned()], vec![broken.to_owned()]] {
        let request = Request::new(&identity()).unwrap();
        assert!(request.accept(&answer, &[], now()).is_err(), "{answer:?}");
    }
}

#[test]
fn nothing_prints_a_key() {
    let request = Request::new(&identity()).unwrap();
    assert_eq!(format!("{request:?}").matches("key").count(), 0, "{request:?}");
}
