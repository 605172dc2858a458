//! Carries bytes both ways between two streams until both sides are done.
//!
//! The end of one direction is passed on as a half-close while the other goes on. Nothing is read before what was
//! read last is written, so a slow side slows the other. A direction that waits for its reader holds no buffer: idle
//! tunnels cost their sockets only. Silence both ways for the idle limit ends the tunnel.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::{Instant, Sleep, sleep_until},
};

/// Room for one read.
const CHUNK: usize = 16 * 1024;

/// A direction of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the first stream to the second.
    Forth,
    /// From the second stream to the first.
    Back,
}

/// How a tunnel ended.
#[derive(Debug)]
pub enum End {
    /// Both sides were done.
    Done,
    /// Nobody said anything for the idle limit.
    Idle,
    /// A stream failed.
    Failed(io::Error),
}

/// Copies both ways until both streams are done, one fails, or nothing moves for `idle` (zero waits for ever).
///
/// `count` is told of every piece as it is written, so the figures are right even when the future is dropped.
pub async fn bidirectional<A, B>(
    mut first: A,
    mut second: B,
    idle: Duration,
    mut count: impl FnMut(Direction, u64),
) -> End
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut forth, mut back) = (Half::default(), Half::default());
    let mut moved = Instant::now();
    // A tunnel without a limit still has a timer, which never fires within the life of a process.
    let idle = if idle.is_zero() { Duration::from_secs(86_400 * 365 * 10) } else { idle };
    let mut timer = pin!(sleep_until(moved + idle));
    poll_fn(move |cx| {
        let mut written = [0, 0];
        let sent = forth.poll(cx, &mut first, &mut second, &mut written[0]);
        let received = back.poll(cx, &mut second, &mut first, &mut written[1]);
        for (direction, bytes) in [Direction::Forth, Direction::Back].into_iter().zip(written) {
            if bytes > 0 {
                count(direction, bytes);
                moved = Instant::now();
            }
        }
        match (sent, received) {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => Poll::Ready(End::Failed(error)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Done),
            _ => poll_idle(cx, timer.as_mut(), moved + idle),
        }
    })
    .await
}

/// The timer is not moved for every piece, but when it fires too early.
fn poll_idle(cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>, deadline: Instant) -> Poll<End> {
    loop {
        ready!(timer.as_mut().poll(cx));
        if timer.deadline() >= deadline {
            return Poll::Ready(End::Idle);
        }
        timer.as_mut().reset(deadline);
    }
}

#[derive(Debug, Default)]
struct Half {
    buffer: BytesMut,
    state: State,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Open,
    Closing,
    Closed,
}

impl Half {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        written: &mut u64,
    ) -> Poll<io::Result<()>> {
        loop {
            while self.buffer.has_remaining() {
                let n = ready!(Pin::new(&mut *writer).poll_write(cx, &self.buffer))?;
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.buffer.advance(n);
                *written += n as u64;
            }
            match self.state {
                State::Open => {
                    self.buffer.reserve(CHUNK);
                    match pin!(reader.read_buf(&mut self.buffer)).poll(cx)? {
                        Poll::Ready(0) => self.state = State::Closing,
                        Poll::Ready(_) => {}
                        Poll::Pending => {
                            self.buffer = BytesMut::new();
                            ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                            return Poll::Pending;
                        }
                    }
                }
                State::Closing => {
                    self.buffer = BytesMut::new();
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                    self.state = State::Closed;
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    async fn tunnel(first: DuplexStream, second: DuplexStream) -> (End, [u64; 2]) {
        let mut total = [0, 0];
        let end = bidirectional(first, second, MINUTE, |direction, n| total[direction as usize] += n).await;
        (end, total)
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_closed_tunnel_still_carries_the_answer() {
        let (mut client, first) = duplex(64);
        let (mut server, second) = duplex(64);
        let request = vec![7; 100_000];
        let talk = async {
            let ask = async {
                client.write_all(&request).await.unwrap();
                client.shutdown().await.unwrap();
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).await.unwrap();
                answer
            };
            let serve = async {
                let mut asked = Vec::new();
                server.read_to_end(&mut asked).await.unwrap();
                server.write_all(b"thanks").await.unwrap();
                server.shutdown().await.unwrap();
                asked
            };
            tokio::join!(ask, serve)
        };
        let ((end, total), (answer, asked)) = tokio::join!(tunnel(first, second), talk);
        assert!(matches!(end, End::Done), "{end:?}");
        assert_eq!(total, [100_000, 6]);
        assert_eq!(answer, b"thanks");
        assert!(asked == request);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_but_not_a_slow_talk() {
        let (mut client, first) = duplex(64);
        let (_server, second) = duplex(64);
        let start = Instant::now();
        let talk = async {
            for _ in 0..5 {
                tokio::time::sleep(MINUTE / 2).await;
                client.write_all(b".").await.unwrap();
            }
            client
        };
        let ((end, total), _client) = tokio::join!(tunnel(first, second), talk);
        assert!(matches!(end, End::Idle), "{end:?}");
        assert_eq!(total, [5, 0]);
        let lasted = start.elapsed();
        assert!(lasted >= MINUTE / 2 * 7 && lasted < MINUTE * 4, "{lasted:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_side_ends_both() {
        let (mut client, first) = duplex(64);
        let (server, second) = duplex(64);
        drop(server);
        client.write_all(b"into the void").await.unwrap();
        let (end, _) = tunnel(first, second).await;
        assert!(matches!(end, End::Failed(_)), "{end:?}");
    }
}
