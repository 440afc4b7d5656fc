//! Which series carry which label: the inverted index of the head and of every block.
//!
//! Invariant: every list is sorted by id without repetition.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::metrics::labels::Labels;
use crate::metrics::matcher::Matcher;

type Values = HashMap<Arc<str>, Vec<u32>, foldhash::fast::RandomState>;

/// Name → value → ids.
#[derive(Debug, Default)]
pub(crate) struct Postings {
    names: HashMap<Arc<str>, Values, foldhash::fast::RandomState>,
    all: Vec<u32>,
}

impl Postings {
    /// Adds a series whose id is larger than every id before.
    pub(crate) fn add(&mut self, id: u32, labels: &Labels) {
        for (name, value) in labels.iter() {
            let values = match self.names.get_mut(name) {
                Some(values) => values,
                None => self.names.entry(name.clone()).or_default(),
            };
            match values.get_mut(value) {
                Some(ids) => insert(ids, id),
                None => {
                    values.insert(value.clone(), vec![id]);
                }
            }
        }
        insert(&mut self.all, id);
    }

    /// Ids of the series that all matchers accept.
    pub(crate) fn select(&self, matchers: &[Matcher]) -> Vec<u32> {
        let mut found: Option<Vec<u32>> = None;
        let (narrowing, excluding): (Vec<_>, Vec<_>) =
            matchers.iter().partition(|m| !m.matches_empty());
        for matcher in narrowing {
            let ids = self.accepted(matcher);
            found = Some(match found {
                None => ids,
                Some(before) => intersect(&before, &ids),
            });
            if found.as_ref().is_some_and(Vec::is_empty) {
                return Vec::new();
            }
        }
        let mut found = found.unwrap_or_else(|| self.all.clone());
        for matcher in excluding {
            let refused = self.refused(matcher);
            if !refused.is_empty() {
                found.retain(|id| refused.binary_search(id).is_err());
            }
        }
        found
    }

    /// Ids with a value of the label that the matcher accepts (it doesn't accept the empty one).
    fn accepted(&self, matcher: &Matcher) -> Vec<u32> {
        let Some(values) = self.names.get(matcher.name()) else {
            return Vec::new();
        };
        if let Some(listed) = matcher.listed() {
            return union(listed.into_iter().filter_map(|value| values.get(value)));
        }
        union(
            values
                .iter()
                .filter(|(value, _)| matcher.matches(value))
                .map(|(_, ids)| ids),
        )
    }

    /// Ids with a value that the matcher does not accept (it accepts the empty one).
    fn refused(&self, matcher: &Matcher) -> Vec<u32> {
        let Some(values) = self.names.get(matcher.name()) else {
            return Vec::new();
        };
        union(
            values
                .iter()
                .filter(|(value, _)| !matcher.matches(value))
                .map(|(_, ids)| ids),
        )
    }

    pub(crate) fn label_names(&self, into: &mut BTreeSet<Arc<str>>) {
        into.extend(self.names.keys().cloned());
    }

    pub(crate) fn label_values(&self, name: &str, into: &mut BTreeSet<Arc<str>>) {
        if let Some(values) = self.names.get(name) {
            into.extend(values.keys().cloned());
        }
    }
}

fn insert(ids: &mut Vec<u32>, id: u32) {
    match ids.last() {
        Some(last) if *last >= id => {
            if let Err(at) = ids.binary_search(&id) {
                ids.insert(at, id);
            }
        }
        _ => ids.push(id),
    }
}

fn union<'a>(lists: impl Iterator<Item = &'a Vec<u32>>) -> Vec<u32> {
    let mut found: Vec<u32> = Vec::new();
    let mut count = 0;
    for list in lists {
        found.extend_from_slice(list);
        count += 1;
    }
    if count > 1 {
        found.sort_unstable();
        found.dedup();
    }
    found
}

fn intersect(a: &[u32], b: &[u32]) -> Vec<u32> {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    if short.len().saturating_mul(16) < long.len() {
        let kept = short.iter().filter(|id| long.binary_search(id).is_ok());
        return kept.copied().collect();
    }
    let mut found = Vec::with_capacity(short.len());
    let mut rest = long.iter().peekable();
    for id in short {
        while rest.next_if(|other| *other < id).is_some() {}
        if rest.peek() == Some(&id) {
            found.push(*id);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::matcher::MatchOp;
    use proptest::prelude::{Strategy, prop, prop_assert_eq, proptest};

    fn label_sets() -> impl Strategy<Value = Vec<Labels>> {
        let value = prop::sample::select(vec!["", "x", "y", "xy"]);
        let labels =
            prop::collection::vec((prop::sample::select(vec!["a", "b", "c"]), value), 0..4);
        prop::collection::vec(labels.prop_map(Labels::new), 0..40)
    }

    fn matchers() -> impl Strategy<Value = Vec<Matcher>> {
        let op = prop::sample::select(vec![
            MatchOp::Equal,
            MatchOp::NotEqual,
            MatchOp::Regex,
            MatchOp::NotRegex,
        ]);
        let name = prop::sample::select(vec!["a", "b", "none"]);
        let value = prop::sample::select(vec!["", "x", "x|y", "x.*", ".*", ".+"]);
        let one = (name, op, value).prop_map(|(n, o, v)| Matcher::new(n, o, v).unwrap());
        prop::collection::vec(one, 0..4)
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_a_scan(sets in label_sets(), matchers in matchers()) {
            let mut postings = Postings::default();
            for (id, labels) in sets.iter().enumerate() {
                postings.add(id as u32, labels);
            }
            let scan: Vec<u32> = sets
                .iter()
                .enumerate()
                .filter(|(_, labels)| matchers.iter().all(|m| m.accepts(labels)))
                .map(|(id, _)| id as u32)
                .collect();
            prop_assert_eq!(postings.select(&matchers), scan);
        }
    }
}
