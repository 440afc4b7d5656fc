//! Spans and access logs on disk: keys and values in buckets that are deleted as a whole.
//!
//! A bucket is one fjall keyspace that takes everything for a while; then a new one is begun.
//! Which bucket a record is in says when it arrived, so a client's clock cannot misplace it.
//!
//! Invariants: what [`Records::write`] has accepted survives `kill -9`; a store that failed (a full
//! disk) is opened again by a later write.

mod intake;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

pub(crate) use intake::{Intake, IntakeStats, weight};

/// Which records: the prefix of its buckets' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    Spans,
    Logs,
}

impl Family {
    const ALL: [Self; 2] = [Self::Spans, Self::Logs];

    fn prefix(self) -> &'static str {
        match self {
            Self::Spans => "spans",
            Self::Logs => "logs",
        }
    }
}

/// How long and how much of one family is kept.
#[derive(Debug, Clone)]
pub struct RetentionConfig {
    pub retention: Duration,
    pub max_bytes: u64,
    /// Bytes that may wait to be written; what comes beyond is dropped and counted.
    pub queue_bytes: usize,
}

/// Of each family, the whole consists of about this many buckets.
const BUCKETS: u32 = 8;
const SMALLEST_BUCKET: u64 = 8 << 20;
const MEMTABLE: u64 = 16 << 20;

/// Why records cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    #[error("{path}: {source}")]
    Open { path: PathBuf, source: fjall::Error },
    #[error(transparent)]
    Use(#[from] fjall::Error),
    #[error("the store of spans and logs is closed after an error; the next write opens it again")]
    Closed,
}

#[derive(Debug)]
pub(crate) struct Records {
    folder: PathBuf,
    limits: BTreeMap<Family, RetentionConfig>,
    state: RwLock<Option<Opened>>,
    reopened: AtomicU64,
    expired: AtomicU64,
}

struct Opened {
    db: Database,
    buckets: BTreeMap<Family, Vec<Bucket>>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("buckets", &self.buckets)
            .finish()
    }
}

#[derive(Clone)]
struct Bucket {
    number: u64,
    /// Unix milliseconds.
    opened: i64,
    written: u64,
    keyspace: Keyspace,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{} {} bytes", self.number, self.opened, self.written)
    }
}

/// Numbers of one family.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FamilyStats {
    pub(crate) buckets: u64,
    pub(crate) bytes: u64,
}

pub(crate) type Pair = (Vec<u8>, Vec<u8>);

impl Records {
    pub(crate) fn open(
        folder: &Path,
        spans: RetentionConfig,
        logs: RetentionConfig,
    ) -> Result<Self, RecordsError> {
        Ok(Self {
            state: RwLock::new(Some(Opened::at(folder)?)),
            folder: folder.to_owned(),
            limits: [(Family::Spans, spans), (Family::Logs, logs)].into(),
            reopened: AtomicU64::new(0),
            expired: AtomicU64::new(0),
        })
    }

    /// Writes all or nothing. `now` is the time of arrival, Unix milliseconds.
    pub(crate) fn write(
        &self,
        family: Family,
        now: i64,
        pairs: Vec<Pair>,
    ) -> Result<(), RecordsError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.is_none() {
            *state = Some(Opened::at(&self.folder)?);
            self.reopened.fetch_add(1, Ordering::Relaxed);
        }
        let Some(open) = state.as_mut() else {
            return Err(RecordsError::Closed);
        };
        let size = pairs
            .iter()
            .map(|(k, v)| (k.len() + v.len()) as u64)
            .sum::<u64>();
        let bucket = self.bucket(open, family, now).map(|bucket| {
            bucket.written += size;
            bucket.keyspace.clone()
        });
        let written = bucket.and_then(|keyspace| {
            let mut batch = open.db.batch().durability(Some(PersistMode::Buffer));
            for (key, value) in pairs {
                batch.insert(&keyspace, key, value);
            }
            Ok(batch.commit()?)
        });
        if written.is_err() {
            *state = None;
        }
        written
    }

    /// The bucket to write to, which may be a new one.
    fn bucket<'o>(
        &self,
        open: &'o mut Opened,
        family: Family,
        now: i64,
    ) -> Result<&'o mut Bucket, RecordsError> {
        let buckets = open.buckets.entry(family).or_default();
        let full = match (buckets.last(), self.limits.get(&family)) {
            (Some(last), Some(limits)) => {
                let age = limits.retention / BUCKETS;
                let bytes = (limits.max_bytes / u64::from(BUCKETS)).max(SMALLEST_BUCKET);
                let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
                last.written >= bytes || now.abs_diff(last.opened) >= age.unsigned_abs()
            }
            _ => true,
        };
        if full {
            if let Some(last) = buckets.last() {
                last.keyspace.rotate_memtable()?;
            }
            let number = buckets.last().map_or(1, |last| last.number + 1);
            let name = format!("{}-{number:012}-{now}", family.prefix());
            let keyspace = open.db.keyspace(&name, options)?;
            buckets.push(Bucket {
                number,
                opened: now,
                written: 0,
                keyspace,
            });
        }
        buckets.last_mut().ok_or(RecordsError::Closed)
    }

    /// The buckets of a family, newest first.
    pub(crate) fn buckets(&self, family: Family) -> Result<Vec<Keyspace>, RecordsError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let open = state.as_ref().ok_or(RecordsError::Closed)?;
        let buckets = open.buckets.get(&family).into_iter().flatten().rev();
        Ok(buckets.map(|bucket| bucket.keyspace.clone()).collect())
    }

    /// Deletes buckets that are too old or too much. Without a trusted clock only size counts.
    pub(crate) fn retain(&self, trusted_now: Option<i64>) -> Result<(), RecordsError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = state.as_mut() else {
            return Ok(());
        };
        for (family, limits) in &self.limits {
            let age = i64::try_from(limits.retention.as_millis()).unwrap_or(i64::MAX);
            let oldest = trusted_now.map(|now| now.saturating_sub(age));
            let buckets = open.buckets.entry(*family).or_default();
            loop {
                let total: u64 = buckets.iter().map(|b| b.keyspace.disk_space()).sum();
                // A bucket's last record is not younger than the next bucket.
                let old = match (buckets.get(1), oldest) {
                    (Some(next), Some(oldest)) => next.opened < oldest,
                    _ => false,
                };
                if buckets.len() < 2 || !(old || total > limits.max_bytes) {
                    break;
                }
                let bucket = buckets.remove(0);
                open.db.delete_keyspace(bucket.keyspace)?;
                self.expired.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Makes what was written survive a loss of power too.
    pub(crate) fn sync(&self) -> Result<(), RecordsError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        match state.as_ref() {
            Some(open) => Ok(open.db.persist(PersistMode::SyncData)?),
            None => Ok(()),
        }
    }

    pub(crate) fn stats(&self, family: Family) -> FamilyStats {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let buckets = state.as_ref().and_then(|open| open.buckets.get(&family));
        let Some(buckets) = buckets else {
            return FamilyStats::default();
        };
        FamilyStats {
            buckets: buckets.len() as u64,
            bytes: buckets.iter().map(|b| b.keyspace.disk_space()).sum(),
        }
    }

    /// Times the store was opened again, and buckets that have expired.
    pub(crate) fn events(&self) -> (u64, u64) {
        (
            self.reopened.load(Ordering::Relaxed),
            self.expired.load(Ordering::Relaxed),
        )
    }
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE)
}

