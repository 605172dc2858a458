//! A raw TCP connection, for what no well-behaved HTTP client would send.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Longest wait for bytes of the peer.
const LIMIT: Duration = Duration::from_secs(10);

/// A connection on which bytes are written and read as they are.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    seen: Vec<u8>,
}

impl Wire {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, seen: Vec::new() })
    }

    /// Takes over a connection accepted elsewhere.
    pub fn accepted(stream: TcpStream) -> Self {
        Self { stream, seen: Vec::new() }
    }

    /// Writes bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.stream.write_all(bytes.as_ref()).await.context("cannot write")
    }

    /// Closes the sending half.
    pub async fn finish(&mut self) -> Result<()> {
        self.stream.shutdown().await.context("cannot close")
    }

    /// Reads until `mark` has been seen; gives back all up to and including it.
    pub async fn until(&mut self, mark: &str) -> Result<String> {
        loop {
            if let Some(at) = self.seen.windows(mark.len()).position(|window| window == mark.as_bytes()) {
                let rest = self.seen.split_off(at + mark.len());
                let head = std::mem::replace(&mut self.seen, rest);
                return Ok(String::from_utf8_lossy(&head).into_owned());
            }
            if self.read().await? == 0 {
                bail!("closed before {mark:?}; got {:?}", String::from_utf8_lossy(&self.seen));
            }
        }
    }

    /// Reads one response or request head.
    pub async fn head(&mut self) -> Result<String> {
        self.until("\r\n\r\n").await
    }

    /// Reads until the peer closes; a reset counts as a close.
    pub async fn rest(&mut self) -> Result<String> {
        while self.read().await.or_else(|error| if is_reset(&error) { Ok(0) } else { Err(error) })? > 0 {}
        Ok(String::from_utf8_lossy(&std::mem::take(&mut self.seen)).into_owned())
    }

    async fn read(&mut self) -> Result<usize> {
        let read = tokio::time::timeout(LIMIT, self.stream.read_buf(&mut self.seen)).await;
        let read = read.with_context(|| {
            format!(
                "neither bytes nor a close after {LIMIT:?}; so far {:?}",
                String::from_utf8_lossy(&self.seen)
            )
        })?;
        Ok(read?)
    }
}

fn is_reset(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

/// Sends bytes on a new connection and reads until the peer closes.
pub async fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Result<String> {
    let mut wire = Wire::connect(address).await?;
    // The peer may answer and close before it has taken everything.
    let _ = wire.send(bytes).await;
    wire.rest().await
}

/// A server at the level of bytes: reads each request's head, reports it and sends `response`.
///
/// Made for [`crate::Mesh::serve_raw`]; request bodies are not read.
pub fn canned(
    response: impl Into<String>,
) -> (impl Fn(TcpStream) -> BoxFuture<'static, ()> + Clone + Send + Sync + 'static, Heads) {
    let response: Arc<str> = response.into().into();
    let (sender, heads) = mpsc::unbounded_channel();
    let handle = move |stream| {
        let (response, sender) = (response.clone(), sender.clone());
        async move {
            let mut wire = Wire::accepted(stream);
            while let Ok(head) = wire.head().await {
                if sender.send(head).is_err() || wire.send(response.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
        .boxed()
    };
    (handle, heads)
}

/// The request heads a [`canned`] server has seen.
pub type Heads = mpsc::UnboundedReceiver<String>;
