//! The endpoints every sample service serves.
//!
//! `/` tells who answered (the front: what everybody answered); `/echo` sends the request back;
//! `/status/{code}`, `/delay/{ms}`, `/bytes/{n}`, `/stream/{n}`, `/upload` and `/trailers` do what
//! they say; a request with `Upgrade` switches to echoing bytes; a gRPC request is a stream of
//! messages sent back one by one, with a status in the trailers. Every answer carries `x-service`,
//! `x-version` and `x-instance`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, TRAILER, UPGRADE};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::faults::{Abandoned, Setting};
use super::{Faults, Front, Service, Stats};
use crate::body::{self, Body};
use crate::task;

/// Most bytes `/bytes/{n}` sends and most an `/echo` keeps.
const BODY_LIMIT: u64 = 256 * 1024 * 1024;
const CHUNK: usize = 64 * 1024;

/// Who a sample service is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The service's name.
    pub service: String,
    /// The release, as in the label `version`.
    pub version: String,
    /// The instance's name.
    pub instance: String,
}

impl Identity {
    /// An instance of a service.
    pub fn of(service: &str, version: &str, instance: &str) -> Self {
        Self { service: service.to_owned(), version: version.to_owned(), instance: instance.to_owned() }
    }
}

/// One instance of a sample service; clones share everything.
#[derive(Clone, Debug)]
pub struct App(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    identity: Identity,
    faults: Faults,
    stats: Stats,
    front: Option<Front>,
}

impl App {
    /// A service that answers by itself.
    pub fn new(identity: Identity) -> Self {
        Self(Arc::new(Inner { identity, faults: Faults::default(), stats: Stats::default(), front: None }))
    }

    /// The API front, which calls the others.
    pub fn front(identity: Identity, front: Front) -> Self {
        Self(Arc::new(Inner {
            identity,
            faults: Faults::default(),
            stats: Stats::default(),
            front: Some(front),
        }))
    }

    /// The injected slowness and failure.
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    async fn route(&self, req: Request<Incoming>) -> Result<Response<Body>, Abandoned> {
        let path = req.uri().path().to_owned();
        let (name, argument) =
            path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
        match name {
            "health" => return Ok(text(StatusCode::OK, "ok\n")),
            "admin" => return Ok(self.admin(req).await),
            _ => {}
        }
        let _present = self.0.stats.request(req.headers());
        if let Some(delay) = self.0.faults.delay() {
            tokio::time::sleep(delay).await;
        }
        if let Some(failure) = self.0.faults.next() {
            return failure.happen(req).await;
        }
        if req.headers().contains_key(UPGRADE) && req.version() == Version::HTTP_11 {
            return Ok(upgrade(req));
        }
        if is_grpc(req.headers()) {
            return Ok(grpc_echo(req));
        }
        let number = argument.parse::<u64>();
        Ok(match (name, number) {
            ("status", Ok(code)) => {
                match u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok()) {
                    Some(status) => text(status, format!("status {code}\n")),
                    None => text(StatusCode::BAD_REQUEST, "no such status\n"),
                }
            }
            ("delay", Ok(ms)) => {
                tokio::time::sleep(Duration::from_millis(ms.min(600_000))).await;
                text(StatusCode::OK, format!("after {ms} ms\n"))
            }
            ("bytes", Ok(n)) => bytes(n.min(BODY_LIMIT)),
            ("stream", Ok(n)) => stream(n),
            ("upload", _) => upload(req).await,
            ("trailers", _) => trailers(req).await,
            ("", _) => self.index(&req).await,
            // Whatever else arrives is told back, so that a rewritten path shows what became of it.
            _ => echo(req).await,
        })
    }

    async fn index(&self, req: &Request<Incoming>) -> Response<Body> {
        let Identity { service, version, instance } = &self.0.identity;
        let mut answer = json!({ "service": service, "version": version, "instance": instance });
        let Some(front) = &self.0.front else { return json_response(StatusCode::OK, &answer) };
        let page = front.page(req.headers()).await;
        if let Value::Object(fields) = &mut answer {
            fields.extend(page.parts);
        }
        let mut rsp = json_response(page.status, &answer);
        if let Some(version) = page.order_version.and_then(|version| HeaderValue::try_from(version).ok()) {
            rsp.headers_mut().insert("x-order-version", version);
        }
        rsp
    }

    async fn admin(&self, req: Request<Incoming>) -> Response<Body> {
        if req.method() == Method::POST {
            let Ok(body) = req.into_body().collect().await else {
                return text(StatusCode::BAD_REQUEST, "the body broke off\n");
            };
            match serde_json::from_slice::<Setting>(&body.to_bytes()) {
                Ok(setting) => self.0.faults.apply(setting),
                Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
            }
        }
        let stats = &self.0.stats;
        let answer = json!({
            "faults": self.0.faults.setting(),
            "requests": stats.requests(),
            "in_flight": stats.in_flight(),
            "connections": stats.connections(),
            "open_connections": stats.open_connections(),
        });
        json_response(StatusCode::OK, &answer)
    }
}

