//! How a try ended, in the one vocabulary that breaker, outlier detection and balancing share.

/// The end of a try. It is reported once, when the response is complete or when it is certain that none will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A whole response.
    Answered {
        /// Its status.
        status: u16,
        /// Its gRPC status, from head or trailers, where gRPC is spoken.
        grpc_status: Option<u8>,
    },
    /// No connection could be made.
    Unconnected,
    /// The connection or stream broke before the response was complete, or what came is no HTTP.
    Broken,
    /// The time of the try or of the request ran out.
    TimedOut,
    /// It ended for a reason that says nothing about the endpoint: the client left, or a limit of ours was met.
    Cancelled,
}
