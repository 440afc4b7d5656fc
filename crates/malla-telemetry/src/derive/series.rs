//! The counters and histograms of one proxy, and the rows they become.
//!
//! Rows go to the store as a scrape's would: all at one time, and a stale marker at the end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::observe::{Amount, Observed};
use crate::metrics::{Labels, NAME, Row, STALE, Sample, SeriesRef};

/// Envoy's, which Istio keeps.
const BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
const HISTOGRAMS: [&str; 3] = [
    "istio_request_duration_milliseconds",
    "istio_request_bytes",
    "istio_response_bytes",
];
const TCP: [&str; 4] = [
    "istio_tcp_connections_opened_total",
    "istio_tcp_connections_closed_total",
    "istio_tcp_sent_bytes_total",
    "istio_tcp_received_bytes_total",
];

type Sets = HashMap<Vec<(&'static str, String)>, Set, foldhash::fast::RandomState>;

/// Everything counted for one proxy.
#[derive(Debug)]
pub(super) struct NodeSeries {
    own: Vec<(Arc<str>, Arc<str>)>,
    sets: Mutex<Sets>,
}

/// What was counted under one set of labels.
#[derive(Debug)]
struct Set {
    /// In the order of [`Count::values`].
    series: Vec<(Labels, Option<SeriesRef>)>,
    count: Count,
}

#[derive(Debug)]
enum Count {
    Http {
        requests: u64,
        /// Of [`HISTOGRAMS`].
        histograms: Box<[Histogram; 3]>,
    },
    /// Of [`TCP`].
    Tcp([u64; 4]),
}

#[derive(Debug, Clone, Copy, Default)]
struct Histogram {
    /// Not cumulative.
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn add(&mut self, value: f64) {
        let at = BUCKETS.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += value;
    }
}

impl NodeSeries {
    pub(super) fn new(own: Vec<(&'static str, String)>) -> Self {
        let own = own.into_iter().filter(|(_, value)| !value.is_empty());
        Self {
            own: own
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            sets: Mutex::default(),
        }
    }

    pub(super) fn sets(&self) -> usize {
        self.lock().len()
    }

    /// Adds an observation; `false` when it needs a new set and there is no `room` for one.
    pub(super) fn count(&self, observed: Observed, room: impl Fn() -> bool) -> bool {
        let mut sets = self.lock();
        if let Some(set) = sets.get_mut(&observed.labels) {
            set.count.add(observed.amount);
            return true;
        }
        if !room() {
            return false;
        }
        let mut count = Count::new(observed.amount);
        count.add(observed.amount);
        // One text of each label for all of the set's series.
        let pairs = observed
            .labels
            .iter()
            .filter(|(_, value)| !value.is_empty());
        let pairs = pairs.map(|(name, value)| (Arc::from(*name), Arc::from(value.as_str())));
        let pairs: Vec<(Arc<str>, Arc<str>)> = pairs.chain(self.own.iter().cloned()).collect();
        let labels = |(name, bound): (String, Option<String>)| {
            let mut pairs = pairs.clone();
            pairs.push((NAME.into(), name.into()));
            pairs.extend(bound.map(|bound| ("le".into(), bound.into())));
            (Labels::from_pairs(pairs), None)
        };
        let series = count.names().into_iter().map(labels).collect();
        sets.insert(observed.labels, Set { series, count });
        true
    }

    /// Hands all values to the store; with `gone`, markers of their end.
    pub(super) fn report(&self, at: i64, gone: bool, store: &mut impl FnMut(&mut Vec<Row>)) {
        let mut sets = self.lock();
        let mut rows = Vec::new();
        for set in sets.values() {
            let values = set.count.values();
            rows.extend(set.series.iter().zip(values).map(|((labels, series), v)| {
                let v = if gone { f64::from_bits(STALE) } else { v };
                Row {
                    labels: labels.clone(),
                    series: *series,
                    sample: Sample { t: at, v },
                }
            }));
        }
        store(&mut rows);
        let mut stored = rows.into_iter();
        for (_, series) in sets.values_mut().flat_map(|set| &mut set.series) {
            if let Some(row) = stored.next() {
                *series = row.series;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sets> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    fn new(amount: Amount) -> Self {
        match amount {
            Amount::Http { .. } => Self::Http {
                requests: 0,
                histograms: Box::default(),
            },
            Amount::Tcp { .. } => Self::Tcp([0; 4]),
        }
    }

    fn add(&mut self, amount: Amount) {
        match (self, amount) {
            (
                Self::Http {
                    requests,
                    histograms,
                },
                Amount::Http {
                    milliseconds,
                    request_bytes,
                    response_bytes,
                },
            ) => {
                *requests += 1;
                let values = [milliseconds, request_bytes, response_bytes];
                for (histogram, value) in histograms.iter_mut().zip(values) {
                    histogram.add(value);
                }
            }
            (Self::Tcp(counts), Amount::Tcp { sent, received }) => {
                for (count, more) in counts.iter_mut().zip([1, 1, sent, received]) {
                    *count = count.saturating_add(more);
                }
            }
            // The protocol is one of the labels.
            _ => {}
        }
    }

    /// Names and, for buckets, upper bounds of its series.
    fn names(&self) -> Vec<(String, Option<String>)> {
        match self {
            Self::Tcp(_) => TCP.map(|name| (name.to_owned(), None)).into(),
            Self::Http { .. } => {
                let mut names = vec![("istio_requests_total".to_owned(), None)];
                for name in HISTOGRAMS {
                    let bounds = BUCKETS.iter().map(f64::to_string);
                    let bounds = bounds.chain(["+Inf".to_owned()]);
                    names.extend(bounds.map(|bound| (format!("{name}_bucket"), Some(bound))));
                    names.push((format!("{name}_sum"), None));
                    names.push((format!("{name}_count"), None));
                }
                names
            }
        }
    }

    /// In the order of [`Count::names`].
    fn values(&self) -> Vec<f64> {
        match self {
            Self::Tcp(counts) => counts.iter().map(|count| *count as f64).collect(),
            Self::Http {
                requests,
                histograms,
            } => {
                let mut values = vec![*requests as f64];
                for histogram in histograms.iter() {
                    let mut below = 0;
                    values.extend(histogram.buckets.iter().map(|bucket| {
                        below += bucket;
                        below as f64
                    }));
                    let count = histogram.count as f64;
                    values.extend([count, histogram.sum, count]);
                }
                values
            }
        }
    }
}
