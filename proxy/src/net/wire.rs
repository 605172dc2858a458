//! What an HTTP/1 server must see and say on its connection beside what hyper lets it.
//!
//! hyper accepts a request that carries both `Content-Length` and `Transfer-Encoding` and goes by the latter, which is
//! safe for us but hides the attempt to have two proxies disagree (RFC 9112 §6.3); [`Line::begin`] tells of it. hyper's
//! server cannot send interim responses other than 100; [`Line::say`] can. And hyper answers a head it cannot read
//! itself, without a word about why: what it writes while no request is under way is such an answer, and gets the header
//! field that every answer of the proxy's own has.
//!
//! Heads are looked at as they are read: while no request is under way, reads go through a small buffer on the stack.
//! A head that arrives in pieces may escape the look; hyper's own rule still holds for it.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use futures_util::task::AtomicWaker;
use http::{HeaderMap, StatusCode};
use hyper::rt::ReadBufCursor;
use memchr::memmem::Finder;
use tokio::io::{AsyncRead, ReadBuf};

use super::rewind::Io;
use crate::error::{self, HeadLimits, ProxyError};

/// Read at once while a head is awaited: nearly every head fits.
const HEAD: usize = 4096;

/// Most bytes of interim responses that may wait to be written.
const MAX_INTERIM: usize = 64 * 1024;

/// The two spellings people and libraries use. Others escape the look.
static CODINGS: LazyLock<[Finder<'static>; 2]> =
    LazyLock::new(|| [Finder::new(b"ransfer-"), Finder::new(b"RANSFER-")]);

/// What a connection and its exchanges tell each other.
#[derive(Debug, Default)]
pub struct Line {
    busy: AtomicBool,
    /// From when a request has been read until all of its response is written.
    under_way: AtomicBool,
    /// The status of the library's own answer, once there is one.
    refused: AtomicU16,
    /// Whether anything of a request has come.
    heard: AtomicBool,
    conflict: AtomicBool,
    speaks: AtomicBool,
    interim: Mutex<BytesMut>,
    connection: AtomicWaker,
}

/// A server's end of a connection.
#[derive(Debug)]
pub struct ServerIo {
    io: Io,
    line: Arc<Line>,
    limits: HeadLimits,
    /// The library has begun to write something that is not all written: nothing may come in between.
    partial: bool,
}

impl Line {
    /// A request has been read. Whether its head gave two lengths for its body.
    pub fn begin(&self) -> bool {
        self.busy.store(true, Ordering::Relaxed);
        self.under_way.store(true, Ordering::Relaxed);
        self.conflict.swap(false, Ordering::Relaxed)
    }

    /// It has been answered.
    pub fn end(&self) {
        self.busy.store(false, Ordering::Relaxed);
    }

    /// Sends an interim response ahead of the final one. More than fits is left out: they are hints.
    pub fn say(&self, status: StatusCode, headers: &HeaderMap) {
        let reason = status.canonical_reason().unwrap_or("Interim");
        let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
        for (name, value) in headers {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        let mut interim = self.interim();
        if interim.len() + bytes.len() <= MAX_INTERIM {
            interim.extend_from_slice(&bytes);
            self.speaks.store(true, Ordering::Release);
        }
        drop(interim);
        self.connection.wake();
    }

    /// Whether anything of a request has come.
    pub fn has_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// Has the connection answer a request of which not even the head has come. Nothing may follow.
    pub fn refuse(&self, error: &ProxyError) {
        let (status, flag) = (error.status(), error.flag().as_str());
        let head = format!(
            "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n{}: {flag}; {error}\r\n\r\n",
            error::HEADER
        );
        self.interim().extend_from_slice(head.as_bytes());
        self.speaks.store(true, Ordering::Release);
    }

    /// The status with which the library has answered a head it could not read, if it has.
    pub fn refused(&self) -> Option<u16> {
        Some(self.refused.load(Ordering::Relaxed)).filter(|status| *status > 0)
    }

    fn interim(&self) -> MutexGuard<'_, BytesMut> {
        self.interim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for a head with both lengths among bytes that begin one.
    fn inspect(&self, bytes: &[u8]) {
        if !CODINGS.iter().any(|coding| coding.find(bytes).is_some()) {
            return;
        }
        let end = memchr::memmem::find(bytes, b"\r\n\r\n").unwrap_or(bytes.len());
        let head = bytes.get(..end).unwrap_or_default();
        let has = |name: &str| {
            head.split(|byte| *byte == b'\n').any(|line| {
                line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()))
            })
        };
        if has("transfer-encoding:") && has("content-length:") {
            self.conflict.store(true, Ordering::Relaxed);
        }
    }
}

impl ServerIo {
    /// The connection with a line to its exchanges.
    pub fn new(io: Io, line: Arc<Line>, limits: HeadLimits) -> Self {
        Self { io, line, limits, partial: false }
    }

