use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pillion_policy::{
    identity::{Identity, TrustDomain},
    name::Label,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize, SanType,
    SignatureAlgorithm,
};
use x509_parser::{
    certificate::X509Certificate, certification_request::X509CertificationRequest,
    extensions::ParsedExtension, prelude::FromDer,
};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_000_000)
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn identity() -> Identity {
    "spiffe://cluster.local/ns/shop/sa/order".parse().unwrap()
}

fn authority() -> Authority {
    let key = key();
    let root = Authority::root(&key, now()).unwrap();
    Authority::new(key, vec![root]).unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

fn request(key: &KeyPair, names: Vec<SanType>) -> String {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn own(key: &KeyPair) -> String {
    request(key, vec![uri(identity().uri())])
}

fn sign(request: &str) -> Result<Issued, Refusal> {
    authority().sign(request, &identity(), DAY, now())
}

fn uris(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "the subject is empty");
    names.value.general_names.iter().map(ToString::to_string).collect()
}

#[test]
fn a_certificate_names_its_holder_and_what_it_is_for() {
    let (authority, key) = (authority(), key());
    let issued = authority.sign(&own(&key), &identity(), DAY, now()).unwrap();
    assert_eq!(issued.chain.len(), 2);
    assert_eq!(issued.chain[1].fingerprint(), authority.signer().fingerprint());
    assert!(issued.chain[0].is_signed_by(&issued.chain[1]));
    assert!(!issued.chain[0].is_authority());
    assert!(issued.chain[0].has_key(key.public_key_raw()));
    let (_, leaf) = X509Certificate::from_der(issued.chain[0].der()).unwrap();
    assert_eq!(uris(&leaf), [format!("URI({})", identity().uri())]);
    assert_eq!(leaf.subject().iter().count(), 0);
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.any);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    let seconds =
        |time: SystemTime| i64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    assert_eq!(leaf.validity().not_before.timestamp(), seconds(now()) - 60);
    assert_eq!(leaf.validity().not_after.timestamp(), seconds(now() + DAY));
    assert_eq!(issued.not_after, now() + DAY);
    assert_eq!(leaf.raw_serial_as_string().replace(':', ""), issued.serial);
}

#[test]
fn a_certificate_names_the_key_that_signed_it() {
    let authority = authority();
    let issued = authority.sign(&own(&key()), &identity(), DAY, now()).unwrap();
    let (_, leaf) = X509Certificate::from_der(issued.chain[0].der()).unwrap();
    let (_, root) = X509Certificate::from_der(issued.chain[1].der()).unwrap();
    let of = |certificate: &X509Certificate<'_>| {
        certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0.to_vec()),
            _ => None,
        })
    };
    let by = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(key) => key.key_identifier.as_ref().map(|key| key.0.to_vec()),
        _ => None,
    });
    assert!(of(&leaf).is_some());
    assert!(by.is_some());
    assert_eq!(by, of(&root));
}

#[test]
fn serial_numbers_differ_even_for_one_key() {
    let (authority, request) = (authority(), own(&key()));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let issued = authority.sign(&request, &identity(), DAY, now()).unwrap();
        assert_eq!(issued.serial.len(), 32);
        assert!(seen.insert(issued.serial));
    }
}

#[test]
fn keys_that_are_strong_enough_are_signed() {
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    for key in [rsa, p384, key()] {
        let issued = sign(&own(&key)).unwrap();
        assert!(issued.chain[0].has_key(key.public_key_raw()));
    }
    // Names may be left out: they are what the caller has proved.
    assert!(sign(&request(&key(), Vec::new())).is_ok());
}

#[test]
fn a_request_for_another_name_is_refused() {
    let me = identity().uri().to_owned();
    for names in [
        vec![uri("spiffe://cluster.local/ns/shop/sa/user")],
        vec![uri("spiffe://cluster.local/ns/other/sa/order")],
        vec![uri("spiffe://other.domain/ns/shop/sa/order")],
        vec![uri("SPIFFE://cluster.local/ns/shop/sa/order")],
        vec![uri(&me), uri("spiffe://cluster.local/ns/shop/sa/user")],
        vec![uri(&me), dns("order.shop.svc.cluster.local")],
        vec![dns("order")],
        vec![uri(&me), SanType::IpAddress([10, 0, 0, 1].into())],
        vec![uri(&me), SanType::Rfc822Name("a@b".try_into().unwrap())],
    ] {
        let refused = sign(&request(&key(), names.clone())).unwrap_err();
        assert_eq!(refused.label(), "name", "{names:?}: {refused}");
        assert!(refused.to_string().contains(&me), "{refused}");
    }
}

#[test]
fn a_request_to_be_an_authority_is_refused() {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let request = params.serialize_request(&key()).unwrap().pem().unwrap();
    assert_eq!(sign(&request).unwrap_err(), Refusal::Authority);
}

