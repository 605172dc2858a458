//! Where telemetry is sent: OpenTelemetry's own environment variables first, then what the mesh wants.
//!
//! The variables are those of the specification
//! (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>): `OTEL_EXPORTER_OTLP_*`, and the same with `TRACES`,
//! `LOGS` or `METRICS` for one signal. One that is empty counts as unset; one that cannot be understood is named in the log
//! and passed over. Without an address from either side nothing is sent, unlike in an SDK: nobody has asked for it.

use std::{path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use pillion_policy::telemetry::{Collector, OtlpProtocol};
use rustc_hash::FxHashMap;

use super::Signal;

/// How long a collector may take to answer (OpenTelemetry's default).
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long items gather before they are sent together.
const GATHER: Duration = Duration::from_secs(1);
/// Items of a batch (OpenTelemetry's default).
const BATCH: usize = 512;
/// Spans that may wait to be sent: those of 8,192 requests with a try each.
const QUEUE: usize = 16_384;

/// The `OTEL_*` variables the process was started with.
#[derive(Debug, Clone, Default)]
pub struct Environment(FxHashMap<String, String>);

/// A collector, as one signal is sent to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it is: for gRPC its origin, else the address that is posted to.
    pub uri: Uri,
    /// What it speaks.
    pub protocol: OtlpProtocol,
    /// What every request carries. Never logged: there may be secrets among them.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long it may take to answer.
    pub timeout: Duration,
    /// Whether requests are compressed.
    pub gzip: bool,
    /// Certificates to believe it by, in PEM; those of the system when absent.
    pub roots: Option<PathBuf>,
    /// What the proxy proves itself with, in PEM: certificate and key; nothing when absent.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// How items are gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// Most items sent together.
    pub items: usize,
    /// How long they gather.
    pub delay: Duration,
    /// Most items that wait.
    pub queue: usize,
}

impl Environment {
    /// That of the process.
    pub fn of_process() -> Self {
        let of_ours = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| name.starts_with("OTEL_"))?;
            Some((name, value.into_string().ok()?))
        });
        Self::of(of_ours)
    }

    /// That of these variables.
    pub fn of(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(variables.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect())
    }

    /// A variable's value, if it is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim())
    }

    /// Where a signal is sent, given what the mesh wants; `None` for nowhere.
    pub fn target(&self, signal: Signal, mesh: Option<&Collector>) -> Option<Target> {
        if self.is_set("OTEL_SDK_DISABLED") {
            return None;
        }
        let exporter = format!("OTEL_{}_EXPORTER", signal.as_str());
        let is_asked_for = match self.get(&exporter) {
            None => false,
            Some("none") => return None,
            Some("otlp") => true,
            Some(other) => {
                tracing::warn!(
                    variable = exporter,
                    value = other,
                    "only otlp and none are known; nothing is exported"
                );
                return None;
            }
        };
        let (uri, protocol) = self.address(signal, mesh, is_asked_for)?;
        Some(Target {
            uri,
            protocol,
            headers: self.of_signal(signal, "HEADERS").map(headers).unwrap_or_default(),
            timeout: self
                .of_signal(signal, "TIMEOUT")
                .and_then(|text| millis("TIMEOUT", text))
                .unwrap_or(TIMEOUT),
            gzip: match self.of_signal(signal, "COMPRESSION") {
                None | Some("none") => false,
                Some("gzip") => true,
                Some(other) => {
                    tracing::warn!(value = other, "only gzip and none are known as OTLP compression");
                    false
                }
            },
            roots: self.of_signal(signal, "CERTIFICATE").map(PathBuf::from),
            client: match (self.of_signal(signal, "CLIENT_CERTIFICATE"), self.of_signal(signal, "CLIENT_KEY"))
            {
                (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
                (None, None) => None,
                (Some(_), None) | (None, Some(_)) => {
                    tracing::warn!("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY need each other");
                    None
                }
            },
        })
    }

    /// How spans are gathered (`OTEL_BSP_*`).
    pub fn batching(&self) -> Batching {
        let number = |name, default: usize| {
            let number = self.get(name).map(|text| text.parse().ok().filter(|number| *number > 0));
            match number {
                None => default,
                Some(Some(number)) => number,
                Some(None) => {
                    tracing::warn!(variable = name, "not a number above 0");
                    default
                }
            }
        };
        let delay =
            self.get("OTEL_BSP_SCHEDULE_DELAY").and_then(|text| millis("OTEL_BSP_SCHEDULE_DELAY", text));
        let queue = number("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE).min(QUEUE);
        Batching {
            items: number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH).min(queue),
            delay: delay.unwrap_or(GATHER),
            queue,
        }
    }

    /// The address of the collector and what it speaks. A signal's own address is posted to as it is; below one for all
    /// signals each has its path.
    fn address(
        &self,
        signal: Signal,
        mesh: Option<&Collector>,
        is_asked_for: bool,
    ) -> Option<(Uri, OtlpProtocol)> {
        let own = self.get(&format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.as_str()));
        let (written, is_own) = match (own, self.get("OTEL_EXPORTER_OTLP_ENDPOINT"), mesh) {
            (Some(own), ..) => (own, true),
            (None, Some(shared), _) => (shared, false),
            (None, None, Some(mesh)) => {
                let protocol = self.protocol(signal).unwrap_or(mesh.protocol);
                return Some((absolute(&mesh.endpoint, protocol, signal, false, true)?, protocol));
            }
            (None, None, None) if is_asked_for => match self.protocol(signal) {
                Some(OtlpProtocol::Grpc) => ("http://localhost:4317", false),
                Some(OtlpProtocol::HttpProtobuf) | None => ("http://localhost:4318", false),
            },
            (None, None, None) => return None,
        };
        let is_plain =
            self.of_signal(signal, "INSECURE").is_some_and(|text| text.eq_ignore_ascii_case("true"));
        let protocol = self.protocol(signal).unwrap_or_else(|| OtlpProtocol::by_port(written));
        Some((absolute(written, protocol, signal, is_own, is_plain)?, protocol))
    }

    fn protocol(&self, signal: Signal) -> Option<OtlpProtocol> {
        match self.of_signal(signal, "PROTOCOL")? {
            "grpc" => Some(OtlpProtocol::Grpc),
            "http/protobuf" => Some(OtlpProtocol::HttpProtobuf),
            other => {
                tracing::warn!(value = other, "only grpc and http/protobuf are known as OTLP protocols");
                None
            }
        }
    }

    /// The variable of one signal, or that of all.
    fn of_signal(&self, signal: Signal, name: &str) -> Option<&str> {
        let own = self.get(&format!("OTEL_EXPORTER_OTLP_{}_{name}", signal.as_str()));
        own.or_else(|| self.get(&format!("OTEL_EXPORTER_OTLP_{name}")))
    }

    fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}

