//! The one body type of the sample services and of the harness' clients.

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// What a body fails with.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A body of any origin.
pub type Body = UnsyncBoxBody<Bytes, Error>;

/// The sending half of a streamed body.
pub type Sender = mpsc::Sender<Result<Frame<Bytes>, Error>>;

/// A body without bytes.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of known length.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body fed frame by frame through the sender; it ends when the sender is dropped.
pub fn channel() -> (Sender, Body) {
    let (sender, receiver) = mpsc::channel(4);
    (sender, StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync())
}

/// A body of unknown length made of `chunks`, then `trailers`.
pub fn chunked(chunks: Vec<Bytes>, trailers: Option<HeaderMap>) -> Body {
    let mut frames: Vec<Result<Frame<Bytes>, Error>> =
        chunks.into_iter().map(|chunk| Ok(Frame::data(chunk))).collect();
    frames.extend(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
    StreamBody::new(tokio_stream::iter(frames)).boxed_unsync()
}
