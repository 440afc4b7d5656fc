//! Tasks with an owner and a span.
//!
//! Invariant: no task outlives its owner. An [`AbortOnDrop`] owns one task, a [`TaskSet`] any
//! number; dropping either aborts what still runs. (`drain` owns tasks that should end politely.)

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::{AbortHandle, JoinError, JoinHandle, JoinSet};
use tracing::{Instrument, Span};

/// One task that ends when this value is dropped; awaiting it yields the task's result.
#[derive(Debug)]
#[must_use = "dropping it aborts the task"]
pub struct AbortOnDrop<T>(JoinHandle<T>);

impl<T: Send + 'static> AbortOnDrop<T> {
    /// Starts `future` inside `span` on the current runtime.
    pub fn spawn(span: Span, future: impl Future<Output = T> + Send + 'static) -> Self {
        Self(tokio::spawn(future.instrument(span)))
    }
}

impl<T> AbortOnDrop<T> {
    /// Takes over the ownership of a task that was started elsewhere.
    pub fn adopt(handle: JoinHandle<T>) -> Self {
        Self(handle)
    }

    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Future for AbortOnDrop<T> {
    /// `Err` when the task panicked.
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// Any number of tasks, all aborted when the set is dropped. A panic is logged with its span.
#[derive(Debug, Default)]
pub struct TaskSet {
    tasks: JoinSet<()>,
}

impl TaskSet {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts `future` inside `span`. Finished tasks are forgotten here, so a set that only ever
    /// grows by `spawn` holds no more than what runs.
    pub fn spawn(
        &mut self,
        span: Span,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        while let Some(finished) = self.tasks.try_join_next() {
            report(finished);
        }
        self.tasks.spawn(future.instrument(span))
    }

    /// Waits for the next task to end; `false` when none is left.
    pub async fn join_next(&mut self) -> bool {
        match self.tasks.join_next().await {
            Some(finished) => {
                report(finished);
                true
            }
            None => false,
        }
    }

    /// Waits until every task has ended by itself.
    pub async fn join_all(&mut self) {
        while self.join_next().await {}
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

fn report(finished: Result<(), JoinError>) {
    if let Err(error) = finished
        && error.is_panic()
    {
        tracing::error!(%error, "a task panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn dropping_the_owner_ends_the_task() {
        let (alive, gone) = oneshot::channel::<()>();
        let task = AbortOnDrop::spawn(Span::none(), async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        drop(task);
        let ended = tokio::time::timeout(Duration::from_secs(1), gone).await;
        assert!(ended.is_ok_and(|answer| answer.is_err()));
    }

    #[tokio::test]
    async fn a_task_gives_its_result() {
        let task = AbortOnDrop::spawn(Span::none(), async { 7 });
        assert_eq!(task.await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_set_survives_a_panicking_task() {
        let mut set = TaskSet::new();
        set.spawn(Span::none(), async { panic!("expected by the test") });
        set.spawn(Span::none(), async {});
        set.join_all().await;
        assert!(set.is_empty());
    }
}
