//! The series of the present: labels, index and chunks in memory.
//!
//! A series' samples move `open` → `closed` → `frozen` (being written into a block) → gone.
//!
//! Invariants: a series' times strictly increase; ids are valid within one generation, and a
//! generation ends when idle series are forgotten.

use std::collections::HashMap;

use crate::metrics::chunk::{Chunk, ChunkBuilder, Sample, Samples};
use crate::metrics::labels::{Interner, Labels};
use crate::metrics::postings::Postings;

/// A series' place in the head. Cheap to keep; an outdated one is noticed and looked up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeriesRef {
    id: u32,
    generation: u32,
}

/// Why a sample was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The time and value are those of the last sample: nothing is lost.
    Repeated,
    /// The series has another value at that time.
    Duplicate,
    OutOfOrder,
}

#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) labels: Labels,
    open: Option<ChunkBuilder>,
    closed: Vec<Chunk>,
    frozen: Vec<Chunk>,
    last: Option<(i64, u64)>,
    /// The log's epoch in which this series was declared.
    pub(crate) declared: u64,
    /// Flushes survived without a sample.
    idle: u8,
}

#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) series: Vec<Series>,
    ids: HashMap<Labels, u32, foldhash::fast::RandomState>,
    pub(crate) postings: Postings,
    interner: Interner,
    generation: u32,
    /// The latest time of any sample.
    pub(crate) newest: Option<i64>,
    pub(crate) samples: u64,
    pub(crate) bytes: u64,
}

/// Flushes without a sample after which a series is forgotten by the head.
const IDLE: u8 = 2;

impl Head {
    /// The id behind a reference that is still good.
    pub(crate) fn resolve(&self, series: SeriesRef) -> Option<u32> {
        (series.generation == self.generation && (series.id as usize) < self.series.len())
            .then_some(series.id)
    }

    pub(crate) fn reference(&self, id: u32) -> SeriesRef {
        SeriesRef {
            id,
            generation: self.generation,
        }
    }

    pub(crate) fn find(&self, labels: &Labels) -> Option<u32> {
        self.ids.get(labels).copied()
    }

    /// Adds a series that isn't there yet.
    pub(crate) fn create(&mut self, labels: &Labels) -> u32 {
        let labels = self.interner.labels(labels);
        let id = self.series.len() as u32;
        self.postings.add(id, &labels);
        self.ids.insert(labels.clone(), id);
        self.series.push(Series {
            labels,
            open: None,
            closed: Vec::new(),
            frozen: Vec::new(),
            last: None,
            declared: 0,
            idle: 0,
        });
        id
    }

    pub(crate) fn push(&mut self, id: u32, sample: Sample) -> Result<(), Refusal> {
        let Some(series) = self.series.get_mut(id as usize) else {
            return Err(Refusal::OutOfOrder);
        };
        series.admits(sample)?;
        series.last = Some((sample.t, sample.v.to_bits()));
        series.idle = 0;
        self.samples += 1;
        self.newest = self.newest.max(Some(sample.t));
        match &mut series.open {
            Some(open) if !open.is_full() => open.push(sample),
            open => {
                if let Some(full) = open.replace(ChunkBuilder::new(sample)) {
                    let chunk = full.seal();
                    self.bytes += chunk.data.len() as u64;
                    series.closed.push(chunk);
                }
            }
        }
        Ok(())
    }

    /// Whether [`Head::push`] would take it.
    pub(crate) fn admits(&self, id: u32, sample: Sample) -> Result<(), Refusal> {
        let series = self.series.get(id as usize).ok_or(Refusal::OutOfOrder)?;
        series.admits(sample)
    }

    /// Moves all chunks to `frozen` and returns everything frozen.
    pub(crate) fn freeze(&mut self) -> Vec<(Labels, Vec<Chunk>)> {
        let mut all = Vec::new();
        for series in &mut self.series {
            series.frozen.append(&mut series.closed);
            if let Some(open) = series.open.take() {
                let chunk = open.seal();
                self.bytes += chunk.data.len() as u64;
                series.frozen.push(chunk);
            }
            if !series.frozen.is_empty() {
                all.push((series.labels.clone(), series.frozen.clone()));
            }
        }
        all
    }

