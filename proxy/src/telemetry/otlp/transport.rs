//! The way to a collector: one encoded request there, one answer back, over gRPC or HTTP.
//!
//! Both ways share a client that keeps a connection and believes the certificates it is told to, or the system's. Which
//! answers mean that a request may be sent again is for the specification to say
//! (<https://opentelemetry.io/docs/specs/otlp/#failures>). A transport does nothing by itself and keeps no request.

use std::{
    io::Write,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Buf, BufMut, Bytes};
use flate2::{Compression, write::GzEncoder};
use http::{
    HeaderMap, HeaderValue, Request, StatusCode, Uri,
    header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, USER_AGENT},
    uri::PathAndQuery,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioTimer,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use pillion_policy::telemetry::OtlpProtocol;
use prost::Message;
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore,
    client::WantsClientCert,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tonic::{
    Code, Status,
    client::Grpc,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
};
use tonic_types::StatusExt as _;

use super::{Signal, outbox::Sent, settings::Target};
use crate::rt::{clock, task};

/// Most of an answer that is read.
const MAX_ANSWER: usize = 64 << 10;
/// How often a connection that is in use is asked whether it still lives.
const PING: Duration = Duration::from_secs(10);

const AGENT: HeaderValue = HeaderValue::from_static(concat!("pillion-proxy/", env!("CARGO_PKG_VERSION")));
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// A way to one collector; clones share its connection.
#[derive(Debug, Clone)]
pub struct Transport {
    target: Arc<Target>,
    tls: Arc<ClientConfig>,
    client: Either,
}

#[derive(Debug, Clone)]
enum Either {
    Grpc(Http<tonic::body::Body>),
    Http(Http<Full<Bytes>>),
}

type Http<B> = Client<HttpsConnector<HttpConnector>, B>;

/// Why there is no way to a collector.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    reason: String,
    sent: Sent,
}

impl Failure {
    /// It may be taken when it is sent again.
    fn later(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), sent: Sent::Later { after: None } }
    }

    fn refused(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), sent: Sent::Refused }
    }

    /// It may be taken later, not before that time if one is given.
    fn not_before(after: Option<Duration>, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), sent: Sent::Later { after } }
    }

    /// What is to be done with the batch.
    pub fn sent(&self) -> Sent {
        self.sent
    }
}

impl Transport {
    /// A way to `target`; nothing is connected yet. Fails when certificates or keys cannot be read.
    pub fn new(target: Target) -> Result<Self, Unusable> {
        let is_secured = target.uri.scheme_str() == Some("https");
        let roots = if is_secured { roots(&target)? } else { RootCertStore::empty() };
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Unusable(error.to_string()))?;
        let config = config.with_root_certificates(roots);
        let tls = Arc::new(match target.client.as_ref().filter(|_| is_secured) {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => proving(config, certificate, key)?,
        });
        let client = Either::new(target.protocol, &tls);
        Ok(Self { target: Arc::new(target), tls, client })
    }

    /// Where it leads.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The same way with a connection of its own: one that has failed may be stuck.
    pub fn renewed(&self) -> Self {
        let client = Either::new(self.target.protocol, &self.tls);
        Self { target: Arc::clone(&self.target), tls: Arc::clone(&self.tls), client }
    }

    /// Sends an encoded request; says how many of its items the collector has refused.
    pub async fn send(&self, signal: Signal, body: Bytes) -> Result<u64, Failure> {
        let answer = async {
            match &self.client {
                Either::Grpc(client) => self.call(client, signal, body).await,
                Either::Http(client) => self.post(client, body).await,
            }
        };
        let answer = match tokio::time::timeout(self.target.timeout, answer).await {
            Ok(answer) => answer?,
            Err(_) => return Err(Failure::later(format!("no answer within {:?}", self.target.timeout))),
        };
        // The answers of all signals have the same form. One that cannot be read says nothing against success.
        let told = ExportTraceServiceResponse::decode(answer).ok().and_then(|answer| answer.partial_success);
        Ok(told.map_or(0, |told| u64::try_from(told.rejected_spans).unwrap_or(0)))
    }

    async fn call(
        &self,
        client: &Http<tonic::body::Body>,
        signal: Signal,
        body: Bytes,
    ) -> Result<Bytes, Failure> {
        let mut grpc =
            Grpc::with_origin(client.clone(), self.target.uri.clone()).max_decoding_message_size(MAX_ANSWER);
        if self.target.gzip {
            grpc =
                grpc.send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip);
        }
        let mut request = tonic::Request::new(body);
        *request.metadata_mut() = MetadataMap::from_headers(self.headers());
        grpc.ready().await.map_err(|error| Failure::later(chain(&error)))?;
        let method = PathAndQuery::from_static(signal.grpc_method());
        match grpc.unary(request, method, Raw).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(refusal(&status)),
        }
    }

    async fn post(&self, client: &Http<Full<Bytes>>, body: Bytes) -> Result<Bytes, Failure> {
        let mut request = Request::new(Full::default());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.target.uri.clone();
        *request.headers_mut() = self.headers();
        request.headers_mut().insert(CONTENT_TYPE, PROTOBUF);
        if self.target.gzip {
            request.headers_mut().insert(CONTENT_ENCODING, GZIP);
        }
        *request.body_mut() = Full::new(if self.target.gzip { compressed(&body) } else { body });
        let response = client.request(request).await.map_err(|error| Failure::later(chain(&error)))?;
        let status = response.status();
        if !status.is_success() {
            let reason = format!("the collector answered {status}");
            return Err(match status {
                StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT => {
                    Failure::not_before(retry_after(response.headers(), clock::now()), reason)
                }
                _ => Failure::refused(reason),
            });
        }
        // It has said that all is well; what more it has to say is not worth sending everything again.
        let answer = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        Ok(answer.map(http_body_util::Collected::to_bytes).unwrap_or_default())
    }

    fn headers(&self) -> HeaderMap {
        let mut headers: HeaderMap<HeaderValue> = self.target.headers.iter().cloned().collect::<HeaderMap>();
        headers.entry(USER_AGENT).or_insert(AGENT);
        headers
    }
}

