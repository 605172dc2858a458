//! What a request asks for: who, and which path, in one form whatever the version and form it came in.
//!
//! Refuses what the HTTP library lets through but no proxy should pass on (RFC 9112 §3.2): a missing or repeated
//! Host, a Host that is no authority, CONNECT. Paths are normalized before anything is matched against them, so that
//! a rule cannot be evaded by writing the same path differently (Istio's BASE).

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Uri, Version,
    header::{COOKIE, HOST},
    uri::{Authority, PathAndQuery},
};
use pillion_policy::matching::Head;

use super::headers::CARRIED;
use crate::error::ProxyError;

/// Whom a request is for, as the client wrote it.
#[derive(Debug, Clone)]
pub struct Asked {
    authority: HeaderValue,
    /// End of the host in `authority`, and its start when an IPv6 literal stands in brackets.
    host: (usize, usize),
    port: Option<u16>,
}

impl Asked {
    /// Reads an authority: `host`, `host:port` or `[v6]:port`.
    fn new(authority: HeaderValue) -> Option<Self> {
        let text = authority.to_str().ok()?;
        let (start, end, rest) = match text.strip_prefix('[') {
            Some(inner) => {
                let end = inner.find(']')? + 1;
                (1, end, text.get(end + 1..)?)
            }
            None => {
                let end = text.find(':').unwrap_or(text.len());
                (0, end, text.get(end..)?)
            }
        };
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => None,
            Some("") => None,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok()?),
            None | Some(_) => return None,
        };
        let host = text.get(start..end)?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:".contains(&byte);
        if host.is_empty() || !host.bytes().all(allowed) {
            return None;
        }
        Some(Self { host: (start, end), port, authority })
    }

    /// The host without port and brackets.
    pub fn host(&self) -> &str {
        self.authority().get(self.host.0..self.host.1).unwrap_or_default()
    }

    /// The port, where the client wrote one.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// All of it.
    pub fn authority(&self) -> &str {
        self.authority.to_str().unwrap_or_default()
    }

    /// All of it, as a header value.
    pub fn value(&self) -> &HeaderValue {
        &self.authority
    }
}

/// Brings the request into one form (origin-form target, one Host for HTTP/1) and says whom it is for. `None` when
/// an HTTP/1.0 client names nobody.
pub fn normalize<B>(request: &mut Request<B>) -> Result<Option<Asked>, ProxyError> {
    if request.method() == Method::CONNECT {
        return Err(ProxyError::ConnectNotAllowed);
    }
    let asked = if request.version() == Version::HTTP_2 { http2(request)? } else { http1(request)? };
    if let Some(path) = clean_path(request.uri().path()) {
        set_path(request, &path)?;
    }
    Ok(asked)
}

/// `:authority` decides; a Host beside it must say the same (RFC 9113 §8.3.1).
fn http2<B>(request: &mut Request<B>) -> Result<Option<Asked>, ProxyError> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next().cloned();
    if hosts.next().is_some() {
        return Err(ProxyError::BadRequest("the request has more than one Host header"));
    }
    let value = match (request.uri().authority(), host) {
        (Some(authority), Some(host))
            if !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) =>
        {
            return Err(ProxyError::BadRequest("the Host header differs from :authority"));
        }
        (Some(authority), _) => HeaderValue::from_str(authority.as_str()).ok(),
        (None, host) => host,
    };
    let value = value.ok_or(ProxyError::BadRequest("the request has no :authority"))?;
    request.headers_mut().remove(HOST);
    join_cookies(request.headers_mut());
    Asked::new(value)
        .map(Some)
        .ok_or(ProxyError::BadRequest(":authority is not a host with an optional port"))
}

/// HTTP/2 clients may send a cookie in pieces, which belong together everywhere else (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut pieces = headers.get_all(COOKIE).iter();
    if pieces.next().is_none() || pieces.next().is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(pieces.join(&b"; "[..]))) {
        headers.insert(COOKIE, joined);
    }
}

/// Exactly one Host; an absolute-form target overrides it (RFC 9112 §3.2.2).
fn http1<B>(request: &mut Request<B>) -> Result<Option<Asked>, ProxyError> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next().cloned();
    if hosts.next().is_some() {
        return Err(ProxyError::BadRequest("the request has more than one Host header"));
    }
    if host.is_none() && request.version() == Version::HTTP_11 {
        return Err(ProxyError::BadRequest("the request has no Host header"));
    }
    let value = match request.uri().authority() {
        None => host,
        Some(authority) => {
            let value = HeaderValue::from_str(authority.as_str())
                .map_err(|_| ProxyError::BadRequest("the request target names no valid host"))?;
            // A target without a scheme is an authority, which only CONNECT may have.
            if request.uri().scheme_str() != Some("http") {
                return Err(ProxyError::BadRequest("only http:// targets can be proxied without CONNECT"));
            }
            let path = request.uri().path_and_query().cloned();
            *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
            request.headers_mut().insert(HOST, value.clone());
            Some(value)
        }
    };
    let Some(value) = value else { return Ok(None) };
    Asked::new(value)
        .map(Some)
        .ok_or(ProxyError::BadRequest("the Host header is not a host with an optional port"))
}

