//! What makes credentials and what does not, and how they are handed on.

use rcgen::SerialNumber;

use super::*;
use crate::tls::testing::{Authority, workload};

const SHOP: &str = "spiffe://cluster.local/ns/shop/sa/cart";

#[test]
fn material_is_read_and_joined() {
    let authority = Authority::new("root");
    let mut params = workload(SHOP);
    params.serial_number = Some(SerialNumber::from_slice(&[0x1a, 0x2b]));
    let credentials = Credentials::new(authority.material(&params)).unwrap();
    assert_eq!(credentials.identity().uri(), SHOP);
    assert_eq!(credentials.serial(), "1a2b");
    let year = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_secs() / 31_556_952 + 1970;
    // 1 January is still in the year before by the mean length of a year.
    assert_eq!(year(credentials.not_before() + Duration::from_secs(86_400)), 2020);
    assert_eq!(year(credentials.not_after() + Duration::from_secs(86_400)), 2120);
    assert_eq!(credentials.roots(), [authority.certificate]);
    assert_eq!(credentials.chain().len(), 1);
}

#[test]
fn what_does_not_go_together_is_refused() {
    let authority = Authority::new("root");
    let material = || authority.material(&workload(SHOP));
    let error = |material| Credentials::new(material).unwrap_err();
    assert!(matches!(error(Material { chain: vec![], ..material() }), CredentialsError::NoCertificate));
    assert!(matches!(error(Material { roots: vec![], ..material() }), CredentialsError::NoRoot));
    let garbage = CertificateDer::from(vec![1, 2, 3]);
    assert!(matches!(
        error(Material { roots: vec![authority.certificate.clone(), garbage.clone()], ..material() }),
        CredentialsError::Root { number: 2, .. }
    ));
    assert!(matches!(
        error(Material { chain: vec![garbage], ..material() }),
        CredentialsError::Certificate(Refusal::Malformed)
    ));
    assert!(matches!(error(Material { key: material().key, ..material() }), CredentialsError::Key(_)));
    let nobody = authority.material(&workload("spiffe://cluster.local"));
    assert!(matches!(error(nobody), CredentialsError::Certificate(Refusal::BadIdentity)));
}

#[test]
fn no_secret_is_printed() {
    let material = Authority::new("root").material(&workload(SHOP));
    let key = material.key.secret_der().to_vec();
    let mut printed = format!("{material:?}");
    printed.push_str(&format!("{:?}", Credentials::new(material).unwrap()));
    let text = format!("{:?}", &key[key.len() / 2..key.len() / 2 + 8]);
    assert!(!printed.contains(text.trim_matches(['[', ']'])), "{printed}");
}

#[test]
fn the_mesh_speaks_the_newest_only() {
    let credentials = Credentials::new(Authority::new("root").material(&workload(SHOP))).unwrap();
    let provider = Arc::clone(credentials.acceptor().crypto_provider());
    let groups: Vec<_> = provider.kx_groups.iter().map(|group| group.name()).collect();
    assert_eq!(groups, [rustls::NamedGroup::X25519MLKEM768, rustls::NamedGroup::X25519]);
    assert!(provider.cipher_suites.iter().all(|suite| suite.tls13().is_some()));
    let connector = credentials.connector(Some(Alpn::Mesh), Arc::from([]));
    assert_eq!(connector.alpn_protocols, [b"pillion/1"]);
    assert_eq!(credentials.acceptor().send_tls13_tickets, 0);
}

#[test]
fn a_wallet_tells_of_what_is_put_in() {
    assert!(!Wallet::none().is_configured());
    let wallet = Wallet::awaiting();
    assert!(wallet.is_configured() && wallet.load().is_none());
    let mut news = wallet.subscribe();
    assert!(!news.has_changed().unwrap());
    for times in 1..3 {
        wallet.publish(Authority::new("root").credentials(&SHOP.parse().unwrap()));
        assert_eq!(*news.borrow_and_update(), times);
    }
    assert_eq!(wallet.load().unwrap().identity().uri(), SHOP);
}
