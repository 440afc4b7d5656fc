//! The values: counter, gauge, histogram. Handles are cheap to clone and safe to use anywhere; they
//! are fastest on the thread whose shard they come from.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// What one series held when it was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reading {
    Counter(u64),
    Gauge(f64),
    /// Counts per bucket (not cumulative; the last is `+Inf`), sum of the observations.
    Histogram {
        bounds: Arc<[f64]>,
        buckets: Vec<u64>,
        sum: f64,
    },
}

impl Reading {
    /// Adds `other`, a reading of the same metric from another shard.
    pub(crate) fn add(&mut self, other: Self) {
        match (self, other) {
            (Self::Counter(mine), Self::Counter(theirs)) => *mine = mine.saturating_add(theirs),
            (Self::Gauge(mine), Self::Gauge(theirs)) => *mine += theirs,
            (
                Self::Histogram {
                    bounds,
                    buckets,
                    sum,
                },
                Self::Histogram {
                    bounds: their_bounds,
                    buckets: theirs,
                    sum: their_sum,
                },
            ) if *bounds == their_bounds => {
                for (mine, theirs) in buckets.iter_mut().zip(theirs) {
                    *mine = mine.saturating_add(theirs);
                }
                *sum += their_sum;
            }
            // Shards that disagree on what a name is: the first one's view stays.
            _ => {}
        }
    }
}

/// A handle that a [`super::Family`] can make.
pub trait Metric: Clone + Send + Sync + 'static {
    #[doc(hidden)]
    fn fresh(bounds: &Arc<[f64]>) -> Self;
    #[doc(hidden)]
    #[allow(private_interfaces)]
    fn read(&self) -> Reading;
}

/// A count that only grows.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// This shard's count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Metric for Counter {
    fn fresh(_: &Arc<[f64]>) -> Self {
        Self::default()
    }

    #[allow(private_interfaces)]
    fn read(&self) -> Reading {
        Reading::Counter(self.get())
    }
}

/// A level; shards add up.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    pub fn set(&self, level: i64) {
        self.0.store(level, Relaxed);
    }

    pub fn add(&self, difference: i64) {
        self.0.fetch_add(difference, Relaxed);
    }

    pub fn inc(&self) {
        self.add(1);
    }

    pub fn dec(&self) {
        self.add(-1);
    }

    /// This shard's level.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

impl Metric for Gauge {
    fn fresh(_: &Arc<[f64]>) -> Self {
        Self::default()
    }

    #[allow(private_interfaces)]
    fn read(&self) -> Reading {
        Reading::Gauge(self.get() as f64)
    }
}

/// A distribution over fixed buckets.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    bounds: Arc<[f64]>,
    /// One more than `bounds`: the last is `+Inf`.
    counts: Box<[AtomicU64]>,
    /// An `f64` as bits.
    sum: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, value: f64) {
        let Buckets {
            bounds,
            counts,
            sum,
        } = &*self.0;
        let index = bounds.partition_point(|bound| *bound < value);
        if let Some(count) = counts.get(index) {
            count.fetch_add(1, Relaxed);
        }
        let _ = sum.fetch_update(Relaxed, Relaxed, |bits| {
            Some((f64::from_bits(bits) + value).to_bits())
        });
    }

    /// Observes seconds, the unit Prometheus asks for.
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(duration.as_secs_f64());
    }

    /// Observes, in seconds, the time until the timer is dropped.
    pub fn time(&self) -> Timer {
        Timer {
            histogram: self.clone(),
            since: Instant::now(),
        }
    }
}

impl Metric for Histogram {
    fn fresh(bounds: &Arc<[f64]>) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Buckets {
            bounds: bounds.clone(),
            counts,
            sum: AtomicU64::new(0f64.to_bits()),
        }))
    }

    #[allow(private_interfaces)]
    fn read(&self) -> Reading {
        Reading::Histogram {
            bounds: self.0.bounds.clone(),
            buckets: self
                .0
                .counts
                .iter()
                .map(|count| count.load(Relaxed))
                .collect(),
            sum: f64::from_bits(self.0.sum.load(Relaxed)),
        }
    }
}

/// Observes a duration when dropped.
#[derive(Debug)]
#[must_use = "it measures until it is dropped"]
pub struct Timer {
    histogram: Histogram,
    since: Instant,
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.histogram.observe_duration(self.since.elapsed());
    }
}