impl Service for App {
    async fn call(&self, req: Request<Incoming>) -> Result<Response<Body>, Abandoned> {
        let mut rsp = self.route(req).await?;
        let Identity { service, version, instance } = &self.0.identity;
        for (name, value) in [("x-service", service), ("x-version", version), ("x-instance", instance)] {
            if let Ok(value) = HeaderValue::try_from(value) {
                rsp.headers_mut().insert(name, value);
            }
        }
        Ok(rsp)
    }

    fn stats(&self) -> &Stats {
        &self.0.stats
    }

    fn deaths(&self) -> watch::Receiver<()> {
        self.0.faults.deaths()
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    with_type(status, "text/plain", body::full(text))
}

fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    with_type(status, "application/json", body::full(format!("{value}\n")))
}

fn with_type(status: StatusCode, media_type: &'static str, body: Body) -> Response<Body> {
    let mut rsp = Response::new(body);
    *rsp.status_mut() = status;
    rsp.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    rsp
}

fn header_list(headers: &HeaderMap) -> Value {
    headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect()
}

/// The request, told back: method, target, version, headers, body, trailers.
async fn echo(req: Request<Incoming>) -> Response<Body> {
    let (head, body) = req.into_parts();
    let Ok(collected) = body.collect().await else {
        return text(StatusCode::BAD_REQUEST, "the request body broke off\n");
    };
    let trailers = collected.trailers().map_or_else(|| json!([]), header_list);
    let answer = json!({
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map_or("", |path| path.as_str()),
        "authority": head.uri.authority().map(http::uri::Authority::as_str),
        "version": format!("{:?}", head.version),
        "headers": header_list(&head.headers),
        "trailers": trailers,
        "body": String::from_utf8_lossy(&collected.to_bytes()),
    });
    json_response(StatusCode::OK, &answer)
}

/// Counts the bytes of the request body without keeping them.
async fn upload(req: Request<Incoming>) -> Response<Body> {
    let mut body = req.into_body();
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => received += frame.data_ref().map_or(0, Bytes::len),
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }
    json_response(StatusCode::OK, &json!({ "received": received }))
}

/// A body of `n` bytes with a declared length.
fn bytes(n: u64) -> Response<Body> {
    static CONTENT: [u8; CHUNK] = [b'x'; CHUNK];
    let (sender, body) = body::channel();
    task::detach(async move {
        let mut left = n;
        while left > 0 {
            let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let chunk = Bytes::from_static(CONTENT.get(..size).unwrap_or(&CONTENT));
            if sender.send(Ok(Frame::data(chunk))).await.is_err() {
                return;
            }
            left -= size as u64;
        }
    });
    let mut rsp = with_type(StatusCode::OK, "application/octet-stream", body);
    rsp.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(n));
    rsp
}

/// `n` lines, one every ten milliseconds, length not declared.
fn stream(n: u64) -> Response<Body> {
    let (sender, body) = body::channel();
    task::detach(async move {
        for line in 0..n {
            if sender.send(Ok(Frame::data(format!("line {line}\n").into()))).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    with_type(StatusCode::OK, "text/plain", body)
}

/// Answers with trailers: every request trailer `name` comes back as `echo-name`.
async fn trailers(req: Request<Incoming>) -> Response<Body> {
    let Ok(collected) = req.into_body().collect().await else {
        return text(StatusCode::BAD_REQUEST, "the request body broke off\n");
    };
    let mut sent = HeaderMap::new();
    sent.insert("x-checksum", HeaderValue::from_static("abc123"));
    for (name, value) in collected.trailers().into_iter().flatten() {
        if let Ok(name) = HeaderName::try_from(format!("echo-{name}")) {
            sent.insert(name, value.clone());
        }
    }
    let names = sent.keys().map(HeaderName::as_str).collect::<Vec<_>>().join(", ");
    let body = body::chunked(
        vec![Bytes::from_static(b"a body, "), Bytes::from_static(b"then trailers\n")],
        Some(sent),
    );
    let mut rsp = with_type(StatusCode::OK, "text/plain", body);
    if let Ok(names) = HeaderValue::try_from(names) {
        rsp.headers_mut().insert(TRAILER, names);
    }
    rsp
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Sends each part of the request stream back as it arrives, then a status in the trailers.
///
/// The status is `grpc-status` of the request's metadata `x-want-status`, 0 if absent.
fn grpc_echo(req: Request<Incoming>) -> Response<Body> {
    let status = req.headers().get("x-want-status").cloned().unwrap_or(HeaderValue::from_static("0"));
    let (sender, reply) = body::channel();
    task::detach(async move {
        let mut body = req.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data()
                && sender.send(Ok(Frame::data(data))).await.is_err()
            {
                return;
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status);
        trailers.insert("grpc-message", HeaderValue::from_static("done"));
        let _ = sender.send(Ok(Frame::trailers(trailers))).await;
    });
    with_type(StatusCode::OK, "application/grpc", reply)
}

/// Switches protocols and echoes bytes until the client closes.
fn upgrade(req: Request<Incoming>) -> Response<Body> {
    let protocol = req.headers().get(UPGRADE).cloned();
    task::detach(async move {
        if let Ok(upgraded) = hyper::upgrade::on(req).await {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
        }
    });
    let mut rsp = Response::new(body::empty());
    *rsp.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    if let Some(protocol) = protocol {
        rsp.headers_mut().insert(UPGRADE, protocol);
    }
    rsp.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    rsp
}
