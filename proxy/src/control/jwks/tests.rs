//! Key sets over HTTP, from a server at the level of bytes.

use pillion_policy::{
    authentication::{JwtKeys, JwtRule, PeerTls},
    telemetry::Telemetry,
    workload::WorkloadPolicy,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    jwt::testing::Signer,
    upstream::Guards,
    view::{LiveWorkload, View},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server that gives this answer to whatever it is asked.
async fn server(answer: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/keys?x=1", listener.local_addr().unwrap());
    crate::rt::task::spawn_connection("server", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0)
            {
            }
            assert!(head.starts_with(b"GET /keys?x=1 HTTP/1.1\r\nhost: 127.0.0.1:"), "{head:?}");
            let _gone = stream.write_all(answer.as_bytes()).await;
        }
    });
    uri
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_set_is_fetched_or_the_reason_told() {
    let set = Signer::new(jsonwebtoken::Algorithm::ES256).set();
    let padded = format!("{set}{}", " ".repeat(MAX_BYTES));
    for (answer, expected) in [
        (ok(&set), None),
        (format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{set}"), None),
        (ok("{}"), Some("it is not a JSON Web Key Set")),
        (ok(&padded), Some("the response is longer")),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
            Some("the response has status 404"),
        ),
        ("nonsense\r\n\r\n".to_owned(), Some("no complete response")),
        (String::new(), Some("no complete response")),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_owned(), Some("the response is longer")),
    ] {
        let uri = server(answer.clone()).await;
        let fetched = timeout(PATIENCE, fetch(&uri)).await.unwrap();
        match (fetched, expected) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => assert!(error.to_string().starts_with(expected), "{error}"),
            (fetched, _) => panic!("{answer:.60}: {fetched:?}"),
        }
    }
    for bad in ["", "ftp://a/", "/keys", "http://"] {
        assert!(matches!(fetch(bad).await, Err(FetchError::Uri)), "{bad}");
    }
}

#[tokio::test]
async fn the_sets_of_the_rules_in_force_are_kept() {
    let uri = server(ok(&Signer::new(jsonwebtoken::Algorithm::ES256).set())).await;
    let rule = JwtRule {
        issuer: "issuer".to_owned(),
        audiences: Vec::new(),
        keys: JwtKeys::Remote(uri),
        from_headers: Vec::new(),
        from_params: Vec::new(),
        from_cookies: Vec::new(),
        output_payload_to: None,
        output_claims: Vec::new(),
        forward: false,
        timeout: Duration::from_secs(5),
    };
    let policy = WorkloadPolicy {
        name: "shop/app".parse().unwrap(),
        identity: None,
        ports: Vec::new(),
        peer_tls: PeerTls::default(),
        port_tls: Default::default(),
        authorization: Vec::new(),
        authentication: vec![rule],
        telemetry: Telemetry::default(),
    };
    let (views, metrics) = (Arc::new(Views::new(Instant::now())), Metrics::new());
    let own = Arc::new(LiveWorkload::new(Arc::new(policy), &mut Guards::default()));
    let keys = Arc::clone(own.issuers().unwrap().sources().next().unwrap());
    let wait = async {
        views.publish(View::new(1, None, Some(own)));
        keys.newer_than(None, Instant::now()).await
    };
    let arrived = tokio::select! {
        never = run(Arc::clone(&views), Arc::clone(&metrics)) => match never {},
        arrived = timeout(PATIENCE, wait) => arrived.unwrap(),
    };
    assert!(arrived && keys.current().is_some());
    assert_eq!((metrics.access.keys_fetched.get(), metrics.access.keys_failed.get()), (1, 0));
}
