//! Going away in three words: stop, wait, kill.
//!
//! [`Drain`] is the owner, held by whoever decides when the process (or a listener) ends.
//! [`DrainWatch`] is what the work holds: it learns that it should finish, keeps the owner waiting
//! while it does, and is ended by force when the grace period is over.
//!
//! Invariant: after [`Drain::stop`] returns, no task spawned through its watches is left.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{Instrument, Span};

/// The side that decides. Dropping it without [`Drain::stop`] stops and kills at once.
#[derive(Debug)]
pub struct Drain {
    watch: DrainWatch,
}

/// The side that works; cheap to clone.
#[derive(Debug, Clone)]
pub struct DrainWatch {
    stop: CancellationToken,
    kill: CancellationToken,
    work: TaskTracker,
}

/// Keeps [`Drain::stop`] waiting until it is dropped, or until the grace period is over.
#[derive(Debug)]
#[must_use = "dropping it lets the drain go on"]
pub struct DrainGuard {
    _latch: TaskTrackerToken,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// All work ended by itself.
    Drained,
    /// The grace period ended first; `left` tasks or guards were cut off.
    Killed { left: usize },
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    #[must_use]
    pub fn new() -> Self {
        Self {
            watch: DrainWatch {
                stop: CancellationToken::new(),
                kill: CancellationToken::new(),
                work: TaskTracker::new(),
            },
        }
    }

    /// A drain inside another one: it stops with its parent, and can be stopped alone (one
    /// listener of a proxy that goes on). The parent waits for the child's work too.
    #[must_use]
    pub fn within(parent: &DrainWatch) -> Self {
        let watch = DrainWatch {
            stop: parent.stop.child_token(),
            kill: parent.kill.child_token(),
            work: TaskTracker::new(),
        };
        let (child, kill) = (watch.work.clone(), watch.kill.clone());
        let stop = watch.stop.clone();
        parent.spawn(Span::none(), async move {
            stop.cancelled().await;
            child.close();
            tokio::select! {
                biased; // Killed work has been dropped already; there is nothing to wait for.
                () = kill.cancelled() => {}
                () = child.wait() => {}
            }
        });
        Self { watch }
    }

    #[must_use]
    pub fn watch(&self) -> DrainWatch {
        self.watch.clone()
    }

    /// Says "finish" to all work without waiting for it.
    pub fn start(&self) {
        self.watch.stop.cancel();
        self.watch.work.close();
    }

    /// No new work; waits up to `grace` for the work under way; then ends what is left.
    pub async fn stop(self, grace: Duration) -> Stopped {
        self.start();
        let work = &self.watch.work;
        if tokio::time::timeout(grace, work.wait()).await.is_ok() {
            return Stopped::Drained;
        }
        let left = work.len();
        self.watch.kill.cancel();
        // Guards are not tasks: their holders see `killed()`, but nobody can make them let go.
        let _ = tokio::time::timeout(KILL_LIMIT, work.wait()).await;
        Stopped::Killed { left }
    }
}

/// How long [`Drain::stop`] waits for killed work to be dropped by the runtime.
const KILL_LIMIT: Duration = Duration::from_secs(1);

impl Drop for Drain {
    fn drop(&mut self) {
        self.start();
        self.watch.kill.cancel();
    }
}

impl DrainWatch {
    /// A watch that never drains, for tools and tests that run to completion.
    #[must_use]
    pub fn never() -> Self {
        Self {
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            work: TaskTracker::new(),
        }
    }

