//! What a connection speaks, from its first bytes.
//!
//! [`sniff`] is a pure function of the bytes so far: it may ask for more, but an answer never changes when more
//! arrive, and 64 bytes always have one. HTTP/1 is a method and a request target, HTTP/2 its preface, TLS the header
//! of a ClientHello; all else is opaque. A request line that is malformed after a standard method counts as HTTP/1, so
//! that it is refused as a bad request and not carried on as bytes. Ports whose protocol is declared are not sniffed,
//! and what to do with a client that waits for the server to speak first is the caller's decision.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// TLS, from its ClientHello.
    Tls,
    /// None of these.
    Opaque,
}

/// What the bytes so far say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniff {
    /// Not enough yet.
    NeedMore,
    /// Decided; more bytes would not change it.
    Is(Protocol),
}

/// How long a redirected client may be silent before it is taken for one of a protocol in which the server speaks first.
const SILENCE: Duration = Duration::from_millis(300);

/// The start of HTTP/2's preface (RFC 9113, section 3.4) that no HTTP/1 request can have.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// Standard methods (RFC 9110 and 5789).
const METHODS: [&[u8]; 9] =
    [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"];
/// No registered method is longer (IANA, "HTTP Method Registry").
const LONGEST_METHOD: usize = 24;
/// Empty lines before a request that are forgiven (RFC 9112, section 2.2).
const FORGIVEN: usize = 8;

/// Whether the bytes so far are the beginning of TLS, or of what may become that.
pub fn may_be_tls(bytes: &[u8]) -> bool {
    !bytes.is_empty() && sniff_tls(bytes).is_some()
}

/// Decides what the first bytes of a client are.
pub fn sniff(bytes: &[u8]) -> Sniff {
    if bytes.starts_with(PREFACE) {
        return Sniff::Is(Protocol::Http2);
    }
    if bytes.is_empty() || PREFACE.starts_with(bytes) {
        return Sniff::NeedMore;
    }
    match sniff_tls(bytes) {
        Some(sniffed) => sniffed,
        None => sniff_http1(bytes),
    }
}

/// A handshake record (22) of version 3.0 to 3.4 whose first message is a ClientHello (1); `None` if it is no TLS.
fn sniff_tls(bytes: &[u8]) -> Option<Sniff> {
    let fits = |at: usize, fits: fn(&u8) -> bool| bytes.get(at).is_none_or(fits);
    let fits = fits(0, |kind| *kind == 22)
        && fits(1, |major| *major == 3)
        && fits(2, |minor| *minor <= 4)
        && fits(5, |message| *message == 1);
    fits.then_some(if bytes.len() > 5 { Sniff::Is(Protocol::Tls) } else { Sniff::NeedMore })
}

fn sniff_http1(bytes: &[u8]) -> Sniff {
    let opaque = Sniff::Is(Protocol::Opaque);
    let empty = bytes.iter().take(FORGIVEN).take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let line = bytes.get(empty..).unwrap_or_default();
    let method_len = line.iter().take(LONGEST_METHOD).take_while(|byte| is_method(**byte)).count();
    let Some((method, rest)) = line.split_at_checked(method_len) else { return opaque };
    match rest.split_first() {
        None => Sniff::NeedMore,
        Some((b' ', _)) if METHODS.contains(&method) => Sniff::Is(Protocol::Http1),
        Some((b' ', target)) if !method.is_empty() => sniff_target(target),
        Some(_) => opaque,
    }
}

fn is_method(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// The target of a method that is not a standard one must look like one: a path, `*`, or a URL.
fn sniff_target(target: &[u8]) -> Sniff {
    const SCHEME: &[u8] = b"http";
    match target.first() {
        Some(b'/' | b'*') => Sniff::Is(Protocol::Http1),
        _ => {
            let seen = target.get(..SCHEME.len()).unwrap_or(target);
            match SCHEME.get(..seen.len()) {
                Some(scheme) if !scheme.eq_ignore_ascii_case(seen) => Sniff::Is(Protocol::Opaque),
                _ if seen.len() == SCHEME.len() => Sniff::Is(Protocol::Http1),
                _ => Sniff::NeedMore,
            }
        }
    }
}

/// What was learnt of a connection, and the bytes that were read for it.
#[derive(Debug)]
pub struct Detection {
    /// What it speaks; opaque when the client did not say.
    pub protocol: Protocol,
    /// What has been read and must be read again.
    pub bytes: Bytes,
    /// How the decision came about.
    pub how: How,
}

/// How a detection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By what the client sent.
    Sniffed,
    /// The client sent too little in time: it may wait for the server to speak.
    TimedOut,
    /// The client has closed its side.
    Closed,
}

/// How long a connection may take for its first bytes: one to the proxy itself, which can only be there to say HTTP, as
/// long as for its first request.
pub fn patience(is_redirected: bool, first_request: Duration) -> Duration {
    if is_redirected { SILENCE } else { first_request }
}

/// Reads until it is known what the connection speaks, at most for `timeout`.
pub async fn detect<S: AsyncRead + Unpin>(stream: &mut S, timeout: Duration) -> io::Result<Detection> {
    // Usually the first read brings a whole request head, which the server then need not read again.
    let mut bytes = BytesMut::with_capacity(1024);
    let sniffed = tokio::time::timeout(timeout, async {
        loop {
            // `read_buf` is safe to cancel: what it has read is in the buffer.
            if stream.read_buf(&mut bytes).await? == 0 {
                return io::Result::Ok((Protocol::Opaque, How::Closed));
            }
            if let Sniff::Is(protocol) = sniff(&bytes) {
                return Ok((protocol, How::Sniffed));
            }
        }
    });
    let (protocol, how) = match sniffed.await {
        Ok(ended) => ended?,
        Err(_elapsed) => (Protocol::Opaque, How::TimedOut),
    };
    Ok(Detection { protocol, bytes: bytes.freeze(), how })
}

#[cfg(test)]
mod tests;
