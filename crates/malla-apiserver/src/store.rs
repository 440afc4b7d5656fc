//! The store: every object of the cluster, in memory for reading and in one crash-safe file for keeping.
//!
//! Invariants:
//! - One `resourceVersion` counts all writes of the whole store and is saved in the same transaction as the write.
//! - A write is acknowledged, and becomes visible to reads and watches, only after it is durable.
//! - One thread writes. Writes that wait for it share one fsync (group commit).
//! - A failed commit changes nothing: readers go on, the file is reopened before the next write.

mod disk;
mod follow;
mod memory;
mod writer;

use std::path::Path;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use malla_apimachinery::meta::ObjectKey;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

pub(crate) use disk::Disk;
pub(crate) use follow::{Cursor, Position};
pub(crate) use memory::{Change, Stored, World, range_of};
use writer::{Job, Writer};

/// Writes that may wait for the writer before callers wait to enqueue.
const QUEUE: usize = 256;

/// Handle to the store; cheap to clone. The file closes when the last handle goes.
#[derive(Clone)]
pub(crate) struct Store {
    world: Arc<RwLock<World>>,
    jobs: mpsc::Sender<Job>,
    _writer: Arc<Writer>,
}

/// What must be true of the stored object for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    Absent,
    Version(u64),
}

/// One write of one object.
#[derive(Debug)]
pub(crate) struct Write {
    /// Group resource, e.g. `deployments.apps`.
    pub(crate) resource: Arc<str>,
    pub(crate) key: ObjectKey,
    pub(crate) expect: Expect,
    /// The new object; `None` removes it. The store fills in `metadata.resourceVersion`.
    pub(crate) object: Option<Value>,
}

/// Why a write did not happen.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum WriteError {
    #[error("the object already exists")]
    Exists,
    #[error("the object does not exist")]
    Missing,
    #[error("the object has another version")]
    Changed,
    #[error("the store {path} is full: {cause}; free some space on that file system and try again")]
    Full { path: String, cause: String },
    #[error("the store {path} cannot be written: {cause}")]
    Broken { path: String, cause: String },
    #[error("the store is closed")]
    Closed,
}

/// Why the store did not open.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    #[error("open {path}: {cause}")]
    Open { path: String, cause: String },
    #[error("open {path}: it is in use by another process")]
    Busy { path: String },
    #[error("{path} holds a damaged record {record}: {cause}")]
    Damaged {
        path: String,
        record: String,
        cause: String,
    },
}

impl Store {
    /// Loads everything from `disk` and starts the writer. `window` is the number of changes each resource remembers.
    pub(crate) fn start(disk: Disk, window: usize) -> Result<Self, StoreError> {
        let world = Arc::new(RwLock::new(World::load(&disk, window)?));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = Writer::start(disk, world.clone(), queue);
        Ok(Self {
            world,
            jobs,
            _writer: Arc::new(writer),
        })
    }

    /// Opens or makes the file at `path`.
    pub(crate) fn open_disk(path: &Path) -> Result<Disk, StoreError> {
        Disk::open(path)
    }

    /// A consistent view of everything; hold it briefly, never across an await.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, World> {
        // A panicking writer leaves the world whole: it publishes by infallible moves only.
        self.world
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// One object.
    pub(crate) fn get(&self, resource: &str, key: &ObjectKey) -> Option<Stored> {
        self.read().get(resource, key)
    }

    /// Writes durably. Returns the stored object; for a removal, the last state at the removal's version.
    pub(crate) async fn write(&self, write: Write) -> Result<Stored, WriteError> {
        let (reply, answer) = oneshot::channel();
        let job = Job { write, reply };
        self.jobs.send(job).await.map_err(|_| WriteError::Closed)?;
        answer.await.map_err(|_| WriteError::Closed)?
    }

    /// Follows the changes of `resource` after version `from`; `None` if some of them are forgotten already.
    pub(crate) fn follow(&self, resource: &Arc<str>, from: u64) -> Option<Cursor> {
        Cursor::new(self.clone(), resource.clone(), from)
    }

    /// Forgets all remembered changes, as if the window had passed: watches and continued lists from before now
    /// get `410 Expired`.
    pub(crate) fn compact(&self) {
        self.world
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .compact();
    }

    fn subscribe(&self, resource: &Arc<str>) -> tokio::sync::watch::Receiver<u64> {
        if let Some(receiver) = self.read().subscribe(resource) {
            return receiver;
        }
        self.world
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .shelf_mut(resource)
            .subscribe()
    }
}

#[cfg(test)]
mod tests;
