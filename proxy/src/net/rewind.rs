//! A connection with the bytes already read from it put back in front: TCP, or TLS over it.
//!
//! [`Io`] speaks hyper's traits and tokio's. Once the put-back bytes are taken, a read costs one comparison more than
//! on the bare stream. The step from hyper's read buffer to tokio's needs `unsafe`, which hyper-util has and we
//! therefore do not. How TLS comes about, and what it proves, is no concern of this type.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use hyper::rt::ReadBufCursor;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;

/// A connection that is read from its put-back bytes on.
#[derive(Debug)]
pub struct Io {
    stream: Stream,
    front: Bytes,
}

#[derive(Debug)]
enum Stream {
    Tcp(TokioIo<TcpStream>),
    /// In a box: it is ten times as large, and most connections are not secured.
    Tls(Box<TokioIo<TlsStream<Io>>>),
}

/// Does the same on whichever stream there is.
macro_rules! on_stream {
    ($io:expr, $stream:ident => $action:expr) => {
        match &mut $io.get_mut().stream {
            Stream::Tcp(stream) => {
                let $stream = Pin::new(stream.inner_mut());
                $action
            }
            Stream::Tls(stream) => {
                let $stream = Pin::new(stream.inner_mut());
                $action
            }
        }
    };
}

impl Io {
    /// A connection of which nothing has been read.
    pub fn new(stream: TcpStream) -> Self {
        Self::rewound(stream, Bytes::new())
    }

    /// A connection of which `front` has been read and is to be read again.
    pub fn rewound(stream: TcpStream, front: Bytes) -> Self {
        Self { stream: Stream::Tcp(TokioIo::new(stream)), front }
    }

    /// A secured connection of which nothing has been read.
    pub fn secured(stream: TlsStream<Self>) -> Self {
        Self { stream: Stream::Tls(Box::new(TokioIo::new(stream))), front: Bytes::new() }
    }

    /// Puts back `front`, which has been read; nothing may be left of what was put back before.
    #[must_use]
    pub fn put_back(self, front: Bytes) -> Self {
        Self { front, ..self }
    }

    /// The connection below, to ask for addresses and options.
    pub fn stream(&self) -> &TcpStream {
        match &self.stream {
            Stream::Tcp(stream) => stream.inner(),
            Stream::Tls(stream) => stream.inner().get_ref().0.stream(),
        }
    }

    /// Takes up to `room` of the put-back bytes.
    fn take_front(&mut self, room: usize) -> Bytes {
        let taken = self.front.split_to(room.min(self.front.len()));
        if !self.front.has_remaining() {
            // An empty slice would still hold the buffer it came from.
            self.front = Bytes::new();
        }
        taken
    }
}

impl hyper::rt::Read for Io {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.front.is_empty() {
            return match &mut self.get_mut().stream {
                Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
                Stream::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
            };
        }
        buf.put_slice(&self.take_front(buf.remaining()));
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Io {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        on_stream!(self, stream => stream.poll_write(cx, buf))
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, stream => stream.poll_flush(cx))
    }

    #[inline]
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, stream => stream.poll_shutdown(cx))
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_stream!(self, stream => stream.poll_write_vectored(cx, bufs))
    }
}

impl AsyncRead for Io {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.front.is_empty() {
            return on_stream!(self, stream => stream.poll_read(cx, buf));
        }
        buf.put_slice(&self.take_front(buf.remaining()));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        on_stream!(self, stream => stream.poll_write(cx, buf))
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, stream => stream.poll_flush(cx))
    }

    #[inline]
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, stream => stream.poll_shutdown(cx))
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_stream!(self, stream => stream.poll_write_vectored(cx, bufs))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn put_back_bytes_come_first_through_both_traits() {
        fn is_shareable<T: Send + Unpin>(_: &T) {}
        for through_hyper in [false, true] {
            let (mut client, server) = pair().await;
            client.write_all(b" world").await.unwrap();
            client.shutdown().await.unwrap();
            let mut io = Io::rewound(server, Bytes::from_static(b"hello"));
            is_shareable(&io);
            let mut first = [0; 2];
            io.read_exact(&mut first).await.unwrap();
            assert_eq!(&first, b"he");
            let mut rest = Vec::new();
            if through_hyper {
                TokioIo::new(io).read_to_end(&mut rest).await.unwrap();
            } else {
                io.read_to_end(&mut rest).await.unwrap();
            }
            assert_eq!(rest, b"llo world");
        }
    }

    #[tokio::test]
    async fn writes_go_straight_through() {
        let (mut client, server) = pair().await;
        let mut io = Io::rewound(server, Bytes::from_static(b"not yet read"));
        io.write_all(b"answer").await.unwrap();
        io.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    }
}
