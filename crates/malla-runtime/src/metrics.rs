//! Metrics in per-worker shards, merged when scraped.
//!
//! A [`Registry`] holds any number of [`Shard`]s. A worker owns one and registers its metrics there,
//! so a count is an add on memory no other worker writes to; a scrape adds up the series that carry
//! the same name and labels. Names, help texts and labels are the caller's.
//!
//! Invariants: counting never locks and never allocates; looking a series up by its labels locks
//! only the worker's own family. Every family has a cap on its series: what comes beyond it is
//! counted under `overflow="true"` instead of growing without bound.

mod expose;
mod family;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

pub use family::{Family, FamilyOptions};
pub use value::{Counter, Gauge, Histogram, Timer};

use expose::Merged;
use family::AnyFamily;

/// What a metric is, for the `# TYPE` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Name, help and kind of a metric, as registered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Description {
    pub(crate) name: Arc<str>,
    pub(crate) help: Arc<str>,
    pub(crate) kind: Kind,
}

/// A sample computed when scraped, for values that are kept elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub help: String,
    /// [`Kind::Histogram`] is not possible here and is written as a gauge.
    pub kind: Kind,
    pub labels: Vec<(String, String)>,
    pub value: f64,
}

type Collector = Box<dyn Fn() -> Vec<Sample> + Send + Sync>;

/// All metrics of one process or one proxy; cheap to clone.
#[derive(Clone, Default)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    shards: Mutex<Vec<Weak<ShardInner>>>,
    /// Shards of workers that have gone; their counts must not go backwards.
    retired: Mutex<Merged>,
    shared: Mutex<Option<Shard>>,
    collectors: Mutex<Vec<Collector>>,
}

/// One worker's metrics; cheap to clone.
#[derive(Clone)]
pub struct Shard {
    inner: Arc<ShardInner>,
}

struct ShardInner {
    families: Mutex<BTreeMap<Arc<str>, Arc<dyn AnyFamily>>>,
    registry: Weak<Inner>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").finish_non_exhaustive()
    }
}

impl Registry {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A new shard, for one worker thread.
    #[must_use]
    pub fn shard(&self) -> Shard {
        let shard = Shard {
            inner: Arc::new(ShardInner {
                families: Mutex::new(BTreeMap::new()),
                registry: Arc::downgrade(&self.inner),
            }),
        };
        lock(&self.inner.shards).push(Arc::downgrade(&shard.inner));
        shard
    }

    /// The shard for code that is not on a worker's hot path.
    #[must_use]
    pub fn shared(&self) -> Shard {
        let mut shared = lock(&self.inner.shared);
        if let Some(shard) = shared.as_ref() {
            return shard.clone();
        }
        let shard = self.shard();
        // The registry keeps it, so it must not keep the registry: `ShardInner` holds a `Weak`.
        *shared = Some(shard.clone());
        shard
    }

    /// Adds a function that is asked for its samples at every scrape.
    pub fn collect(&self, collector: impl Fn() -> Vec<Sample> + Send + Sync + 'static) {
        lock(&self.inner.collectors).push(Box::new(collector));
    }

    /// Everything, in Prometheus' text format 0.0.4, sorted by name and labels.
    #[must_use]
    pub fn render(&self) -> String {
        let mut merged = lock(&self.inner.retired).clone();
        let shards: Vec<Arc<ShardInner>> = {
            let mut shards = lock(&self.inner.shards);
            shards.retain(|shard| shard.strong_count() > 0);
            shards.iter().filter_map(Weak::upgrade).collect()
        };
        for shard in &shards {
            shard.merge_into(&mut merged);
        }
        for collector in lock(&self.inner.collectors).iter() {
            for sample in collector() {
                merged.add_sample(sample);
            }
        }
        merged.render()
    }
}

/// The content type of [`Registry::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Shard {
    /// A counter family; `labels` are the label names, in the order values are given later.
    #[must_use]
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Family<Counter> {
        self.family(name, help, Kind::Counter, labels, FamilyOptions::default())
    }

    /// A gauge family.
    #[must_use]
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Family<Gauge> {
        self.family(name, help, Kind::Gauge, labels, FamilyOptions::default())
    }

    /// A histogram family with the upper bounds of its buckets (`+Inf` is added).
    #[must_use]
    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        bounds: &[f64],
    ) -> Family<Histogram> {
        let options = FamilyOptions {
            bounds: bounds.into(),
            ..FamilyOptions::default()
        };
        self.family(name, help, Kind::Histogram, labels, options)
    }

    /// One counter without labels.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.counters(name, help, &[]).with(&[])
    }

    /// One gauge without labels.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.gauges(name, help, &[]).with(&[])
    }

    /// One histogram without labels.
    #[must_use]
    pub fn histogram(&self, name: &str, help: &str, bounds: &[f64]) -> Histogram {
        self.histograms(name, help, &[], bounds).with(&[])
    }

    /// A family with a cap of its own. Asking again for a name gives the same family; a name that
    /// is already used for another kind or other labels gives a family that is not exposed, and the
    /// clash is logged (two parts of the program disagree, which must not stop either).
    #[must_use]
    pub fn family<M: value::Metric>(
        &self,
        name: &str,
        help: &str,
        kind: Kind,
        labels: &[&str],
        options: FamilyOptions,
    ) -> Family<M> {
        let fresh = || {
            let description = Description {
                name: name.into(),
                help: help.into(),
                kind,
            };
            Family::<M>::new(description, labels, options.clone())
        };
        let mut families = lock(&self.inner.families);
        let Some(known) = families.get(name) else {
            let family = fresh();
            families.insert(name.into(), family.erased());
            return family;
        };
        match Family::downcast(known, labels) {
            Some(family) => family,
            None => {
                tracing::error!(name, "a metric was registered twice, differently");
                fresh()
            }
        }
    }
}

