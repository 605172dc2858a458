//! The only place that starts tasks and threads, so that none can die unseen.
//!
//! There are two kinds. A *connection* task may end at any time; if it panics, the panic is logged and counted and
//! only that connection is lost. A *critical* task or thread must outlive the process: if it ends, with an error, a
//! panic or without a reason, the [`Supervisor`]'s owner learns of it and stops the process with that reason. A proxy
//! that is half dead but looks alive is the worst state.

use std::{
    any::Any,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use futures_util::FutureExt;
use tokio::sync::mpsc;

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Panics caught since the start.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Starts the task of one connection on this worker; it need not be `Send`.
///
/// Must be called on a thread that runs a `LocalRuntime`.
pub fn spawn_local_connection(name: &'static str, future: impl Future<Output = ()> + 'static) {
    drop(tokio::task::spawn_local(caught(name, future)));
}

/// Starts the task of one connection on the current runtime, which may be any.
pub fn spawn_connection(name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "the one door to spawning")]
    drop(tokio::spawn(caught(name, future)));
}

/// A combinator and no `async fn`, which would keep the future twice: what it was given and what it awaits.
fn caught<F: Future<Output = ()>>(name: &'static str, future: F) -> impl Future<Output = ()> + use<F> {
    AssertUnwindSafe(future).catch_unwind().map(move |ended| {
        if let Err(panic) = ended {
            let reason = note_panic(&*panic);
            tracing::error!(task = name, error = %reason, "task panicked, its connection is lost");
        }
    })
}

/// Starts a thread that the process can do without; its name shows in `top -H`.
pub fn spawn_thread(
    name: &'static str,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
            let reason = note_panic(&*panic);
            tracing::error!(task = name, error = %reason, "thread panicked, its work is no longer done");
        }
    })
}

/// Lets hyper start the tasks of a connection's streams on this worker, `Send` or not.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalExec;

impl<F> hyper::rt::Executor<F> for LocalExec
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        spawn_local_connection("http2", future.map(drop));
    }
}

/// Why the process must stop.
#[derive(Debug, thiserror::Error)]
#[error("{name} {how}")]
pub struct Failure {
    name: String,
    how: String,
}

/// Starts critical tasks and threads; clones report to the same [`Failures`].
#[derive(Debug, Clone)]
pub struct Supervisor {
    failures: mpsc::UnboundedSender<Failure>,
}

/// Where the ends of critical tasks arrive.
#[derive(Debug)]
pub struct Failures(mpsc::UnboundedReceiver<Failure>);

impl Failures {
    /// Waits for the first critical task to end. Never resolves while all live.
    pub async fn first(&mut self) -> Failure {
        match self.0.recv().await {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }
}

impl Supervisor {
    /// A supervisor and the place where it reports.
    pub fn new() -> (Self, Failures) {
        let (failures, received) = mpsc::unbounded_channel();
        (Self { failures }, Failures(received))
    }

    /// Starts a critical task on the current runtime.
    pub fn spawn_critical<E: fmt::Display + 'static>(
        &self,
        name: &'static str,
        future: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        #[expect(clippy::disallowed_methods, reason = "the one door to spawning")]
        drop(tokio::spawn(self.clone().watched(name, future)));
    }

    /// Starts a critical task that need not be `Send`, on a thread that runs a `LocalRuntime`.
    pub fn spawn_critical_local<E: fmt::Display + 'static>(
        &self,
        name: &'static str,
        future: impl Future<Output = Result<(), E>> + 'static,
    ) {
        drop(tokio::task::spawn_local(self.clone().watched(name, future)));
    }

    /// Starts a critical thread, whose name shows in `top -H`.
    pub fn spawn_critical_thread<E: fmt::Display + 'static>(
        &self,
        name: String,
        body: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> std::io::Result<thread::JoinHandle<()>> {
        let supervisor = self.clone();
        thread::Builder::new().name(name.clone()).spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(body));
            supervisor.report(&name, ended);
        })
    }

    async fn watched<E: fmt::Display>(self, name: &'static str, future: impl Future<Output = Result<(), E>>) {
        let ended = AssertUnwindSafe(future).catch_unwind().await;
        self.report(name, ended);
    }

    fn report<E: fmt::Display>(&self, name: &str, ended: thread::Result<Result<(), E>>) {
        let how = match ended {
            Ok(Ok(())) => "ended".to_owned(),
            Ok(Err(error)) => format!("failed: {error}"),
            Err(panic) => format!("panicked: {}", note_panic(&*panic)),
        };
        // Nobody listens any more once the process is stopping.
        let _stopping = self.failures.send(Failure { name: name.to_owned(), how });
    }
}

fn note_panic(panic: &(dyn Any + Send)) -> String {
    PANICS.fetch_add(1, Ordering::Relaxed);
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::{runtime::LocalRuntime, sync::oneshot};

    use super::*;

    #[test]
    fn a_panicking_connection_takes_nothing_with_it() {
        let runtime = LocalRuntime::new().unwrap();
        runtime.block_on(async {
            let before = panics();
            let (send, alive) = oneshot::channel();
            spawn_local_connection("bad", async { panic!("boom") });
            spawn_local_connection("good", async { send.send(()).unwrap() });
            alive.await.unwrap();
            assert!(panics() > before);
        });
    }

    #[test]
    fn every_end_of_a_critical_task_is_a_failure() {
        let runtime = LocalRuntime::new().unwrap();
        runtime.block_on(async {
            let (supervisor, mut failures) = Supervisor::new();
            supervisor.spawn_critical("a", async { Ok::<_, Infallible>(()) });
            assert_eq!(failures.first().await.to_string(), "a ended");
            supervisor.spawn_critical_local("b", async { Err("no more") });
            assert_eq!(failures.first().await.to_string(), "b failed: no more");
            supervisor.spawn_critical("c", async {
                if panics() < u64::MAX {
                    panic!("boom");
                }
                Ok::<_, Infallible>(())
            });
            assert_eq!(failures.first().await.to_string(), "c panicked: boom");
            supervisor
                .spawn_critical_thread("d".to_owned(), || Err::<(), _>("gone"))
                .unwrap()
                .join()
                .unwrap();
            assert_eq!(failures.first().await.to_string(), "d failed: gone");
        });
    }

    #[test]
    fn hyper_tasks_may_hold_local_state() {
        let runtime = LocalRuntime::new().unwrap();
        runtime.block_on(async {
            let (send, done) = oneshot::channel();
            let local = std::rc::Rc::new(3);
            hyper::rt::Executor::execute(&LocalExec, async move { send.send(*local).unwrap() });
            assert_eq!(done.await.unwrap(), 3);
        });
    }
}
