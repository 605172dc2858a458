//! Traces: where a request stands in its trace, and the spans that are told of it.
//!
//! [`propagation`] reads the context a request came with and writes the one it goes on with; [`sampling`] says which
//! traces are recorded; [`Tracer`] is what requests know of both, one atomic that [`export`] keeps. Spans are made from
//! the [`Record`](super::Record) of a request when it is over, away from the request path, by [`spans`].
//!
//! A proxy that reports nothing takes no part in a trace: what came in goes on as it is. One that does stands between
//! caller and callee with a span of its own, recorded or not, so that what the callee reports hangs below it.

mod b3;
mod census;
pub mod export;
mod fields;
mod hex;
pub mod propagation;
pub mod sampling;
mod spans;
mod tags;
mod tracer;
mod w3c;

pub use self::tracer::Tracer;

/// The span of an exchange, which is the parent of its tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanContext {
    /// The trace.
    pub trace_id: [u8; 16],
    /// This span; all zero where the proxy takes no part in the trace and has none.
    pub span_id: [u8; 8],
    /// The caller's span; absent where the trace begins here.
    pub parent: Option<[u8; 8]>,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

impl SpanContext {
    /// Whether the proxy has a span of its own in the trace.
    pub fn is_own(&self) -> bool {
        self.span_id != [0; 8]
    }

    /// The id of the trace as everybody writes it, in lower-case hexadecimal.
    pub fn trace_id_text(&self) -> [u8; 32] {
        let mut text = [b'0'; 32];
        hex::write(&self.trace_id, &mut text);
        text
    }
}
