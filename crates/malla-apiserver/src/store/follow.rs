//! A watch's place in the remembered changes.
//!
//! Nothing is buffered per watch: each reads on from its own place, so a watch that is too slow finds its place forgotten
//! and is cut, and costs no memory meanwhile.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Change, Store};

/// Changes taken in one step.
const STEP: usize = 64;

/// Reads the changes of one resource, in order, each once.
pub(crate) struct Cursor {
    store: Store,
    resource: Arc<str>,
    seen: u64,
    news: watch::Receiver<u64>,
}

/// What a step of a cursor found.
#[derive(Debug)]
pub(crate) enum Position {
    /// Changes to deliver.
    Changes(Vec<Change>),
    /// Nothing new; every change up to this version was delivered.
    UpToDate(u64),
    /// Changes were forgotten before they were read.
    Lost,
}

impl Cursor {
    pub(super) fn new(store: Store, resource: Arc<str>, from: u64) -> Option<Self> {
        let news = store.subscribe(&resource);
        let known = {
            let world = store.read();
            from <= world.version() && world.after(&resource, from, 0).is_some()
        };
        known.then_some(Self {
            store,
            resource,
            seen: from,
            news,
        })
    }

    /// Takes what is there, without waiting.
    pub(crate) fn step(&mut self) -> Position {
        self.news.mark_unchanged();
        let world = self.store.read();
        match world.after(&self.resource, self.seen, STEP) {
            None => Position::Lost,
            Some(changes) => match changes.last() {
                Some(last) => {
                    self.seen = last.version;
                    Position::Changes(changes)
                }
                None => {
                    self.seen = world.version();
                    Position::UpToDate(self.seen)
                }
            },
        }
    }

    /// Waits until there may be something new. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        // The sender lives in the store this cursor holds: it cannot be gone.
        let _ = self.news.changed().await;
    }
}
