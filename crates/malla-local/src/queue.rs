//! What a controller still has to look at.
//!
//! Invariants: a key waits at most once, and is never worked on twice at a time; what changes
//! while it is worked on is looked at again; failures come back later, each time longer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use tokio_util::time::DelayQueue;

/// First and longest pause after a failure: those of Kubernetes' controllers are 5 ms and 1000 s;
/// a person waits for this cluster.
const FIRST_RETRY: Duration = Duration::from_millis(5);
const LONGEST_RETRY: Duration = Duration::from_secs(20);

/// What a controller wants after it looked at a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Done,
    /// Look again, because time changes something.
    After(Duration),
}

/// A queue of distinct keys.
#[derive(Debug)]
pub(crate) struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

#[derive(Debug)]
struct State<K> {
    ready: VecDeque<K>,
    waiting: BTreeSet<K>,
    busy: BTreeSet<K>,
    failures: BTreeMap<K, u32>,
}

impl<K: Ord + Clone + Display + Send + Sync + 'static> Queue<K> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                waiting: BTreeSet::new(),
                busy: BTreeSet::new(),
                failures: BTreeMap::new(),
            }),
            wake: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a key.
    pub(crate) fn add(&self, key: K) {
        let mut state = self.state();
        if state.waiting.insert(key.clone()) && !state.busy.contains(&key) {
            state.ready.push_back(key);
            self.wake.notify_one();
        }
    }

    async fn next(&self) -> K {
        loop {
            let woken = self.wake.notified();
            {
                let mut state = self.state();
                if let Some(key) = state.ready.pop_front() {
                    state.waiting.remove(&key);
                    state.busy.insert(key.clone());
                    return key;
                }
            }
            woken.await;
        }
    }

    fn done(&self, key: &K) {
        let mut state = self.state();
        state.busy.remove(key);
        if state.waiting.contains(key) {
            state.ready.push_back(key.clone());
            self.wake.notify_one();
        }
    }

    fn failed(&self, key: &K) -> Duration {
        let mut state = self.state();
        let failures = state.failures.entry(key.clone()).or_default();
        let pause = FIRST_RETRY.saturating_mul(1 << (*failures).min(16));
        *failures = failures.saturating_add(1);
        pause.min(LONGEST_RETRY)
    }

    /// Works the keys off, at most `workers` at a time, until the handle is dropped.
    pub(crate) fn run<E, F, W>(
        self: Arc<Self>,
        name: &'static str,
        workers: usize,
        work: W,
    ) -> AbortOnDropHandle<()>
    where
        E: Display + Send,
        F: Future<Output = Result<Next, E>> + Send + 'static,
        W: Fn(K) -> F + Send + Sync + 'static,
    {
        AbortOnDropHandle::new(tokio::spawn(async move {
            let work = Arc::new(work);
            let mut running = JoinSet::new();
            let mut later = DelayQueue::new();
            loop {
                tokio::select! {
                    Some(done) = running.join_next() => if let Ok(Some((key, pause))) = done {
                        later.insert(key, pause);
                    },
                    Some(due) = later.next() => self.add(due.into_inner()),
                    key = self.next(), if running.len() < workers => {
                        let (queue, work) = (Arc::clone(&self), Arc::clone(&work));
                        running.spawn(async move { queue.work_one(name, key, &*work).await });
                    }
                }
            }
        }))
    }

    /// Works on a key; says if and when it wants to be looked at again.
    async fn work_one<E, F, W>(&self, name: &'static str, key: K, work: &W) -> Option<(K, Duration)>
    where
        E: Display + Send,
        F: Future<Output = Result<Next, E>> + Send,
        W: Fn(K) -> F + Sync,
    {
        let result = work(key.clone()).await;
        self.done(&key);
        let pause = match result {
            Ok(next) => {
                self.state().failures.remove(&key);
                match next {
                    Next::Done => return None,
                    Next::After(pause) => pause,
                }
            }
            Err(error) => {
                tracing::debug!(controller = name, %key, %error, "will try again");
                self.failed(&key)
            }
        };
        Some((key, pause))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::{Next, Queue};

    async fn reach(runs: &AtomicUsize, wanted: usize) {
        let reached = async {
            while runs.load(Ordering::SeqCst) < wanted {
                tokio::task::yield_now().await;
            }
        };
        let met = tokio::time::timeout(Duration::from_secs(10), reached).await;
        assert!(
            met.is_ok(),
            "{} of {wanted} runs",
            runs.load(Ordering::SeqCst)
        );
    }

    #[tokio::test]
    async fn a_key_noted_while_busy_is_worked_on_once_more() {
        let queue = Queue::new();
        let runs = Arc::new(AtomicUsize::new(0));
        let (counted, again) = (Arc::clone(&runs), Arc::clone(&queue));
        let _task = Arc::clone(&queue).run("test", 4, move |key: String| {
            let (counted, again) = (Arc::clone(&counted), Arc::clone(&again));
            async move {
                if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                    again.add(key.clone());
                    again.add(key);
                }
                Ok::<_, String>(Next::Done)
            }
        });
        queue.add("a".to_owned());
        reach(&runs, 2).await;
        queue.add("b".to_owned());
        reach(&runs, 3).await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_failure_is_tried_again_ever_later() {
        let queue = Queue::<String>::new();
        let pauses: Vec<u128> = (0..4)
            .map(|_| queue.failed(&"a".to_owned()).as_millis())
            .collect();
        assert_eq!(pauses, [5, 10, 20, 40]);
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&runs);
        let _task = Arc::clone(&queue).run("test", 1, move |_| {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            async move { if run < 2 { Err("no") } else { Ok(Next::Done) } }
        });
        queue.add("b".to_owned());
        reach(&runs, 3).await;
    }
}
