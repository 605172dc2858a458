//! A request's place in its trace.

/// The span of an exchange, which is the parent of its tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanContext {
    /// The trace.
    pub trace_id: [u8; 16],
    /// This span.
    pub span_id: [u8; 8],
    /// The caller's span; absent where the trace begins here.
    pub parent: Option<[u8; 8]>,
    /// Whether the trace is recorded.
    pub sampled: bool,
}
