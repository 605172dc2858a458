//! An HTTP/2 server at the level of frames that says of streams that it has not looked at them.
//!
//! No library's server does that on demand. It speaks as much of RFC 9113 as a well-behaved client
//! needs to see: settings, pings, and a head for each request, without bodies.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM_AND_HEADERS: u8 = 5;
/// `:status: 200`, by its number in the static table of RFC 7541.
const STATUS_200: [u8; 1] = [0x88];
/// `REFUSED_STREAM`
const REFUSED: [u8; 4] = [0, 0, 0, 7];

/// How a stream is refused.
#[derive(Clone, Copy, Debug)]
pub enum Refusal {
    /// By a reset with `REFUSED_STREAM`.
    Reset,
    /// By a GOAWAY that does not cover it, and the end of the connection.
    GoAway,
}

/// A server for [`crate::Mesh::serve_raw`] that refuses the first `times` streams and answers 200 to all others, and
/// the number of streams it has seen.
pub fn refusing(
    refusal: Refusal,
    times: u64,
) -> (impl Fn(TcpStream) -> BoxFuture<'static, ()> + Clone + Send + Sync + 'static, Arc<AtomicU64>) {
    let streams = Arc::new(AtomicU64::new(0));
    let seen = streams.clone();
    let handle = move |stream| {
        let seen = seen.clone();
        // What ends a connection is the client's matter.
        async move { drop(connection(stream, refusal, times, &seen).await) }.boxed()
    };
    (handle, streams)
}

async fn connection(mut io: TcpStream, refusal: Refusal, times: u64, seen: &AtomicU64) -> io::Result<()> {
    let mut preface = [0; 24];
    io.read_exact(&mut preface).await?;
    send(&mut io, SETTINGS, 0, 0, &[]).await?;
    loop {
        let mut head = [0; 9];
        io.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(0)];
        io.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes(stream);
        match kind {
            SETTINGS | PING if flags & ACK == 0 => {
                let echo = if kind == PING { payload.as_slice() } else { &[] };
                send(&mut io, kind, ACK, 0, echo).await?;
            }
            HEADERS if seen.fetch_add(1, Ordering::SeqCst) >= times => {
                send(&mut io, HEADERS, END_STREAM_AND_HEADERS, stream, &STATUS_200).await?;
            }
            HEADERS => match refusal {
                Refusal::Reset => send(&mut io, RST_STREAM, 0, stream, &REFUSED).await?,
                Refusal::GoAway => {
                    send(&mut io, GOAWAY, 0, 0, &[0; 8]).await?;
                    return io.shutdown().await;
                }
            },
            _ => {}
        }
    }
}

async fn send(io: &mut TcpStream, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let [s, t, u, v] = stream.to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags, s, t, u, v];
    frame.extend_from_slice(payload);
    io.write_all(&frame).await
}
