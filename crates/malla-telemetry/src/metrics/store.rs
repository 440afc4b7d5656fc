//! The metric store: one writer at a time, any number of readers, two calls that matter:
//! [`MetricStore::append`] and [`MetricStore::select`].
//!
//! A sample is refused when it is not later than its series' last one, when it is more than a
//! minute ahead of the caller's clock or an hour behind, or when it would begin a series beyond the
//! limit. Each refusal is counted. When the clock was set back by more than a minute, what the head
//! holds from "the future" is dropped, so that a jump costs no more than itself.
//!
//! Invariant: a sample that was accepted while the disk worked survives `kill -9`.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use crate::metrics::block::{self, Block};
use crate::metrics::chunk::{Sample, Samples};
use crate::metrics::head::{Head, Refusal, SeriesRef};
use crate::metrics::labels::Labels;
use crate::metrics::matcher::Matcher;
use crate::metrics::wal::{self, Entry, Records, Wal};

/// Sizes and ages of the metric store.
#[derive(Debug, Clone)]
pub struct MetricsConfig {
    /// Blocks that ended longer ago are deleted.
    pub retention: Duration,
    /// Blocks are deleted, oldest first, while blocks and log take more than this.
    pub max_bytes: u64,
    /// Series that may be alive at once; more are refused.
    pub max_series: usize,
    /// How often the head is written into a block.
    pub block_every: Duration,
    /// The log's size that makes a block sooner.
    pub max_wal_bytes: u64,
    /// Chunks kept in memory while blocks cannot be written; then they are given up.
    pub max_head_bytes: u64,
    /// Blocks whose index may stay in memory.
    pub loaded_blocks: usize,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(15 * 24 * 3600),
            max_bytes: 4 << 30,
            max_series: 500_000,
            block_every: Duration::from_secs(2 * 3600),
            max_wal_bytes: 256 << 20,
            max_head_bytes: 512 << 20,
            loaded_blocks: 24,
        }
    }
}

/// A sample later than now by more than this is refused; a clock set back by more than this is
/// taken for a correction.
const AHEAD: i64 = 60_000;
/// A sample earlier than now by more than this is refused.
const BEHIND: i64 = 3_600_000;

/// What cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: another process uses this store; stop it or choose another folder")]
    InUse { path: PathBuf },
    #[error("the query needs more than {limit} samples; narrow its selectors, range or step")]
    TooManySamples { limit: u64 },
}

/// One sample on its way in. `series` is filled by the first [`MetricStore::append`].
#[derive(Debug, Clone)]
pub struct Row {
    pub labels: Labels,
    pub series: Option<SeriesRef>,
    pub sample: Sample,
}

/// What became of the rows of one [`MetricStore::append`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Appended {
    pub accepted: u64,
    pub created: u64,
    pub duplicate: u64,
    pub out_of_order: u64,
    pub too_old: u64,
    pub too_new: u64,
    pub over_limit: u64,
}

/// A series and its samples in a time range, stale markers included.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesData {
    pub labels: Labels,
    pub samples: Vec<Sample>,
}

/// The store's own numbers, since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    pub series: u64,
    pub head_samples: u64,
    pub head_bytes: u64,
    pub wal_bytes: u64,
    pub blocks: u64,
    pub block_bytes: u64,
    pub appended: u64,
    pub duplicate: u64,
    pub out_of_order: u64,
    pub too_old: u64,
    pub too_new: u64,
    pub over_limit: u64,
    pub clock_dropped: u64,
    pub unwritten: u64,
    pub corrupt: u64,
    pub flush_failures: u64,
    pub lost: u64,
    pub expired_blocks: u64,
}

#[derive(Debug, Default)]
struct Counters {
    appended: AtomicU64,
    duplicate: AtomicU64,
    out_of_order: AtomicU64,
    too_old: AtomicU64,
    too_new: AtomicU64,
    over_limit: AtomicU64,
    clock_dropped: AtomicU64,
    unwritten: AtomicU64,
    corrupt: AtomicU64,
    flush_failures: AtomicU64,
    lost: AtomicU64,
    expired_blocks: AtomicU64,
}

/// The store. All methods may block on the disk: call them off the async threads if that matters.
#[derive(Debug)]
pub struct MetricStore {
    config: MetricsConfig,
    wal_folder: PathBuf,
    block_folder: PathBuf,
    state: RwLock<State>,
    flushing: Mutex<()>,
    counters: Counters,
    tick: AtomicU64,
    _lock: File,
}

