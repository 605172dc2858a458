use http_body_util::{BodyExt, Empty};
use serde_json::json;
use tokio::net::TcpStream;

use super::*;
use crate::{net::socket, rt::task};

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
    Admin { source: Fake { missing }, metrics: Metrics::new(), drain: Drain::new(), log: None }
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
