//! Numbers of one label set: a single writer, read by scrapes while it counts.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use malla_proxy_config::istio_stats::Metric;

use super::{Counted, Facts, RequestNumbers, labels};
use crate::peers::Own;
use crate::telemetry::stats::Count;

/// Upper bounds of Envoy's default buckets, as scrapes see them.
pub(super) const BOUNDS: [&str; 19] = [
    "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000",
    "30000", "60000", "300000", "600000", "1800000", "3600000",
];
/// The same in thousandths: everything is observed in those, so that half a millisecond is a number.
const THOUSANDTHS: [u64; 19] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// A histogram over Envoy's buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Values up to each bound and above the one before; the last are above all.
    buckets: [Count; BOUNDS.len() + 1],
    sum: Count,
}

impl Histogram {
    /// Adds a value in thousandths.
    pub fn observe(&self, thousandths: u64) {
        let at = THOUSANDTHS.partition_point(|bound| *bound < thousandths);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.inc();
        }
        self.sum.add(thousandths);
    }

    /// Counts by bucket, not cumulated, and the sum in thousandths.
    pub fn read(&self) -> ([u64; BOUNDS.len() + 1], u64) {
        let mut counts = [0; BOUNDS.len() + 1];
        for (count, bucket) in counts.iter_mut().zip(&self.buckets) {
            *count = bucket.get();
        }
        (counts, self.sum.get())
    }
}

/// Everything counted under one label set.
#[derive(Debug)]
pub struct Series {
    /// Labels of each metric as scrapes see them; metrics that are not kept have none.
    labels: [Option<Arc<str>>; Metric::ALL.len()],
    counters: [Count; Metric::ALL.len()],
    /// Duration, request and response bytes; connections of bytes have none.
    histograms: Option<Box<[Histogram; 3]>>,
}

impl Series {
    pub(super) fn new(own: &Own, facts: &Facts<'_>) -> Self {
        let metrics: &[Metric] = match facts.counted {
            Counted::Requests => &REQUESTS,
            Counted::Messages => &[Metric::RequestMessages, Metric::ResponseMessages],
            Counted::Connections => &Metric::TCP,
        };
        let mut same: Option<Arc<str>> = None;
        let mut labels: [Option<Arc<str>>; Metric::ALL.len()] = Default::default();
        for metric in metrics {
            let own_labels = facts.config.rules(*metric).is_some();
            let text = match &same {
                Some(same) if !own_labels => Some(Arc::clone(same)),
                _ => {
                    let text = labels::text(own, facts, *metric);
                    if !own_labels {
                        same.clone_from(&text);
                    }
                    text
                }
            };
            if let Some(slot) = labels.get_mut(*metric as usize) {
                *slot = text;
            }
        }
        Self {
            labels,
            counters: Default::default(),
            histograms: (facts.counted == Counted::Requests).then(Box::default),
        }
    }

    /// Adds one request.
    pub(super) fn count(&self, numbers: RequestNumbers) {
        self.counter(Metric::Requests).inc();
        if let Some([duration, request, response]) = self.histograms.as_deref() {
            duration.observe(u64::try_from(numbers.duration.as_micros()).unwrap_or(u64::MAX));
            request.observe(numbers.request_bytes.saturating_mul(1000));
            response.observe(numbers.response_bytes.saturating_mul(1000));
        }
    }

    /// The counter of a metric.
    pub fn counter(&self, metric: Metric) -> &Count {
        &self.counters[metric as usize]
    }

    /// The histogram of a metric that is one.
    pub fn histogram(&self, metric: Metric) -> Option<&Histogram> {
        let [duration, request, response] = self.histograms.as_deref()?;
        match metric {
            Metric::Duration => Some(duration),
            Metric::RequestBytes => Some(request),
            Metric::ResponseBytes => Some(response),
            _ => None,
        }
    }

    /// The labels of a metric; `None` if it is not kept.
    pub fn labels(&self, metric: Metric) -> Option<&Arc<str>> {
        self.labels.get(metric as usize)?.as_ref()
    }

    /// What stands for the label set: the labels of its first metric.
    fn set(&self) -> Option<&Arc<str>> {
        self.labels.iter().flatten().next()
    }

    /// A number that changes with every count.
    pub(super) fn moved(&self) -> u64 {
        let counters = self.counters.iter().map(Count::get);
        counters.fold(0, u64::wrapping_add)
    }
}

/// What every request has.
const REQUESTS: [Metric; 4] = [
    Metric::Requests,
    Metric::Duration,
    Metric::RequestBytes,
    Metric::ResponseBytes,
];

/// Label sets of the process. In a scrape each takes some 60 KiB, which is what bounds them.
pub(super) const MOST_SETS: usize = 800;

/// All workers' series. Its lock is taken when a series is made or given up, and by scrapes.
#[derive(Debug, Default)]
pub struct SeriesRegistry {
    all: Mutex<All>,
    /// Label sets there are, several workers' equal ones once.
    sets: AtomicUsize,
    overflowed: AtomicU64,
}

#[derive(Debug, Default)]
struct All {
    series: Vec<Arc<Series>>,
    sets: HashSet<Arc<str>>,
}

impl SeriesRegistry {
    /// Who holds a series in use: its worker's table and the registry.
    pub(super) const HOLDS: usize = 2;

    pub(super) fn add(&self, series: &Arc<Series>) {
        let mut all = self.lock();
        all.series.push(Arc::clone(series));
        all.sets.extend(series.set().cloned());
        self.sets.store(all.sets.len(), Ordering::Relaxed);
    }

    /// Forgets what no worker holds.
    pub(super) fn forget_abandoned(&self) {
        let mut all = self.lock();
        all.series.retain(|series| Arc::strong_count(series) > 1);
        all.sets = all
            .series
            .iter()
            .filter_map(|series| series.set().cloned())
            .collect();
        self.sets.store(all.sets.len(), Ordering::Relaxed);
    }

    /// True if there may be no more label sets.
    pub(super) fn is_full(&self) -> bool {
        self.sets.load(Ordering::Relaxed) >= MOST_SETS
    }

    /// Label sets there are.
    pub fn sets(&self) -> usize {
        self.sets.load(Ordering::Relaxed)
    }

    pub(super) fn note_overflow(&self) {
        self.overflowed.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests and connections that found no room for a series of their own.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Every series there is.
    pub fn all(&self) -> Vec<Arc<Series>> {
        self.lock().series.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, All> {
        // A panic while holding it leaves the list as it was: still usable.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