    /// Forgets what was frozen, and series that were silent for long.
    pub(crate) fn thaw(&mut self) {
        let mut idle = 0;
        (self.samples, self.bytes) = (0, 0);
        for series in &mut self.series {
            series.frozen = Vec::new();
            for chunk in &series.closed {
                self.samples += u64::from(chunk.count);
                self.bytes += chunk.data.len() as u64;
            }
            if series.open.is_none() && series.closed.is_empty() {
                series.idle = series.idle.saturating_add(1);
                idle += usize::from(series.idle >= IDLE);
            }
        }
        // Rebuilding the index is only worth it for many.
        if idle > 0 && idle * 8 >= self.series.len() {
            self.forget_idle();
        }
    }

    fn forget_idle(&mut self) {
        let kept = std::mem::take(&mut self.series)
            .into_iter()
            .filter(|s| s.idle < IDLE || s.open.is_some() || !s.closed.is_empty());
        self.series = kept.collect();
        self.generation = self.generation.wrapping_add(1);
        self.postings = Postings::default();
        self.ids.clear();
        for (id, series) in self.series.iter_mut().enumerate() {
            let id = id as u32;
            // Ids have changed, so the log must hear of them anew.
            series.declared = 0;
            self.postings.add(id, &series.labels);
            self.ids.insert(series.labels.clone(), id);
        }
        self.interner.shrink();
    }

    /// Removes every sample later than `limit`; returns how many.
    pub(crate) fn forget_after(&mut self, limit: i64) -> u64 {
        let mut forgotten = 0;
        for series in &mut self.series {
            forgotten += series.forget_after(limit);
        }
        self.newest = self.newest.map(|newest| newest.min(limit));
        self.samples = self.samples.saturating_sub(forgotten);
        forgotten
    }
}

impl Series {
    fn admits(&self, sample: Sample) -> Result<(), Refusal> {
        match self.last {
            Some((t, bits)) if sample.t == t && sample.v.to_bits() == bits => {
                Err(Refusal::Repeated)
            }
            Some((t, _)) if sample.t == t => Err(Refusal::Duplicate),
            Some((t, _)) if sample.t < t => Err(Refusal::OutOfOrder),
            _ => Ok(()),
        }
    }

    fn forget_after(&mut self, limit: i64) -> u64 {
        if self.last.is_none_or(|(t, _)| t <= limit) {
            return 0;
        }
        let mut chunks = std::mem::take(&mut self.closed);
        chunks.extend(self.open.take().map(|open| open.seal()));
        let (mut forgotten, mut last) = (0, None);
        for chunk in chunks {
            if chunk.max <= limit {
                self.closed.push(chunk);
                continue;
            }
            let (keep, drop): (Vec<_>, Vec<_>) =
                Samples::new(&chunk.data, chunk.count).partition(|s| s.t <= limit);
            forgotten += drop.len() as u64;
            for sample in keep {
                match &mut self.open {
                    Some(open) => open.push(sample),
                    None => self.open = Some(ChunkBuilder::new(sample)),
                }
                last = Some((sample.t, sample.v.to_bits()));
            }
            // What follows is later still, but goes through the same test.
            if let Some(open) = self.open.take() {
                self.closed.push(open.seal());
            }
        }
        // A value that cannot be known from here only decides about repetition.
        let end = self.closed.last().map(|chunk| (chunk.max, u64::MAX));
        self.last = last.or(end);
        forgotten
    }

    /// Chunks that overlap a time range, oldest first.
    pub(crate) fn chunks(&self, min: i64, max: i64, out: &mut Vec<Chunk>) {
        let sealed = self.frozen.iter().chain(&self.closed);
        out.extend(sealed.filter(|c| c.overlaps(min, max)).cloned());
        out.extend(
            self.open
                .as_ref()
                .map(ChunkBuilder::seal)
                .filter(|c| c.overlaps(min, max)),
        );
    }

    pub(crate) fn overlaps(&self, min: i64, max: i64) -> bool {
        let mut sealed = self.frozen.iter().chain(&self.closed);
        sealed.any(|c| c.overlaps(min, max))
            || self.open.as_ref().is_some_and(|o| o.overlaps(min, max))
    }
}
