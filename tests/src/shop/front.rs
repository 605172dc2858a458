//! The API front: calls the other services through its sidecar and puts their answers together.
//!
//! It connects to the sidecar's outbound listener and names the service it wants in `Host`, as an
//! app in explicit mode does. It hands on `x-request-id`, the trace context and `user-type` from
//! the request it serves to the calls it makes, and nothing else.

use std::net::SocketAddr;

use futures_util::future::join_all;
use http::header::HeaderMap;
use http::{HeaderName, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};

use crate::body;
use crate::dial::{Fixed, Pooled};

/// The services the front aggregates: the key in its answer and the name it calls.
const PARTS: [(&str, &str); 4] = [
    ("order", "order-service"),
    ("payment", "payment-service"),
    ("inventory", "inventory-service"),
    ("user", "user-service"),
];

const HANDED_ON: [&str; 12] = [
    "x-request-id",
    "traceparent",
    "tracestate",
    "baggage",
    "grpc-trace-bin",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "user-type",
];

/// The calling half of the API front.
#[derive(Debug)]
pub struct Front {
    sidecar: Pooled,
    parts: Vec<(String, String)>,
}

/// One aggregated answer.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) status: StatusCode,
    pub(super) parts: Map<String, Value>,
    pub(super) order_version: Option<String>,
}

impl Front {
    /// The front of the shop, whose calls go through the sidecar listening at `outbound`.
    pub fn new(outbound: SocketAddr) -> Self {
        Self::calling(outbound, &PARTS)
    }

    /// A front that calls these services: the key in its answer and the name it calls.
    pub fn calling(outbound: SocketAddr, parts: &[(&str, &str)]) -> Self {
        let parts = parts.iter().map(|&(key, service)| (key.to_owned(), service.to_owned())).collect();
        Self { sidecar: Fixed::new(outbound).http1(), parts }
    }

    pub(super) async fn page(&self, served: &HeaderMap) -> Page {
        let calls = self.parts.iter().map(|(_, service)| self.call(service, served));
        let answers = join_all(calls).await;
        let mut page = Page { status: StatusCode::OK, parts: Map::new(), order_version: None };
        for ((key, _), answer) in self.parts.iter().zip(answers) {
            let part = match answer {
                Ok(part) => part,
                Err(failure) => {
                    page.status = StatusCode::BAD_GATEWAY;
                    json!({ "error": failure })
                }
            };
            if key == "order" {
                page.order_version = part.get("version").and_then(Value::as_str).map(str::to_owned);
            }
            page.parts.insert(key.clone(), part);
        }
        page
    }

    /// One call; a failure is told in the words of whoever failed.
    async fn call(&self, service: &str, served: &HeaderMap) -> Result<Value, String> {
        let mut req = Request::builder()
            .uri(format!("http://{service}/"))
            .body(body::empty())
            .map_err(|error| error.to_string())?;
        for name in HANDED_ON.map(HeaderName::from_static) {
            for value in served.get_all(&name) {
                req.headers_mut().append(&name, value.clone());
            }
        }
        let rsp = self.sidecar.request(req).await.map_err(|error| error.to_string())?;
        let status = rsp.status();
        let cause =
            rsp.headers().get("x-pillion-error").map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        let bytes = rsp.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
        if !status.is_success() {
            return Err(format!(
                "{service} answered {status} ({})",
                cause.as_deref().unwrap_or("by the app")
            ));
        }
        serde_json::from_slice(&bytes).map_err(|error| format!("{service} sent no JSON: {error}"))
    }
}
