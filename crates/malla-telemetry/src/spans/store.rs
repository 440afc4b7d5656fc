//! Spans on disk, and the searches that find them.
//!
//! Keys of a bucket:
//! - `s` trace (16) span (8) kind (1) → the span
//! - `i` service `\0` start in µs (8) trace (16) span (8) kind (1) → duration (8), operation
//! - `n` service `\0` operation `\0` kind (1) → nothing
//!
//! Searches go from the newest to the oldest and look at a bounded number of entries.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use prost::Message as _;

use crate::records::{Family, Pair, Records, RecordsError};
use crate::spans::model::{SpanRecord, Tag};

/// Spans of one trace that are read; more are left out and said so.
pub(crate) const MOST_SPANS: usize = 20_000;
/// Index entries one search looks at.
const MOST_ENTRIES: usize = 500_000;
/// Spans looked at for the dependencies between services.
const MOST_FOR_DEPENDENCIES: usize = 500_000;
/// Operations remembered as "already in the index".
const MOST_NAMES: usize = 50_000;

/// What traces are searched for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TraceQuery {
    pub service: String,
    pub operation: Option<String>,
    /// All must be on one span of the service, or on its process.
    pub tags: BTreeMap<String, String>,
    /// Unix microseconds.
    pub start: u64,
    pub end: u64,
    /// Microseconds.
    pub min_duration: Option<u64>,
    pub max_duration: Option<u64>,
    pub limit: usize,
}

/// One trace: its spans by start, and whether some were left out.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) id: Vec<u8>,
    pub(crate) spans: Vec<SpanRecord>,
    pub(crate) cut: bool,
}

/// Calls from one service to another.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dependency {
    pub parent: String,
    pub child: String,
    pub call_count: u64,
}

#[derive(Debug)]
pub(crate) struct SpanStore {
    records: Arc<Records>,
    named: Mutex<HashSet<Vec<u8>>>,
}

type Result<T> = std::result::Result<T, RecordsError>;

impl SpanStore {
    pub(crate) fn new(records: Arc<Records>) -> Self {
        Self {
            records,
            named: Mutex::default(),
        }
    }

    /// Writes spans; they can be found when this returns.
    pub(crate) fn write(&self, now: i64, spans: &[SpanRecord]) -> Result<()> {
        let mut pairs: Vec<Pair> = Vec::with_capacity(spans.len() * 2);
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.len() > MOST_NAMES {
            named.clear();
        }
        // Names are written again now and then, so that every bucket comes to have its own.
        let hour = now.div_euclid(3_600_000).to_be_bytes();
        for span in spans {
            let id = identity(span);
            pairs.push((key(b's', &[&id]), span.encode_to_vec()));
            let start = span.start.to_be_bytes();
            let mut value = span.duration.to_be_bytes().to_vec();
            value.extend_from_slice(span.operation.as_bytes());
            pairs.push((
                key(b'i', &[span.service.as_bytes(), b"\0", &start, &id]),
                value,
            ));
            let operation = span.operation.as_bytes();
            let kind = [kind_byte(span)];
            let name = key(
                b'n',
                &[span.service.as_bytes(), b"\0", operation, b"\0", &kind],
            );
            let mut known = name.clone();
            known.extend_from_slice(&hour);
            if named.insert(known) {
                pairs.push((name, Vec::new()));
            }
        }
        let written = self.records.write(Family::Spans, now, pairs);
        if written.is_err() {
            named.clear();
        }
        written
    }

    pub(crate) fn services(&self) -> Result<BTreeSet<String>> {
        Ok(self
            .names(&key(b'n', &[]))?
            .into_iter()
            .map(|name| name.0)
            .collect())
    }

    /// Operations of a service and their kinds.
    pub(crate) fn operations(&self, service: &str) -> Result<BTreeSet<(String, i32)>> {
        let names = self.names(&key(b'n', &[service.as_bytes(), b"\0"]))?;
        Ok(names
            .into_iter()
            .map(|(_, operation, kind)| (operation, kind))
            .collect())
    }

    fn names(&self, prefix: &[u8]) -> Result<BTreeSet<(String, String, i32)>> {
        let mut found = BTreeSet::new();
        for bucket in self.records.buckets(Family::Spans)? {
            for entry in bucket.prefix(prefix) {
                let key = entry.key()?;
                let mut parts = key.get(1..).unwrap_or_default().splitn(3, |b| *b == 0);
                let mut text =
                    || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
                let (service, operation) = (text(), text());
                let kind = key.last().copied().unwrap_or_default();
                found.insert((service, operation, i32::from(kind)));
            }
        }
        Ok(found)
    }

    /// All spans of one trace; `None` when there are none.
    pub(crate) fn trace(&self, id: &[u8]) -> Result<Option<Trace>> {
        let mut trace = Trace {
            id: id.to_vec(),
            ..Trace::default()
        };
        let prefix = key(b's', &[id]);
        for bucket in self.records.buckets(Family::Spans)? {
            for entry in bucket.prefix(&prefix) {
                if trace.spans.len() >= MOST_SPANS {
                    trace.cut = true;
                    break;
                }
                trace
                    .spans
                    .extend(SpanRecord::decode(&*entry.value()?).ok());
            }
        }
        // A client that sends again after a failure may put a span into two buckets.
        trace
            .spans
            .sort_by(|a, b| (a.start, &a.span_id, a.kind).cmp(&(b.start, &b.span_id, b.kind)));
        trace
            .spans
            .dedup_by(|a, b| a.span_id == b.span_id && a.kind == b.kind);
        Ok((!trace.spans.is_empty()).then_some(trace))
    }

