//! The cache of all objects and the remembered changes.
//!
//! Invariants: `version` is the version of the last published write; a shelf's log holds every change of its resource
//! after `forgotten`, in order; undoing the log from the newest end yields any state since `forgotten`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use malla_apimachinery::meta::ObjectKey;
use serde_json::Value;
use tokio::sync::watch;

use super::{Disk, StoreError};
use crate::store::disk::parse_record_key;

/// An object and its version.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) version: u64,
    pub(crate) object: Arc<Value>,
}

/// One published write.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) key: ObjectKey,
    /// Before; `None` for a creation.
    pub(crate) old: Option<Stored>,
    /// After, or the last state for a removal; carries the change's version.
    pub(crate) object: Arc<Value>,
    pub(crate) removed: bool,
}

/// All objects of all resources.
#[derive(Debug)]
pub(crate) struct World {
    pub(super) version: u64,
    window: usize,
    shelves: HashMap<Arc<str>, Shelf>,
}

/// One resource's objects and recent changes.
#[derive(Debug)]
pub(crate) struct Shelf {
    objects: BTreeMap<ObjectKey, Stored>,
    log: VecDeque<Change>,
    /// Changes up to this version may be missing from the log.
    forgotten: u64,
    news: watch::Sender<u64>,
}

impl World {
    pub(super) fn load(disk: &Disk, window: usize) -> Result<Self, StoreError> {
        let mut shelves: HashMap<Arc<str>, Shelf> = HashMap::new();
        let counter = disk.load(|record, bytes| {
            let (resource, key, stored) = parse(disk.path(), record, bytes)?;
            if !shelves.contains_key(resource) {
                shelves.insert(resource.into(), Shelf::new(0));
            }
            if let Some(shelf) = shelves.get_mut(resource) {
                shelf.objects.insert(key, stored);
            }
            Ok(())
        })?;
        for shelf in shelves.values_mut() {
            shelf.forgotten = counter;
        }
        Ok(Self {
            version: counter,
            window,
            shelves,
        })
    }

    /// The version of the last write.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn get(&self, resource: &str, key: &ObjectKey) -> Option<Stored> {
        self.shelves.get(resource)?.objects.get(key).cloned()
    }

    /// The objects of `namespace`, or of all (`None`), after `after`, in order.
    pub(crate) fn range<'a>(
        &'a self,
        resource: &str,
        namespace: Option<&'a str>,
        after: Option<ObjectKey>,
    ) -> Box<dyn Iterator<Item = (&'a ObjectKey, &'a Stored)> + 'a> {
        let Some(shelf) = self.shelves.get(resource) else {
            return Box::new(std::iter::empty());
        };
        range_of(&shelf.objects, namespace, after)
    }

    /// The objects as they were at `version`; `None` when that is forgotten or yet to come.
    pub(crate) fn at(&self, resource: &str, version: u64) -> Option<BTreeMap<ObjectKey, Stored>> {
        if version > self.version {
            return None;
        }
        let Some(shelf) = self.shelves.get(resource) else {
            return Some(BTreeMap::new());
        };
        if version < shelf.forgotten {
            return None;
        }
        let mut objects = shelf.objects.clone();
        let later = shelf.log.iter().rev();
        for change in later.take_while(|change| change.version > version) {
            match &change.old {
                Some(old) => objects.insert(change.key.clone(), old.clone()),
                None => objects.remove(&change.key),
            };
        }
        Some(objects)
    }

    /// The changes of `resource` after `version`, at most `most`; `None` when some are forgotten.
    pub(super) fn after(&self, resource: &str, version: u64, most: usize) -> Option<Vec<Change>> {
        let Some(shelf) = self.shelves.get(resource) else {
            return Some(Vec::new());
        };
        if version < shelf.forgotten {
            return None;
        }
        let start = shelf
            .log
            .partition_point(|change| change.version <= version);
        Some(shelf.log.iter().skip(start).take(most).cloned().collect())
    }

    pub(super) fn subscribe(&self, resource: &str) -> Option<watch::Receiver<u64>> {
        Some(self.shelves.get(resource)?.news.subscribe())
    }

    pub(super) fn shelf_mut(&mut self, resource: &Arc<str>) -> &mut Shelf {
        // A resource without a shelf never had a change: nothing is forgotten.
        self.shelves
            .entry(resource.clone())
            .or_insert_with(|| Shelf::new(0))
    }

    /// Makes a durable change visible.
    pub(super) fn publish(&mut self, resource: &Arc<str>, change: Change) {
        let window = self.window;
        self.version = change.version;
        let shelf = self.shelf_mut(resource);
        if change.removed {
            shelf.objects.remove(&change.key);
        } else {
            let stored = Stored {
                version: change.version,
                object: change.object.clone(),
            };
            shelf.objects.insert(change.key.clone(), stored);
        }
        let version = change.version;
        shelf.log.push_back(change);
        while shelf.log.len() > window {
            if let Some(dropped) = shelf.log.pop_front() {
                shelf.forgotten = dropped.version;
            }
        }
        shelf.news.send_replace(version);
    }

    pub(super) fn compact(&mut self) {
        for shelf in self.shelves.values_mut() {
            shelf.log.clear();
            shelf.forgotten = self.version;
            // Wakes idle watches too: they are up to date and stay.
            shelf.news.send_replace(self.version);
        }
    }
}

/// The part of `objects` a list asks for.
pub(crate) fn range_of<'a>(
    objects: &'a BTreeMap<ObjectKey, Stored>,
    namespace: Option<&'a str>,
    after: Option<ObjectKey>,
) -> Box<dyn Iterator<Item = (&'a ObjectKey, &'a Stored)> + 'a> {
    let first = namespace.map(|namespace| ObjectKey {
        namespace: namespace.to_owned(),
        name: String::new(),
    });
    let start = match (after, first) {
        (Some(after), _) => Bound::Excluded(after),
        (None, Some(first)) => Bound::Included(first),
        (None, None) => Bound::Unbounded,
    };
    let items = objects.range((start, Bound::Unbounded));
    match namespace {
        Some(namespace) => Box::new(items.take_while(move |(key, _)| key.namespace == namespace)),
        None => Box::new(items),
    }
}

impl Shelf {
    fn new(forgotten: u64) -> Self {
        Self {
            objects: BTreeMap::new(),
            log: VecDeque::new(),
            forgotten,
            news: watch::Sender::new(0),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }
}

fn parse<'r>(
    path: &str,
    record: &'r str,
    bytes: &[u8],
) -> Result<(&'r str, ObjectKey, Stored), StoreError> {
    let damaged = |cause: String| StoreError::Damaged {
        path: path.to_owned(),
        record: record.replace('\0', "/"),
        cause,
    };
    let (resource, key) =
        parse_record_key(record).ok_or_else(|| damaged("malformed key".to_owned()))?;
    let object: Value = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    let version = object
        .pointer("/metadata/resourceVersion")
        .and_then(Value::as_str)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| damaged("no resourceVersion".to_owned()))?;
    let stored = Stored {
        version,
        object: Arc::new(object),
    };
    Ok((resource, key, stored))
}
