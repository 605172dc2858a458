//! A connection of a sample service that can end in a reset.
//!
//! A reset throws away what the peer has sent and nobody has read. Whoever wants to know whether a
//! request was delivered must know of that, too: it is read out just before, and kept in [`Unread`].

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What had arrived on connections that were reset before it was read.
#[derive(Clone, Debug, Default)]
pub struct Unread(Arc<Mutex<Vec<u8>>>);

impl Unread {
    /// All of it, one connection after the other.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

/// The connection. It is reset when dropped if `resets` is set by then.
#[derive(Debug)]
pub(super) struct Line {
    stream: TcpStream,
    resets: Arc<AtomicBool>,
    unread: Unread,
}

impl Line {
    pub(super) fn new(stream: TcpStream, resets: Arc<AtomicBool>, unread: Unread) -> Self {
        Self { stream, resets, unread }
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.resets.load(Ordering::Relaxed) {
            return;
        }
        let _ = self.stream.set_zero_linger();
        let mut buffer = [0; 4096];
        // Not by way of the runtime, which may not have noticed yet that there is something to read.
        let socket = rustix::fd::AsFd::as_fd(&self.stream);
        while let Ok(n @ 1..) = rustix::io::read(socket, &mut buffer) {
            let mut unread = self.unread.0.lock().unwrap_or_else(PoisonError::into_inner);
            unread.extend_from_slice(buffer.get(..n).unwrap_or_default());
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}