#[derive(Debug)]
struct State {
    head: Head,
    blocks: Vec<Arc<Block>>,
    next_block: u64,
    wal: Wal,
    /// Bytes of log segments that aren't in a block yet, without the open one.
    old_wal_bytes: u64,
    /// Changes whenever the log must hear of all series again.
    epoch: u64,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}

fn add(counter: &AtomicU64, count: u64) {
    if count > 0 {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

impl MetricStore {
    /// Opens or makes a store; reads the log of what was not yet in a block.
    ///
    /// # Errors
    /// When the folder cannot be used, or another process uses it.
    pub fn open(folder: &Path, config: MetricsConfig) -> Result<Self, StoreError> {
        let (wal_folder, block_folder) = (folder.join("wal"), folder.join("blocks"));
        for folder in [&wal_folder, &block_folder] {
            fs::create_dir_all(folder).map_err(at(folder))?;
        }
        let lock = lock(folder)?;
        let counters = Counters::default();
        let (blocks, damaged) = block::open_all(&block_folder).map_err(at(&block_folder))?;
        for path in damaged {
            tracing::error!(path = %path.display(), "a block of metrics is damaged and left out");
            add(&counters.corrupt, 1);
        }
        let covered = blocks.iter().map(|block| block.covers).max().unwrap_or(0);
        wal::delete_up_to(&wal_folder, covered).map_err(at(&wal_folder))?;
        let mut head = Head::default();
        let (mut last, mut old_wal_bytes) = (covered, 0);
        for (number, path) in wal::segments(&wal_folder).map_err(at(&wal_folder))? {
            let lost = replay(&path, &mut head).map_err(at(&path))?;
            if lost > 0 {
                tracing::warn!(path = %path.display(), bytes = lost, "the end of a log was not whole");
                add(&counters.corrupt, 1);
            }
            last = last.max(number);
            old_wal_bytes += fs::metadata(&path).map_err(at(&path))?.len();
        }
        let next_block = blocks.last().map_or(1, |block| block.number + 1);
        let wal = Wal::create(&wal_folder, last + 1).map_err(at(&wal_folder))?;
        Ok(Self {
            config,
            state: RwLock::new(State {
                head,
                blocks: blocks.into_iter().map(Arc::new).collect(),
                next_block,
                wal,
                old_wal_bytes,
                epoch: 1,
            }),
            wal_folder,
            block_folder,
            flushing: Mutex::new(()),
            counters,
            tick: AtomicU64::new(1),
            _lock: lock,
        })
    }

    /// Takes samples in. `now` is the caller's clock, Unix milliseconds.
    pub fn append(&self, now: i64, rows: &mut [Row]) -> Appended {
        let mut done = Appended::default();
        let mut records = Records::default();
        let mut state = self.write();
        let state = &mut *state;
        if state.head.newest.is_some_and(|newest| newest > now + AHEAD) {
            let dropped = state.head.forget_after(now);
            records.forget(now);
            add(&self.counters.clock_dropped, dropped);
            tracing::warn!(
                dropped,
                "the clock was set back; samples from the future are dropped"
            );
        }
        let (mut declare, mut samples) = (Vec::new(), Vec::with_capacity(rows.len()));
        for row in rows.iter_mut() {
            if let Some(id) = self.admit(state, now, row, &mut done) {
                if let Some(series) = state.head.series.get_mut(id as usize)
                    && series.declared != state.epoch
                {
                    series.declared = state.epoch;
                    declare.push((id, series.labels.clone()));
                }
                samples.push((id, row.sample));
            }
        }
        records.series(declare.iter().map(|(id, labels)| (*id, labels)));
        records.samples(&samples);
        if let Err(error) = state.wal.write(records.bytes()) {
            // Kept in memory, and in a block later: worse than written, better than lost.
            state.epoch += 1;
            add(&self.counters.unwritten, samples.len() as u64);
            tracing::warn!(%error, "samples could not be logged");
        }
        self.count(&done);
        done
    }

    fn admit(
        &self,
        state: &mut State,
        now: i64,
        row: &mut Row,
        done: &mut Appended,
    ) -> Option<u32> {
        if row.sample.t > now.saturating_add(AHEAD) {
            done.too_new += 1;
            return None;
        }
        if row.sample.t < now.saturating_sub(BEHIND) {
            done.too_old += 1;
            return None;
        }
        let head = &mut state.head;
        let known = row.series.and_then(|series| head.resolve(series));
        let id = match known.or_else(|| head.find(&row.labels)) {
            Some(id) => id,
            None if head.series.len() >= self.config.max_series => {
                done.over_limit += 1;
                return None;
            }
            None => {
                done.created += 1;
                head.create(&row.labels)
            }
        };
        row.series = Some(head.reference(id));
        match head.push(id, row.sample) {
            Ok(()) => {
                done.accepted += 1;
                Some(id)
            }
            Err(Refusal::Repeated) => None,
            Err(Refusal::Duplicate) => {
                done.duplicate += 1;
                None
            }
            Err(Refusal::OutOfOrder) => {
                done.out_of_order += 1;
                None
            }
        }
    }

    fn count(&self, done: &Appended) {
        let counters = &self.counters;
        add(&counters.appended, done.accepted);
        add(&counters.duplicate, done.duplicate);
        add(&counters.out_of_order, done.out_of_order);
        add(&counters.too_old, done.too_old);
        add(&counters.too_new, done.too_new);
        add(&counters.over_limit, done.over_limit);
    }

    /// The series that all matchers accept and that have samples from `min` to `max` (both
    /// inclusive, Unix milliseconds), sorted by labels.
    ///
    /// # Errors
    /// [`StoreError::TooManySamples`] when more than `limit` samples would be read.
    pub fn select(
        &self,
        matchers: &[Matcher],
        min: i64,
        max: i64,
        limit: u64,
    ) -> Result<Vec<SeriesData>, StoreError> {
        let (heads, blocks) = {
            let state = self.read();
            (
                heads(&state.head, matchers, min, max),
                overlapping(&state, min, max),
            )
        };
        let mut merge = Merge::new(limit);
        for block in &blocks {
            self.select_block(block, matchers, min, max, &mut merge)?;
        }
        for (labels, chunks) in heads {
            let out = merge.samples(&labels);
            let before = out.len();
            for chunk in chunks {
                let samples = Samples::new(&chunk.data, chunk.count);
                out.extend(samples.filter(|s| s.t >= min && s.t <= max));
            }
            let added = out.len() - before;
            merge.spend(added)?;
        }
        self.unload_some();
        Ok(merge.finish())
    }

    fn select_block(
        &self,
        block: &Block,
        matchers: &[Matcher],
        min: i64,
        max: i64,
        merge: &mut Merge,
    ) -> Result<(), StoreError> {
        let index = match block.index(self.tick.fetch_add(1, Ordering::Relaxed)) {
            Ok(index) => index,
            Err(error) => {
                self.report_damage(&error);
                return Ok(());
            }
        };
        for id in index.postings.select(matchers) {
            let Some(series) = index.series.get(id as usize) else {
                continue;
            };
            if !series.overlaps(min, max) {
                continue;
            }
            let out = merge.samples(&series.labels);
            let before = out.len();
            if let Err(error) = block.read(series, min, max, out) {
                self.report_damage(&error);
            }
            let added = out.len() - before;
            merge.spend(added)?;
        }
        Ok(())
    }

    fn report_damage(&self, error: &io::Error) {
        add(&self.counters.corrupt, 1);
        tracing::error!(%error, "metrics cannot be read and are left out");
    }

    /// The label sets of the series that any of the matcher sets accepts.
    #[must_use]
    pub fn series(&self, sets: &[Vec<Matcher>], min: i64, max: i64) -> Vec<Labels> {
        let mut found = BTreeSet::new();
        let blocks = {
            let state = self.read();
            for matchers in sets {
                for id in state.head.postings.select(matchers) {
                    if let Some(series) = state.head.series.get(id as usize)
                        && series.overlaps(min, max)
                    {
                        found.insert(series.labels.clone());
                    }
                }
            }
            overlapping(&state, min, max)
        };
        for block in blocks {
            match block.index(self.tick.fetch_add(1, Ordering::Relaxed)) {
                Ok(index) => {
                    for matchers in sets {
                        let ids = index.postings.select(matchers);
                        let series = ids.iter().filter_map(|id| index.series.get(*id as usize));
                        let series = series.filter(|s| s.overlaps(min, max));
                        found.extend(series.map(|s| s.labels.clone()));
                    }
                }
                Err(error) => self.report_damage(&error),
            }
        }
        self.unload_some();
        found.into_iter().collect()
    }

    /// All label names, or all values of one label, in a time range.
    #[must_use]
    pub fn labels(&self, values_of: Option<&str>, min: i64, max: i64) -> BTreeSet<Arc<str>> {
        let mut found = BTreeSet::new();
        let mut collect = |postings: &crate::metrics::postings::Postings| match values_of {
            Some(name) => postings.label_values(name, &mut found),
            None => postings.label_names(&mut found),
        };
        let blocks = {
            let state = self.read();
            collect(&state.head.postings);
            overlapping(&state, min, max)
        };
        for block in blocks {
            match block.index(self.tick.fetch_add(1, Ordering::Relaxed)) {
                Ok(index) => collect(&index.postings),
                Err(error) => self.report_damage(&error),
            }
        }
        self.unload_some();
        found
    }

    /// Writes the head into a block and cuts the log. `Ok(false)` when there was nothing to write.
    ///
    /// # Errors
    /// When the block cannot be written; nothing is lost then and the next call tries again.
    pub fn flush(&self) -> Result<bool, StoreError> {
        let _only_one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.flush_once();
        if result.is_err() {
            add(&self.counters.flush_failures, 1);
            let mut state = self.write();
            if state.head.bytes > self.config.max_head_bytes {
                let before = state.head.samples;
                state.head.thaw();
                state.epoch += 1;
                add(
                    &self.counters.lost,
                    before.saturating_sub(state.head.samples),
                );
            }
        }
        result
    }

    fn flush_once(&self) -> Result<bool, StoreError> {
        let (frozen, covers, number) = {
            let mut state = self.write();
            // The new segment comes first: without it nothing may change.
            let next = Wal::create(&self.wal_folder, state.wal.number + 1);
            let next = next.map_err(at(&self.wal_folder))?;
            let frozen = state.head.freeze();
            let covers = state.wal.number;
            state.old_wal_bytes += state.wal.length();
            state.wal = next;
            state.epoch += 1;
            (frozen, covers, state.next_block)
        };
        let block = match frozen.is_empty() {
            true => None,
            false => {
                let written = block::write(&self.block_folder, number, covers, &frozen);
                Some(written.map_err(at(&self.block_folder))?)
            }
        };
        let wrote = block.is_some();
        {
            let mut state = self.write();
            state.next_block += 1;
            state.old_wal_bytes = 0;
            state.blocks.extend(block.map(Arc::new));
            state.head.thaw();
            if !frozen.is_empty() {
                // Thawing may have renumbered the series.
                state.epoch += 1;
            }
        }
        wal::delete_up_to(&self.wal_folder, covers).map_err(at(&self.wal_folder))?;
        Ok(wrote)
    }

    /// Deletes what is older than the retention or too much. Without a trusted clock (`None`) only
    /// the size counts.
    ///
    /// # Errors
    /// When a file cannot be deleted.
    pub fn retain(&self, trusted_now: Option<i64>) -> Result<(), StoreError> {
        let age = i64::try_from(self.config.retention.as_millis()).unwrap_or(i64::MAX);
        let oldest = trusted_now.map(|now| now.saturating_sub(age));
        let expired = {
            let mut state = self.write();
            let wal = state.old_wal_bytes + state.wal.length();
            let mut total: u64 = state.blocks.iter().map(|b| b.bytes).sum::<u64>() + wal;
            let mut by_age: Vec<Arc<Block>> = state.blocks.clone();
            by_age.sort_by_key(|block| block.max);
            let mut expired = Vec::new();
            for block in by_age {
                let old = oldest.is_some_and(|oldest| block.max < oldest);
                if old || total > self.config.max_bytes {
                    total = total.saturating_sub(block.bytes);
                    expired.push(block);
                }
            }
            let gone: BTreeSet<u64> = expired.iter().map(|block| block.number).collect();
            state.blocks.retain(|block| !gone.contains(&block.number));
            expired
        };
        for block in expired {
            block.delete().map_err(at(&self.block_folder))?;
            add(&self.counters.expired_blocks, 1);
        }
        Ok(())
    }

    /// Whether the log has grown so much that a block should be written before its time.
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        let state = self.read();
        state.old_wal_bytes + state.wal.length() > self.config.max_wal_bytes
            || state.head.series.len() >= self.config.max_series
    }

    /// How often [`MetricStore::flush`] is due.
    #[must_use]
    pub fn flush_interval(&self) -> Duration {
        self.config.block_every
    }

    /// Makes what was logged survive a loss of power too.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&self) -> Result<(), StoreError> {
        let file = self.read().wal.handle();
        file.sync_data().map_err(at(&self.wal_folder))
    }

    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let state = self.read();
        let counters = &self.counters;
        StoreStats {
            series: state.head.series.len() as u64,
            head_samples: state.head.samples,
            head_bytes: state.head.bytes,
            wal_bytes: state.old_wal_bytes + state.wal.length(),
            blocks: state.blocks.len() as u64,
            block_bytes: state.blocks.iter().map(|block| block.bytes).sum(),
            appended: load(&counters.appended),
            duplicate: load(&counters.duplicate),
            out_of_order: load(&counters.out_of_order),
            too_old: load(&counters.too_old),
            too_new: load(&counters.too_new),
            over_limit: load(&counters.over_limit),
            clock_dropped: load(&counters.clock_dropped),
            unwritten: load(&counters.unwritten),
            corrupt: load(&counters.corrupt),
            flush_failures: load(&counters.flush_failures),
            lost: load(&counters.lost),
            expired_blocks: load(&counters.expired_blocks),
        }
    }

    /// Keeps only the most recently used indexes in memory.
    fn unload_some(&self) {
        let state = self.read();
        let mut loaded: Vec<&Arc<Block>> = state.blocks.iter().filter(|b| b.is_loaded()).collect();
        let Some(excess) = loaded.len().checked_sub(self.config.loaded_blocks) else {
            return;
        };
        loaded.sort_by_key(|block| block.used.load(Ordering::Relaxed));
        loaded.iter().take(excess).for_each(|block| block.unload());
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join("lock");
    let file = File::create(&path).map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::InUse {
            path: folder.to_owned(),
        }),
        Err(fs::TryLockError::Error(error)) => Err(at(&path)(error)),
    }
}

