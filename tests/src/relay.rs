//! A TCP relay that counts and keeps bytes: what travels between two processes, seen from outside.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::address;
use crate::task::{self, Task};

/// Most bytes that are kept of one direction of a connection.
const KEPT: usize = 1 << 20;

/// A relay to one address.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    down: Arc<AtomicU64>,
    taps: Arc<Mutex<Vec<Tap>>>,
    _task: Task<()>,
}

/// One connection, as somebody on the wire sees it.
#[derive(Clone, Debug, Default)]
pub struct Tap {
    up: Kept,
    down: Kept,
}

/// The first bytes of one direction.
#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Relay {
    /// Relays every connection to `target`.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let address = address::unused_at(target.port())?;
        let listener = TcpListener::bind(address).await.context("cannot listen")?;
        let (down, taps) = (Arc::new(AtomicU64::new(0)), Arc::<Mutex<Vec<Tap>>>::default());
        let (counter, tapped) = (down.clone(), taps.clone());
        let task = task::spawn(async move {
            while let Ok((near, _peer)) = listener.accept().await {
                let (counter, tap) = (counter.clone(), Tap::default());
                tapped.lock().unwrap_or_else(PoisonError::into_inner).push(tap.clone());
                task::detach(async move {
                    // A target that is down closes the near side too.
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    let (near_read, near_write) = near.into_split();
                    let (far_read, far_write) = far.into_split();
                    let up = copy(near_read, far_write, None, tap.up);
                    let down = copy(far_read, near_write, Some(counter), tap.down);
                    tokio::join!(up, down);
                });
            }
        });
        Ok(Self { address, down, taps, _task: task })
    }

    /// Bytes sent from the target to those who connected.
    pub fn bytes_down(&self) -> u64 {
        self.down.load(Ordering::SeqCst)
    }

    /// All connections so far.
    pub fn taps(&self) -> Vec<Tap> {
        self.taps.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Tap {
    /// What was sent to the target.
    pub fn up(&self) -> Vec<u8> {
        self.up.bytes()
    }

    /// What came back.
    pub fn down(&self) -> Vec<u8> {
        self.down.bytes()
    }
}

impl Kept {
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = KEPT.saturating_sub(kept.len()).min(bytes.len());
        kept.extend(bytes.iter().take(room));
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, counter: Option<Arc<AtomicU64>>, kept: Kept) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if let Some(counter) = &counter {
            counter.fetch_add(n as u64, Ordering::SeqCst);
        }
        let Some(bytes) = buffer.get(..n) else { return };
        kept.keep(bytes);
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
