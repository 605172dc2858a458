//! Mutual TLS between sidecars and towards others: who is let in, who is believed, and what the application sees of it.
//!
//! Both faces run in this process on one thread, with certificates made here.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod authority;
mod refusals;
mod sidecar;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use pillion_policy::{
    authentication::PeerTls,
    cluster::{ClusterTls, Origination, Protocol},
    endpoint::Endpoint,
};
use pillion_proxy::{
    error::Refusal,
    rt::drain::Drain,
    telemetry::{access_log::Direction, metrics::Format},
    tls::credentials::Wallet,
};
use rustls::{ServerConfig, crypto::aws_lc_rs};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::LocalRuntime,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use self::{
    authority::Authority,
    sidecar::{Sidecar, application, exchange, inbound, outbound},
};

const PATIENCE: Duration = Duration::from_secs(30);
const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const CALLER: &str = "spiffe://cluster.local/ns/shop/sa/caller";
const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
const END: &[u8] = b"\r\n\r\n";

/// Runs a test on this thread, within a time.
fn run(test: impl Future<Output = ()>) {
    let runtime = LocalRuntime::new().unwrap();
    runtime.block_on(async { timeout(PATIENCE, test).await.unwrap() });
}

/// An endpoint behind a sidecar that must prove `identity`.
fn behind(address: SocketAddr, identity: &str) -> Endpoint {
    Endpoint { sidecar: true, identity: Some(identity.parse().unwrap()), ..Endpoint::at(address) }
}

/// A request as a client writes it.
fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: app\r\nConnection: close\r\nX-Mine: 1\r\n\r\n").into_bytes()
}

/// Two sidecars of one mesh before an application.
async fn pair(app: SocketAddr, mode: PeerTls, protocol: Protocol) -> (Sidecar, Sidecar) {
    let root = Authority::new("root");
    let callee = inbound(Some(root.credentials(CART)), app, mode, protocol).await;
    let endpoint = behind(callee.address, CART);
    let caller = outbound(Some(root.credentials(CALLER)), endpoint, ClusterTls::Auto, protocol).await;
    (caller, callee)
}

fn handshakes(sidecar: &Sidecar) -> u64 {
    sidecar.metrics.tls.count(Direction::Inbound) + sidecar.metrics.tls.count(Direction::Outbound)
}

#[test]
fn requests_arrive_as_they_were_sent_and_say_who_sent_them() {
    run(async {
        let (app, heard) = application(END, HELLO).await;
        let (caller, callee) = pair(app, PeerTls::Strict, Protocol::Http1).await;
        let forged = b"GET /a%20b?c HTTP/1.1\r\nHost: App:80\r\nConnection: close\r\nx-pillion-proto: HTTP/9\r\n\
                       x-forwarded-client-cert: URI=spiffe://cluster.local/ns/shop/sa/admin\r\nX-Mine: 1\r\n\r\n";
        let answer = exchange(caller.address, forged).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello"), "{answer}");
        let heard = String::from_utf8(heard.borrow()[0].clone()).unwrap();
        assert!(heard.starts_with("GET /a%20b?c HTTP/1.1\r\n"), "{heard}");
        let lower = heard.to_lowercase();
        assert!(lower.contains("\r\nhost: app:80\r\n") && lower.contains("\r\nx-mine: 1\r\n"), "{heard}");
        assert!(!lower.contains("x-pillion-proto") && !lower.contains("admin"), "{heard}");
        let told = format!("x-forwarded-client-cert: by={CART};hash=");
        assert!(
            lower.contains(&told) && lower.contains(&format!(";subject=\"\";uri={CALLER}\r\n")),
            "{heard}"
        );
        assert_eq!((handshakes(&caller), handshakes(&callee)), (1, 1));
        for sidecar in [&caller, &callee] {
            let figures = sidecar.metrics.render(&Drain::new(), Format::Classic);
            assert!(figures.contains("connection_security_policy=\"mutual_tls\"} 1"), "{figures}");
        }
    });
}

