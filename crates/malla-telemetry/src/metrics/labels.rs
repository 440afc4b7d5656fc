//! Label sets: what a series is called.
//!
//! Invariants of [`Labels`]: names are unique and sorted, no value is empty (an empty value means
//! the same as no label). Cloning is one reference count.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// The label that holds a metric's name.
pub const NAME: &str = "__name__";

/// One sorted label set.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

impl Default for Labels {
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

impl Labels {
    /// Sorts, drops empty values, and keeps the last value of a name that is given twice.
    pub fn new<N, V>(pairs: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<Arc<str>>,
        V: Into<Arc<str>>,
    {
        Self::from_pairs(
            pairs
                .into_iter()
                .map(|(n, v)| (n.into(), v.into()))
                .collect(),
        )
    }

    /// As [`Labels::new`], for pairs that are shared already.
    #[must_use]
    pub fn from_pairs(mut pairs: Vec<(Arc<str>, Arc<str>)>) -> Self {
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                earlier.1 = later.1.clone();
            }
            same
        });
        pairs.retain(|(_, value)| !value.is_empty());
        Self(pairs.into())
    }

    /// The value of a label; empty when there is none.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.find(name).map_or("", |value| value)
    }

    /// The shared value of a label.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<str>> {
        let at = self.0.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    /// The metric's name; empty when it was dropped.
    #[must_use]
    pub fn name(&self) -> &str {
        self.get(NAME)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The labels whose names `keep` accepts.
    #[must_use]
    pub fn filter(&self, mut keep: impl FnMut(&str) -> bool) -> Self {
        Self(self.0.iter().filter(|(n, _)| keep(n)).cloned().collect())
    }

    #[must_use]
    pub fn without_name(&self) -> Self {
        if self.find(NAME).is_none() {
            return self.clone();
        }
        self.filter(|name| name != NAME)
    }

    /// With one label set; an empty value removes it.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut pairs: Vec<_> = self
            .0
            .iter()
            .filter(|(n, _)| **n != *name)
            .cloned()
            .collect();
        pairs.push((name.into(), value.into()));
        Self::from_pairs(pairs)
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As PromQL writes it: `name{a="b"}`.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        f.write_str("{")?;
        let rest = self.iter().filter(|(name, _)| &***name != NAME);
        for (at, (name, value)) in rest.enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{name}={:?}", &**value)?;
        }
        f.write_str("}")
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(&**name, &**value)?;
        }
        map.end()
    }
}

/// Makes equal strings share one allocation.
#[derive(Debug, Default)]
pub(crate) struct Interner(HashSet<Shared, foldhash::fast::RandomState>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Shared(Arc<str>);

impl Borrow<str> for Shared {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Interner {
    pub(crate) fn intern(&mut self, text: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.0.get(&**text) {
            return known.0.clone();
        }
        self.0.insert(Shared(text.clone()));
        text.clone()
    }

    pub(crate) fn labels(&mut self, labels: &Labels) -> Labels {
        Labels(
            labels
                .iter()
                .map(|(name, value)| (self.intern(name), self.intern(value)))
                .collect(),
        )
    }

    /// Forgets strings that nobody else holds.
    pub(crate) fn shrink(&mut self) {
        self.0.retain(|shared| Arc::strong_count(&shared.0) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_unique_and_never_empty() {
        let labels = Labels::new([("b", "1"), ("a", ""), ("c", "2"), ("b", "3"), (NAME, "up")]);
        assert_eq!(labels.to_string(), r#"up{b="3", c="2"}"#);
        assert_eq!(labels.get("a"), "");
        assert_eq!(
            labels.with("c", "").without_name().to_string(),
            r#"{b="3"}"#
        );
    }

    #[test]
    fn interning_shares_and_forgets() {
        let mut interner = Interner::default();
        let one = interner.labels(&Labels::new([("a", "x")]));
        let two = interner.labels(&Labels::new([("a", "x")]));
        assert!(Arc::ptr_eq(one.find("a").unwrap(), two.find("a").unwrap()));
        drop((one, two));
        interner.shrink();
        assert_eq!(interner.0.len(), 0);
    }
}
