//! The snapshot that is live, and the one way to change it.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use malla_proxy_config::Snapshot;
use malla_proxy_config::snapshot::Draft;
use tokio::sync::watch;

/// Holds the current [`Snapshot`]; cheap to clone, shared by all workers.
#[derive(Debug, Clone)]
pub struct Live {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    now: ArcSwap<Snapshot>,
    /// Counts every change, also of endpoint and secret cells, which swap no snapshot.
    changes: watch::Sender<u64>,
    writer: Mutex<()>,
}

impl Default for Live {
    fn default() -> Self {
        let inner = Inner {
            now: ArcSwap::default(),
            changes: watch::Sender::new(0),
            writer: Mutex::new(()),
        };
        Self {
            inner: Arc::new(inner),
        }
    }
}

impl Live {
    /// The current snapshot, for one request: call it once and pass the result down.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.inner.now.load()
    }

    /// The current snapshot, to keep.
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.inner.now.load_full()
    }

    /// Wakes after every change: of the snapshot, of endpoints, of secrets.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// As [`Self::update_now`], for callers that await anyway.
    pub async fn update<T>(&self, change: impl FnOnce(&mut Draft) -> T) -> T {
        self.update_now(change)
    }

    /// Makes the next snapshot: `change` edits a draft of the current one, then one store publishes it.
    pub fn update_now<T>(&self, change: impl FnOnce(&mut Draft) -> T) -> T {
        // A writer that panicked had not published; the next one starts from the current snapshot.
        let _writer = self
            .inner
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut draft = self.inner.now.load().draft();
        let out = change(&mut draft);
        self.inner.now.store(Arc::new(draft.finish()));
        self.inner.changes.send_modify(|count| *count += 1);
        out
    }
}
