use std::{convert::Infallible, net::SocketAddr, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderName, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
use rcgen::{CertificateParams, SanType};
use rustls::server::WebPkiClientVerifier;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use tonic_types::ErrorDetails;

use super::*;
use crate::tls::testing::{Authority, workload};

/// A collector that answers each request with the same.
struct Collector {
    address: SocketAddr,
}

/// How it answers.
#[derive(Clone)]
struct Answer {
    status: u16,
    grpc_status: Option<&'static str>,
    rejected: i64,
    is_silent: bool,
    /// Seconds, in the way of the protocol.
    retry_after: Option<u64>,
}

const FINE: Answer =
    Answer { status: 200, grpc_status: None, rejected: 0, is_silent: false, retry_after: None };

const LATER: Sent = Sent::Later { after: None };

impl Collector {
    async fn start(answer: Answer, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        task::spawn_connection("collector of a test", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, tls) = (answer.clone(), tls.clone());
                task::spawn_connection("connection of a test", async move {
                    match tls {
                        None => serve(stream, answer).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, answer).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address }
    }

    fn target(&self, protocol: OtlpProtocol) -> Target {
        let path = if protocol == OtlpProtocol::Grpc { "" } else { "/v1/traces" };
        Target {
            uri: format!("http://{}{path}", self.address).parse().unwrap(),
            protocol,
            headers: vec![(HeaderName::from_static("x-key"), HeaderValue::from_static("open"))],
            timeout: Duration::from_secs(20),
            gzip: false,
            roots: None,
            client: None,
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, answer: Answer) {
    let service = service_fn(|request| respond(answer.clone(), request));
    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    // A client that gives up is part of the tests.
    let _gone = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(
    answer: Answer,
    request: Request<Incoming>,
) -> Result<Response<tonic::body::Body>, Infallible> {
    let (head, body) = request.into_parts();
    let is_grpc = head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/grpc");
    let sent = body.collect().await.unwrap().to_bytes();
    if answer.is_silent {
        std::future::pending::<()>().await;
    }
    let told = head.headers.get("x-key").is_some_and(|key| key == "open")
        && sent.ends_with(b"spans")
        && head.uri.path() == if is_grpc { Signal::Traces.grpc_method() } else { "/v1/traces" };
    let mut response = Response::builder().status(if told { answer.status } else { 418 });
    let partial = ExportTracePartialSuccess { rejected_spans: answer.rejected, error_message: String::new() };
    let message = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let content = if is_grpc {
        response = response.header(CONTENT_TYPE, "application/grpc");
        if let Some(status) = answer.grpc_status {
            let details = answer.retry_after.map(Duration::from_secs);
            let details = ErrorDetails::with_retry_info(details);
            let status = Status::with_error_details(Code::from_bytes(status.as_bytes()), "", details);
            for (name, value) in status.into_http::<()>().headers() {
                response = response.header(name, value);
            }
        }
        let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
        framed.extend(message);
        framed
    } else {
        if let Some(seconds) = answer.retry_after {
            response = response.header(RETRY_AFTER, seconds);
        }
        message
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let content = if answer.grpc_status.is_some() { Vec::new() } else { content };
    let whole = Full::new(Bytes::from(content));
    let body = if is_grpc {
        tonic::body::Body::new(whole.with_trailers(async { Some(Ok(trailers)) }))
    } else {
        tonic::body::Body::new(whole)
    };
    Ok(response.body(body).unwrap())
}

/// What becomes of a batch, or how many of its items are refused.
async fn sent(target: Target) -> Result<u64, Sent> {
    let transport = Transport::new(target).unwrap();
    transport.send(Signal::Traces, Bytes::from_static(b"spans")).await.map_err(|failure| failure.sent())
}

#[tokio::test]
async fn answers_over_http_say_whether_it_is_worth_another_try() {
    for (status, rejected, expected) in [
        (200, 0, Ok(0)),
        (200, 3, Ok(3)),
        (202, 0, Ok(0)),
        (400, 0, Err(Sent::Refused)),
        (401, 0, Err(Sent::Refused)),
        (404, 0, Err(Sent::Refused)),
        (500, 0, Err(Sent::Refused)),
        (429, 0, Err(LATER)),
        (502, 0, Err(LATER)),
        (503, 0, Err(LATER)),
        (504, 0, Err(LATER)),
    ] {
        let collector = Collector::start(Answer { status, rejected, ..FINE }, None).await;
        assert_eq!(sent(collector.target(OtlpProtocol::HttpProtobuf)).await, expected, "{status}");
    }
}

#[tokio::test]
async fn answers_over_grpc_say_whether_it_is_worth_another_try() {
    for (grpc_status, rejected, expected) in [
        (None, 0, Ok(0)),
        (None, 7, Ok(7)),
        (Some("3"), 0, Err(Sent::Refused)),
        (Some("12"), 0, Err(Sent::Refused)),
        (Some("16"), 0, Err(Sent::Refused)),
        (Some("4"), 0, Err(LATER)),
        (Some("8"), 0, Err(LATER)),
        (Some("14"), 0, Err(LATER)),
    ] {
        let collector = Collector::start(Answer { grpc_status, rejected, ..FINE }, None).await;
        assert_eq!(sent(collector.target(OtlpProtocol::Grpc)).await, expected, "{grpc_status:?}");
    }
}

#[tokio::test]
async fn a_collector_says_when_it_wants_to_be_asked_again() {
    let after = Some(Duration::from_secs(7));
    let answer = Answer { status: 503, retry_after: Some(7), ..FINE };
    let collector = Collector::start(answer, None).await;
    assert_eq!(sent(collector.target(OtlpProtocol::HttpProtobuf)).await, Err(Sent::Later { after }));
    let answer = Answer { grpc_status: Some("8"), retry_after: Some(7), ..FINE };
    let collector = Collector::start(answer, None).await;
    assert_eq!(sent(collector.target(OtlpProtocol::Grpc)).await, Err(Sent::Later { after }));
    let now = httpdate::parse_http_date("Sat, 21 Nov 2026 00:00:00 GMT").unwrap();
    for (value, expected) in [
        ("120", Some(120)),
        ("Sat, 21 Nov 2026 00:01:00 GMT", Some(60)),
        ("Fri, 20 Nov 2026 00:00:00 GMT", None),
        ("soon", None),
        ("-1", None),
    ] {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
        assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{value}");
    }
}

#[tokio::test]
async fn nobody_there_and_silence_are_for_later() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let silent = Collector::start(Answer { is_silent: true, ..FINE }, None).await;
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::HttpProtobuf] {
        assert_eq!(sent(Collector { address: closed }.target(protocol)).await, Err(LATER));
        let target = Target { timeout: Duration::from_millis(100), ..silent.target(protocol) };
        assert_eq!(sent(target).await, Err(LATER));
    }
}

fn pem(directory: &Path, name: &str, authority: &Authority) -> std::path::PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, armoured("CERTIFICATE", &authority.certificate)).unwrap();
    path
}

/// Bytes as PEM.
fn armoured(kind: &str, bytes: &[u8]) -> String {
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(bytes))
}

#[tokio::test]
async fn a_collector_is_believed_by_the_certificates_it_is_to_be_believed_by() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
    let (certificate, key) = ours.sign(&params);
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let collector = Collector::start(FINE, Some(TlsAcceptor::from(Arc::new(config)))).await;
    let directory = tempfile::tempdir().unwrap();
    let (good, bad) = (pem(directory.path(), "ours", &ours), pem(directory.path(), "others", &others));
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::HttpProtobuf] {
        let plain = collector.target(protocol);
        let uri: Uri = plain.uri.to_string().replace("http://", "https://").parse().unwrap();
        let with = |roots: &Path| Target { uri: uri.clone(), roots: Some(roots.to_owned()), ..plain.clone() };
        assert_eq!(sent(with(&good)).await, Ok(0), "{protocol:?}");
        assert_eq!(sent(with(&bad)).await, Err(LATER), "{protocol:?}");
        let empty = directory.path().join("empty");
        std::fs::write(&empty, "nothing").unwrap();
        assert!(Transport::new(with(&empty)).is_err());
        let error = Transport::new(with(&directory.path().join("absent"))).unwrap_err().to_string();
        assert!(error.contains("absent") && error.contains("OTEL_EXPORTER_OTLP_CERTIFICATE"), "{error}");
    }
}

