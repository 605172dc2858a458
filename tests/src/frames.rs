//! HTTP/2 at the level of frames (RFC 9113, section 4), for what no library's client or server does on demand.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The head of a message.
pub const HEADERS: u8 = 1;
/// The end of one stream.
pub const RST_STREAM: u8 = 3;
/// What an end can take.
pub const SETTINGS: u8 = 4;
/// Asks for an echo.
pub const PING: u8 = 6;
/// No further streams are taken.
pub const GOAWAY: u8 = 7;

/// A frame as it came.
#[derive(Debug)]
pub struct Frame {
    /// What it is.
    pub kind: u8,
    /// What they mean depends on the kind.
    pub flags: u8,
    /// 0 for the connection.
    pub stream: u32,
    /// All that follows the head.
    pub payload: Vec<u8>,
}

/// Reads one frame.
pub async fn receive(io: &mut TcpStream) -> io::Result<Frame> {
    let mut head = [0; 9];
    io.read_exact(&mut head).await?;
    let [a, b, c, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(0)];
    io.read_exact(&mut payload).await?;
    Ok(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
}

/// Writes one frame.
pub async fn send(io: &mut TcpStream, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let [s, t, u, v] = stream.to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags, s, t, u, v];
    frame.extend_from_slice(payload);
    io.write_all(&frame).await
}