#[test]
fn what_cannot_be_read_is_refused() {
    let good = own(&key());
    let mut long = good.clone();
    long.push_str(&"\n".repeat(20_000));
    let certificate = authority().signer().pem();
    for bad in ["", "hello", "-----BEGIN CERTIFICATE REQUEST-----\n", &good[..200], &long, &certificate] {
        assert_eq!(sign(bad).unwrap_err(), Refusal::Malformed, "{bad:?}");
    }
}

#[test]
fn a_request_that_was_altered_is_refused() {
    let section = pem::parse(own(&key())).unwrap();
    let (_, parsed) = X509CertificationRequest::from_der(section.contents()).unwrap();
    let signed = parsed.certification_request_info.raw;
    let start = section.contents().windows(signed.len()).position(|window| window == signed).unwrap();
    for position in start..start + signed.len() {
        let mut der = section.contents().to_vec();
        der[position] ^= 1;
        let text = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der));
        assert!(sign(&text).is_err(), "byte {position}");
    }
    // What follows the request is not covered by its signature.
    let mut der = section.contents().to_vec();
    der.push(0);
    assert_eq!(
        sign(&pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der))).unwrap_err(),
        Refusal::Malformed
    );
}

#[test]
fn a_key_of_another_kind_is_refused() {
    let kinds: [&'static SignatureAlgorithm; 2] = [&PKCS_ED25519, &rcgen::PKCS_ECDSA_P521_SHA512];
    for kind in kinds {
        let refused = sign(&own(&KeyPair::generate_for(kind).unwrap())).unwrap_err();
        assert_eq!(refused.label(), "key", "{refused}");
    }
    let refused = sign(WEAK).unwrap_err();
    assert_eq!(refused, Refusal::Key("RSA with 1024 bits".to_owned()));
}

/// `openssl req -new -newkey rsa:1024 -nodes -subj /CN=weak`
const WEAK: &str = include_str!("tests/weak.csr");

#[test]
fn no_certificate_outlives_its_authority() {
    let authority = authority();
    let end = authority.signer().not_after();
    let issued = authority.sign(&own(&key()), &identity(), DAY, end - DAY / 2).unwrap();
    assert_eq!(issued.not_after, end);
    let late = authority.sign(&own(&key()), &identity(), DAY, end);
    assert_eq!(late.unwrap_err(), Refusal::Expired);
}

#[test]
fn the_server_has_further_names() {
    let names = Names { dns: vec!["localhost".to_owned()], ip: vec![[127, 0, 0, 1].into()] };
    let issued = authority().sign_own(&key(), &identity(), &names, DAY, now()).unwrap();
    let (_, leaf) = X509Certificate::from_der(issued.chain[0].der()).unwrap();
    let expected =
        [format!("URI({})", identity().uri()), "DNSName(localhost)".into(), "IPAddress(7f:00:00:01)".into()];
    assert_eq!(uris(&leaf), expected);
}

/// A certificate for a key, signed by another authority.
fn intermediate(key: &KeyPair, issuer: &Issuer<'_, KeyPair>, is_ca: IsCa) -> Certificate {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "intermediate");
    params.is_ca = is_ca;
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_after = (now() + 30 * DAY).into();
    Certificate::new(params.signed_by(key, issuer).unwrap().into()).unwrap()
}

fn root() -> (Issuer<'static, KeyPair>, Certificate) {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "somebody's root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = key();
    let certificate = Certificate::new(params.self_signed(&key).unwrap().into()).unwrap();
    (Issuer::new(params, key), certificate)
}

#[test]
fn an_intermediate_signs_with_its_chain() {
    let ((issuer, root), key) = (root(), key());
    let middle = intermediate(&key, &issuer, IsCa::Ca(BasicConstraints::Unconstrained));
    let other = Authority::root(&self::key(), now()).unwrap();
    let chain = vec![middle.clone(), root.clone(), other.clone()];
    let authority = Authority::new(key, chain).unwrap();
    let issued = authority.sign(&own(&self::key()), &identity(), 60 * DAY, now()).unwrap();
    let fingerprints: Vec<&str> = issued.chain.iter().skip(1).map(Certificate::fingerprint).collect();
    assert_eq!(fingerprints, [middle.fingerprint(), root.fingerprint()]);
    assert_eq!(issued.not_after, middle.not_after());
    assert_eq!(authority.trust().signer, root.fingerprint());
    assert_eq!(authority.trust().roots, [root.pem(), other.pem()]);
    assert_eq!(authority.intermediates().len(), 1);
}

#[test]
fn what_makes_no_chain_is_refused() {
    let ((issuer, root), key) = (root(), key());
    let middle = intermediate(&key, &issuer, IsCa::Ca(BasicConstraints::Unconstrained));
    let leaf = intermediate(&key, &issuer, IsCa::ExplicitNoCa);
    let other = self::root().1;
    for (chain, reason) in [
        (vec![], "not a root"),
        (vec![root.clone()], "not the one of the key"),
        (vec![root.clone(), middle.clone()], "not the one of the key"),
        (vec![middle.clone()], "not a root"),
        (vec![middle.clone(), other], "not signed by the next"),
        (vec![leaf, root.clone()], "not the certificate of an authority"),
        (vec![middle.clone(), root, middle], "not a root"),
    ] {
        let key = KeyPair::from_pem(&key.serialize_pem()).unwrap();
        let refused = Authority::new(key, chain.clone()).unwrap_err().to_string();
        assert!(refused.contains(reason), "{chain:?}: {refused}");
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn refused(state: &StateDir) -> String {
    format!("{:#}", state.authority(now()).unwrap_err())
}

#[test]
fn a_root_is_made_once() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("state");
    let state = StateDir::open(&dir).unwrap();
    let first = state.authority(now()).unwrap();
    let again = StateDir::open(&dir).unwrap().authority(now() + DAY).unwrap();
    assert_eq!(first.trust(), again.trust());
    assert_eq!(first.signer().subject(), "CN=Pillion root");
    assert_eq!(first.signer().not_after(), now() + 3650 * DAY);
    assert_eq!(fs::read_to_string(dir.join("root.pem")).unwrap(), first.trust().roots[0]);
    assert_eq!(
        (mode(&dir), mode(&dir.join("root.pem")), mode(&dir.join("root-key.pem"))),
        (0o700, 0o644, 0o600)
    );
    let signed = again.sign(&own(&key()), &identity(), DAY, now()).unwrap();
    assert!(signed.chain[0].is_signed_by(first.signer()));
    let (_, root) = X509Certificate::from_der(first.signer().der()).unwrap();
    assert_eq!(root.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(0));
}

#[test]
fn the_token_key_is_made_once_and_kept_private() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    let first = state.token_key().unwrap();
    assert_eq!(first.serialize_pem(), state.token_key().unwrap().serialize_pem());
    assert_eq!(mode(&dir.path().join("token-key.pem")), 0o600);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["token-key.pem"]);
}

