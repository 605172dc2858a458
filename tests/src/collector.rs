//! A collector of telemetry: takes OTLP in, over gRPC and over HTTP, and remembers what came.
//!
//! It speaks the protocol with the types the OpenTelemetry project publishes, so that what it understands any other collector
//! does. It keeps the latest [`KEPT`] spans and log records. [`Collector::behind`] lets a real collector stand before it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, Response as HttpResponse, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::{
    logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use prost::Message;
use tokio::net::TcpListener;
use tonic::{Request as Call, Response, Status, codec::CompressionEncoding, transport::Server};

use crate::{
    eventually,
    task::{self, Task},
};

mod agent;
mod span;
mod tree;

pub use self::{agent::Agent, span::Span};

/// Spans and log records that are remembered; older ones make room.
const KEPT: usize = 20_000;

/// A running collector; it ends when dropped.
#[derive(Debug)]
pub struct Collector {
    /// Where it takes OTLP over gRPC.
    pub grpc: SocketAddr,
    /// Where it takes OTLP as protobuf over HTTP.
    pub http: SocketAddr,
    received: Received,
    _tasks: [Task<()>; 2],
}

/// One log record.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// `service.name` of its resource.
    pub service: String,
    /// Its text.
    pub body: String,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
    /// The trace it belongs to, in hexadecimal; empty for none.
    pub trace_id: String,
}

/// What has come so far, shared by both servers.
#[derive(Debug, Clone, Default)]
struct Received(Arc<Mutex<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    spans: VecDeque<Span>,
    logs: VecDeque<Log>,
    metrics: BTreeSet<String>,
    /// Header fields of the latest call.
    headers: BTreeMap<String, String>,
}

impl Collector {
    /// Starts on free ports of the loopback address.
    pub async fn start() -> Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::start_at(any, any).await
    }

    /// Starts at these addresses.
    pub async fn start_at(grpc: SocketAddr, http: SocketAddr) -> Result<Self> {
        let listen = async |address| {
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
        };
        let (rpc, web) = (listen(grpc).await?, listen(http).await?);
        let (grpc, http) = (rpc.local_addr()?, web.local_addr()?);
        let received = Received::default();
        let tasks =
            [task::spawn(serve_grpc(rpc, received.clone())), task::spawn(serve_http(web, received.clone()))];
        Ok(Self { grpc, http, received, _tasks: tasks })
    }

    /// Everything it remembers of spans, in order of arrival.
    pub fn spans(&self) -> Vec<Span> {
        self.received.memory().spans.iter().cloned().collect()
    }

    /// The spans of one trace, in order of their begin.
    pub fn trace(&self, trace_id: &str) -> Vec<Span> {
        let mut spans = self.spans();
        spans.retain(|span| span.trace_id == trace_id);
        spans.sort_by_key(|span| span.start);
        spans
    }

    /// The spans of a trace, once there are as many as wanted.
    pub async fn complete_trace(&self, trace_id: &str, count: usize) -> Result<Vec<Span>> {
        eventually(&format!("{count} spans of trace {trace_id}"), || async {
            let trace = self.trace(trace_id);
            ensure!(trace.len() >= count, "{} came:\n{}", trace.len(), Span::tree(&trace));
            Ok(trace)
        })
        .await
    }

    /// Everything it remembers of logs.
    pub fn logs(&self) -> Vec<Log> {
        self.received.memory().logs.iter().cloned().collect()
    }

    /// The names of the metrics that have come.
    pub fn metrics(&self) -> BTreeSet<String> {
        self.received.memory().metrics.clone()
    }

    /// Header fields of the latest call.
    pub fn headers(&self) -> BTreeMap<String, String> {
        self.received.memory().headers.clone()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        *self.received.memory() = Memory::default();
    }

    /// A real collector that hands on to this one what it gets; `None` where none is installed.
    pub async fn behind(&self) -> Result<Option<Agent>> {
        Agent::start(self.grpc).await
    }
}

