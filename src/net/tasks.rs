//! Tasks with an owner: spawned under a name, told to stop, waited for.

use std::future::Future;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The tasks of one part of the daemon. Clones share the same set.
///
/// Draining is: [`Tasks::stop`] (everyone who listens on [`Tasks::stopped`] finishes what must be
/// finished), then [`Tasks::drained`].
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A set that is told to stop with this one, and can be stopped alone; draining the parent
    /// waits for its tasks too.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            tracker: self.tracker.clone(),
            stop: self.stop.child_token(),
        }
    }

    /// Runs `future` as a task of this set. A panic in it is contained and logged.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the owner everyone else uses"
    )]
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = self.tracker.track_future(future);
        let handle = tokio::spawn(task);
        // A second, tiny task would cost an allocation a session; the panic hook logs the panic
        // with its location, the name is for the debugger and the log.
        tracing::trace!(event = "task_spawned", name, id = %handle.id());
    }

    /// Tells every task to stop.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until told to stop. Cancel safe.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Whether told to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits until no task is left. Call [`Tasks::stop`] first. Cancel safe.
    pub async fn drained(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
