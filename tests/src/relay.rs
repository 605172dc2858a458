//! A TCP relay that counts bytes: what travels between two processes, seen from outside.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::address;
use crate::task::{self, Task};

/// A relay to one address.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    down: Arc<AtomicU64>,
    _task: Task<()>,
}

impl Relay {
    /// Relays every connection to `target`.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let address = address::unused_at(target.port())?;
        let listener = TcpListener::bind(address).await.context("cannot listen")?;
        let down = Arc::new(AtomicU64::new(0));
        let counter = down.clone();
        let task = task::spawn(async move {
            while let Ok((near, _peer)) = listener.accept().await {
                let counter = counter.clone();
                task::detach(async move {
                    // A target that is down closes the near side too.
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    let (near_read, near_write) = near.into_split();
                    let (far_read, far_write) = far.into_split();
                    let up = copy(near_read, far_write, None);
                    let down = copy(far_read, near_write, Some(counter));
                    tokio::join!(up, down);
                });
            }
        });
        Ok(Self { address, down, _task: task })
    }

    /// Bytes sent from the target to those who connected.
    pub fn bytes_down(&self) -> u64 {
        self.down.load(Ordering::SeqCst)
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, counter: Option<Arc<AtomicU64>>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if let Some(counter) = &counter {
            counter.fetch_add(n as u64, Ordering::SeqCst);
        }
        let Some(bytes) = buffer.get(..n) else { return };
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