impl Opened {
    fn at(folder: &Path) -> Result<Self, RecordsError> {
        let wrong = |source| RecordsError::Open {
            path: folder.to_owned(),
            source,
        };
        let db = Database::builder(folder)
            .worker_threads(1)
            .cache_size(16 << 20)
            .max_journaling_size(128 << 20)
            .open()
            .map_err(wrong)?;
        let mut buckets: BTreeMap<Family, Vec<Bucket>> = BTreeMap::new();
        for name in db.list_keyspace_names() {
            let mut parts = name.splitn(3, '-');
            let family = parts.next();
            let family = Family::ALL.into_iter().find(|f| family == Some(f.prefix()));
            let number = parts.next().and_then(|part| part.parse().ok());
            let opened = parts.next().and_then(|part| part.parse().ok());
            let (Some(family), Some(number), Some(opened)) = (family, number, opened) else {
                continue;
            };
            let keyspace = db.keyspace(&name, options).map_err(wrong)?;
            buckets.entry(family).or_default().push(Bucket {
                number,
                opened,
                written: keyspace.disk_space(),
                keyspace,
            });
        }
        for buckets in buckets.values_mut() {
            buckets.sort_by_key(|bucket| bucket.number);
        }
        Ok(Self { db, buckets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(retention: u64, max_bytes: u64) -> RetentionConfig {
        RetentionConfig {
            retention: Duration::from_secs(retention),
            max_bytes,
            queue_bytes: 1 << 20,
        }
    }

    fn open(folder: &Path, limits: RetentionConfig) -> Records {
        Records::open(folder, limits.clone(), limits).unwrap()
    }

    fn keys(records: &Records) -> Vec<Vec<u8>> {
        let buckets = records.buckets(Family::Logs).unwrap();
        let keys = buckets
            .iter()
            .flat_map(|b| b.iter().rev().map(|g| g.key().unwrap().to_vec()));
        keys.collect()
    }

    #[test]
    fn what_was_written_is_there_after_opening_again() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(folder.path(), limits(80, 1 << 30));
        for t in 0..4_u8 {
            let pair = (vec![t], vec![t]);
            records
                .write(Family::Logs, i64::from(t) * 6_000, vec![pair])
                .unwrap();
        }
        assert_eq!(records.stats(Family::Logs).buckets, 2);
        assert_eq!(records.buckets(Family::Spans).unwrap().len(), 0);
        drop(records);
        let records = open(folder.path(), limits(80, 1 << 30));
        assert_eq!(keys(&records), [[3], [2], [1], [0]]);
    }

    #[test]
    fn buckets_expire_by_age_when_the_clock_is_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(folder.path(), limits(80, 1 << 30));
        for t in [0_u8, 20, 90] {
            let at = i64::from(t) * 1_000;
            records
                .write(Family::Logs, at, vec![(vec![t], vec![])])
                .unwrap();
        }
        records.retain(None).unwrap();
        assert_eq!(keys(&records).len(), 3);
        records.retain(Some(101_000)).unwrap();
        assert_eq!(keys(&records), [[90], [20]]);
        // The youngest bucket stays, however old it is.
        records.retain(Some(1_000_000)).unwrap();
        assert_eq!(keys(&records), [[90]]);
        assert_eq!(records.events(), (0, 2));
    }

    #[test]
    fn buckets_expire_by_size() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(folder.path(), limits(1_000_000, 12 << 20));
        let noise = |seed: u64| {
            let mut x = seed;
            let bytes = std::iter::repeat_with(move || {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (x >> 56) as u8
            });
            bytes.take(1 << 20).collect::<Vec<u8>>()
        };
        for t in 0..30_u8 {
            let pair = (vec![t], noise(u64::from(t)));
            records
                .write(Family::Logs, i64::from(t), vec![pair])
                .unwrap();
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while records.stats(Family::Logs).buckets > 2 {
            assert!(
                std::time::Instant::now() < deadline,
                "{:?}",
                records.stats(Family::Logs)
            );
            records.retain(None).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(keys(&records).first(), Some(&vec![29]));
    }
}