/// The parts of a request rules look at.
pub fn view<'a, B>(request: &'a Request<B>, asked: Option<&'a Asked>) -> Head<'a> {
    Head {
        method: request.method().as_str(),
        scheme: "http",
        authority: asked.map_or("", Asked::authority),
        path: request.uri().path(),
        query: request.uri().query(),
        headers: request.headers(),
    }
}

/// Replaces the path, keeping the query.
pub fn set_path<B>(request: &mut Request<B>, path: &str) -> Result<(), ProxyError> {
    let invalid = |_| ProxyError::BadRequest("the rewritten path is not a valid path");
    let target = match request.uri().query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")).map_err(invalid)?,
        None => PathAndQuery::try_from(path).map_err(invalid)?,
    };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.path_and_query = Some(target);
    *request.uri_mut() = Uri::from_parts(parts)
        .map_err(|_| ProxyError::BadRequest("the rewritten path is not a valid path"))?;
    Ok(())
}

/// Gives the request the form its upstream version needs.
pub fn set_version<B>(
    request: &mut Request<B>,
    http2: bool,
    authority: &HeaderValue,
) -> Result<(), ProxyError> {
    if http2 {
        let bad = ProxyError::BadRequest("the host is not a valid authority");
        request.headers_mut().remove(HOST);
        let is_set =
            request.uri().authority().is_some_and(|old| old.as_str().as_bytes() == authority.as_bytes());
        if !is_set || request.uri().scheme().is_none() {
            let authority = Authority::try_from(authority.as_bytes()).map_err(|_| bad.clone())?;
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.scheme = Some(http::uri::Scheme::HTTP);
            parts.authority = Some(authority);
            parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
            *request.uri_mut() = Uri::from_parts(parts).map_err(|_| bad)?;
        }
        *request.version_mut() = Version::HTTP_2;
    } else {
        if request.uri().scheme().is_some() || request.uri().authority().is_some() {
            let path = request.uri().path_and_query().cloned();
            *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
        }
        if request.headers().get(HOST) != Some(authority) {
            request.headers_mut().insert(HOST, authority.clone());
        }
        *request.version_mut() = Version::HTTP_11;
    }
    Ok(())
}

/// Makes an HTTP/1.1 request one that HTTP/2 can carry to a sidecar, which restores it.
pub fn carry<B>(request: &mut Request<B>) -> Result<(), ProxyError> {
    if request.version() == Version::HTTP_2 {
        return Ok(());
    }
    let host = request.headers().get(HOST).cloned();
    let host = host.ok_or(ProxyError::BadRequest("the request names no host: send a Host header"))?;
    set_version(request, true, &host)?;
    request.headers_mut().insert(CARRIED, HeaderValue::from_static("HTTP/1.1"));
    Ok(())
}

/// Makes a request that was carried what it was.
pub fn restore<B>(request: &mut Request<B>) -> Result<(), ProxyError> {
    request.headers_mut().remove(CARRIED);
    let authority = request.uri().authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    let Some(Ok(authority)) = authority else {
        return Err(ProxyError::BadRequest("the request has no :authority"));
    };
    set_version(request, false, &authority)
}