fn replay(path: &Path, head: &mut Head) -> io::Result<u64> {
    let mut ids: HashMap<u32, u32, foldhash::fast::RandomState> = HashMap::default();
    wal::replay(path, |entry| match entry {
        Entry::Series(id, labels) => {
            let here = head.find(&labels).unwrap_or_else(|| head.create(&labels));
            ids.insert(id, here);
        }
        Entry::Sample(id, sample) => {
            // Refused once means refused again; and a sample without its series was never whole.
            if let Some(here) = ids.get(&id)
                && head.admits(*here, sample).is_ok()
            {
                head.push(*here, sample).ok();
            }
        }
        Entry::Forget(after) => {
            head.forget_after(after);
        }
    })
}

fn overlapping(state: &State, min: i64, max: i64) -> Vec<Arc<Block>> {
    let blocks = state.blocks.iter().filter(|b| b.overlaps(min, max));
    blocks.cloned().collect()
}

type HeadSeries = (Labels, Vec<crate::metrics::chunk::Chunk>);

fn heads(head: &Head, matchers: &[Matcher], min: i64, max: i64) -> Vec<HeadSeries> {
    let mut found = Vec::new();
    for id in head.postings.select(matchers) {
        let Some(series) = head.series.get(id as usize) else {
            continue;
        };
        let mut chunks = Vec::new();
        series.chunks(min, max, &mut chunks);
        if !chunks.is_empty() {
            found.push((series.labels.clone(), chunks));
        }
    }
    found
}