impl Received {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn traces(&self, request: ExportTraceServiceRequest) {
        let mut memory = self.memory();
        for of_resource in request.resource_spans {
            let resource =
                of_resource.resource.map(|it| span::attributes(&it.attributes)).unwrap_or_default();
            for span in of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans) {
                if memory.spans.len() == KEPT {
                    memory.spans.pop_front();
                }
                memory.spans.push_back(Span::read(&span, &resource));
            }
        }
    }

    fn logs(&self, request: ExportLogsServiceRequest) {
        let mut memory = self.memory();
        for of_resource in request.resource_logs {
            let resource =
                of_resource.resource.map(|it| span::attributes(&it.attributes)).unwrap_or_default();
            let service = resource.get("service.name").cloned().unwrap_or_default();
            for record in of_resource.scope_logs.into_iter().flat_map(|of_scope| of_scope.log_records) {
                if memory.logs.len() == KEPT {
                    memory.logs.pop_front();
                }
                memory.logs.push_back(Log {
                    service: service.clone(),
                    body: record.body.as_ref().map(span::text).unwrap_or_default(),
                    attributes: span::attributes(&record.attributes),
                    trace_id: span::hex(&record.trace_id),
                });
            }
        }
    }

    fn metrics(&self, request: ExportMetricsServiceRequest) {
        let scopes = request.resource_metrics.into_iter().flat_map(|of_resource| of_resource.scope_metrics);
        let names = scopes.flat_map(|of_scope| of_scope.metrics).map(|metric| metric.name);
        self.memory().metrics.extend(names);
    }

    fn note(&self, headers: &http::HeaderMap) {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = headers.iter().map(|(name, value)| (name.to_string(), text(value)));
        self.memory().headers = headers.collect();
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        call: Call<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.note(&call.metadata().clone().into_headers());
        self.traces(call.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Received {
    async fn export(
        &self,
        call: Call<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.note(&call.metadata().clone().into_headers());
        self.logs(call.into_inner());
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Received {
    async fn export(
        &self,
        call: Call<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.note(&call.metadata().clone().into_headers());
        self.metrics(call.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

async fn serve_grpc(listener: TcpListener, received: Received) {
    let gzip = CompressionEncoding::Gzip;
    let serving = Server::builder()
        .add_service(TraceServiceServer::new(received.clone()).accept_compressed(gzip))
        .add_service(LogsServiceServer::new(received.clone()).accept_compressed(gzip))
        .add_service(MetricsServiceServer::new(received).accept_compressed(gzip))
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
    // It ends with the task.
    let _ended = serving.await;
}

async fn serve_http(listener: TcpListener, received: Received) {
    while let Ok((stream, _peer)) = listener.accept().await {
        let received = received.clone();
        task::detach(async move {
            let service = service_fn(|request| answer(&received, request));
            // A client that is gone has nothing more to tell.
            let _gone = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// OTLP over HTTP: binary protobuf, perhaps compressed.
async fn answer(received: &Received, request: Request<Incoming>) -> Result<HttpResponse<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    received.note(&head.headers);
    let mut content = body.collect().await?.to_bytes();
    if head.headers.get("content-encoding").is_some_and(|coding| coding == "gzip") {
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*content), &mut plain)?;
        content = plain.into();
    }
    let taken = match (&head.method, head.uri.path()) {
        (&Method::POST, "/v1/traces") => {
            ExportTraceServiceRequest::decode(content).map(|request| received.traces(request))
        }
        (&Method::POST, "/v1/logs") => {
            ExportLogsServiceRequest::decode(content).map(|request| received.logs(request))
        }
        (&Method::POST, "/v1/metrics") => {
            ExportMetricsServiceRequest::decode(content).map(|request| received.metrics(request))
        }
        _ => return reply(StatusCode::NOT_FOUND),
    };
    // An empty message says that all of it was taken.
    reply(if taken.is_ok() { StatusCode::OK } else { StatusCode::BAD_REQUEST })
}

fn reply(status: StatusCode) -> Result<HttpResponse<Full<Bytes>>> {
    let response = HttpResponse::builder().status(status).header("content-type", "application/x-protobuf");
    Ok(response.body(Full::default())?)
}
