//! A family: one name, fixed label names, one series per combination of label values.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use super::expose::{Merged, push_labels};
use super::value::Metric;
use super::{Description, lock};

/// Series one family may hold per shard, unless told otherwise.
const DEFAULT_MAX_SERIES: usize = 10_000;

/// What is particular about a family.
#[derive(Debug, Clone)]
pub struct FamilyOptions {
    /// Upper bounds of a histogram's buckets, ascending, without `+Inf`.
    pub bounds: Arc<[f64]>,
    /// Series beyond this many are counted together as `overflow="true"`.
    pub max_series: usize,
}

impl Default for FamilyOptions {
    fn default() -> Self {
        Self {
            bounds: Arc::new([]),
            max_series: DEFAULT_MAX_SERIES,
        }
    }
}

/// Makes and finds the series of one metric name in one shard; cheap to clone.
#[derive(Clone)]
pub struct Family<M> {
    inner: Arc<Inner<M>>,
}

struct Inner<M> {
    description: Description,
    labels: Box<[Box<str>]>,
    options: FamilyOptions,
    /// Keyed by the label set as it is exposed, `code="200",to="cart"`.
    series: Mutex<HashMap<Box<str>, M>>,
}

impl<M> fmt::Debug for Family<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Family")
            .field(&self.inner.description.name)
            .finish()
    }
}

/// A family of any kind, as a shard keeps it.
pub(crate) trait AnyFamily: Send + Sync {
    fn merge_into(&self, merged: &mut Merged);
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<M: Metric> AnyFamily for Inner<M> {
    fn merge_into(&self, merged: &mut Merged) {
        for (labels, metric) in lock(&self.series).iter() {
            merged.add(&self.description, labels, metric.read());
        }
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl<M: Metric> Family<M> {
    pub(crate) fn new(description: Description, labels: &[&str], options: FamilyOptions) -> Self {
        Self {
            inner: Arc::new(Inner {
                description,
                labels: labels.iter().map(|label| (*label).into()).collect(),
                options,
                series: Mutex::new(HashMap::new()),
            }),
        }
    }

    pub(crate) fn erased(&self) -> Arc<dyn AnyFamily> {
        self.inner.clone()
    }

    /// The family behind `known`, when it is of this kind and has these labels.
    pub(crate) fn downcast(known: &Arc<dyn AnyFamily>, labels: &[&str]) -> Option<Self> {
        let inner = known.clone().as_any().downcast::<Inner<M>>().ok()?;
        let same = inner
            .labels
            .iter()
            .map(|label| &**label)
            .eq(labels.iter().copied());
        same.then_some(Self { inner })
    }

    /// The series with these label values, in the order of the names; made on first use. Keep the
    /// handle where the values are known beforehand. A missing value is empty, a surplus one ignored.
    #[must_use]
    pub fn with(&self, values: &[&str]) -> M {
        let Inner {
            labels,
            options,
            series,
            ..
        } = &*self.inner;
        let key = self.key(values);
        let mut series = lock(series);
        if let Some(metric) = series.get(key.as_str()) {
            return metric.clone();
        }
        let room = options.max_series + usize::from(series.contains_key(OVERFLOW));
        let capped = series.len() >= room && !labels.is_empty();
        let key = if capped { OVERFLOW } else { &key };
        if let Some(metric) = series.get(key) {
            return metric.clone();
        }
        let metric = M::fresh(&options.bounds);
        series.insert(key.into(), metric.clone());
        metric
    }

    /// Forgets the series with these label values; handles to it count into the void.
    pub fn remove(&self, values: &[&str]) {
        let key = self.key(values);
        lock(&self.inner.series).remove(key.as_str());
    }

    fn key(&self, values: &[&str]) -> String {
        let mut key = String::with_capacity(64);
        let values = values.iter().copied().chain(std::iter::repeat(""));
        let pairs = self.inner.labels.iter().map(|label| &**label).zip(values);
        push_labels(&mut key, pairs);
        key
    }
}

const OVERFLOW: &str = "overflow=\"true\"";
