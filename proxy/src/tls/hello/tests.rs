use std::sync::Arc;

use proptest::prelude::*;
use rustls::{ClientConnection, pki_types::ServerName};

use super::*;
use crate::tls::{Alpn, testing::Authority};

/// The first bytes of a client of the mesh.
fn client(sni: &str) -> Vec<u8> {
    let identity = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
    let config = Authority::new("root").credentials(&identity).connector(Some(Alpn::Mesh), Arc::from([]));
    let name = ServerName::try_from(sni.to_owned()).unwrap();
    let mut bytes = Vec::new();
    ClientConnection::new(config, name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

fn offer(sni: Option<&str>) -> Hello {
    Hello::Is(Offer { alpn: vec![Box::from(*b"pillion/1")], sni: sni.map(Box::from) })
}

#[test]
fn a_client_says_what_it_offers() {
    assert_eq!(Listening::default().hear(&client("cart.shop")), offer(Some("cart.shop")));
    assert_eq!(Listening::default().hear(&client("127.0.0.1")), offer(None));
}

#[test]
fn it_may_say_so_in_pieces() {
    let bytes = client("cart.shop");
    for size in [1, 7, 1000] {
        let mut listening = Listening::default();
        let mut answers: Vec<_> = bytes.chunks(size).map(|piece| listening.hear(piece)).collect();
        assert_eq!(answers.pop(), Some(offer(Some("cart.shop"))));
        assert!(answers.iter().all(|answer| *answer == Hello::NeedMore), "{size}");
    }
}

#[test]
fn what_is_none_is_none() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", b"\x80\x2e\x01\x00\x02"]
    {
        assert_eq!(Listening::default().hear(bytes), Hello::NotTls, "{bytes:?}");
    }
    // A message that never ends.
    let mut listening = Listening::default();
    assert_eq!(listening.hear(b"\x16\x03\x01\x40\x00\x01\x00\xff\xff"), Hello::NeedMore);
    let answers: Vec<_> = (0..64).map(|_| listening.hear(&[0; 1024])).collect();
    assert_eq!(answers.last(), Some(&Hello::NotTls));
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..600), cut in 0_usize..600) {
        let mut listening = Listening::default();
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        listening.hear(first);
        listening.hear(second);
        // What begins well goes further.
        let begun = [&b"\x16\x03\x01"[..], &bytes].concat();
        Listening::default().hear(&begun);
    }

    #[test]
    fn nor_is_a_hello_with_errors(at in any::<prop::sample::Index>(), with in 1_u8.., cut in any::<prop::sample::Index>()) {
        let mut bytes = client("cart.shop");
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        let (first, second) = bytes.split_at(cut.index(bytes.len()));
        let mut listening = Listening::default();
        let before = listening.hear(first);
        let after = listening.hear(second);
        prop_assert!(before == Hello::NeedMore || before == Hello::NotTls || after == Hello::NotTls);
    }
}
