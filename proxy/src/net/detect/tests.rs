use proptest::prelude::*;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::*;

const SAMPLES: [(&[u8], Sniff); 26] = [
    (b"", Sniff::NeedMore),
    (b"G", Sniff::NeedMore),
    (b"GET", Sniff::NeedMore),
    (b"GET ", Sniff::Is(Protocol::Http1)),
    (b"GET nonsense", Sniff::Is(Protocol::Http1)),
    (b"GETS nonsense", Sniff::Is(Protocol::Opaque)),
    (b"PROPFIND /a", Sniff::Is(Protocol::Http1)),
    (b"VERSION-CONTROL *", Sniff::Is(Protocol::Http1)),
    (b"PURGE ht", Sniff::NeedMore),
    (b"PURGE HTTP://a/", Sniff::Is(Protocol::Http1)),
    (b"PURGE hat", Sniff::Is(Protocol::Opaque)),
    (b"CONNECT a:443 HTTP/1.1", Sniff::Is(Protocol::Http1)),
    (b"\r\n\r\nPOST ", Sniff::Is(Protocol::Http1)),
    (b"\r\n\r\n\r\n\r\n\r\nPOST ", Sniff::Is(Protocol::Opaque)),
    (b"P", Sniff::NeedMore),
    (b"PRI * HTTP/2.", Sniff::NeedMore),
    (b"PRI * HTTP/2.0\r\n", Sniff::Is(Protocol::Http2)),
    (b"PRI * HTTP/1.1", Sniff::Is(Protocol::Http1)),
    (b"\x16\x03\x01\x02\x00", Sniff::NeedMore),
    (b"\x16\x03\x01\x02\x00\x01", Sniff::Is(Protocol::Tls)),
    (b"\x16\x03\x01\x02\x00\x02", Sniff::Is(Protocol::Opaque)),
    (b"\x16\x02", Sniff::Is(Protocol::Opaque)),
    (b"*1\r\n$4\r\nPING\r\n", Sniff::Is(Protocol::Opaque)),
    (b"PING\r\n", Sniff::Is(Protocol::Opaque)),
    (b"AMQP\x00\x00\x09\x01", Sniff::Is(Protocol::Opaque)),
    (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Sniff::Is(Protocol::Opaque)),
];

#[test]
fn samples() {
    for (bytes, expected) in SAMPLES {
        assert_eq!(sniff(bytes), expected, "{}", bytes.escape_ascii());
    }
}

fn client_bytes() -> impl Strategy<Value = Vec<u8>> {
    let sample = prop::sample::select(SAMPLES.map(|(bytes, _)| bytes).to_vec());
    // Anything at all, and samples with anything behind them: chance alone rarely makes a method.
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..96),
        (sample, prop::collection::vec(any::<u8>(), 0..96)).prop_map(|(start, rest)| [start, &rest].concat()),
        "[\r\n]{0,9}[A-Z-]{1,30} [ /h*a-z]{0,40}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn a_decision_stands_whatever_follows(bytes in client_bytes()) {
        let mut decided = None;
        for end in 0..=bytes.len() {
            match (sniff(&bytes[..end]), decided) {
                (Sniff::NeedMore, before) => {
                    prop_assert_eq!(before, None);
                    prop_assert!(end < 64);
                }
                (Sniff::Is(protocol), None) => decided = Some(protocol),
                (Sniff::Is(protocol), Some(before)) => prop_assert_eq!(protocol, before),
            }
        }
    }
}

async fn detected(parts: &[&[u8]], close: bool, timeout: Duration) -> Detection {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.set_nodelay(true).unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let send = async {
        for part in parts {
            client.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        if close {
            client.shutdown().await.unwrap();
        }
        client
    };
    let (detection, _client) = tokio::join!(detect(&mut server, timeout), send);
    detection.unwrap()
}

#[tokio::test]
async fn detects_on_a_socket() {
    const LONG: Duration = Duration::from_secs(10);
    let http = detected(&[b"G", b"ET / HTTP/1.1\r\n"], false, LONG).await;
    assert_eq!((http.protocol, http.how), (Protocol::Http1, How::Sniffed));
    assert!(http.bytes.starts_with(b"GET "));

    let closed = detected(&[b"PO"], true, LONG).await;
    assert_eq!((closed.protocol, closed.how), (Protocol::Opaque, How::Closed));
    assert_eq!(closed.bytes, "PO");

    let silent = detected(&[b"PO"], false, Duration::from_millis(50)).await;
    assert_eq!((silent.protocol, silent.how), (Protocol::Opaque, How::TimedOut));
    assert_eq!(silent.bytes, "PO");
}