/// The whole address. One without a scheme, as gRPC users write it, is secured unless that is waived.
fn absolute(
    written: &str,
    protocol: OtlpProtocol,
    signal: Signal,
    is_own: bool,
    is_plain: bool,
) -> Option<Uri> {
    let (scheme, rest) =
        written.split_once("://").unwrap_or((if is_plain { "http" } else { "https" }, written));
    let text = format!("{scheme}://{}", rest.trim_end_matches('/'));
    let text = match protocol {
        OtlpProtocol::HttpProtobuf if !is_own => format!("{text}{}", signal.http_path()),
        OtlpProtocol::HttpProtobuf | OtlpProtocol::Grpc => text,
    };
    let uri = text.parse::<Uri>().ok();
    let uri = uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
    if uri.is_none() {
        tracing::warn!(endpoint = written, "not the address of a collector, as in http://collector:4317");
    }
    uri
}

/// `name=value` pairs with commas between them, values percent-encoded (W3C Baggage without its properties).
fn headers(text: &str) -> Vec<(HeaderName, HeaderValue)> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let value: Vec<u8> = percent_decode_str(value.trim()).collect();
        let mut value = HeaderValue::from_bytes(&value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::try_from(name.trim()).ok()?, value))
    };
    let read = text.split(',').filter(|part| !part.trim().is_empty()).map(|part| {
        let read = pair(part);
        if read.is_none() {
            // What it says may be a secret.
            tracing::warn!("a part of OTEL_EXPORTER_OTLP_HEADERS is not name=value");
        }
        read
    });
    read.flatten().collect()
}

fn millis(name: &str, text: &str) -> Option<Duration> {
    let millis = text.parse().ok().filter(|millis| *millis > 0).map(Duration::from_millis);
    if millis.is_none() {
        tracing::warn!(variable = name, "not a time in milliseconds");
    }
    millis
}

#[cfg(test)]
mod tests;
