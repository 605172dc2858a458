//! The admin port: probes, metrics, status and a dump of what is served.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, time};

use crate::{
    metrics::{Format, Metrics},
    serve::{Command, Hub},
    task,
};

/// How long a client may take for the head of a request.
const HEAD_TIMEOUT: time::Duration = time::Duration::from_secs(10);
/// Pause after a failed accept: descriptors may have run out, and nothing but time brings them back.
const ACCEPT_PAUSE: time::Duration = time::Duration::from_millis(100);
/// Most connections served at once.
const MAX_CONNECTIONS: usize = 64;

/// What the pages are made of.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    pub(crate) hub: Hub,
    pub(crate) metrics: Metrics,
}

impl Admin {
    /// Serves until it is dropped. It starts after the first load, so to answer at all is to be ready.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Ok(slot) = slots.clone().acquire_owned().await {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the admin port");
                    time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let admin = self.clone();
            task::spawn("admin connection", async move {
                let service = service_fn(|request| admin.answer(request));
                let mut http = http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
                if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(%error, "an admin connection failed");
                }
                drop(slot);
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let page = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/metrics") => self.metrics(request.headers()),
            (&Method::GET | &Method::HEAD, path) => self.page(path).await,
            _ => (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".to_owned()),
        };
        let (status, content_type, body) = page;
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Ok(response)
    }

    /// The metrics, in the form the scraper takes.
    fn metrics(&self, asked: &HeaderMap) -> (StatusCode, &'static str, String) {
        let accept = asked.get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let format = Format::preferred(accept.unwrap_or_default());
        match self.metrics.text(format) {
            Ok(text) => (StatusCode::OK, format.content_type(), text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        }
    }

    async fn page(&self, path: &str) -> (StatusCode, &'static str, String) {
        match path {
            "/live" | "/ready" => (StatusCode::OK, TEXT, "ok\n".to_owned()),
            "/status" => json(self.hub.ask(Command::Report).await),
            "/config_dump" => json(self.hub.ask(Command::Dump).await),
            _ => (
                StatusCode::NOT_FOUND,
                TEXT,
                "pages: /live /ready /metrics /status /config_dump\n".to_owned(),
            ),
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

fn json(answer: anyhow::Result<impl serde::Serialize>) -> (StatusCode, &'static str, String) {
    match answer.and_then(|answer| Ok(serde_json::to_string_pretty(&answer)?)) {
        Ok(text) => (StatusCode::OK, "application/json", text + "\n"),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{error}\n")),
    }
}
