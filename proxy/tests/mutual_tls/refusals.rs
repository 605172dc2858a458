//! Everything a client can do wrong at the door: refused by its own reason before a byte reaches the application, and
//! without an effect on others.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use rustls::{
    ClientConfig,
    pki_types::{PrivateKeyDer, ServerName},
    version::{TLS12, TLS13},
};
use tokio::time::{Instant, sleep};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    authority::{Shown, client, workload},
    *,
};

const MESH: &[&[u8]] = &[b"pillion/1"];

async fn open(address: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("cart.shop").unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}

/// What comes back to a client that writes `request` over TLS; nothing when it is refused.
async fn ask(address: SocketAddr, config: &Arc<ClientConfig>, request: &[u8]) -> String {
    let mut answer = Vec::new();
    if let Ok(mut stream) = open(address, config).await {
        let _refused = stream.write_all(request).await;
        let _refused = stream.read_to_end(&mut answer).await;
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Waits until a refusal is counted, which may be after the client has noticed.
async fn counted(sidecar: &Sidecar, refusal: Refusal) -> u64 {
    let due = Instant::now() + Duration::from_secs(8);
    loop {
        let failures = sidecar.metrics.tls.failures(Direction::Inbound, refusal);
        if failures > 0 || Instant::now() > due {
            return failures;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// Certificates that are wrong, and why.
fn bad(root: &Authority) -> Vec<(Refusal, Option<Shown>)> {
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let changed = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = workload(CALLER);
        change(&mut params);
        Some(root.sign(&params))
    };
    let key = KeyPair::generate().unwrap();
    let own = workload(CALLER).self_signed(&key).unwrap();
    let mut long: Shown = root.sign(&workload(CALLER));
    long.0.extend((0..5).map(|_| root.intermediate("more").certificate));
    vec![
        (Refusal::NoCertificate, None),
        (Refusal::Expired, changed(&|it| it.not_after = rcgen::date_time_ymd(2021, 1, 1))),
        (Refusal::NotYetValid, changed(&|it| it.not_before = rcgen::date_time_ymd(2119, 1, 1))),
        (Refusal::UnknownCa, Some(Authority::new("other").sign(&workload(CALLER)))),
        (Refusal::UnknownCa, Some(Authority::new("root").sign(&workload(CALLER)))),
        (
            Refusal::SelfSigned,
            Some((vec![own.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))),
        ),
        (
            Refusal::ForeignTrustDomain,
            changed(&|it| it.subject_alt_names = vec![uri("spiffe://other.example/ns/shop/sa/caller")]),
        ),
        (Refusal::BadIdentity, changed(&|it| it.subject_alt_names = vec![uri("spiffe://cluster.local/x")])),
        (Refusal::SeveralIdentities, changed(&|it| it.subject_alt_names.push(uri(CART)))),
        (Refusal::NoIdentity, changed(&|it| it.subject_alt_names.clear())),
        (
            Refusal::CommonNameOnly,
            changed(&|it| {
                it.subject_alt_names.clear();
                it.distinguished_name.push(DnType::CommonName, CALLER);
            }),
        ),
        (
            Refusal::WrongUsage,
            changed(&|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ),
        (Refusal::WrongUsage, changed(&|it| it.extended_key_usages.clear())),
        (Refusal::CaLeaf, changed(&|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        (Refusal::ChainTooLong, Some(long)),
    ]
}

#[test]
fn a_bad_certificate_is_refused_by_its_own_reason() {
    run(async {
        let (app, heard) = application(END, HELLO).await;
        let root = Authority::new("root");
        for (refusal, shown) in bad(&root) {
            let credentials = Some(root.credentials(CART));
            let callee = inbound(credentials, app, PeerTls::Permissive, Protocol::Http1).await;
            // An open connection of somebody else, which must not feel any of this.
            let good = client(Some(root.sign(&workload(CALLER))), &TLS13, &[b"http/1.1"]);
            let mut other = open(callee.address, &good).await.unwrap();
            let config = client(shown, &TLS13, &[b"http/1.1"]);
            let answer = ask(callee.address, &config, &get("/")).await;
            assert_eq!(answer, "", "{refusal:?}");
            assert_eq!(counted(&callee, refusal).await, 1, "{refusal:?}");
            assert!(heard.borrow().is_empty(), "{refusal:?}");
            other.write_all(&get("/")).await.unwrap();
            let mut answer = String::new();
            other.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("hello"), "{answer}");
            heard.borrow_mut().clear();
        }
    });
}

#[test]
fn what_is_no_handshake_of_ours_is_refused() {
    run(async {
        let (app, heard) = application(END, HELLO).await;
        let root = Authority::new("root");
        let shown = || Some(root.sign(&workload(CALLER)));
        let strict = || inbound(Some(root.credentials(CART)), app, PeerTls::Strict, Protocol::Http1);

        let callee = strict().await;
        assert_eq!(ask(callee.address, &client(shown(), &TLS12, MESH), b"x").await, "");
        assert_eq!(counted(&callee, Refusal::Version).await, 1);

        assert_eq!(ask(callee.address, &client(shown(), &TLS13, &[b"spdy/1"]), b"x").await, "");
        assert_eq!(counted(&callee, Refusal::NoProtocol).await, 1);

        for garbage in [&get("/")[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0; 64]] {
            let callee = strict().await;
            let answer = exchange(callee.address, garbage).await;
            assert_eq!(answer, "");
            assert_eq!(counted(&callee, Refusal::NotTls).await, 1);
        }
        drop(TcpStream::connect(callee.address).await.unwrap());
        assert_eq!(counted(&callee, Refusal::Closed).await, 1);
        assert!(heard.borrow().is_empty());
    });
}

#[test]
fn a_hello_that_drips_is_given_up() {
    run(async {
        let (app, heard) = application(END, HELLO).await;
        let root = Authority::new("root");
        for mode in [PeerTls::Strict, PeerTls::Permissive] {
            let callee = inbound(Some(root.credentials(CART)), app, mode, Protocol::Tcp).await;
            let mut stream = TcpStream::connect(callee.address).await.unwrap();
            let start = Instant::now();
            let mut hello =
                b"\x16\x03\x01\x05\x00\x01\x00\x04\xfc\x03\x03".iter().chain(std::iter::repeat(&0));
            while stream.write_all(&[*hello.next().unwrap()]).await.is_ok() {
                sleep(Duration::from_millis(100)).await;
            }
            let lasted = start.elapsed();
            assert!(lasted < Duration::from_secs(8), "{mode:?}: {lasted:?}");
            assert_eq!(counted(&callee, Refusal::Timeout).await, 1, "{mode:?}");
            assert!(heard.borrow().is_empty());
        }
    });
}

#[test]
fn a_permissive_port_takes_both_and_leaves_the_rest_to_the_application() {
    run(async {
        let (app, heard) = application(END, HELLO).await;
        let root = Authority::new("root");
        let credentials = || Some(root.credentials(CART));
        let good = client(Some(root.sign(&workload(CALLER))), &TLS13, &[b"http/1.1"]);
        let nameless = client(Some(root.sign(&workload(CALLER))), &TLS13, &[]);
        let callee = inbound(credentials(), app, PeerTls::Permissive, Protocol::Http1).await;
        let forged = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Forwarded-Client-Cert: URI=x\r\n\
                       X-Pillion-Proto: HTTP/1.1\r\n\r\n";
        assert!(exchange(callee.address, forged).await.ends_with("hello"));
        let seen = String::from_utf8(heard.borrow()[0].clone()).unwrap().to_lowercase();
        assert!(!seen.contains("x-forwarded-client-cert") && !seen.contains("x-pillion-proto"), "{seen}");
        assert!(ask(callee.address, &good, forged).await.ends_with("hello"));
        let seen = String::from_utf8(heard.borrow()[1].clone()).unwrap();
        assert!(seen.contains(&format!("URI={CALLER}\r\n")), "{seen}");
        // Who names no protocol is listened to inside.
        assert!(ask(callee.address, &nameless, forged).await.ends_with("hello"));

        // TLS that is not for us reaches the application as it is: on an opaque port, and on any under DISABLE.
        heard.borrow_mut().clear();
        for mode in [PeerTls::Permissive, PeerTls::Disable] {
            let callee = inbound(credentials(), app, mode, Protocol::Tcp).await;
            let connecting = open(callee.address, &good);
            assert!(
                timeout(Duration::from_millis(200), connecting).await.is_err(),
                "the application is silent"
            );
            assert_eq!(heard.borrow_mut().pop().unwrap().get(..2), Some(&b"\x16\x03"[..]));
        }
        // What is for us does not.
        let callee = inbound(credentials(), app, PeerTls::Permissive, Protocol::Tcp).await;
        let opaque = client(Some(root.sign(&workload(CALLER))), &TLS13, &[b"pillion-tcp/1"]);
        assert!(ask(callee.address, &opaque, b"bytes\r\n\r\n").await.ends_with("hello"));
        assert_eq!(heard.borrow_mut().pop().unwrap(), b"bytes\r\n\r\n");
    });
}

#[test]
fn a_strict_port_without_an_identity_takes_nothing() {
    run(async {
        let (app, heard) = application(END, HELLO).await;
        let callee = inbound(None, app, PeerTls::Strict, Protocol::Http1).await;
        assert_eq!(exchange(callee.address, &get("/")).await, "");
        assert_eq!(counted(&callee, Refusal::NotTls).await, 1);
        let root = Authority::new("root");
        let good = client(Some(root.sign(&workload(CALLER))), &TLS13, MESH);
        assert_eq!(ask(callee.address, &good, b"x").await, "");
        assert_eq!(counted(&callee, Refusal::Unready).await, 1);
        assert!(heard.borrow().is_empty());
        let callee = inbound(None, app, PeerTls::Permissive, Protocol::Http1).await;
        assert!(exchange(callee.address, &get("/")).await.ends_with("hello"));
    });
}
