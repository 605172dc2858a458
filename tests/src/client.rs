//! Clients that read like the request they send.
//!
//! A [`Client`] keeps connections to one address (a sidecar's listener, an admin port) and names
//! the service it wants in the URL. A [`Reply`] is a whole response, trailers included.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version};
use http_body_util::BodyExt;

use crate::body::{self, Body};
use crate::dial::{Fixed, Pooled};

/// Sends requests to one address; clones share its connections.
#[derive(Clone, Debug)]
pub struct Client {
    pool: Pooled,
    version: Version,
}

/// A response, read to its end.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The protocol version of the response.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The trailers; empty if there were none.
    pub trailers: HeaderMap,
}

/// A request being put together.
#[derive(Debug)]
pub struct Call {
    client: Client,
    request: Result<Request<Body>>,
    limit: Duration,
}

impl Client {
    /// An HTTP/1.1 client of `address`.
    pub fn http1(address: SocketAddr) -> Self {
        Self { pool: Fixed::new(address).http1(), version: Version::HTTP_11 }
    }

    /// An HTTP/2 prior-knowledge client of `address`.
    pub fn http2(address: SocketAddr) -> Self {
        Self { pool: Fixed::new(address).http2(), version: Version::HTTP_2 }
    }

    /// A client that dials in its own way.
    pub fn dialing(dial: Fixed) -> Self {
        Self { pool: dial.http1(), version: Version::HTTP_11 }
    }

    /// A GET request for an absolute URL.
    pub fn get(&self, url: &str) -> Call {
        self.request(Method::GET, url)
    }

    /// A POST request for an absolute URL.
    pub fn post(&self, url: &str) -> Call {
        self.request(Method::POST, url)
    }

    /// A request for an absolute URL.
    pub fn request(&self, method: Method, url: &str) -> Call {
        let request = Request::builder().method(method).uri(url).version(self.version).body(body::empty());
        let request = request.with_context(|| format!("not a URL: {url}"));
        Call { client: self.clone(), request, limit: Duration::from_secs(20) }
    }
}

impl Call {
    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else {
            self.request = Err(anyhow!("not a header: {name}: {value}"));
            return self;
        };
        if let Ok(request) = &mut self.request {
            request.headers_mut().append(name, value);
        }
        self
    }

    /// Sets the body.
    pub fn body(self, bytes: impl Into<Bytes>) -> Self {
        self.streaming(body::full(bytes))
    }

    /// Sets a body of any kind.
    pub fn streaming(mut self, body: Body) -> Self {
        if let Ok(request) = &mut self.request {
            *request.body_mut() = body;
        }
        self
    }

    /// Waits at most this long for the whole response.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sends the request and reads the whole response.
    pub async fn send(self) -> Result<Reply> {
        let limit = self.limit;
        let reply = async move {
            let (head, body) = self.open().await?.into_parts();
            let collected = body.collect().await.context("the response body broke off")?;
            let trailers = collected.trailers().cloned().unwrap_or_default();
            let (status, version, headers) = (head.status, head.version, head.headers);
            Ok(Reply { status, version, headers, body: collected.to_bytes(), trailers })
        };
        tokio::time::timeout(limit, reply)
            .await
            .with_context(|| format!("no whole response after {limit:?}"))?
    }

    /// Sends the request and gives back the response as soon as its head is there.
    pub async fn open(self) -> Result<http::Response<hyper::body::Incoming>> {
        let request = self.request?;
        let what = format!("{} {}", request.method(), request.uri());
        self.client.pool.request(request).await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            anyhow!("{what}: {error}: {cause}")
        })
    }
}

impl Reply {
    /// A header's value, empty if absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// A trailer's value, empty if absent.
    pub fn trailer(&self, name: &str) -> &str {
        self.trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// The flag of `x-pillion-error: FLAG; cause`; empty on a response made by an app.
    pub fn flag(&self) -> &str {
        self.header("x-pillion-error").split(';').next().unwrap_or("").trim()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("no JSON: {} {}", self.status, self.text()))
    }

    /// The headers an `/echo` answer says the app received under this name.
    pub fn received(&self, name: &str) -> Result<Vec<String>> {
        let echo = self.json()?;
        let headers = echo.get("headers").and_then(|headers| headers.as_array()).context("not an echo")?;
        let of_name = headers.iter().filter_map(|pair| {
            let pair = pair.as_array()?;
            (pair.first()?.as_str()? == name).then(|| pair.get(1)?.as_str().map(str::to_owned))?
        });
        Ok(of_name.collect())
    }

    /// Fails unless the status is as wanted, telling what came instead.
    pub fn expect(self, status: u16) -> Result<Self> {
        anyhow::ensure!(
            self.status.as_u16() == status,
            "{status} wanted, got {} ({:?}): {}",
            self.status,
            self.header("x-pillion-error"),
            self.text()
        );
        Ok(self)
    }

    /// Fails unless the proxy itself answered with this status and flag, and a cause.
    pub fn expect_own(self, status: u16, flag: &str) -> Result<Self> {
        let reply = self.expect(status)?;
        let error = reply.header("x-pillion-error");
        let cause = error.split_once(';').map_or("", |(_, cause)| cause.trim());
        anyhow::ensure!(reply.flag() == flag, "flag {flag} wanted, got {error:?}");
        anyhow::ensure!(!cause.is_empty(), "no cause in {error:?}");
        Ok(reply)
    }
}