impl Either {
    fn new(protocol: OtlpProtocol, tls: &ClientConfig) -> Self {
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http();
        let mut builder = Client::builder(Exec);
        builder.pool_max_idle_per_host(1).timer(TokioTimer::new()).pool_timer(TokioTimer::new());
        match protocol {
            OtlpProtocol::Grpc => {
                builder.http2_only(true).http2_keep_alive_interval(PING);
                Self::Grpc(builder.build(connector.enable_http2().build()))
            }
            OtlpProtocol::HttpProtobuf => Self::Http(builder.build(connector.enable_http1().build())),
        }
    }
}

/// Has the tasks of connections caught like all others.
#[derive(Debug, Clone, Copy)]
struct Exec;

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Exec {
    fn execute(&self, connection: F) {
        task::spawn_connection("collector", connection);
    }
}

/// gRPC messages as they are.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

fn refusal(status: &Status) -> Failure {
    let reason = format!("the collector answered {:?}: {}", status.code(), status.message());
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss
        | Code::ResourceExhausted => {
            let told = status.get_details_retry_info();
            Failure::not_before(told.and_then(|told| told.retry_delay), reason)
        }
        // The library's word for a connection that was lost.
        Code::Unknown if std::error::Error::source(status).is_some() => Failure::later(chain(status)),
        _ => Failure::refused(reason),
    }
}

/// When a collector wants to be asked again (RFC 9110, section 10.2.3): in seconds, or as a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let told = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = told.parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(told).ok()?.duration_since(now).ok()
}

fn compressed(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    // Writing to memory cannot fail.
    let _infallible = encoder.write_all(body);
    encoder.finish().unwrap_or_default().into()
}

/// Settings by which the proxy proves itself to a collector.
fn proving(
    config: ConfigBuilder<ClientConfig, WantsClientCert>,
    certificate: &Path,
    key: &Path,
) -> Result<ClientConfig, Unusable> {
    let unreadable = |path: &Path, variable: &str, error: &dyn std::fmt::Display| {
        Unusable(format!("cannot use {} (OTEL_EXPORTER_OTLP_{variable}): {error}", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain: Vec<_> = chain.map_err(|error| unreadable(certificate, "CLIENT_CERTIFICATE", &error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, "CLIENT_KEY", &error))?;
    let config = config.with_client_auth_cert(chain, private);
    config.map_err(|error| unreadable(certificate, "CLIENT_CERTIFICATE", &error))
}

fn roots(target: &Target) -> Result<RootCertStore, Unusable> {
    let mut store = RootCertStore::empty();
    let Some(path) = &target.roots else {
        let found = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(found.certs);
        return if store.is_empty() {
            Err(Unusable("this system has no certificates to believe a collector by".to_owned()))
        } else {
            Ok(store)
        };
    };
    let unreadable = |error: &dyn std::fmt::Display| {
        Unusable(format!("cannot read {} (OTEL_EXPORTER_OTLP_CERTIFICATE): {error}", path.display()))
    };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        store.add(certificate).map_err(|error| unreadable(&error))?;
    }
    if store.is_empty() { Err(unreadable(&"it holds no certificate")) } else { Ok(store) }
}

/// An error with its causes, but for those that say nothing new.
fn chain(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut next = error.source();
    while let Some(deeper) = next {
        let text = deeper.to_string();
        if !told.contains(&text) {
            told = format!("{told}: {text}");
        }
        next = deeper.source();
    }
    told
}

/// The origin of a target, for logs: without what may be secret in a path or query.
pub fn origin(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{}://{host}", uri.scheme_str().unwrap_or("http"))
}

#[cfg(test)]
mod tests;
