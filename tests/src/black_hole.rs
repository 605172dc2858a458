//! An address that swallows what is sent to it: a listener whose queue is full and never emptied.
//!
//! The kernel drops further attempts to connect without an answer, as a dead machine would.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// How long a connect that the queue has room for may take.
const ROOM: Duration = Duration::from_millis(200);

/// The full queue; the address refuses connections again once this is dropped.
#[derive(Debug)]
pub struct BlackHole {
    _listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl BlackHole {
    /// Makes one at this address.
    pub async fn dig(address: SocketAddr) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(address).with_context(|| format!("cannot listen on {address}"))?;
        let listener = socket.listen(1)?;
        let mut queue = Vec::new();
        for _ in 0..16 {
            match tokio::time::timeout(ROOM, TcpStream::connect(address)).await {
                Ok(stream) => queue.push(stream?),
                Err(_no_answer) => return Ok(Self { _listener: listener, _queue: queue }),
            }
        }
        bail!("the queue of a listener with a backlog of 1 never fills")
    }
}