    /// The newest traces that have a fitting span, newest first.
    pub(crate) fn search(&self, query: &TraceQuery) -> Result<Vec<Trace>> {
        let mut found: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut seen = HashSet::new();
        let mut looked_at = 0;
        let from = index_key(&query.service, query.start);
        let to = index_key(&query.service, query.end.saturating_add(1));
        for bucket in self.records.buckets(Family::Spans)? {
            let mut here = 0;
            for entry in bucket.range(from.clone()..to.clone()).rev() {
                looked_at += 1;
                // Later buckets may hold later spans, so each may fill the whole answer.
                if looked_at > MOST_ENTRIES || here >= query.limit {
                    break;
                }
                let (key, value) = entry.into_inner()?;
                let Some(entry) = IndexEntry::read(&key, &value, query.service.len()) else {
                    continue;
                };
                if seen.contains(entry.trace) || !entry.fits(query) {
                    continue;
                }
                if !query.tags.is_empty() && !self.has_tags(&bucket, entry.id, &query.tags)? {
                    continue;
                }
                seen.insert(entry.trace.to_vec());
                found.push((entry.start, entry.trace.to_vec()));
                here += 1;
            }
        }
        found.sort_by(|a, b| b.cmp(a));
        found.truncate(query.limit);
        let mut traces = Vec::with_capacity(found.len());
        for (_, id) in found {
            traces.extend(self.trace(&id)?);
        }
        Ok(traces)
    }

    fn has_tags(
        &self,
        bucket: &fjall::Keyspace,
        id: &[u8],
        wanted: &BTreeMap<String, String>,
    ) -> Result<bool> {
        let Some(value) = bucket.get(key(b's', &[id]))? else {
            return Ok(false);
        };
        let Ok(span) = SpanRecord::decode(&*value) else {
            return Ok(false);
        };
        let has = |key: &String, value: &String| {
            let fits = |tag: &Tag| tag.key == *key && tag.shown() == *value;
            let in_events = || span.events.iter().flat_map(|e| &e.fields).any(fits);
            let kind = key == "span.kind" && kind_name(span.kind) == value;
            kind || span.tags.iter().chain(&span.process).any(fits) || in_events()
        };
        Ok(wanted.iter().all(|(key, value)| has(key, value)))
    }

    /// Who calls whom, from spans that began in a time range (Unix microseconds).
    pub(crate) fn dependencies(&self, start: u64, end: u64) -> Result<Vec<Dependency>> {
        let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
        let mut left = MOST_FOR_DEPENDENCIES;
        for bucket in self.records.buckets(Family::Spans)? {
            // The spans of a trace stand side by side.
            let mut trace: Vec<SpanRecord> = Vec::new();
            for entry in bucket.prefix(b"s") {
                let Some(rest) = left.checked_sub(1) else {
                    break;
                };
                left = rest;
                let Ok(span) = SpanRecord::decode(&*entry.value()?) else {
                    continue;
                };
                if trace
                    .first()
                    .is_some_and(|first| first.trace_id != span.trace_id)
                {
                    count_calls(&trace, &mut counts);
                    trace.clear();
                }
                if (start..=end).contains(&span.start) && trace.len() < MOST_SPANS {
                    trace.push(span);
                }
            }
            count_calls(&trace, &mut counts);
        }
        let calls = counts
            .into_iter()
            .map(|((parent, child), call_count)| Dependency {
                parent,
                child,
                call_count,
            });
        Ok(calls.collect())
    }
}

fn count_calls(trace: &[SpanRecord], counts: &mut BTreeMap<(String, String), u64>) {
    let by_id: HashMap<&[u8], &str> = trace
        .iter()
        .map(|span| (&*span.span_id, &*span.service))
        .collect();
    for span in trace {
        if let Some(parent) = by_id.get(&*span.parent_id)
            && **parent != *span.service
        {
            let pair = ((*parent).to_owned(), span.service.clone());
            *counts.entry(pair).or_default() += 1;
        }
    }
}

fn key(table: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![table];
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

fn index_key(service: &str, start: u64) -> Vec<u8> {
    key(b'i', &[service.as_bytes(), b"\0", &start.to_be_bytes()])
}

fn kind_byte(span: &SpanRecord) -> u8 {
    u8::try_from(span.kind).unwrap_or_default()
}

/// Zipkin's clients give both ends of a call the same span id, so the kind is part of it.
fn identity(span: &SpanRecord) -> Vec<u8> {
    let mut id = span.trace_id.clone();
    id.extend_from_slice(&span.span_id);
    id.push(kind_byte(span));
    id
}

pub(crate) fn kind_name(kind: i32) -> &'static str {
    match kind {
        1 => "internal",
        2 => "server",
        3 => "client",
        4 => "producer",
        5 => "consumer",
        _ => "",
    }
}

struct IndexEntry<'a> {
    start: u64,
    id: &'a [u8],
    trace: &'a [u8],
    duration: u64,
    operation: &'a [u8],
}

impl<'a> IndexEntry<'a> {
    fn read(key: &'a [u8], value: &'a [u8], service: usize) -> Option<Self> {
        let (start, id) = key.get(service + 2..)?.split_first_chunk::<8>()?;
        let (duration, operation) = value.split_first_chunk::<8>()?;
        Some(Self {
            start: u64::from_be_bytes(*start),
            id,
            trace: id.get(..16)?,
            duration: u64::from_be_bytes(*duration),
            operation,
        })
    }

    fn fits(&self, query: &TraceQuery) -> bool {
        let operation = query.operation.as_ref();
        operation.is_none_or(|wanted| wanted.as_bytes() == self.operation)
            && query
                .min_duration
                .is_none_or(|least| self.duration >= least)
            && query.max_duration.is_none_or(|most| self.duration <= most)
    }
}

#[cfg(test)]
mod tests;
