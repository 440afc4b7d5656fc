//! The one thread that writes.
//!
//! It takes every write that waits (up to a bound), checks each against the state the earlier ones of the batch would
//! leave, saves all in one transaction, and only then publishes and answers. A refusal waits too: who lost a race
//! must see the winner's state when it reads again, or it would lose to the same winner twice.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

use malla_apimachinery::meta::ObjectKey;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::disk::{Record, record_key};
use super::{Change, Disk, Expect, Stored, World, Write, WriteError};

/// Most writes in one transaction.
const BATCH: usize = 128;

/// A write and who waits for it.
pub(super) struct Job {
    pub(super) write: Write,
    pub(super) reply: oneshot::Sender<Result<Stored, WriteError>>,
}

/// Owns the thread; joins it on drop, after the last queued write.
pub(super) struct Writer {
    thread: Option<JoinHandle<()>>,
}

/// A write of the batch, checked and numbered.
struct Accepted {
    resource: Arc<str>,
    change: Change,
    reply: oneshot::Sender<Result<Stored, WriteError>>,
}

/// The writes taken at once.
#[derive(Default)]
struct Batch {
    accepted: Vec<Accepted>,
    refused: Vec<(oneshot::Sender<Result<Stored, WriteError>>, WriteError)>,
    records: Vec<Record>,
    /// The store's version after it.
    version: u64,
}

/// The state of the objects this batch touches: `None` is absent.
type Overlay = HashMap<(Arc<str>, ObjectKey), Option<Stored>>;

impl Writer {
    pub(super) fn start(disk: Disk, world: Arc<RwLock<World>>, queue: mpsc::Receiver<Job>) -> Self {
        let spawned = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || run(disk, &world, queue));
        // Without a thread the queue is dropped, and every write answers `Closed`.
        Self {
            thread: spawned.ok(),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        // The store's handle drops its sender before this; the thread is at its end, or at its last commit.
        if thread.thread().id() != std::thread::current().id() {
            let _ = thread.join();
        }
    }
}

fn run(mut disk: Disk, world: &RwLock<World>, mut queue: mpsc::Receiver<Job>) {
    let mut jobs = Vec::with_capacity(BATCH);
    while queue.blocking_recv_many(&mut jobs, BATCH) > 0 {
        let batch = prepare(world, jobs.drain(..));
        if !batch.accepted.is_empty() {
            match disk.commit(&batch.records, batch.version) {
                Ok(()) => publish(world, batch.accepted),
                Err(error) => {
                    tracing::error!(%error, "store");
                    for job in batch.accepted {
                        let _ = job.reply.send(Err(error.clone()));
                    }
                }
            }
        }
        for (reply, error) in batch.refused {
            let _ = reply.send(Err(error));
        }
    }
}

fn prepare(world: &RwLock<World>, jobs: impl Iterator<Item = Job>) -> Batch {
    let world = world.read().unwrap_or_else(PoisonError::into_inner);
    let mut overlay = Overlay::new();
    let mut batch = Batch {
        version: world.version(),
        ..Batch::default()
    };
    for Job { write, reply } in jobs {
        let place = (write.resource.clone(), write.key.clone());
        let current = match overlay.get(&place) {
            Some(pending) => pending.clone(),
            None => world.get(&write.resource, &write.key),
        };
        if let Err(error) = check(write.expect, current.as_ref()) {
            batch.refused.push((reply, error));
            continue;
        }
        let removed = write.object.is_none();
        let Some(object) = write.object.or_else(|| {
            let last = current.as_ref()?;
            Some(Value::clone(&last.object))
        }) else {
            batch.refused.push((reply, WriteError::Missing));
            continue;
        };
        batch.version += 1;
        let version = batch.version;
        let object = Arc::new(stamp(object, version));
        batch.records.push(Record {
            key: record_key(&write.resource, &write.key),
            bytes: (!removed).then(|| object.to_string().into_bytes()),
        });
        let stored = Stored {
            version,
            object: object.clone(),
        };
        overlay.insert(place, (!removed).then_some(stored));
        let change = Change {
            version,
            key: write.key,
            old: current,
            object,
            removed,
        };
        batch.accepted.push(Accepted {
            resource: write.resource,
            change,
            reply,
        });
    }
    batch
}

fn check(expect: Expect, current: Option<&Stored>) -> Result<(), WriteError> {
    match (expect, current) {
        (Expect::Absent, None) => Ok(()),
        (Expect::Absent, Some(_)) => Err(WriteError::Exists),
        (Expect::Version(_), None) => Err(WriteError::Missing),
        (Expect::Version(want), Some(found)) if want == found.version => Ok(()),
        (Expect::Version(_), Some(_)) => Err(WriteError::Changed),
    }
}

fn stamp(mut object: Value, version: u64) -> Value {
    match object.get_mut("metadata").and_then(Value::as_object_mut) {
        Some(metadata) => {
            metadata.insert("resourceVersion".to_owned(), version.to_string().into());
        }
        None => {
            if let Some(fields) = object.as_object_mut() {
                let metadata = json!({"resourceVersion": version.to_string()});
                fields.insert("metadata".to_owned(), metadata);
            }
        }
    }
    object
}

fn publish(world: &RwLock<World>, accepted: Vec<Accepted>) {
    let mut replies = Vec::with_capacity(accepted.len());
    {
        let mut world = world.write().unwrap_or_else(PoisonError::into_inner);
        for Accepted {
            resource,
            change,
            reply,
        } in accepted
        {
            let stored = Stored {
                version: change.version,
                object: change.object.clone(),
            };
            world.publish(&resource, change);
            replies.push((reply, stored));
        }
    }
    for (reply, stored) in replies {
        let _ = reply.send(Ok(stored));
    }
}
