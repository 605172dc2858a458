//! Which header fields may cross the proxy.
//!
//! Hop-by-hop fields end here: those `Connection` names, and the known ones (RFC 9110 §7.6.1). `TE` survives only as
//! `trailers`, and `Upgrade` only where a connection really changes its protocol.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_TYPE, TE, TRANSFER_ENCODING, UPGRADE},
};

use crate::error::HeadLimits;

/// The id that ties together what one request causes.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The version a request had that is carried between sidecars in another: `HTTP/1.1`.
pub const CARRIED: HeaderName = HeaderName::from_static("x-pillion-proto");
/// Whose certificate a request came with, for the application (Envoy's).
pub const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Removes what is meant for this hop alone. With `keep_upgrade` the fields of a protocol change are put back.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, keep_upgrade: bool) {
    let upgrade = if keep_upgrade { headers.get(UPGRADE).cloned() } else { None };
    if headers.contains_key(CONNECTION) {
        strip_nominated(headers);
    }
    let accepts_trailers = headers
        .get_all(TE)
        .iter()
        .any(|value| tokens(value).any(|token| token.eq_ignore_ascii_case("trailers")));
    for name in [&KEEP_ALIVE, &PROXY_CONNECTION, &TE, &TRANSFER_ENCODING, &UPGRADE] {
        headers.remove(name);
    }
    if accepts_trailers {
        headers.insert(TE, TRAILERS);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, upgrade);
    }
}

/// Removes `Connection` and every field it names, except those a request cannot do without.
fn strip_nominated(headers: &mut HeaderMap) {
    let nominated: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(tokens)
        .filter_map(|token| HeaderName::try_from(token).ok())
        .filter(|name| *name != http::header::HOST && *name != TE)
        .collect();
    headers.remove(CONNECTION);
    for name in nominated {
        headers.remove(name);
    }
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|token| !token.is_empty())
}

/// Whether a header list is over a limit; its size is what RFC 9113 §6.5.2 makes it.
pub fn exceed(headers: &HeaderMap, limits: HeadLimits) -> bool {
    const OVERHEAD: usize = 32;
    let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + OVERHEAD;
    headers.len() > limits.fields || headers.iter().map(size).sum::<usize>() > limits.bytes
}

/// Whether the client asks to change the protocol of its connection (HTTP/1.1 only). A change to HTTP/2 is ignored, as
/// a server may: its requests would pass the rules by.
pub fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    let is_h2c = |value: &HeaderValue| tokens(value).any(|token| token.eq_ignore_ascii_case("h2c"));
    headers.contains_key(UPGRADE)
        && !headers.get_all(UPGRADE).iter().any(is_h2c)
        && headers
            .get_all(CONNECTION)
            .iter()
            .any(|value| tokens(value).any(|token| token.eq_ignore_ascii_case("upgrade")))
}

/// Whether a body is chunked and nothing else: another coding would be lost with the field.
pub fn is_only_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter().flat_map(tokens);
    codings.next().is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) && codings.next().is_none()
}

/// Whether a message carries gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let rest = value.as_bytes().strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
    })
}

/// The gRPC status a head or trailers carry.
pub fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn hop_by_hop_fields_end_here() {
        let mut headers = map(&[
            ("connection", "x-secret, Keep-Alive"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-kept", "1"),
        ]);
        strip_hop_by_hop(&mut headers, false);
        assert_eq!(headers, map(&[("x-kept", "1"), ("te", "trailers")]));
    }

    #[test]
    fn a_real_upgrade_keeps_its_fields() {
        let mut headers = map(&[("connection", "Upgrade, x"), ("upgrade", "websocket"), ("x", "1")]);
        assert!(asks_for_upgrade(&headers));
        strip_hop_by_hop(&mut headers, true);
        assert_eq!(headers, map(&[("connection", "upgrade"), ("upgrade", "websocket")]));
    }

    #[test]
    fn an_upgrade_to_http2_is_ignored() {
        let headers = map(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")]);
        assert!(!asks_for_upgrade(&headers));
    }

    #[test]
    fn only_chunked_can_be_carried() {
        for (coding, is) in
            [("chunked", true), ("Chunked", true), ("gzip, chunked", false), ("chunked, chunked", false)]
        {
            assert_eq!(is_only_chunked(&map(&[("transfer-encoding", coding)])), is, "{coding}");
        }
    }

    #[test]
    fn host_cannot_be_nominated_away() {
        let mut headers = map(&[("connection", "host"), ("host", "shop")]);
        strip_hop_by_hop(&mut headers, false);
        assert_eq!(headers, map(&[("host", "shop")]));
    }

    #[test]
    fn lists_are_measured_as_http2_does() {
        let headers = map(&[("a", "12"), ("b", "")]);
        let exceed = |bytes, fields| exceed(&headers, HeadLimits { bytes, fields });
        assert!(!exceed(68, 2) && exceed(67, 2) && exceed(68, 1));
    }

    #[test]
    fn grpc_is_recognized() {
        for (value, is) in
            [("application/grpc", true), ("application/grpc+proto", true), ("application/grpcx", false)]
        {
            assert_eq!(is_grpc(&map(&[("content-type", value)])), is, "{value}");
        }
    }
}
