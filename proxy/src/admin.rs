//! The pages for operators and probes: health, metrics, dumps, what is remembered of requests, drain, log level.
//!
//! They are served on the control thread, so that a scrape never delays a request, to a bounded number of
//! connections, and of traffic without a word that the access log would not say: the address should be reachable by the
//! pod itself only. What the pages say comes from an [`AdminSource`]; only reading is done by `GET`, whatever changes something needs a
//! `POST`.

mod explain;

use std::{convert::Infallible, future::Future, io, net, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioTimer;
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};

use crate::{
    net::{rewind::Io, socket},
    rt::{drain::Drain, task},
    telemetry::{Journal, Metrics, log::LogControl, metrics::Format},
};

use self::explain::PageBody;

/// Connections served at the same time.
const CONNECTIONS: usize = 64;
/// How long a client may take for a request, and be silent between two.
const SILENCE: Duration = Duration::from_secs(30);
/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

const HELP: &str = "\
GET  /live                200 while the process runs
GET  /ready               200 when configured and not draining, else 503 and the reason
GET  /metrics             metrics as Prometheus or OpenMetrics text, as asked for
GET  /config_dump         the configuration in force
GET  /endpoints           the clusters and their endpoints, with their health and why
GET  /certs               who this proxy is: its certificate, whom it believes, how renewal goes
GET  /breakers            the circuit breakers, their state and why
GET  /explain             why requests have failed of late, and the newest stories kept
GET  /explain/ID          the story of a request, by its x-request-id or its trace
GET  /tap?to=&status=5xx  requests as they come, as JSON lines; also from, flag, path, method, limit, for=SECONDS
GET  /log_level           the filter of the log
POST /log_level?level=L   another filter, as in debug or info,pillion_proxy=trace
POST /drain               ask peers to leave; connections are still accepted
";

/// What the pages tell of the rest of the process.
pub trait AdminSource: Send + Sync + 'static {
    /// Whether there is a configuration to serve by; else why not.
    fn ready(&self) -> Result<(), String>;
    /// The own identity.
    fn certs(&self) -> serde_json::Value;
    /// The configuration in force.
    fn config_dump(&self) -> impl Future<Output = serde_json::Value> + Send;
    /// The clusters and their endpoints.
    fn endpoints(&self) -> impl Future<Output = serde_json::Value> + Send;
    /// The circuit breakers.
    fn breakers(&self) -> impl Future<Output = serde_json::Value> + Send;
}

/// What the pages are made of.
#[derive(Debug)]
pub struct Admin<S> {
    /// The rest of the process.
    pub source: S,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// What is remembered of requests.
    pub journal: Journal,
    /// The drain that `/drain` begins.
    pub drain: Drain,
    /// The filter of the log, where it can be changed.
    pub log: Option<LogControl>,
}

/// Serves the pages for the life of the process.
pub async fn serve<S: AdminSource>(
    listener: net::TcpListener,
    admin: Arc<Admin<S>>,
) -> io::Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
    let limit = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = Arc::clone(&limit).acquire_owned().await.map_err(io::Error::other)?;
        let stream = match listener.accept().await {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept an admin connection");
                sleep(PAUSE).await;
                continue;
            }
        };
        socket::accepted(&stream);
        let admin = Arc::clone(&admin);
        task::spawn_connection("admin connection", async move {
            let service = service_fn(|request: Request<Incoming>| {
                let admin = Arc::clone(&admin);
                async move { Ok::<_, Infallible>(admin.answer(&request).await) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(SILENCE);
            if let Err(error) = server.serve_connection(Io::new(stream), service).await {
                tracing::debug!(%error, "admin connection failed");
            }
            drop(permit);
        });
    }
}

type Page = Response<PageBody>;

impl<S: AdminSource> Admin<S> {
    async fn answer<B>(&self, request: &Request<B>) -> Page {
        let (method, uri) = (request.method(), request.uri());
        let read = matches!(*method, Method::GET | Method::HEAD);
        let write = *method == Method::POST;
        match uri.path() {
            "/" | "/help" if read => text(StatusCode::OK, HELP),
            "/live" if read => text(StatusCode::OK, "live\n"),
            "/ready" if read => self.ready(),
            "/metrics" if read => self.metrics(request.headers()),
            "/config_dump" if read => json(&self.source.config_dump().await),
            "/endpoints" if read => json(&self.source.endpoints().await),
            "/breakers" if read => json(&self.source.breakers().await),
            "/certs" if read => json(&self.source.certs()),
            "/explain" if read => explain::overview(&self.journal),
            "/tap" if read => explain::tap(&self.journal, uri.query()),
            "/log_level" if read || write => self.log_level(uri.query(), write),
            "/drain" if write => {
                self.drain.begin();
                text(StatusCode::OK, "draining\n")
            }
            "/drain" => not_allowed("POST"),
            "/log_level" => not_allowed("GET, HEAD, POST"),
            "/" | "/help" | "/live" | "/ready" | "/metrics" | "/config_dump" | "/endpoints" | "/breakers"
            | "/certs" | "/explain" | "/tap" => not_allowed("GET, HEAD"),
            path => match path.strip_prefix("/explain/").filter(|id| !id.is_empty()) {
                Some(id) if read => explain::request(&self.journal, id),
                Some(_) => not_allowed("GET, HEAD"),
                None => text(StatusCode::NOT_FOUND, format!("there is no page {path}; there are:\n{HELP}")),
            },
        }
    }

    /// The metrics, in the form the scraper prefers.
    fn metrics(&self, asked: &HeaderMap) -> Page {
        let accept = asked.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
        let format = Format::preferred(accept.unwrap_or_default());
        let mut page = text(StatusCode::OK, self.metrics.render(&self.drain, format));
        let content_type = HeaderValue::from_static(format.content_type());
        page.headers_mut().insert(header::CONTENT_TYPE, content_type);
        page.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
        page
    }

    fn ready(&self) -> Page {
        if self.drain.is_draining() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
        }
        match self.source.ready() {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
        }
    }

    fn log_level(&self, query: Option<&str>, write: bool) -> Page {
        let Some(log) = &self.log else {
            return text(StatusCode::NOT_FOUND, "the log of this process belongs to somebody else\n");
        };
        let level =
            query.into_iter().flat_map(|query| query.split('&')).find_map(|q| q.strip_prefix("level="));
        let set = match (write, level) {
            (false, None) => Ok(()),
            (true, Some(level)) => log.set(level).map_err(|error| error.to_string()),
            (true, None) => Err("write POST /log_level?level=debug".to_owned()),
            (false, Some(_)) => Err("the level is changed with POST".to_owned()),
        };
        match set {
            Ok(()) => text(StatusCode::OK, format!("{}\n", log.get())),
            Err(reason) => text(StatusCode::BAD_REQUEST, format!("{reason}\n")),
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Page {
    let mut page = Page::new(PageBody::from(body.into()));
    *page.status_mut() = status;
    page.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    page
}

fn json(value: &serde_json::Value) -> Page {
    let mut page = text(StatusCode::OK, format!("{value:#}\n"));
    page.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    page
}

fn not_allowed(allowed: &'static str) -> Page {
    let mut page = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {allowed} is possible here\n"));
    page.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    page
}

#[cfg(test)]
mod tests;
