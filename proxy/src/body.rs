//! The one body type: requests on their way up, responses on their way down.
//!
//! Bytes are passed on as they come, by reference. Whatever must watch a body end (permits, logs, timeouts) wraps it
//! in a type of its own and is erased to [`Body::boxed`]; nothing else is.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::rt::pulse::Pulse;

/// A body of any origin.
#[derive(Default)]
pub enum Body {
    /// No body.
    #[default]
    Empty,
    /// All of it, at hand; taken when read.
    Full(Option<Bytes>),
    /// Read from a connection that hyper drives.
    Incoming(Incoming),
    /// A client's, likewise, in whose pulse it is told how it comes.
    Request(Incoming, Rc<Pulse>),
    /// Read from an HTTP/2 stream.
    Stream(h2::RecvStream),
    /// Watched by someone.
    Boxed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError>>>),
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection it is read from failed.
    #[error("body broke off")]
    Connection(#[source] hyper::Error),
    /// The stream it is read from failed.
    #[error("stream broke off")]
    Stream(#[source] h2::Error),
    /// It is longer than it may be.
    #[error("the body is too long")]
    TooLong,
    /// Nothing has moved for too long.
    #[error("nothing moved for too long")]
    Idle,
    /// The upstream has answered without asking for the body it was to be offered.
    #[error("the body was not wanted")]
    Unwanted,
    /// A new policy is against the exchange.
    #[error("access denied by policy")]
    Denied,
    /// The time of the exchange ran out.
    #[error("the time of the request ran out")]
    Timeout,
}

impl Body {
    /// A body given as a whole.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self::Empty } else { Self::Full(Some(bytes)) }
    }

    /// Erases a body that watches another.
    pub fn boxed(body: impl http_body::Body<Data = Bytes, Error = BodyError> + 'static) -> Self {
        Self::Boxed(Box::pin(body))
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Full(_) => "Full",
            Self::Incoming(_) | Self::Request(..) => "Incoming",
            Self::Stream(_) => "Stream",
            Self::Boxed(_) => "Boxed",
        })
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Incoming(incoming) => Pin::new(incoming)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(BodyError::Connection))),
            Self::Request(incoming, pulse) => poll_request(incoming, pulse, cx),
            Self::Stream(stream) => poll_stream(stream, cx),
            Self::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Incoming(incoming) | Self::Request(incoming, _) => incoming.is_end_stream(),
            Self::Stream(stream) => stream.is_end_stream(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Full(None) => SizeHint::with_exact(0),
            Self::Full(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Self::Incoming(incoming) | Self::Request(incoming, _) => incoming.size_hint(),
            Self::Stream(stream) if stream.is_end_stream() => SizeHint::with_exact(0),
            Self::Stream(_) => SizeHint::default(),
            Self::Boxed(body) => body.size_hint(),
        }
    }
}

/// Tells the pulse of what comes, and breaks off what is too long.
fn poll_request(
    incoming: &mut Incoming,
    pulse: &Pulse,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    let polled = ready!(http_body::Body::poll_frame(Pin::new(&mut *incoming), cx));
    if let Some(Ok(frame)) = &polled
        && !pulse.receive(frame.data_ref().map_or(0, Bytes::len), Instant::now())
    {
        return Poll::Ready(Some(Err(BodyError::TooLong)));
    }
    if polled.is_none() || http_body::Body::is_end_stream(incoming) {
        pulse.complete();
    }
    Poll::Ready(polled.map(|frame| frame.map_err(BodyError::Connection)))
}

/// Data first, then trailers. Window space is given back as soon as the data is passed on: what bounds memory is that
/// the reader asks only when it can write.
fn poll_stream(
    stream: &mut h2::RecvStream,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    match ready!(stream.poll_data(cx)) {
        Some(Ok(data)) => {
            // Fails only when the stream is gone, which the next read reports.
            let _ = stream.flow_control().release_capacity(data.len());
            Poll::Ready(Some(Ok(Frame::data(data))))
        }
        // A peer that needs no more of the request may say NO_ERROR after a complete response (RFC 9113 §8.1).
        Some(Err(error)) if error.reason() == Some(h2::Reason::NO_ERROR) && stream.is_end_stream() => {
            Poll::Ready(None)
        }
        Some(Err(error)) => Poll::Ready(Some(Err(BodyError::Stream(error)))),
        None => match ready!(stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(BodyError::Stream(error)))),
        },
    }
}