/// Puts together what several blocks and the head have of each series.
struct Merge {
    places: HashMap<Labels, usize, foldhash::fast::RandomState>,
    series: Vec<SeriesData>,
    limit: u64,
    left: u64,
}

impl Merge {
    fn new(limit: u64) -> Self {
        Self {
            places: HashMap::default(),
            series: Vec::new(),
            limit,
            left: limit,
        }
    }

    fn samples(&mut self, labels: &Labels) -> &mut Vec<Sample> {
        let place = match self.places.get(labels) {
            Some(place) => *place,
            None => {
                let place = self.series.len();
                self.places.insert(labels.clone(), place);
                self.series.push(SeriesData {
                    labels: labels.clone(),
                    samples: Vec::new(),
                });
                place
            }
        };
        &mut self.series[place].samples
    }

    fn spend(&mut self, samples: usize) -> Result<(), StoreError> {
        let left = self.left.checked_sub(samples as u64);
        self.left = left.ok_or(StoreError::TooManySamples { limit: self.limit })?;
        Ok(())
    }

    fn finish(mut self) -> Vec<SeriesData> {
        self.series.retain(|series| !series.samples.is_empty());
        for series in &mut self.series {
            // Blocks overlap only after a restart or a jump of the clock.
            if !series.samples.is_sorted_by(|a, b| a.t < b.t) {
                series.samples.sort_by_key(|s| s.t);
                series.samples.dedup_by(|later, earlier| {
                    let same = later.t == earlier.t;
                    if same {
                        *earlier = *later;
                    }
                    same
                });
            }
        }
        self.series.sort_by(|a, b| a.labels.cmp(&b.labels));
        self.series
    }
}

#[cfg(test)]
mod tests;
