//! A bounded queue in front of a thread that writes.
//!
//! Invariants: offering never waits; what does not fit is refused and counted; whoever was told
//! "done" finds it after a kill. Dropping the queue writes what is in it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use tokio::sync::{mpsc, oneshot};

/// Items are written together until there are this many bytes.
const TOGETHER: usize = 4 << 20;

#[derive(Debug)]
pub(crate) struct Intake<T> {
    sender: Option<mpsc::UnboundedSender<Batch<T>>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    queued: AtomicUsize,
    accepted: AtomicU64,
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug)]
struct Batch<T> {
    items: Vec<T>,
    bytes: usize,
    done: oneshot::Sender<Result<(), String>>,
}

/// What became of the items so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct IntakeStats {
    pub(crate) accepted: u64,
    pub(crate) written: u64,
    /// Refused because the queue was full.
    pub(crate) dropped: u64,
    /// Lost because they could not be written.
    pub(crate) failed: u64,
    pub(crate) queued_bytes: u64,
}

/// The queue is full, or gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rejected;

/// What an item costs in the queue beyond its text.
pub(crate) fn weight(text: usize) -> usize {
    text + 256
}

impl<T: Send + 'static> Intake<T> {
    /// Starts the thread. `write` gets items in the order they were offered.
    pub(crate) fn start(
        name: &str,
        limit: usize,
        write: impl FnMut(Vec<T>) -> Result<(), String> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            limit,
            queued: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let (sender, receiver) = mpsc::unbounded_channel();
        let theirs = shared.clone();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(receiver, &theirs, write))?;
        Ok(Self {
            sender: Some(sender),
            shared,
            thread: Some(thread),
        })
    }

    /// Queues items; the receiver says when they are written.
    pub(crate) fn offer(
        &self,
        items: Vec<T>,
        bytes: usize,
    ) -> Result<oneshot::Receiver<Result<(), String>>, Rejected> {
        let shared = &self.shared;
        let count = items.len() as u64;
        let before = shared.queued.fetch_add(bytes, Ordering::Relaxed);
        // One batch is always taken by an empty queue, however large.
        let fits = before == 0 || before.saturating_add(bytes) <= shared.limit;
        let (done, receiver) = oneshot::channel();
        let batch = Batch { items, bytes, done };
        if fits && self.sender.as_ref().is_some_and(|s| s.send(batch).is_ok()) {
            shared.accepted.fetch_add(count, Ordering::Relaxed);
            return Ok(receiver);
        }
        shared.queued.fetch_sub(bytes, Ordering::Relaxed);
        shared.dropped.fetch_add(count, Ordering::Relaxed);
        Err(Rejected)
    }

    pub(crate) fn stats(&self) -> IntakeStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        IntakeStats {
            accepted: load(&self.shared.accepted),
            written: load(&self.shared.written),
            dropped: load(&self.shared.dropped),
            failed: load(&self.shared.failed),
            queued_bytes: self.shared.queued.load(Ordering::Relaxed) as u64,
        }
    }
}

fn work<T>(
    mut receiver: mpsc::UnboundedReceiver<Batch<T>>,
    shared: &Shared,
    mut write: impl FnMut(Vec<T>) -> Result<(), String>,
) {
    while let Some(first) = receiver.blocking_recv() {
        let (mut items, mut bytes) = (first.items, first.bytes);
        let mut waiting = vec![first.done];
        while bytes < TOGETHER {
            let Ok(next) = receiver.try_recv() else {
                break;
            };
            items.extend(next.items);
            bytes += next.bytes;
            waiting.push(next.done);
        }
        let count = items.len() as u64;
        let result = write(items);
        let counter = if result.is_ok() {
            &shared.written
        } else {
            &shared.failed
        };
        counter.fetch_add(count, Ordering::Relaxed);
        shared.queued.fetch_sub(bytes, Ordering::Relaxed);
        if let Err(error) = &result {
            tracing::warn!(%error, lost = count, "telemetry could not be written");
        }
        for done in waiting {
            done.send(result.clone()).ok();
        }
    }
}

impl<T> Drop for Intake<T> {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc as blocking;

    #[tokio::test]
    async fn a_full_queue_refuses_and_counts() {
        let (go, wait) = blocking::channel::<()>();
        let (seen, written) = blocking::channel();
        let intake = Intake::start("test", 10, move |items: Vec<u8>| {
            wait.recv().ok();
            seen.send(items).map_err(|e| e.to_string())
        })
        .unwrap();
        let first = intake.offer(vec![1, 2], 8).unwrap();
        assert_eq!(intake.offer(vec![3], 3).unwrap_err(), Rejected);
        let second = intake.offer(vec![4], 2).unwrap();
        go.send(()).unwrap();
        go.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Ok(()));
        assert_eq!(second.await.unwrap(), Ok(()));
        drop(go);
        let stats = intake.stats();
        assert_eq!((stats.accepted, stats.written, stats.dropped), (3, 3, 1));
        drop(intake);
        assert_eq!(written.try_iter().flatten().collect::<Vec<_>>(), [1, 2, 4]);
    }

    #[tokio::test]
    async fn a_failure_is_told() {
        let intake = Intake::start("test", 10, |_: Vec<u8>| Err("full".to_owned())).unwrap();
        let answer = intake.offer(vec![1], 1).unwrap().await.unwrap();
        assert_eq!(answer, Err("full".to_owned()));
        assert_eq!(intake.stats().failed, 1);
    }
}
