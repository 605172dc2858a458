use std::time::{Duration, UNIX_EPOCH};

use super::{
    super::tests::{mesh, pem},
    *,
};
use crate::tls::testing::{Authority, workload};

const URI: &str = "spiffe://cluster.local/ns/shop/sa/web";

#[test]
fn a_bad_root_of_the_mesh_is_left_out() {
    let (one, other) = (Authority::new("one"), Authority::new("other"));
    let mut mesh = mesh(&[&one, &other], "");
    assert_eq!(of_mesh(Some(&mesh)), [one.certificate.clone(), other.certificate.clone()]);
    mesh.trust.as_mut().unwrap().roots.insert(1, "nonsense".to_owned());
    assert_eq!(of_mesh(Some(&mesh)), [one.certificate, other.certificate]);
    assert_eq!(of_mesh(None), []);
    assert_eq!(of_mesh(Some(&MeshConfig { trust: None, ..mesh })), []);
}

#[test]
fn a_file_is_used_whole_or_not_at_all() {
    let path = Path::new("roots.pem");
    let authority = Authority::new("one");
    let good = pem(&authority.certificate);
    assert_eq!(roots(path, good.as_bytes()).unwrap(), [authority.certificate]);
    let broken = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    for (text, says) in [
        (String::new(), "roots.pem: no certificate in it"),
        (good.clone() + broken, "roots.pem: not a root certificate"),
        (good.clone() + "-----BEGIN CERTIFICATE-----\n*", "roots.pem: not PEM"),
        (good.repeat(65), "roots.pem: more than 64"),
    ] {
        let error = roots(path, text.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(says), "{error}");
    }
    let missing = read(Path::new("does/not/exist")).unwrap_err().to_string();
    assert!(missing.starts_with("does/not/exist: "), "{missing}");
}

#[test]
fn a_chain_goes_back_to_who_has_signed_it() {
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let (root, other) = (Authority::new("root"), Authority::new("other"));
    let below = root.intermediate("below");
    let (leaf, _key) = below.sign(&workload(URI));
    let chain = [leaf.clone(), below.certificate.clone(), root.certificate.clone()];
    assert_eq!(own_root(&chain), Some(&root.certificate));
    assert_eq!(own_root(&chain[..2]), None, "an intermediate is no root");
    assert_eq!(own_root(&chain[..1]), None);
    assert!(is_signed_by(&chain, &root.certificate, now));
    assert!(is_signed_by(&chain[..2], &root.certificate, now));
    assert!(!is_signed_by(&chain[..1], &root.certificate, now), "the intermediate is missing");
    assert!(!is_signed_by(&chain, &other.certificate, now));
    assert!(!is_signed_by(&[], &root.certificate, now));
}

#[test]
fn fingerprints_are_sha_256() {
    let abc = CertificateDer::from(b"abc".to_vec());
    assert_eq!(fingerprint(&abc), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}
