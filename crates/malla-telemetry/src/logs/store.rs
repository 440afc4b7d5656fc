//! Access logs on disk, newest first.
//!
//! Keys of a bucket:
//! - `l` time in ms (8) sequence (8) → the line
//! - `t` trace id `\0` time (8) sequence (8) → nothing
//!
//! A cursor is the key of the last line that was looked at, so a page that ends early (because so
//! many lines had to be skipped) can be continued.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prost::Message as _;

use crate::logs::line::LogLine;
use crate::logs::query::{LogFilter, LogPage, LogQuery};
use crate::records::{Family, Pair, Records, RecordsError};
use crate::spans::model::hex;

/// Lines one search looks at before it hands back a cursor.
const MOST_LOOKED_AT: usize = 200_000;
/// A line's own time may differ from its arrival by so much; otherwise it is filed under arrival.
const OLDEST: i64 = 24 * 3_600_000;
const NEWEST: i64 = 60_000;

#[derive(Debug)]
pub(crate) struct LogStore {
    records: Arc<Records>,
    sequence: AtomicU64,
}

type Result<T> = std::result::Result<T, RecordsError>;

impl LogStore {
    /// `now` starts the sequence, so that it goes on after a restart.
    pub(crate) fn new(records: Arc<Records>, now: i64) -> Self {
        Self {
            records,
            sequence: AtomicU64::new(now.unsigned_abs() << 20),
        }
    }

    pub(crate) fn write(&self, now: i64, lines: &[LogLine]) -> Result<()> {
        let mut pairs: Vec<Pair> = Vec::with_capacity(lines.len() * 2);
        for line in lines {
            let plausible = now - OLDEST..=now + NEWEST;
            let time = if plausible.contains(&line.time) {
                line.time
            } else {
                now
            };
            let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
            let place = place(time, sequence);
            pairs.push((with_table(b'l', &place), line.encode_to_vec()));
            if !line.trace_id.is_empty() {
                let mut key = trace_prefix(&line.trace_id);
                key.extend_from_slice(&place);
                pairs.push((key, Vec::new()));
            }
        }
        self.records.write(Family::Logs, now, pairs)
    }

    /// One page, newest first.
    pub(crate) fn search(&self, query: &LogQuery) -> Result<LogPage> {
        let from = place(query.from.unwrap_or(0).max(0), 0);
        let to = match &query.cursor {
            Some(cursor) => cursor.clone(),
            None => place(query.to.unwrap_or(i64::MAX - 1).max(0).saturating_add(1), 0),
        };
        match &query.filter.trace_id {
            Some(trace) => self.search_trace(query, trace, &from, &to),
            None => self.search_time(query, &from, &to),
        }
    }

    fn search_time(&self, query: &LogQuery, from: &[u8], to: &[u8]) -> Result<LogPage> {
        let (from, to) = (with_table(b'l', from), with_table(b'l', to));
        let mut page = LogPage::default();
        if from >= to {
            return Ok(page);
        }
        let mut heads = Vec::new();
        for bucket in self.records.buckets(Family::Logs)? {
            let mut entries = bucket.range(from.clone()..to.clone()).rev();
            if let Some(first) = entries.next() {
                heads.push((first.into_inner()?, entries));
            }
        }
        let mut looked_at = 0;
        // Few buckets: the newest head is found by looking at all of them.
        while let Some(at) = newest(&heads) {
            let Some((head, entries)) = heads.get_mut(at) else {
                break;
            };
            let (key, value) = match entries.next() {
                Some(next) => std::mem::replace(head, next.into_inner()?),
                None => heads.swap_remove(at).0,
            };
            looked_at += 1;
            let line = LogLine::decode(&*value).ok();
            page.lines
                .extend(line.filter(|line| query.filter.accepts(line)));
            let full = page.lines.len() >= query.limit || looked_at >= MOST_LOOKED_AT;
            if full {
                // Nothing left means that this was the last page.
                if !heads.is_empty() {
                    page.cursor = key.get(1..).map(hex);
                }
                break;
            }
        }
        Ok(page)
    }

    fn search_trace(
        &self,
        query: &LogQuery,
        trace: &str,
        from: &[u8],
        to: &[u8],
    ) -> Result<LogPage> {
        let prefix = trace_prefix(trace);
        let mut found = Vec::new();
        for bucket in self.records.buckets(Family::Logs)? {
            for entry in bucket.prefix(&prefix).rev().take(MOST_LOOKED_AT) {
                let key = entry.key()?;
                let place = key.get(prefix.len()..).unwrap_or_default();
                if place < from || place >= to {
                    continue;
                }
                if let Some(value) = bucket.get(with_table(b'l', place))?
                    && let Ok(line) = LogLine::decode(&*value)
                    && query.filter.accepts(&line)
                {
                    found.push((place.to_vec(), line));
                }
            }
        }
        found.sort_by(|a, b| b.0.cmp(&a.0));
        let more = found.len() > query.limit;
        found.truncate(query.limit);
        let cursor = found.last().filter(|_| more).map(|(place, _)| hex(place));
        Ok(LogPage {
            lines: found.into_iter().map(|(_, line)| line).collect(),
            cursor,
        })
    }
}

fn newest<I>(heads: &[((fjall::Slice, fjall::Slice), I)]) -> Option<usize> {
    let heads = heads.iter().enumerate();
    heads
        .max_by(|(_, (a, _)), (_, (b, _))| a.0.cmp(&b.0))
        .map(|(at, _)| at)
}

fn place(time: i64, sequence: u64) -> Vec<u8> {
    let mut place = time.unsigned_abs().to_be_bytes().to_vec();
    place.extend_from_slice(&sequence.to_be_bytes());
    place
}

fn with_table(table: u8, place: &[u8]) -> Vec<u8> {
    let mut key = vec![table];
    key.extend_from_slice(place);
    key
}

fn trace_prefix(trace: &str) -> Vec<u8> {
    let mut key = with_table(b't', trace.as_bytes());
    key.push(0);
    key
}

/// Whether a line would have been found, for the live tail.
pub(crate) fn accepts(filter: &LogFilter, line: &LogLine) -> bool {
    let traced = filter
        .trace_id
        .as_ref()
        .is_none_or(|id| *id == line.trace_id);
    traced && filter.accepts(line)
}

#[cfg(test)]
mod tests;
