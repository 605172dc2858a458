//! The admin port: probes, metrics, status, a dump of what is served, and what proxies tell of their traffic.
//!
//! Reading is all that can be done here. What tells of single requests is for those whom the [`Gate`] admits; everything
//! else is for whoever reaches the port.

mod gate;
mod query;

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use tokio::{net::TcpListener, sync::Semaphore, time};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

pub(crate) use self::gate::Gate;
use self::gate::Refusal;
use crate::{
    metrics::{Format, Metrics},
    serve::{Command, Hub, Observatory},
    task,
};

/// How long a client may take for the head of a request.
const HEAD_TIMEOUT: time::Duration = time::Duration::from_secs(10);
/// Pause after a failed accept: descriptors may have run out, and nothing but time brings them back.
const ACCEPT_PAUSE: time::Duration = time::Duration::from_millis(100);
/// Most connections served at once.
const MAX_CONNECTIONS: usize = 64;
/// Longest request id that is asked for, in bytes.
const MAX_ID: usize = 256;

const HELP: &str = "\
pages: /live /ready /metrics /status /config_dump
       /stat           figures of requests, as all proxies have counted them
       /explain/ID     what proxies remember of a request; /explain?within=5m why requests have failed
       /tap?to=&from=&status=&flag=&path=&method=&limit=&for=   requests as they end, one JSON text on each line
";

/// What the pages are made of.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    pub(crate) hub: Hub,
    pub(crate) metrics: Metrics,
    pub(crate) observatory: Observatory,
    pub(crate) gate: Gate,
}

type Page = Response<UnsyncBoxBody<Bytes, Infallible>>;

impl Admin {
    /// Serves until it is dropped. It starts after the first load, so to answer at all is to be ready.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Ok(slot) = slots.clone().acquire_owned().await {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the admin port");
                    time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let admin = self.clone();
            task::spawn("admin connection", async move {
                let service = service_fn(|request| admin.answer(request, peer));
                let mut http = http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
                if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(%error, "an admin connection failed");
                }
                drop(slot);
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Result<Page, Infallible> {
        let (is_get, is_head) = (request.method() == Method::GET, request.method() == Method::HEAD);
        if !is_get && !is_head {
            return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"));
        }
        let uri = request.uri();
        let is_guarded =
            uri.path() == "/tap" || uri.path() == "/explain" || uri.path().starts_with("/explain/");
        if is_guarded && let Err(refusal) = self.gate.admit(peer, request.headers()) {
            return Ok(refuse(peer, &refusal));
        }
        Ok(match uri.path() {
            "/live" | "/ready" => text(StatusCode::OK, "ok\n"),
            "/metrics" => self.metrics(request.headers()),
            "/status" => json(self.hub.ask(Command::Report).await),
            "/config_dump" => json(self.hub.ask(Command::Dump).await),
            "/stat" => json(self.observatory.figures().await),
            "/explain" => match query::within(uri.query().unwrap_or_default()) {
                Ok(within) => json(self.observatory.causes(within).await),
                Err(reason) => text(StatusCode::BAD_REQUEST, reason + "\n"),
            },
            "/tap" if is_get => self.tap(uri).await,
            "/tap" => text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
            path => match path.strip_prefix("/explain/") {
                Some(id) => self.explain(id).await,
                None => text(StatusCode::NOT_FOUND, HELP),
            },
        })
    }

    /// The metrics, in the form the scraper takes.
    fn metrics(&self, asked: &HeaderMap) -> Page {
        let accept = asked.get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let format = Format::preferred(accept.unwrap_or_default());
        match self.metrics.text(format) {
            Ok(metrics) => page(StatusCode::OK, format.content_type(), metrics),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    async fn explain(&self, id: &str) -> Page {
        let id = percent_decode_str(id).decode_utf8_lossy();
        if id.is_empty() || id.len() > MAX_ID {
            return text(StatusCode::BAD_REQUEST, "write /explain/ID, the x-request-id of a request\n");
        }
        json(self.observatory.explain(&id).await)
    }

    async fn tap(&self, uri: &Uri) -> Page {
        let wanted = match query::tap(uri.query().unwrap_or_default()) {
            Ok(wanted) => wanted,
            Err(reason) => return text(StatusCode::BAD_REQUEST, reason + "\n"),
        };
        match self.observatory.tap(&wanted.filter, wanted.limit, wanted.time).await {
            Ok(lines) => {
                let frames = ReceiverStream::new(lines).map(|line| Ok(Frame::data(Bytes::from(line))));
                typed(Response::new(StreamBody::new(frames).boxed_unsync()), JSON_LINES)
            }
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON_LINES: &str = "application/x-ndjson";

/// Turns away who may not be told of traffic.
fn refuse(peer: SocketAddr, refusal: &Refusal) -> Page {
    tracing::warn!(%peer, error = refusal.reason, "somebody who may not asks of traffic");
    let mut page = text(refusal.status, format!("{}\n", refusal.reason));
    if refusal.status == StatusCode::UNAUTHORIZED {
        page.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    page
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Page {
    page(status, TEXT, text)
}

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::from(body.into()).boxed_unsync());
    *page.status_mut() = status;
    typed(page, content_type)
}

fn typed(mut page: Page, content_type: &'static str) -> Page {
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    page
}

fn json(answer: anyhow::Result<impl serde::Serialize>) -> Page {
    match answer.and_then(|answer| Ok(serde_json::to_string_pretty(&answer)?)) {
        Ok(text) => page(StatusCode::OK, "application/json", text + "\n"),
        Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}
