//! Pooled HTTP clients whose every connection goes to one fixed address, whatever the URL says.
//!
//! That is what an app in explicit mode does: it dials its sidecar and names the service in
//! `Host`/`:authority`.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpSocket, TcpStream};

use crate::body::Body;

/// A client with a connection pool to one address.
pub type Pooled = legacy::Client<Fixed, Body>;

/// Dials one address for every URL.
#[derive(Clone, Debug)]
pub struct Fixed {
    to: SocketAddr,
    from: Option<IpAddr>,
}

impl Fixed {
    /// Dials `to`.
    pub fn new(to: SocketAddr) -> Self {
        Self { to, from: None }
    }

    /// Connections come from this local address.
    pub fn from(mut self, source: IpAddr) -> Self {
        self.from = Some(source);
        self
    }

    /// An HTTP/1.1 client.
    pub fn http1(self) -> Pooled {
        self.builder().build(self)
    }

    /// An HTTP/2 prior-knowledge client.
    pub fn http2(self) -> Pooled {
        self.builder().http2_only(true).http2_max_header_list_size(256 * 1024).build(self)
    }

    fn builder(&self) -> legacy::Builder {
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .http1_max_headers(1024)
            .http1_max_buf_size(512 * 1024);
        builder
    }

    /// Opens one connection.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = self.from {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let stream = socket.connect(self.to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl tower::Service<Uri> for Fixed {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _url: Uri) -> Self::Future {
        let dial = self.clone();
        Box::pin(async move { dial.connect().await.map(TokioIo::new) })
    }
}