impl ShardInner {
    fn merge_into(&self, merged: &mut Merged) {
        for family in lock(&self.families).values() {
            family.merge_into(merged);
        }
    }
}

impl Drop for ShardInner {
    fn drop(&mut self) {
        // A worker has gone: what it counted stays counted, what it measured (gauges) is over.
        if let Some(registry) = self.registry.upgrade() {
            let mut gone = Merged::default();
            self.merge_into(&mut gone);
            lock(&registry.retired).absorb_totals(gone);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic while counting leaves counts that are at worst one too low.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn shards_are_merged_when_scraped() {
        let registry = Registry::new();
        for (code, times) in [("200", 2), ("503", 1)] {
            for shard in [registry.shared(), registry.shared()] {
                let family = shard.counters("requests_total", "Requests.", &["code"]);
                family.with(&[code]).add(times);
            }
        }
        let worker = registry.shard();
        let family = worker.counters("requests_total", "Requests.", &["code"]);
        family.with(&["200"]).inc();
        assert_eq!(
            registry.render(),
            "# HELP requests_total Requests.\n\
             # TYPE requests_total counter\n\
             requests_total{code=\"200\"} 5\n\
             requests_total{code=\"503\"} 2\n"
        );
    }

    #[test]
    fn a_worker_that_leaves_takes_its_gauges_but_not_its_counts() {
        let registry = Registry::new();
        let worker = registry.shard();
        let open = worker.gauge("open", "Open.");
        open.add(3);
        worker.counter("seen_total", "Seen.").inc();
        assert!(registry.render().contains("open 3\n"));
        drop(worker);
        assert!(registry.render().contains("seen_total 1\n"));
        assert!(!registry.render().contains("open 3\n"));
    }

    #[test]
    fn histograms_are_cumulative() {
        let registry = Registry::new();
        let latency =
            registry
                .shared()
                .histograms("latency_seconds", "Latency.", &["to"], &[0.1, 1.0]);
        let to_cart = latency.with(&["cart"]);
        for seconds in [0.05, 0.1, 0.5, 3.0] {
            to_cart.observe(seconds);
        }
        to_cart.observe_duration(Duration::from_millis(350));
        assert_eq!(
            registry.render(),
            "# HELP latency_seconds Latency.\n\
             # TYPE latency_seconds histogram\n\
             latency_seconds_bucket{to=\"cart\",le=\"0.1\"} 2\n\
             latency_seconds_bucket{to=\"cart\",le=\"1\"} 4\n\
             latency_seconds_bucket{to=\"cart\",le=\"+Inf\"} 5\n\
             latency_seconds_sum{to=\"cart\"} 4\n\
             latency_seconds_count{to=\"cart\"} 5\n"
        );
    }

    #[test]
    fn collected_samples_and_odd_values_are_escaped() {
        let registry = Registry::new();
        registry.collect(|| {
            vec![Sample {
                name: "up".to_owned(),
                help: "line\none \\ two".to_owned(),
                kind: Kind::Gauge,
                labels: vec![("path".to_owned(), "a\"b\\c\nd".to_owned())],
                value: 0.5,
            }]
        });
        assert_eq!(
            registry.render(),
            "# HELP up line\\none \\\\ two\n# TYPE up gauge\nup{path=\"a\\\"b\\\\c\\nd\"} 0.5\n"
        );
    }

    #[test]
    fn a_family_degrades_at_its_cap() {
        let registry = Registry::new();
        let options = FamilyOptions {
            max_series: 2,
            ..FamilyOptions::default()
        };
        let family: Family<Counter> =
            registry
                .shared()
                .family("hits_total", "Hits.", Kind::Counter, &["host"], options);
        for host in ["a", "b", "c", "d", "a"] {
            family.with(&[host]).inc();
        }
        let text = registry.render();
        assert!(text.contains("hits_total{host=\"a\"} 2\n"), "{text}");
        assert!(text.contains("hits_total{overflow=\"true\"} 2\n"), "{text}");
        family.remove(&["b"]);
        family.with(&["c"]).inc();
        assert!(registry.render().contains("hits_total{host=\"c\"} 1\n"));
    }

    #[test]
    fn a_clash_of_kinds_keeps_the_first() {
        let registry = Registry::new();
        registry.shared().counter("x", "X.").inc();
        registry.shared().gauge("x", "X.").set(9);
        assert!(registry.render().ends_with("x 1\n"));
    }
}