#[tokio::test]
async fn a_collector_that_asks_for_it_is_shown_a_certificate() {
    let ours = Authority::new("ours");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
    let (certificate, key) = ours.sign(&params);
    let mut roots = RootCertStore::empty();
    roots.add(ours.certificate.clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let collector = Collector::start(FINE, Some(TlsAcceptor::from(Arc::new(config)))).await;
    let directory = tempfile::tempdir().unwrap();
    let root = pem(directory.path(), "root", &ours);
    let (own, private) = (directory.path().join("own"), directory.path().join("private"));
    let (certificate, key) = ours.sign(&workload("spiffe://cluster.local/ns/default/sa/caller"));
    std::fs::write(&own, armoured("CERTIFICATE", &certificate)).unwrap();
    std::fs::write(&private, armoured("PRIVATE KEY", key.secret_der())).unwrap();
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::HttpProtobuf] {
        let plain = collector.target(protocol);
        let uri: Uri = plain.uri.to_string().replace("http://", "https://").parse().unwrap();
        let anonymous = Target { uri, roots: Some(root.clone()), ..plain };
        let proving =
            |key: &Path| Target { client: Some((own.clone(), key.to_owned())), ..anonymous.clone() };
        assert_eq!(sent(proving(&private)).await, Ok(0), "{protocol:?}");
        let error = Transport::new(proving(&own)).unwrap_err().to_string();
        assert!(error.contains("OTEL_EXPORTER_OTLP_CLIENT_KEY"), "{error}");
        assert_eq!(sent(anonymous).await, Err(LATER), "{protocol:?}");
    }
}

#[test]
fn the_origin_tells_nothing_secret() {
    for (uri, told) in [
        ("http://user:pass@here:4318/v1/traces?key=secret", "http://here:4318"),
        ("https://[::1]:4317/", "https://[::1]:4317"),
    ] {
        assert_eq!(origin(&uri.parse().unwrap()), told);
    }
}