/// The path with dot segments removed, unreserved characters decoded and backslashes turned; `None` when it is clean
/// already, as nearly every path is.
fn clean_path(path: &str) -> Option<String> {
    let suspicious = memchr::memchr2(b'%', b'\\', path.as_bytes()).is_some() || path.contains("/.");
    if !suspicious || !path.starts_with('/') {
        return None;
    }
    let decoded = decode_unreserved(path).replace('\\', "/");
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in decoded.split('/').skip(1) {
        ends_open = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let mut clean = String::with_capacity(decoded.len());
    for segment in &kept {
        clean.push('/');
        clean.push_str(segment);
    }
    if ends_open || clean.is_empty() {
        clean.push('/');
    }
    (clean != path).then_some(clean)
}

/// Decodes `%XX` where it stands for a character that needs no encoding (RFC 3986 §6.2.2.2); upper-cases the rest.
fn decode_unreserved(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut chars = path.char_indices();
    while let Some((at, char)) = chars.next() {
        let code =
            path.get(at + 1..at + 3).filter(|_| char == '%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code {
            Some(code) if code.is_ascii_alphanumeric() || b"-._~".contains(&code) => {
                out.push(char::from(code));
                chars.nth(1);
            }
            Some(_) | None => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, uri: &str, hosts: &[&'static str]) -> Request<()> {
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap()
    }

    fn asked(request: &mut Request<()>) -> (String, Option<u16>) {
        let asked = normalize(request).unwrap().unwrap();
        (asked.host().to_owned(), asked.port())
    }

    #[test]
    fn hosts_are_read_in_every_form() {
        let v11 = Version::HTTP_11;
        assert_eq!(asked(&mut request(v11, "/", &["shop"])), ("shop".into(), None));
        assert_eq!(asked(&mut request(v11, "/", &["shop:81"])), ("shop".into(), Some(81)));
        assert_eq!(asked(&mut request(v11, "/", &["[::1]:81"])), ("::1".into(), Some(81)));
        assert_eq!(asked(&mut request(Version::HTTP_2, "http://shop:8/x", &[])), ("shop".into(), Some(8)));
        let mut absolute = request(v11, "http://shop:81/a?b", &["other"]);
        assert_eq!(asked(&mut absolute), ("shop".into(), Some(81)));
        assert_eq!(
            (absolute.uri().to_string().as_str(), &absolute.headers()[HOST]),
            ("/a?b", &"shop:81".parse().unwrap())
        );
    }

    #[test]
    fn what_is_unclear_is_refused() {
        let v11 = Version::HTTP_11;
        for hosts in [&[][..], &["a", "b"], &["a b"], &["a:x"], &["u@a"], &[""], &["a:99999"], &["[::1"]] {
            assert!(normalize(&mut request(v11, "/", hosts)).is_err(), "{hosts:?}");
        }
        for target in ["shop:80", "https://shop/"] {
            assert!(normalize(&mut request(v11, target, &["shop"])).is_err(), "{target}");
        }
        assert!(normalize(&mut request(Version::HTTP_2, "http://a/", &["b"])).is_err());
        assert!(normalize(&mut request(v11, "a:80", &["a"])).is_err());
        assert!(normalize(&mut request(Version::HTTP_10, "/", &[])).unwrap().is_none());
    }

    #[test]
    fn pieces_of_a_cookie_belong_together() {
        let mut request = Request::builder().version(Version::HTTP_2).uri("http://shop/");
        for piece in ["a=1", "b=2"] {
            request = request.header(COOKIE, piece);
        }
        let mut request = request.body(()).unwrap();
        normalize(&mut request).unwrap();
        assert_eq!(request.headers().get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn paths_are_normalized_once() {
        for (path, clean) in [
            ("/a/../b", "/b"),
            ("/a/./b/", "/a/b/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a\\b", "/a/b"),
            ("/..", "/"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/%61%2Fb", "/a%2Fb"),
            ("/../../x", "/x"),
        ] {
            assert_eq!(clean_path(path).as_deref(), Some(clean), "{path}");
            assert_eq!(clean_path(clean), None, "{clean}");
        }
        for clean in ["/", "/a.b/c", "/a//b", "/%2F", "*", "/a%zz", "/%"] {
            assert_eq!(clean_path(clean), None, "{clean}");
        }
    }

    #[test]
    fn what_is_carried_is_restored() {
        for (method, target) in [(Method::GET, "/a?b"), (Method::OPTIONS, "*"), (Method::POST, "/")] {
            let mut carried = request(Version::HTTP_11, target, &["Shop:8080"]);
            *carried.method_mut() = method.clone();
            carry(&mut carried).unwrap();
            assert_eq!(carried.version(), Version::HTTP_2);
            assert_eq!(carried.uri().authority().unwrap(), "Shop:8080");
            assert_eq!(
                carried.headers().iter().collect::<Vec<_>>(),
                [(&CARRIED, &"HTTP/1.1".parse().unwrap())]
            );
            carry(&mut carried).unwrap();
            restore(&mut carried).unwrap();
            assert_eq!((carried.version(), carried.method()), (Version::HTTP_11, &method));
            assert_eq!(carried.uri().to_string(), target);
            assert_eq!(
                carried.headers().iter().collect::<Vec<_>>(),
                [(&HOST, &"Shop:8080".parse().unwrap())]
            );
        }
    }

    #[test]
    fn versions_need_different_forms() {
        let mut up = request(Version::HTTP_11, "/a?b", &["shop"]);
        set_version(&mut up, true, &"shop".parse().unwrap()).unwrap();
        assert_eq!((up.uri().to_string().as_str(), up.headers().len()), ("http://shop/a?b", 0));
        set_version(&mut up, false, &"shop".parse().unwrap()).unwrap();
        assert_eq!((up.uri().to_string().as_str(), up.headers().len()), ("/a?b", 1));
    }
}
