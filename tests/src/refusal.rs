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

use crate::frames::{self, Frame, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, send};

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
        let Frame { kind, flags, stream, payload } = frames::receive(&mut io).await?;
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