    /// Completes when work should finish: no new requests, GOAWAY, `connection: close`.
    pub async fn draining(&self) {
        self.stop.cancelled().await;
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Completes when the grace period is over.
    pub async fn killed(&self) {
        self.kill.cancelled().await;
    }

    /// Makes the drain wait for the holder.
    pub fn hold(&self) -> DrainGuard {
        DrainGuard {
            _latch: self.work.token(),
        }
    }

    /// Starts `future` as work of this drain: it is waited for, and dropped when killed.
    pub fn spawn(&self, span: Span, future: impl Future<Output = ()> + Send + 'static) {
        let work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(future);
        self.work
            .spawn(Mortal::new(&self.kill, work).instrument(span));
    }

    /// Like [`DrainWatch::spawn`] for futures that stay on this thread (inside a `LocalSet` or a
    /// local runtime).
    pub fn spawn_local(&self, span: Span, future: impl Future<Output = ()> + 'static) {
        let work: Pin<Box<dyn Future<Output = ()>>> = Box::pin(future);
        self.work
            .spawn_local(Mortal::new(&self.kill, work).instrument(span));
    }

    /// The number of tasks and guards under way.
    #[must_use]
    pub fn active(&self) -> usize {
        self.work.len()
    }
}

/// Work that ends when it is killed, and is not polled once more then.
///
/// It is polled with every step of every connection. To be woken by a kill is asked for once for each waker, which for a
/// task is once; afterwards a poll only looks whether it has come.
struct Mortal<W> {
    kill: CancellationToken,
    killed: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Who is woken.
    wakes: Option<Waker>,
    /// Boxed: starting a task moves it a dozen times, and each type of task has code of its own.
    work: W,
}

impl<W> Mortal<W> {
    fn new(kill: &CancellationToken, work: W) -> Self {
        Self {
            kill: kill.clone(),
            killed: Box::pin(kill.clone().cancelled_owned()),
            wakes: None,
            work,
        }
    }

    fn poll_killed(&mut self, cx: &mut Context<'_>) -> bool {
        let asked = self.wakes.as_ref();
        if asked.is_some_and(|waker| waker.will_wake(cx.waker())) {
            return self.kill.is_cancelled();
        }
        self.wakes = Some(cx.waker().clone());
        self.killed.as_mut().poll(cx).is_ready()
    }
}

impl<W: Future<Output = ()> + Unpin> Future for Mortal<W> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_killed(cx) {
            return Poll::Ready(());
        }
        Pin::new(&mut self.work).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than any polite work below needs.
    const GRACE: Duration = Duration::from_secs(20);
    /// For work that must run into the end of its grace period.
    const SHORT: Duration = Duration::from_millis(30);

    #[tokio::test]
    async fn polite_work_is_waited_for() {
        let drain = Drain::new();
        let watch = drain.watch();
        drain.watch().spawn(Span::none(), async move {
            watch.draining().await;
            tokio::time::sleep(SHORT).await;
        });
        assert_eq!(drain.stop(GRACE).await, Stopped::Drained);
    }

    #[tokio::test]
    async fn stubborn_work_is_killed_after_the_grace_period() {
        let drain = Drain::new();
        drain.watch().spawn(Span::none(), std::future::pending());
        let watch = drain.watch();
        assert_eq!(drain.stop(SHORT).await, Stopped::Killed { left: 1 });
        assert_eq!(watch.active(), 0);
    }

    #[tokio::test]
    async fn a_guard_holds_the_drain() {
        let drain = Drain::new();
        let watch = drain.watch();
        let guard = watch.hold();
        let stopping = tokio::spawn(drain.stop(GRACE));
        watch.draining().await;
        assert!(!stopping.is_finished());
        drop(guard);
        assert_eq!(stopping.await.unwrap(), Stopped::Drained);
    }

    #[tokio::test]
    async fn a_child_stops_alone_and_with_its_parent() {
        let parent = Drain::new();
        let alone = Drain::within(&parent.watch());
        let along = Drain::within(&parent.watch());
        assert_eq!(alone.stop(GRACE).await, Stopped::Drained);
        assert!(!parent.watch().is_draining());

        let watch = along.watch();
        let seen = along.watch();
        watch.spawn(Span::none(), async move { seen.draining().await });
        assert_eq!(parent.stop(GRACE).await, Stopped::Drained);
        assert!(watch.is_draining());
        assert_eq!(watch.active(), 0);
    }

    #[tokio::test]
    async fn dropping_the_owner_kills() {
        let drain = Drain::new();
        let watch = drain.watch();
        drop(drain);
        tokio::time::timeout(GRACE, watch.killed()).await.unwrap();
    }
}
