use http_body_util::{BodyExt, Empty};
use serde_json::json;
use tokio::net::TcpStream;

use super::*;
use crate::{error::Flag, net::socket, rt::task, telemetry::Record};

struct Fake {
    missing: Option<&'static str>,
}

impl AdminSource for Fake {
    fn ready(&self) -> Result<(), String> {
        self.missing.map_or(Ok(()), |missing| Err(missing.to_owned()))
    }

    fn certs(&self) -> serde_json::Value {
        json!({"certificate": null})
    }

    async fn config_dump(&self) -> serde_json::Value {
        json!({"config": 1})
    }

    async fn endpoints(&self) -> serde_json::Value {
        json!([{"cluster": "a"}])
    }

    async fn breakers(&self) -> serde_json::Value {
        json!([])
    }
}

fn admin(missing: Option<&'static str>) -> Admin<Fake> {
    Admin {
        source: Fake { missing },
        metrics: Metrics::new(),
        journal: Journal::none(),
        drain: Drain::new(),
        log: None,
    }
}

fn request(method: &str, uri: &str) -> Request<()> {
    Request::builder().method(method).uri(uri).body(()).unwrap()
}

async fn answer(admin: &Admin<Fake>, method: &str, uri: &str) -> (u16, String) {
    let page = admin.answer(&request(method, uri)).await;
    let status = page.status().as_u16();
    let body = page.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn readiness_says_why_not() {
    assert_eq!(answer(&admin(None), "GET", "/ready").await, (200, "ready\n".to_owned()));
    let waiting = admin(Some("no configuration yet"));
    assert_eq!(
        answer(&waiting, "GET", "/ready").await,
        (503, "not ready: no configuration yet\n".to_owned())
    );
    assert_eq!(answer(&waiting, "GET", "/live").await.0, 200);
}

#[tokio::test]
async fn only_a_post_drains() {
    let admin = admin(None);
    let page = admin.answer(&request("GET", "/drain")).await;
    assert_eq!(
        (page.status().as_u16(), &page.headers()[header::ALLOW]),
        (405, &HeaderValue::from_static("POST"))
    );
    assert!(!admin.drain.is_draining());
    assert_eq!(answer(&admin, "POST", "/drain").await.0, 200);
    assert!(admin.drain.is_draining());
    assert_eq!(answer(&admin, "GET", "/ready").await, (503, "draining\n".to_owned()));
    assert_eq!(answer(&admin, "GET", "/live").await.0, 200);
}

#[tokio::test]
async fn pages() {
    let admin = admin(None);
    for (uri, holds) in [
        ("/", "POST /drain"),
        ("/help", "GET  /metrics"),
        ("/metrics", "pillion_build_info{version="),
        ("/config_dump", "\"config\": 1"),
        ("/certs", "\"certificate\": null"),
        ("/endpoints", "\"cluster\": \"a\""),
        ("/explain", "\"within_seconds\": 300"),
        ("/tap", ""),
    ] {
        let (status, body) = answer(&admin, "GET", uri).await;
        assert!(status == 200 && body.contains(holds), "{uri}: {status} {body}");
        assert_eq!(answer(&admin, "DELETE", uri).await.0, 405);
    }
    let (status, body) = answer(&admin, "GET", "/nothing").await;
    assert!(status == 404 && body.contains("/config_dump"), "{status} {body}");
}

#[tokio::test]
async fn metrics_are_told_as_the_scraper_prefers() {
    let admin = admin(None);
    let mut asked = request("GET", "/metrics");
    let page = admin.answer(&asked).await;
    assert_eq!(page.headers()[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    let open = "application/openmetrics-text; version=1.0.0";
    asked.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(open));
    let page = admin.answer(&asked).await;
    assert!(page.headers()[header::CONTENT_TYPE].to_str().unwrap().starts_with(open));
    assert!(page.into_body().collect().await.unwrap().to_bytes().ends_with(b"\n# EOF\n"));
}

#[tokio::test]
async fn a_log_that_is_not_ours_cannot_be_changed() {
    assert_eq!(answer(&admin(None), "POST", "/log_level?level=debug").await.0, 404);
}

#[tokio::test]
async fn pages_are_served_over_http() {
    let socket = socket::listen("--admin-addr", "127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = socket.local_addr().unwrap();
    task::spawn_connection("admin", async move {
        let Err(error) = serve(socket, Arc::new(admin(None))).await;
        panic!("{error}");
    });
    let talk = async {
        let stream = TcpStream::connect(addr).await.unwrap();
        let (mut client, connection) = hyper::client::conn::http1::handshake(Io::new(stream)).await.unwrap();
        task::spawn_connection("client", async move {
            let _ended = connection.await;
        });
        for uri in ["/ready", "/metrics"] {
            let request =
                Request::builder().uri(uri).header("host", "admin").body(Empty::<Bytes>::new()).unwrap();
            let response = client.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            assert!(!response.into_body().collect().await.unwrap().to_bytes().is_empty());
        }
    };
    tokio::time::timeout(Duration::from_secs(10), talk).await.unwrap();
}

/// A journal of one request that failed.
fn journal() -> Journal {
    let journal = Journal::start("default/front", Duration::from_secs(1), Metrics::new()).unwrap();
    let mut record = Record {
        request_id: Some(HeaderValue::from_static("id-1")),
        uri: "/orders?card=1234".parse().unwrap(),
        cause: Some("cannot connect".into()),
        ..Record::default()
    };
    (record.outcome.flag, record.outcome.status) = (Flag::Uf, 503);
    let interest = journal.wants(&record);
    journal.push(Arc::new(record), interest);
    journal
}

#[tokio::test]
async fn a_request_is_explained() {
    let admin = Admin { journal: journal(), ..admin(None) };
    let (status, page) = answer(&admin, "GET", "/explain/id-1").await;
    let told: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!((status, &told[0]["flag"], &told[0]["cause"]), (200, &json!("UF"), &json!("cannot connect")));
    assert_eq!((&told[0]["proxy"], &told[0]["path"]), (&json!("default/front"), &json!("/orders")));
    let told: serde_json::Value = serde_json::from_str(&answer(&admin, "GET", "/explain").await.1).unwrap();
    assert_eq!((&told["causes"][0]["flag"], &told["causes"][0]["count"]), (&json!("UF"), &json!(1)));
    assert_eq!(told["newest"][0]["request_id"], json!("id-1"));
    let (status, page) = answer(&admin, "GET", "/explain/id-2").await;
    assert!(status == 404 && page.contains("id-2") && page.contains("--explain-slow"), "{status} {page}");
    assert_eq!(answer(&admin, "POST", "/explain/id-1").await.0, 405);
    assert_eq!(answer(&admin, "GET", "/explain/").await.0, 404);
}

#[tokio::test]
async fn a_tap_ends_by_itself() {
    let admin = Admin { journal: journal(), ..admin(None) };
    let (status, page) = answer(&admin, "GET", "/tap?status=9xx").await;
    assert!(status == 400 && page.contains("9xx"), "{status} {page}");
    tokio::time::pause();
    assert_eq!(answer(&admin, "GET", "/tap?for=600").await, (200, String::new()));
    let taps: Vec<_> = std::iter::repeat_with(|| admin.journal.tap(Default::default())).take(9).collect();
    assert!(taps.iter().filter(|tap| tap.is_ok()).count() == 8);
    assert_eq!(answer(&admin, "GET", "/tap").await.0, 429);
}
