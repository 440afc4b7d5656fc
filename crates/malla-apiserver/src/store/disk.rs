//! The file: a redb database with objects, the version counter and the cluster's keys.
//!
//! Invariant: after any failed operation the database handle is dropped and made anew before the next use, because redb
//! refuses to work on after an I/O error, and reopening rolls back to the last commit.

use std::path::Path;

use malla_apimachinery::meta::ObjectKey;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use super::{StoreError, WriteError};

/// Key: `resource NUL namespace NUL name`. Value: JSON of the storage version.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// The counter.
const VERSION: TableDefinition<'_, &str, u64> = TableDefinition::new("version");
/// The authority's keys and certificates, PEM.
const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");
const COUNTER: &str = "resourceVersion";
/// All objects are cached by [`super::World`]; redb only needs its tree's upper pages.
const PAGE_CACHE: usize = 4 * 1024 * 1024;

type Opener = Box<dyn FnMut() -> Result<Database, DatabaseError> + Send>;

/// The open file.
pub(crate) struct Disk {
    path: String,
    open: Opener,
    database: Option<Database>,
}

/// One object to save or remove.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) key: String,
    pub(super) bytes: Option<Vec<u8>>,
}

impl Disk {
    /// Opens or makes the file.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let file = path.to_owned();
        let open = move || Database::builder().set_cache_size(PAGE_CACHE).create(&file);
        Self::open_with(path.display().to_string(), Box::new(open))
    }

    pub(super) fn open_with(path: String, mut open: Opener) -> Result<Self, StoreError> {
        let database = open().map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::Busy { path: path.clone() },
            other => StoreError::Open {
                path: path.clone(),
                cause: other.to_string(),
            },
        })?;
        Ok(Self {
            path,
            open,
            database: Some(database),
        })
    }

    /// Where the file is, for messages.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// A key kept in the file, if it was ever put there.
    pub(crate) fn key(&mut self, name: &str) -> Result<Option<Vec<u8>>, WriteError> {
        self.attempt(|database| {
            let read = database.begin_read()?;
            let table = match read.open_table(KEYS) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            Ok(table.get(name)?.map(|bytes| bytes.value().to_vec()))
        })
    }

    /// Keeps keys, all of them or none.
    pub(crate) fn put_keys(&mut self, keys: &[(&str, &[u8])]) -> Result<(), WriteError> {
        self.attempt(|database| {
            let write = database.begin_write()?;
            {
                let mut table = write.open_table(KEYS)?;
                for (name, bytes) in keys {
                    table.insert(*name, *bytes)?;
                }
            }
            write.commit()?;
            Ok(())
        })
    }

    /// Calls `each` for every object and returns the counter.
    pub(super) fn load(
        &self,
        mut each: impl FnMut(&str, &[u8]) -> Result<(), StoreError>,
    ) -> Result<u64, StoreError> {
        let damaged = |error: redb::Error| StoreError::Open {
            path: self.path.clone(),
            cause: error.to_string(),
        };
        let Some(database) = &self.database else {
            return Ok(0);
        };
        let read = database.begin_read().map_err(|e| damaged(e.into()))?;
        let objects = match read.open_table(OBJECTS) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(0),
            Err(error) => return Err(damaged(error.into())),
        };
        for entry in objects.iter().map_err(|e| damaged(e.into()))? {
            let (key, bytes) = entry.map_err(|e| damaged(e.into()))?;
            each(key.value(), bytes.value())?;
        }
        let versions = read.open_table(VERSION).map_err(|e| damaged(e.into()))?;
        let counter = versions.get(COUNTER).map_err(|e| damaged(e.into()))?;
        Ok(counter.map_or(0, |guard| guard.value()))
    }

    /// Saves records and the counter in one durable transaction.
    pub(super) fn commit(&mut self, records: &[Record], counter: u64) -> Result<(), WriteError> {
        self.attempt(|database| {
            let write = database.begin_write()?;
            {
                let mut objects = write.open_table(OBJECTS)?;
                for record in records {
                    match &record.bytes {
                        Some(bytes) => objects.insert(record.key.as_str(), bytes.as_slice())?,
                        None => objects.remove(record.key.as_str())?,
                    };
                }
                write.open_table(VERSION)?.insert(COUNTER, counter)?;
            }
            write.commit()?;
            Ok(())
        })
    }

    fn attempt<T>(
        &mut self,
        action: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, WriteError> {
        if self.database.is_none() {
            let reopened = (self.open)();
            let database = reopened.map_err(|error| fault(&self.path, &error.into()))?;
            self.database = Some(database);
        }
        let Some(database) = &self.database else {
            return Err(WriteError::Closed);
        };
        let result = action(database).map_err(|error| fault(&self.path, &error));
        if result.is_err() {
            self.database = None;
        }
        result
    }
}

/// The file key of an object. Neither resource names nor object keys can contain NUL: both are checked at the door.
pub(super) fn record_key(resource: &str, key: &ObjectKey) -> String {
    format!("{resource}\0{}\0{}", key.namespace, key.name)
}

/// The inverse of [`record_key`].
pub(super) fn parse_record_key(text: &str) -> Option<(&str, ObjectKey)> {
    let (resource, rest) = text.split_once('\0')?;
    let (namespace, name) = rest.split_once('\0')?;
    let key = ObjectKey {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    Some((resource, key))
}

fn fault(path: &str, error: &redb::Error) -> WriteError {
    let cause = error.to_string();
    let path = path.to_owned();
    if is_full(error) {
        return WriteError::Full { path, cause };
    }
    WriteError::Broken { path, cause }
}

fn is_full(error: &redb::Error) -> bool {
    let redb::Error::Io(io) = error else {
        return false;
    };
    matches!(
        io.kind(),
        std::io::ErrorKind::StorageFull
            | std::io::ErrorKind::QuotaExceeded
            | std::io::ErrorKind::FileTooLarge
    )
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("path", &self.path).finish()
    }
}
