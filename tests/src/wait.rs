//! Bounded, level-triggered waiting: look at the state until it is as wanted, never sleep and hope.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::Instant;

/// How often a state is looked at.
const PERIOD: Duration = Duration::from_millis(10);

/// Longest wait for a state in most tests: far above what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Calls `probe` until it yields a value; fails after [`PATIENCE`] with the last reason it gave.
pub async fn eventually<T, F>(what: &str, probe: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    within(PATIENCE, what, probe).await
}

/// Calls `probe` until it yields a value; fails after `limit` with the last reason it gave.
pub async fn within<T, F>(limit: Duration, what: &str, mut probe: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + limit;
    let mut last = None;
    // A probe that never waits is not ended by its timeout: the clock is looked at besides.
    while Instant::now() < deadline {
        match tokio::time::timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => last = Some(reason),
            Err(_elapsed) => break,
        }
        tokio::time::sleep(PERIOD).await;
    }
    let reason = last.map_or_else(|| "it was never observed".to_owned(), |last| format!("{last:#}"));
    Err(anyhow!("not within {limit:?}: {what}; last: {reason}"))
}