#[test]
fn a_state_that_is_not_whole_is_refused_and_stays_as_it_is() {
    let fresh = || {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        state.authority(now()).unwrap();
        (dir, state)
    };
    for (file, content, reason) in [
        ("root-key.pem", Some("garbage".to_owned()), "root-key.pem holds no private key"),
        ("root-key.pem", Some(String::new()), "root-key.pem holds no private key"),
        ("root-key.pem", Some(key().serialize_pem()), "is the key of no certificate"),
        ("root-key.pem", None, "root-key.pem is not: restore it"),
        ("root.pem", None, "root.pem is not: restore it"),
        ("root.pem", Some(String::new()), "it holds no certificate"),
        ("root.pem", Some("-----BEGIN CERTIFICATE-----\nAAAA\n".to_owned()), "it is not PEM"),
    ] {
        let (dir, state) = fresh();
        let path = dir.path().join(file);
        match &content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let told = refused(&state);
        assert!(told.contains(reason), "{file} {content:?}: {told}");
        assert_eq!(fs::read_to_string(&path).ok(), content, "{file} was touched");
    }
    let (dir, state) = fresh();
    let half = fs::read_to_string(dir.path().join("root-key.pem")).unwrap();
    fs::write(dir.path().join("root-key.pem"), &half[..half.len() / 2]).unwrap();
    let told = refused(&state);
    assert!(told.contains("holds no private key") && !told.contains(&half[40..60]), "{told}");
    let (dir, state) = fresh();
    fs::set_permissions(dir.path().join("root-key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refused(&state).contains("chmod 600"));
}

#[test]
fn nothing_shows_a_key() {
    let key = key();
    let secret = key.serialize_pem();
    let root = Authority::root(&key, now()).unwrap();
    let shown = format!("{:?}", Authority::new(key, vec![root]).unwrap());
    assert!(shown.contains("Pillion root"), "{shown}");
    for line in secret.lines() {
        assert!(!shown.contains(line), "{shown}");
    }
}

#[test]
fn a_certificate_made_by_hand_is_one_of_the_authority_s() {
    let dir = tempfile::tempdir().unwrap();
    let (state, out) = (dir.path().join("state"), dir.path().join("out"));
    let domain = TrustDomain::new("cluster.local").unwrap();
    let (namespace, account) = (Label::new("shop").unwrap(), Label::new("legacy").unwrap());
    for _ in 0..2 {
        create_certificate(&state, &domain, (&namespace, &account), Duration::from_secs(3600), &out).unwrap();
    }
    let read = |name: &str| fs::read(out.join(name)).unwrap();
    let chain = Certificate::read_all(&read("chain.pem")).unwrap();
    let roots = Certificate::read_all(&read("root.pem")).unwrap();
    assert_eq!(chain[0].identity().unwrap().uri(), "spiffe://cluster.local/ns/shop/sa/legacy");
    assert!(chain.len() == 1 && chain[0].is_signed_by(&roots[0]));
    let key = KeyPair::from_pem(std::str::from_utf8(&read("key.pem")).unwrap()).unwrap();
    assert!(chain[0].has_key(rcgen::PublicKeyData::der_bytes(&key)));
    let mode = out.join("key.pem").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
