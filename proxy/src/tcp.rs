//! Carries an opaque connection: bytes both ways until both sides are done.
//!
//! Whether a connection is opaque, where it goes and whether it is secured has been decided before. A connection that
//! cannot be made is closed: there is no other way to tell the client.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::{
    net::{
        copy::{self, Direction, End},
        rewind::Io,
        socket,
    },
    rt::drain::Drain,
    telemetry::TcpStats,
};

/// How long connecting may take (`connectTimeout`'s default).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long both sides may be silent (`tcp.idleTimeout`'s default).
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Connects to `target`, from `source` where one is needed, and copies until the end of the connection or of the drain.
pub async fn forward(
    client: Io,
    target: SocketAddr,
    source: Option<IpAddr>,
    drain: &Drain,
    stats: &TcpStats,
) {
    let server = match socket::connect(target, CONNECT_TIMEOUT, None, source).await {
        Ok(server) => server,
        Err(error) => return tracing::warn!(endpoint = %target, %error, "opaque connection cannot be made"),
    };
    join(client, Io::new(server), target, drain, stats).await;
}

/// Copies between a client and the connection made for it to `target`, until the end of both or of the drain.
pub async fn join(client: Io, server: Io, target: SocketAddr, drain: &Drain, stats: &TcpStats) {
    stats.opened.inc();
    let _closed = Closed(stats);
    // Istio names the directions after the answer: sent is what the client gets.
    let count = |direction, bytes| match direction {
        Direction::Forth => stats.received.add(bytes),
        Direction::Back => stats.sent.add(bytes),
    };
    tokio::select! {
        end = copy::bidirectional(client, server, IDLE_TIMEOUT, count) => match end {
            End::Done => tracing::trace!(endpoint = %target, "opaque connection done"),
            End::Idle => tracing::debug!(endpoint = %target, "opaque connection was idle for too long"),
            End::Failed(error) => tracing::debug!(endpoint = %target, %error, "opaque connection failed"),
        },
        () = drain.forced() => tracing::debug!(endpoint = %target, "opaque connection broken off by drain"),
    }
}

/// Counts the end of a connection, however it comes about.
struct Closed<'a>(&'a TcpStats);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.closed.inc();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;
    use crate::telemetry::{Metrics, requests::Labels};

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A client's end, and the proxy's end of the same connection.
    async fn accepted() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_read_for_detection_arrive_and_all_are_counted() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = server.local_addr().unwrap();
        let (mut client, proxy) = accepted().await;
        let stats = Metrics::new().tcp_stats(&Labels::default());
        let drain = Drain::new();
        let talk = async {
            let (mut at_server, peer) = server.accept().await.unwrap();
            client.write_all(b" world").await.unwrap();
            client.shutdown().await.unwrap();
            let (mut asked, mut answer) = (String::new(), String::new());
            at_server.read_to_string(&mut asked).await.unwrap();
            at_server.write_all(b"yes").await.unwrap();
            drop(at_server);
            client.read_to_string(&mut answer).await.unwrap();
            (asked, answer, peer.ip())
        };
        let io = Io::rewound(proxy, Bytes::from_static(b"hello"));
        let source = "127.0.0.6".parse().unwrap();
        let both = async { tokio::join!(forward(io, target, Some(source), &drain, &stats), talk) };
        let ((), talked) = timeout(PATIENCE, both).await.unwrap();
        assert_eq!(talked, ("hello world".to_owned(), "yes".to_owned(), source));
        assert_eq!((stats.received.get(), stats.sent.get()), (11, 3));
        assert_eq!((stats.opened.get(), stats.closed.get()), (1, 1));
    }

    #[tokio::test]
    async fn the_end_of_the_drain_breaks_it_off() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut client, proxy) = accepted().await;
        let stats = Metrics::new().tcp_stats(&Labels::default());
        let drain = Drain::new();
        let talk = async {
            let held = server.accept().await.unwrap();
            drain.force();
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
            held
        };
        let forward = forward(Io::new(proxy), server.local_addr().unwrap(), None, &drain, &stats);
        timeout(PATIENCE, async { tokio::join!(forward, talk) }).await.unwrap();
        assert_eq!((stats.opened.get(), stats.closed.get()), (1, 1));
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_closes_the_connection() {
        let (mut client, proxy) = accepted().await;
        let stats = Metrics::new().tcp_stats(&Labels::default());
        // Port 0 cannot be connected to.
        forward(Io::new(proxy), "127.0.0.1:0".parse().unwrap(), None, &Drain::new(), &stats).await;
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(stats.opened.get(), 0);
    }
}
