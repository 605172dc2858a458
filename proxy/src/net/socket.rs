//! Sockets: how they are bound, which options they get, and how a connection is made.
//!
//! All TCP connections of the proxy have Nagle's delay off: the proxy writes whole messages. An address that cannot
//! be bound is a user's mistake far more often than a bug, so its error names the flag and the way out. Who is
//! connected to, and whether to try again, is decided elsewhere.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    time::Duration,
};

use pillion_policy::cluster::Keepalive;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

/// Connections the kernel keeps for us while all workers are busy; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// An address that could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr} ({flag}): {}", explain(.cause))]
pub struct ListenError {
    flag: &'static str,
    addr: SocketAddr,
    cause: io::Error,
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the address is in use: stop what listens there, or give another port".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this host does not have that address".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "not permitted: ports below 1024 need privileges, give a higher one".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Listens on an address; `flag` is what the user would change to have another.
///
/// The socket is non-blocking, and can be cloned so that several workers accept from it.
pub fn listen(flag: &'static str, addr: SocketAddr) -> Result<TcpListener, ListenError> {
    let bind = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait for the connections of the last run to leave TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bind().map_err(|cause| ListenError { flag, addr, cause })
}

/// Sets the options of a connection that was accepted.
pub fn accepted(stream: &TcpStream) {
    // It fails only on a connection that is gone already, which the first read tells better.
    let _gone = stream.set_nodelay(true);
}

/// Where a redirected connection was meant to go (`SO_ORIGINAL_DST`).
///
/// `None` when it was not redirected: the kernel has no other address, or gives the one that was connected to.
pub fn original_dst(stream: &TcpStream) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let socket = SockRef::from(stream);
    let original = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    original.ok()?.as_socket().filter(|original| *original != local)
}

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// It took too long.
    #[error("timed out")]
    Timeout,
    /// Anything else: no route, no address or descriptor left, a reset.
    #[error("{0}")]
    Other(io::Error),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            _ => Self::Other(error),
        }
    }
}

/// How long the peer may leave what was sent to it unacknowledged before it is taken for dead. Without this limit
/// (RFC 5482) the kernel goes on for a quarter of an hour.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// Connects to an address, within `timeout`, from `source` where the host has several addresses.
pub async fn connect(
    addr: SocketAddr,
    timeout: Duration,
    keepalive: Option<&Keepalive>,
    source: Option<IpAddr>,
) -> Result<TcpStream, ConnectError> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    SockRef::from(&socket).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    if let Some(keepalive) = keepalive {
        SockRef::from(&socket).set_tcp_keepalive(&probes(keepalive))?;
    }
    // A source of the other family cannot be used, and the system's choice is as good.
    if let Some(source) = source.filter(|source| source.is_ipv4() == addr.is_ipv4()) {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    match tokio::time::timeout(timeout, socket.connect(addr)).await {
        Ok(connected) => Ok(connected?),
        Err(_elapsed) => Err(ConnectError::Timeout),
    }
}

fn probes(keepalive: &Keepalive) -> TcpKeepalive {
    let mut probes = TcpKeepalive::new();
    if let Some(time) = keepalive.time {
        probes = probes.with_time(time);
    }
    if let Some(interval) = keepalive.interval {
        probes = probes.with_interval(interval);
    }
    if let Some(count) = keepalive.probes {
        probes = probes.with_retries(count);
    }
    probes
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(5);

    fn loopback() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn a_busy_port_is_explained() {
        let first = listen("--outbound-addr", loopback()).unwrap();
        let addr = first.local_addr().unwrap();
        let error = listen("--outbound-addr", addr).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "cannot listen on {addr} (--outbound-addr): the address is in use: stop what listens there, or \
                 give another port"
            )
        );
    }

    #[tokio::test]
    async fn connects_with_the_options_asked_for() {
        let listener = listen("--x", loopback()).unwrap();
        let source: IpAddr = "127.0.0.9".parse().unwrap();
        let keepalive = Keepalive {
            probes: Some(3),
            time: Some(Duration::from_secs(60)),
            interval: Some(Duration::from_secs(7)),
        };
        let addr = listener.local_addr().unwrap();
        let stream = connect(addr, LONG, Some(&keepalive), Some(source)).await.unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), source);
        assert!(stream.nodelay().unwrap());
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(original_dst(&stream), None);
    }

    #[tokio::test]
    async fn refusal_and_timeout_are_told_apart() {
        // Bound, so that nobody else gets the port, but not listening.
        let closed = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        closed.bind(&loopback().into()).unwrap();
        let addr = closed.local_addr().unwrap().as_socket().unwrap();
        assert!(matches!(connect(addr, LONG, None, None).await, Err(ConnectError::Refused)));

        // A backlog of one that nobody empties: the kernel drops further connections without a word.
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&loopback().into()).unwrap();
        full.listen(0).unwrap();
        let addr = full.local_addr().unwrap().as_socket().unwrap();
        let mut held = Vec::new();
        let ended = loop {
            match connect(addr, Duration::from_millis(100), None, None).await {
                Ok(stream) if held.len() < 16 => held.push(stream),
                ended => break ended,
            }
        };
        assert!(matches!(ended, Err(ConnectError::Timeout)), "{ended:?}");
    }
}
