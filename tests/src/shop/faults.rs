//! Slowness and failure of a sample service, controllable while it runs.
//!
//! `POST /admin` with `{"delay_ms": 200, "fail_percent": 50, "failure": "hang"}` changes what is named and leaves the
//! rest. Health and admin endpoints are never slowed or failed. A test can also say what becomes of each of the next
//! requests ([`Faults::script`]), and break all connections as the death of the process would ([`Faults::kill`]).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::body::{self, Body};
use crate::task;

/// How long a response that breaks off waits after its first bytes, so that they are on their way.
const BREATH: Duration = Duration::from_millis(20);

/// The injected behaviour of one service.
#[derive(Debug)]
pub struct Faults {
    delay_ms: AtomicU64,
    failing: Mutex<Failing>,
    deaths: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Failing {
    percent: u64,
    failure: Failure,
    script: VecDeque<Failure>,
}

/// What a service does with a request it fails.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Answers with this head and no body worth reading.
    Answer {
        /// The status.
        status: u16,
        /// Further header fields.
        headers: Vec<(String, String)>,
    },
    /// Answers 200 and, without a message, at once these trailers.
    Trailers(Vec<(String, String)>),
    /// Never answers.
    Hang,
    /// Closes the connection when it has read the head.
    Close,
    /// Sends a head and a part of the body it announces, then closes the connection.
    BreakOff,
    /// Resets the connection when it has read the head.
    Reset,
}

/// The end of a connection in place of an answer.
#[derive(Debug)]
pub struct Abandoned {
    /// Whether by a reset.
    pub(super) reset: bool,
}

/// The JSON form of [`Faults`]; absent fields keep their value.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Setting {
    delay_ms: Option<u64>,
    fail_percent: Option<u64>,
    failure: Option<Failure>,
}

impl Default for Failure {
    fn default() -> Self {
        Self::status(500)
    }
}

impl Failure {
    /// An answer of this status.
    pub fn status(status: u16) -> Self {
        Self::Answer { status, headers: Vec::new() }
    }

    /// A gRPC answer of this status in the head alone, as for errors before any message.
    pub fn grpc(code: u8) -> Self {
        Self::status(200).with("content-type", "application/grpc").with("grpc-status", &code.to_string())
    }

    /// A gRPC answer of this status in trailers that follow right after the head.
    pub fn grpc_trailers(code: u8) -> Self {
        Self::Trailers(vec![("grpc-status".to_owned(), code.to_string())])
    }

    /// One more header field, or trailer, of an answer.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if let Self::Answer { headers: fields, .. } | Self::Trailers(fields) = &mut self {
            fields.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Carries it out; who answers has read the whole request first.
    pub(super) async fn happen(self, req: Request<Incoming>) -> Result<Response<Body>, Abandoned> {
        if matches!(self, Self::Answer { .. } | Self::Trailers(_)) {
            let _ = req.into_body().collect().await;
        }
        match self {
            Self::Answer { status, headers } => {
                let mut rsp = Response::new(body::full("failed on request\n"));
                *rsp.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let headers = fields(&headers);
                if headers.contains_key("grpc-status") {
                    *rsp.body_mut() = body::empty();
                }
                *rsp.headers_mut() = headers;
                Ok(rsp)
            }
            Self::Trailers(trailers) => {
                let mut rsp = Response::new(body::chunked(Vec::new(), Some(fields(&trailers))));
                rsp.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
                Ok(rsp)
            }
            Self::Hang => std::future::pending().await,
            Self::Close => Err(Abandoned { reset: false }),
            Self::Reset => Err(Abandoned { reset: true }),
            Self::BreakOff => Ok(broken_off()),
        }
    }
}

impl std::fmt::Display for Abandoned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the service gives the connection up")
    }
}

impl std::error::Error for Abandoned {}

impl Default for Faults {
    fn default() -> Self {
        Self { delay_ms: AtomicU64::default(), failing: Mutex::default(), deaths: watch::Sender::new(()) }
    }
}

impl Faults {
    /// Every response waits this long first.
    pub fn set_delay(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// This share of requests fails, as said last; 500 if nothing has been said.
    pub fn set_fail_percent(&self, percent: u64) {
        self.failing().percent = percent.min(100);
    }

    /// Every request fails so.
    pub fn fail(&self, failure: Failure) {
        self.fail_some(100, failure);
    }

    /// This share of requests fails so.
    pub fn fail_some(&self, percent: u64, failure: Failure) {
        let mut failing = self.failing();
        failing.percent = percent.min(100);
        failing.failure = failure;
    }

    /// The next requests fail so, one after the other; those after them as said otherwise.
    pub fn script(&self, failures: impl IntoIterator<Item = Failure>) {
        self.failing().script = failures.into_iter().collect();
    }

    /// No request fails any more.
    pub fn recover(&self) {
        *self.failing() = Failing::default();
    }

    /// Stops listening and resets all connections, whatever is in flight on them.
    pub fn kill(&self) {
        self.deaths.send_replace(());
    }

    /// Tells of the next [`Faults::kill`].
    pub(super) fn deaths(&self) -> watch::Receiver<()> {
        self.deaths.subscribe()
    }

    pub(super) fn apply(&self, setting: Setting) {
        if let Some(ms) = setting.delay_ms {
            self.delay_ms.store(ms, Ordering::Relaxed);
        }
        if let Some(percent) = setting.fail_percent {
            self.set_fail_percent(percent);
        }
        if let Some(failure) = setting.failure {
            self.failing().failure = failure;
        }
    }

    pub(super) fn setting(&self) -> Setting {
        let failing = self.failing();
        Setting {
            delay_ms: Some(self.delay_ms.load(Ordering::Relaxed)),
            fail_percent: Some(failing.percent),
            failure: Some(failing.failure.clone()),
        }
    }

    pub(super) fn delay(&self) -> Option<Duration> {
        match self.delay_ms.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(Duration::from_millis(ms)),
        }
    }

    /// What is to become of one request; absent is an honest answer.
    pub(super) fn next(&self) -> Option<Failure> {
        let mut failing = self.failing();
        if let Some(scripted) = failing.script.pop_front() {
            return Some(scripted);
        }
        (failing.percent > 0 && fastrand::u64(0..100) < failing.percent).then(|| failing.failure.clone())
    }

    fn failing(&self) -> MutexGuard<'_, Failing> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What names or values are none is left out.
fn fields(pairs: &[(String, String)]) -> HeaderMap {
    let parse = |(name, value): &(String, String)| {
        Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
    };
    pairs.iter().filter_map(parse).collect()
}

fn broken_off() -> Response<Body> {
    let (sender, body) = body::channel();
    task::detach(async move {
        let _ = sender.send(Ok(Frame::data(Bytes::from_static(b"this is only a part")))).await;
        tokio::time::sleep(BREATH).await;
        let _ = sender.send(Err(Abandoned { reset: false }.into())).await;
    });
    let mut rsp = Response::new(body);
    rsp.headers_mut().insert("content-length", HeaderValue::from_static("1000"));
    rsp
}
