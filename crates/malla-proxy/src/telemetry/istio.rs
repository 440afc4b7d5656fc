//! Istio's standard metrics: one worker's series, found by what they are about and counted in place.
//!
//! A series that is there is found by the hash of borrowed facts, so a request allocates and locks nothing; a new one is
//! made, registered for scrapes, and then the same. There are at most so many: beyond that, series that have not moved for a while are
//! given up, and if there are none the request goes into a series labelled `overflow="true"`, which scrapes show.

mod call;
pub mod grpc;
mod labels;
mod render;
mod series;
mod tcp;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::peers::{Own, Peers};

pub use call::LiveCall;
pub use labels::{Counted, Facts, Protocol, Reporter, Service, evaluate, logged};
pub use render::{Family, Kind};
pub use series::{Histogram, Series, SeriesRegistry};
pub use tcp::TcpMeter;

use labels::Labels;

/// A series that has not moved for so long may be given up for another.
const IDLE: Duration = Duration::from_secs(600);
/// Looking for such is not done more often.
const SWEEP: Duration = Duration::from_secs(60);

/// One worker's side.
#[derive(Debug)]
pub struct MeshMetrics {
    /// The workload beside this proxy.
    pub own: Arc<Own>,
    /// What was read of peers.
    pub peers: Peers,
    registry: Arc<SeriesRegistry>,
    hasher: RandomState,
    table: RefCell<HashMap<u64, SmallVec<[Entry; 1]>, RandomState>>,
    swept: Cell<Option<Instant>>,
    /// gRPC calls under way.
    live: RefCell<Vec<Weak<LiveCall>>>,
    /// Told of each new one.
    calls: Notify,
}

#[derive(Debug)]
struct Entry {
    labels: Labels,
    series: Arc<Series>,
    /// What it had come to when it was last looked at, and when that last changed.
    seen: (u64, Instant),
}

/// What one request adds.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestNumbers {
    pub duration: Duration,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

impl MeshMetrics {
    /// Series go into `registry`, where scrapes find them.
    pub fn new(own: Arc<Own>, registry: Arc<SeriesRegistry>) -> Rc<Self> {
        Rc::new(Self {
            own,
            peers: Peers::default(),
            registry,
            hasher: RandomState::default(),
            table: RefCell::default(),
            swept: Cell::new(None),
            live: RefCell::default(),
            calls: Notify::new(),
        })
    }

    /// Counts one request that is over.
    pub fn request(&self, facts: &Facts<'_>, numbers: RequestNumbers) {
        self.with(facts, |series| series.count(numbers));
    }

    /// Does something with the series of these facts.
    fn with<T>(&self, facts: &Facts<'_>, act: impl FnOnce(&Arc<Series>) -> T) -> T {
        let hash = self.hasher.hash_one(facts);
        {
            let table = self.table.borrow();
            let mut entries = table.get(&hash).into_iter().flatten();
            if let Some(entry) = entries.find(|entry| entry.labels.is(facts)) {
                return act(&entry.series);
            }
        }
        if facts.overflow || self.has_room() {
            return act(&self.insert(hash, facts));
        }
        self.registry.note_overflow();
        self.with(&facts.overflowing(), act)
    }

    fn has_room(&self) -> bool {
        if self.registry.is_full() {
            self.sweep(Instant::now());
        }
        !self.registry.is_full()
    }

    fn insert(&self, hash: u64, facts: &Facts<'_>) -> Arc<Series> {
        let series = Arc::new(Series::new(&self.own, facts));
        self.registry.add(&series);
        let mut table = self.table.borrow_mut();
        table.entry(hash).or_default().push(Entry {
            labels: Labels::of(facts),
            series: Arc::clone(&series),
            seen: (0, Instant::now()),
        });
        series
    }

    /// Gives up what has not moved for long.
    fn sweep(&self, now: Instant) {
        if self.swept.get().is_some_and(|last| now < last + SWEEP) {
            return;
        }
        self.swept.set(Some(now));
        let mut table = self.table.borrow_mut();
        table.retain(|_, entries| {
            entries.retain(|entry| {
                let total = entry.series.moved();
                if total != entry.seen.0 {
                    entry.seen = (total, now);
                }
                // A connection that is open counts there again.
                Arc::strong_count(&entry.series) > SeriesRegistry::HOLDS
                    || now < entry.seen.1 + IDLE
            });
            !entries.is_empty()
        });
        drop(table);
        self.registry.forget_abandoned();
    }
}

#[cfg(test)]
mod tests;
