//! What the proxy says itself.
//!
//! Every such response carries `x-pillion-error: FLAG; cause`. A gRPC caller gets a gRPC status in a trailers-only
//! response, because it would make nothing of an HTTP status; everyone else gets the status and the cause as text.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE},
};
use pillion_policy::{header::Field, resilience::Fallback, route::DirectResponse};

use super::{
    classify::{OVERLOADED, RATE_LIMITED},
    limits,
};
use crate::{
    body::Body,
    error::{self, ProxyError},
};

/// Names the flag and the cause on every response that is an error of ours.
pub const ERROR: HeaderName = HeaderName::from_static(error::HEADER);

const TRUE: HeaderValue = HeaderValue::from_static("true");

/// How a refused token is to be taken (RFC 6750 §3).
const INVALID_TOKEN: HeaderValue = HeaderValue::from_static("Bearer error=\"invalid_token\"");

/// Explains an error.
pub fn error(error: &ProxyError, grpc: bool) -> Response<Body> {
    let cause = error.to_string();
    let mut response = if grpc { grpc_error(error, &cause) } else { http_error(error, &cause) };
    mark(response.headers_mut(), error, &cause);
    match error {
        ProxyError::Overflow { .. } | ProxyError::DiscoveryOverflow | ProxyError::BreakerOpen { .. } => {
            response.headers_mut().insert(OVERLOADED, TRUE);
        }
        ProxyError::RateLimited { .. } => {
            response.headers_mut().insert(RATE_LIMITED, TRUE);
        }
        ProxyError::BadToken(_) => {
            response.headers_mut().insert(WWW_AUTHENTICATE, INVALID_TOKEN);
        }
        _ => {}
    }
    limits::refused(error, response.headers_mut());
    response
}

/// The fallback that stands in for an error.
pub fn fallback(fallback: &Fallback, error: &ProxyError) -> Response<Body> {
    let mut response = Response::new(Body::full(Bytes::copy_from_slice(&fallback.body)));
    // The model admits nothing outside 200 to 599.
    *response.status_mut() = StatusCode::from_u16(fallback.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    *response.headers_mut() = fields(&fallback.headers);
    mark(response.headers_mut(), error, &error.to_string());
    response
}

/// Fields as a header map.
pub fn fields(fields: &[Field]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(fields.len() + 1);
    for field in fields {
        headers.append(field.name.clone(), field.value.clone());
    }
    headers
}

fn mark(headers: &mut HeaderMap, error: &ProxyError, cause: &str) {
    let marked = format!("{}; {}", error.flag().as_str(), printable(cause));
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(marked)) {
        headers.insert(ERROR, value);
    }
}

fn http_error(error: &ProxyError, cause: &str) -> Response<Body> {
    let mut response = Response::new(Body::full(format!("{cause}\n")));
    *response.status_mut() = error.status();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if error.status() == StatusCode::METHOD_NOT_ALLOWED {
        const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE";
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(METHODS));
    }
    response
}

fn grpc_error(error: &ProxyError, cause: &str) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(u16::from(error.grpc_code())));
    if let Ok(message) = HeaderValue::from_maybe_shared(Bytes::from(percent_encoded(cause))) {
        headers.insert("grpc-message", message);
    }
    response
}

/// The response that stands in the policy.
pub fn direct(direct: &DirectResponse) -> Response<Body> {
    let mut response = Response::new(Body::full(Bytes::copy_from_slice(&direct.body)));
    // The model admits nothing outside 200 to 599.
    *response.status_mut() = StatusCode::from_u16(direct.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if !direct.body.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

/// A redirection.
pub fn redirect(code: u16, location: String) -> Result<Response<Body>, ProxyError> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::MOVED_PERMANENTLY);
    let location = HeaderValue::from_maybe_shared(Bytes::from(location))
        .map_err(|_| ProxyError::BadRequest("the request makes the redirection an invalid location"))?;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// Text that may stand in a header field.
fn printable(text: &str) -> String {
    text.chars().map(|char| if matches!(char, ' '..='~') { char } else { '?' }).collect()
}

/// The encoding of `grpc-message`: everything outside printable ASCII, and the percent sign, as `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => out.push_str("%25"),
            b' '..=b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_answered_in_their_own_language() {
        let cause = ProxyError::NoHealthyEndpoint { cluster: "shöp:80".into() };
        let plain = error(&cause, false);
        assert_eq!(plain.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(plain.headers()[ERROR], "UH; sh?p:80 has no healthy endpoint");
        let grpc = error(&cause, true);
        assert_eq!((grpc.status(), &grpc.headers()["grpc-status"]), (StatusCode::OK, &"14".parse().unwrap()));
        assert_eq!(grpc.headers()["grpc-message"], "sh%C3%B6p:80 has no healthy endpoint");
    }
}