#[test]
fn bodies_of_unknown_length_and_trailers_are_carried() {
    run(async {
        const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                                5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n";
        let (app, heard) = application(b"0\r\nx-mine: 1\r\n\r\n", ANSWER).await;
        let (caller, _callee) = pair(app, PeerTls::Strict, Protocol::Http1).await;
        let asked =
            b"POST / HTTP/1.1\r\nHost: app\r\nConnection: close\r\nTE: trailers\r\nTrailer: x-mine\r\n\
                      Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-mine: 1\r\n\r\n";
        let answer = exchange(caller.address, asked).await;
        assert!(answer.contains("hello\r\n") && answer.contains("x-sum: 7\r\n"), "{answer}");
        let heard = String::from_utf8(heard.borrow()[0].clone()).unwrap().to_lowercase();
        assert!(heard.contains("transfer-encoding: chunked") && heard.contains("3\r\nabc\r\n"), "{heard}");
    });
}

#[test]
fn a_head_without_a_body_keeps_its_length() {
    run(async {
        const HEAD: &[u8] =
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Their: 2\r\nConnection: close\r\n\r\n";
        let (app, heard) = application(END, HEAD).await;
        let (caller, _callee) = pair(app, PeerTls::Strict, Protocol::Auto).await;
        let asked = b"HEAD /a HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n";
        let answer = exchange(caller.address, asked).await.to_lowercase();
        assert!(answer.contains("content-length: 5\r\n") && answer.contains("x-their: 2\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        assert!(heard.borrow()[0].starts_with(b"HEAD /a HTTP/1.1\r\n"));
    });
}

#[test]
fn a_client_of_http_1_0_is_answered() {
    run(async {
        let (app, heard) = application(END, HELLO).await;
        let (caller, _callee) = pair(app, PeerTls::Strict, Protocol::Auto).await;
        let answer = exchange(caller.address, b"GET / HTTP/1.0\r\nHost: app\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("\r\n\r\nhello"), "{answer}");
        assert!(heard.borrow()[0].starts_with(b"GET / HTTP/1.1\r\n"));
    });
}

#[test]
fn a_body_is_not_held_back_by_an_expectation() {
    run(async {
        let (app, heard) = application(b"\r\n\r\nabc", HELLO).await;
        let (caller, _callee) = pair(app, PeerTls::Strict, Protocol::Http1).await;
        let mut client = TcpStream::connect(caller.address).await.unwrap();
        let head = b"POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
        client.write_all(head).await.unwrap();
        let mut said = [0; 25];
        client.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"HTTP/1.1 100 Continue\r\n\r\n");
        client.write_all(b"abc").await.unwrap();
        let mut answer = [0; 15];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        assert!(heard.borrow()[0].ends_with(b"\r\n\r\nabc"));
    });
}

#[test]
fn upgrades_take_a_connection_of_their_own() {
    run(async {
        const SWITCH: &[u8] =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nwelcome";
        let (app, heard) = application(END, SWITCH).await;
        let (caller, callee) = pair(app, PeerTls::Permissive, Protocol::Auto).await;
        let asked = b"GET /chat HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
        let answer = exchange(caller.address, asked).await;
        assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\nwelcome"), "{answer}");
        let heard = String::from_utf8(heard.borrow()[0].clone()).unwrap().to_lowercase();
        assert!(heard.contains("upgrade: echo\r\n") && heard.contains(CALLER), "{heard}");
        assert_eq!((handshakes(&caller), handshakes(&callee)), (1, 1));
    });
}

#[test]
fn somebody_else_is_not_spoken_to() {
    run(async {
        let (app, heard) = application(END, HELLO).await;
        let root = Authority::new("root");
        let callee = inbound(Some(root.credentials(CART)), app, PeerTls::Strict, Protocol::Http1).await;
        let other = behind(callee.address, "spiffe://cluster.local/ns/shop/sa/other");
        let credentials = root.credentials(CALLER);
        let caller = outbound(Some(credentials), other, ClusterTls::Auto, Protocol::Http1).await;
        let answer = exchange(caller.address, &get("/")).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("x-pillion-error: TLSID; cannot secure the connection"), "{answer}");
        assert!(caller.metrics.tls.failures(Direction::Outbound, Refusal::WrongIdentity) > 0);
        assert!(heard.borrow().is_empty());
    });
}

#[test]
fn a_caller_that_is_not_believed_learns_so_before_it_has_sent_anything() {
    run(async {
        let (app, heard) = application(END, HELLO).await;
        let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
        let callee = inbound(Some(ours.credentials(CART)), app, PeerTls::Strict, Protocol::Http1).await;
        // It believes the callee, but is signed by somebody the callee does not know.
        let (chain, key) = theirs.sign(&authority::workload(CALLER));
        let material = pillion_proxy::tls::credentials::Material {
            chain,
            key,
            roots: vec![ours.certificate.clone()],
            trust_domain_aliases: Vec::new(),
        };
        let credentials = pillion_proxy::tls::credentials::Credentials::new(material).unwrap();
        let endpoint = behind(callee.address, CART);
        let caller = outbound(Some(credentials), endpoint, ClusterTls::Auto, Protocol::Http1).await;
        let answer = exchange(caller.address, &get("/")).await;
        assert!(answer.contains("x-pillion-error: TLS; ") && answer.contains("refused"), "{answer}");
        assert!(caller.metrics.tls.failures(Direction::Outbound, Refusal::ByPeer) > 0);
        assert!(callee.metrics.tls.failures(Direction::Inbound, Refusal::UnknownCa) > 0);
        assert!(heard.borrow().is_empty());
    });
}

#[test]
fn without_a_certificate_nothing_leaves_in_plain_text() {
    run(async {
        let (app, heard) = application(END, HELLO).await;
        let root = Authority::new("root");
        let callee = inbound(Some(root.credentials(CART)), app, PeerTls::Permissive, Protocol::Http1).await;
        let endpoint = behind(callee.address, CART);
        // One that still awaits its identity, and one that will have none but is told to prove it.
        for (wallet, tls) in
            [(Wallet::awaiting(), ClusterTls::Auto), (Wallet::none(), ClusterTls::Mutual(vec![]))]
        {
            let caller = sidecar::caller(wallet, vec![endpoint.clone()], tls, Protocol::Http1).await;
            let answer = exchange(caller.address, &get("/")).await;
            assert!(
                answer.contains("x-pillion-error: TLSOWN; ") && answer.contains("no certificate yet"),
                "{answer}"
            );
            assert!(heard.borrow().is_empty());
        }
        // And one that has no part in the mesh.
        let caller = outbound(None, endpoint, ClusterTls::Auto, Protocol::Http1).await;
        assert!(exchange(caller.address, &get("/")).await.ends_with("hello"));
        assert_eq!(heard.borrow().len(), 1);
    });
}

#[test]
fn a_new_certificate_is_used_by_new_connections_and_ends_none() {
    run(async {
        const KEPT: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        let (app, heard) = application(END, KEPT).await;
        let (old, new) = (Authority::new("old"), Authority::new("new"));
        let callee = inbound(Some(old.credentials(CART)), app, PeerTls::Strict, Protocol::Http1).await;
        let endpoint = behind(callee.address, CART);
        let credentials = old.credentials(CALLER);
        let caller = outbound(Some(credentials), endpoint, ClusterTls::Auto, Protocol::Http1).await;
        for requests in 1..4 {
            let answer = exchange(caller.address, &get("/")).await;
            assert!(answer.ends_with("hello"), "{answer}");
            assert_eq!(heard.borrow().len(), requests);
            // The next request uses the connection that is open, whoever the authority is meanwhile.
            assert_eq!((handshakes(&caller), handshakes(&callee)), (1, 1));
            callee.wallet.publish(new.credentials(CART));
        }
        // A connection that must be opened anew is judged by what holds now.
        let asked = b"GET / HTTP/1.1\r\nHost: app\r\nConnection: Upgrade, close\r\nUpgrade: echo\r\n\r\n";
        assert!(exchange(caller.address, asked).await.contains("x-pillion-error: TLS; "));
        caller.wallet.publish(new.credentials(CALLER));
        // The endpoint is left alone for a moment after a connection that could not be made.
        loop {
            let answer = exchange(caller.address, asked).await;
            if answer.starts_with("HTTP/1.1 200 ") {
                break;
            }
            assert!(answer.contains("x-pillion-error: "), "{answer}");
        }
        assert_eq!((handshakes(&caller), handshakes(&callee)), (2, 2));
    });
}

#[test]
fn calls_in_http2_stay_what_they_are() {
    run(async {
        // What a server of HTTP/2 says first, and its answer to the first stream: 204.
        let (app, heard) = application(b"SM\r\n\r\n", b"\0\0\0\x04\0\0\0\0\0").await;
        let (caller, callee) = pair(app, PeerTls::Strict, Protocol::Http2).await;
        let asked = exchange(caller.address, &get("/")).await;
        // The application then closes, which is told as what it is.
        assert!(asked.contains("x-pillion-error: U"), "{asked}");
        assert!(heard.borrow()[0].starts_with(b"PRI * HTTP/2.0\r\n\r\nSM"));
        assert_eq!((handshakes(&caller), handshakes(&callee)), (1, 1));
    });
}

#[test]
fn endpoints_with_and_without_a_sidecar_share_a_cluster() {
    run(async {
        let (app, heard) = application(END, HELLO).await;
        let root = Authority::new("root");
        let callee = inbound(Some(root.credentials(CART)), app, PeerTls::Strict, Protocol::Http1).await;
        let both = vec![behind(callee.address, CART), Endpoint::at(app)];
        let wallet = Wallet::awaiting();
        wallet.publish(root.credentials(CALLER));
        let caller = sidecar::caller(wallet, both, ClusterTls::Auto, Protocol::Http1).await;
        for _ in 0..20 {
            let answer = exchange(caller.address, &get("/")).await;
            assert!(answer.ends_with("hello"), "{answer}");
        }
        let heard =
            heard.borrow().iter().map(|it| String::from_utf8(it.clone()).unwrap()).collect::<Vec<_>>();
        assert!(
            heard.iter().all(|it| it.starts_with("GET / HTTP/1.1\r\n") && !it.contains("x-pillion-proto"))
        );
        let secured = heard.iter().filter(|it| it.contains("x-forwarded-client-cert")).count();
        assert!((1..20).contains(&secured), "{secured}");
    });
}

#[test]
fn tls_is_originated_towards_others() {
    run(async {
        let (chain, key) = Authority::new("web").sign(&authority::workload(CART));
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::at(listener.local_addr().unwrap());
        let careless = Origination { insecure_skip_verify: true, ..Origination::default() };
        let nowhere = Origination { roots: Some("/nowhere".to_owned()), ..Origination::default() };
        let originate = |policy: Origination| ClusterTls::Originate(Box::new(policy));
        let caller = outbound(None, endpoint.clone(), originate(careless), Protocol::Http1).await;
        let serve = async {
            let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
            assert_eq!(stream.get_ref().1.server_name(), Some("app"), "the service is asked for");
            let mut heard = vec![0; 5];
            stream.read_exact(&mut heard).await.unwrap();
            stream.write_all(HELLO).await.unwrap();
            stream.shutdown().await.unwrap();
            heard
        };
        let request = get("/");
        let (answer, heard) = tokio::join!(exchange(caller.address, &request), serve);
        assert!(answer.ends_with("hello"), "{answer}");
        assert_eq!(heard, b"GET /");
        // Settings that cannot be used are no reason for plain text.
        let caller = outbound(None, endpoint, originate(nowhere), Protocol::Http1).await;
        let answer = exchange(caller.address, &request).await;
        assert!(
            answer.contains("x-pillion-error: TLSOWN; ") && answer.contains("cannot be used"),
            "{answer}"
        );
        assert!(caller.metrics.tls.failures(Direction::Outbound, Refusal::BadSettings) > 0);
    });
}
