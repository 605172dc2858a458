//! Cross-origin requests: preflights are answered here, and responses say what a page may read (Fetch standard).

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
    },
};
use pillion_policy::route::Cors;

use crate::body::Body;

/// What the policy says of a request.
#[derive(Debug)]
pub enum Verdict {
    /// Not a cross-origin request the policy has a word on.
    Unconcerned,
    /// A request from an allowed origin: its response is marked.
    Allowed(HeaderValue),
    /// A preflight, answered here.
    Answered(Response<Body>),
}

/// Judges a request.
pub fn judge<B>(cors: &Cors, request: &Request<B>) -> Verdict {
    let Some(origin) = request.headers().get(ORIGIN) else { return Verdict::Unconcerned };
    let text = String::from_utf8_lossy(origin.as_bytes());
    let is_allowed = cors.allow_origins.iter().any(|allowed| allowed.matches(&text));
    let is_preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    match (is_preflight, is_allowed) {
        (true, true) => Verdict::Answered(preflight(cors, origin)),
        (true, false) if !cors.forward_unmatched_preflights => {
            let mut refused = Response::new(Body::Empty);
            *refused.status_mut() = StatusCode::OK;
            Verdict::Answered(refused)
        }
        (_, true) => Verdict::Allowed(origin.clone()),
        (_, false) => Verdict::Unconcerned,
    }
}

fn preflight(cors: &Cors, origin: &HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    mark(cors, origin, headers);
    headers.remove(ACCESS_CONTROL_EXPOSE_HEADERS);
    let mut list = |name, items: Vec<&str>| {
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(items.join(",")))
            && !value.is_empty()
        {
            headers.insert(name, value);
        }
    };
    list(ACCESS_CONTROL_ALLOW_METHODS, cors.allow_methods.iter().map(String::as_str).collect());
    list(ACCESS_CONTROL_ALLOW_HEADERS, cors.allow_headers.iter().map(http::HeaderName::as_str).collect());
    if let Some(age) = cors.max_age {
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(age.as_secs()));
    }
    response
}

/// Marks a response to an allowed origin. What the application says itself is replaced: one place decides.
pub fn mark(cors: &Cors, origin: &HeaderValue, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if cors.allow_credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    let exposed: Vec<&str> = cors.expose_headers.iter().map(http::HeaderName::as_str).collect();
    if !exposed.is_empty()
        && let Ok(value) = HeaderValue::from_str(&exposed.join(","))
    {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, value);
    }
    // The response differs by origin, which caches must know.
    headers.append(VARY, HeaderValue::from_static("origin"));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pillion_policy::matching::StringMatch;

    use super::*;

    fn cors(forward: bool) -> Cors {
        Cors {
            allow_origins: vec![StringMatch::Exact("https://shop.example".into())],
            allow_methods: vec!["GET".into(), "POST".into()],
            allow_headers: vec!["x-a".parse().unwrap()],
            expose_headers: vec!["x-b".parse().unwrap()],
            max_age: Some(Duration::from_secs(600)),
            allow_credentials: true,
            forward_unmatched_preflights: forward,
        }
    }

    fn request(method: Method, origin: &str) -> Request<()> {
        let request = Request::builder().method(method).header(ORIGIN, origin);
        request.header(ACCESS_CONTROL_REQUEST_METHOD, "GET").body(()).unwrap()
    }

    #[test]
    fn preflights_of_allowed_origins_are_answered() {
        let Verdict::Answered(answer) = judge(&cors(true), &request(Method::OPTIONS, "https://shop.example"))
        else {
            panic!("not answered")
        };
        let headers = answer.headers();
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://shop.example");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_METHODS], "GET,POST");
        assert_eq!(
            (&headers[ACCESS_CONTROL_ALLOW_HEADERS], &headers[ACCESS_CONTROL_MAX_AGE]),
            (&"x-a".parse().unwrap(), &"600".parse().unwrap())
        );
    }

    #[test]
    fn other_origins_are_not_marked() {
        let stranger = |forward, method| judge(&cors(forward), &request(method, "https://evil.example"));
        assert!(matches!(stranger(true, Method::OPTIONS), Verdict::Unconcerned));
        let Verdict::Answered(answer) = stranger(false, Method::OPTIONS) else { panic!("not answered") };
        assert!(answer.headers().is_empty());
        assert!(matches!(stranger(false, Method::GET), Verdict::Unconcerned));
        assert!(matches!(
            judge(&cors(false), &request(Method::GET, "https://shop.example")),
            Verdict::Allowed(_)
        ));
    }
}