    /// Takes an answer of the library's own over, to send it with the cause.
    fn explain(&self, head: &[u8]) -> bool {
        if self.line.under_way.load(Ordering::Relaxed) {
            return false;
        }
        let Some(status) = status_of_error(head) else { return false };
        let error = ProxyError::unreadable_head(status, self.limits);
        let mut waiting = self.line.interim();
        waiting.extend_from_slice(head.strip_suffix(b"\r\n").unwrap_or(head));
        let cause = format!("{}: {}; {error}\r\n\r\n", error::HEADER, error.flag().as_str());
        waiting.extend_from_slice(cause.as_bytes());
        self.line.refused.store(status, Ordering::Relaxed);
        self.line.speaks.store(true, Ordering::Release);
        true
    }

    /// Writes the interim responses that wait.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.line.speaks.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        let mut interim = self.line.interim();
        while !interim.is_empty() {
            let written = ready!(hyper::rt::Write::poll_write(Pin::new(&mut self.io), cx, &interim))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            interim.advance(written);
        }
        self.line.speaks.store(false, Ordering::Release);
        Poll::Ready(Ok(()))
    }
}

/// The status of a whole head of a response that says the request was wrong.
fn status_of_error(head: &[u8]) -> Option<u16> {
    let status = head.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    let is_whole = memchr::memmem::find(head, b"\r\n\r\n") == head.len().checked_sub(4);
    let status = std::str::from_utf8(status).ok().filter(|_| is_whole)?.parse().ok()?;
    (400..500).contains(&status).then_some(status)
}

impl hyper::rt::Read for ServerIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.line.connection.register(cx.waker());
        if this.line.busy.load(Ordering::Relaxed) {
            return hyper::rt::Read::poll_read(Pin::new(&mut this.io), cx, buf);
        }
        let mut head = [const { MaybeUninit::uninit() }; HEAD];
        let room = buf.remaining().min(HEAD);
        let mut read = ReadBuf::uninit(head.get_mut(..room).unwrap_or_default());
        ready!(AsyncRead::poll_read(Pin::new(&mut this.io), cx, &mut read))?;
        if !read.filled().is_empty() {
            this.line.heard.store(true, Ordering::Relaxed);
        }
        this.line.inspect(read.filled());
        buf.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for ServerIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.partial {
            ready!(this.poll_interim(cx))?;
            if this.explain(buf) {
                return Poll::Ready(Ok(buf.len()));
            }
        }
        let written = hyper::rt::Write::poll_write(Pin::new(&mut this.io), cx, buf);
        this.partial = !matches!(&written, Poll::Ready(Ok(count)) if *count == buf.len());
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // The library flushes when it has nothing left to write.
        this.partial = false;
        if !this.line.busy.load(Ordering::Relaxed) {
            this.line.under_way.store(false, Ordering::Relaxed);
        }
        ready!(this.poll_interim(cx))?;
        hyper::rt::Write::poll_flush(Pin::new(&mut this.io), cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        hyper::rt::Write::poll_shutdown(Pin::new(&mut self.get_mut().io), cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.partial {
            ready!(this.poll_interim(cx))?;
            if let [head] = bufs
                && this.explain(head)
            {
                return Poll::Ready(Ok(head.len()));
            }
        }
        let all: usize = bufs.iter().map(|buf| buf.len()).sum();
        let written = hyper::rt::Write::poll_write_vectored(Pin::new(&mut this.io), cx, bufs);
        this.partial = !matches!(&written, Poll::Ready(Ok(count)) if *count == all);
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conflicts(head: &str) -> bool {
        let line = Line::default();
        line.inspect(head.as_bytes());
        line.begin()
    }

    #[test]
    fn two_lengths_are_noticed() {
        assert!(conflicts("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"));
        assert!(conflicts("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n"));
        assert!(conflicts("POST / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\nCONTENT-LENGTH: 3\r\n\r\n"));
        assert!(!conflicts("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nContent-Length: 3\r\n"));
        assert!(!conflicts("POST /Transfer-Encoding HTTP/1.1\r\nContent-Length: 3\r\n\r\n"));
    }

    #[test]
    fn a_conflict_is_told_once() {
        let line = Line::default();
        line.inspect(b"Transfer-Encoding: x\r\nContent-Length: 1\r\n\r\n");
        assert!(line.begin() && !line.begin());
    }

    #[test]
    fn only_whole_heads_of_errors_are_explained() {
        assert_eq!(status_of_error(b"HTTP/1.1 431 Too Large\r\ncontent-length: 0\r\n\r\n"), Some(431));
        assert_eq!(status_of_error(b"HTTP/1.0 400 Bad Request\r\n\r\n"), Some(400));
        for other in [
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\nx: y\r\n",
            "HTTP/1.1 400 Bad Request\r\n\r\nbody\r\n\r\n",
            "HTTP/1.1 4",
            "",
        ] {
            assert_eq!(status_of_error(other.as_bytes()), None, "{other:?}");
        }
    }

    #[test]
    fn interim_responses_are_written_as_heads() {
        let line = Line::default();
        let mut headers = HeaderMap::new();
        headers.insert("link", "</a.css>; rel=preload".parse().unwrap());
        line.say(StatusCode::EARLY_HINTS, &headers);
        let said = line.interim().clone();
        assert_eq!(&said[..], b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n");
    }
}
