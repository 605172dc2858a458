//! Tasks of the harness and the sample services.
//!
//! A task lives as long as its handle: dropping the handle ends the task, so nothing a test
//! started outlives the test. This is the one place of the package that spawns.

use std::future::Future;

use anyhow::{Context, Result};
use tokio::task::JoinHandle;

/// A running task that ends when this handle is dropped.
#[derive(Debug)]
pub struct Task<T>(JoinHandle<T>);

impl<T> Task<T> {
    /// Waits for the task's result; an error means that it panicked.
    pub async fn join(mut self) -> Result<T> {
        (&mut self.0).await.context("a task of the harness failed")
    }

    /// True once the task has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs a future on the current runtime.
#[expect(clippy::disallowed_methods, reason = "the one place of this package that spawns")]
pub fn spawn<F>(future: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    Task(tokio::spawn(future))
}

/// Runs a future to its end on the current runtime, whether or not anybody waits for it.
#[expect(clippy::disallowed_methods, reason = "the one place of this package that spawns")]
pub fn detach<F>(future: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    drop(tokio::spawn(future));
}
