//! The one place where tasks are spawned.
//!
//! These are tasks per connection: a panic in one is logged and costs that connection. Tasks the process cannot live
//! without are held by `app`, which ends when one of them does.

use std::future::Future;

/// Runs a future beside the others; says so when it panics.
pub(crate) fn spawn(name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "this is the module that supervises")]
    let handle = tokio::spawn(future);
    #[expect(clippy::disallowed_methods, reason = "the supervision itself")]
    tokio::spawn(async move {
        if let Err(error) = handle.await
            && error.is_panic()
        {
            tracing::error!(task = name, %error, "a task panicked");
        }
    });
}
