//! Type and help of metrics, as their targets describe them.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use serde::Serialize;

use crate::scrape::text;

/// Metrics remembered; more are not.
const MOST: usize = 20_000;
/// Bytes of help kept of one metric.
const LONGEST_HELP: usize = 1024;

/// What is known of one metric.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct About {
    #[serde(rename = "type")]
    pub kind: String,
    pub help: String,
    /// Always empty: the text format has no units.
    pub unit: String,
}

/// By metric name. Bounded.
#[derive(Debug, Default)]
pub struct Metadata {
    known: RwLock<BTreeMap<String, About>>,
}

/// Collects the descriptions of one exposition, so that the lock is held only when there is news.
pub(crate) struct Reading<'a> {
    metadata: &'a Metadata,
}

impl Metadata {
    pub(crate) fn begin(&self) -> Reading<'_> {
        Reading { metadata: self }
    }

    /// All of them, or one.
    #[must_use]
    pub fn get(&self, name: Option<&str>, limit: usize) -> BTreeMap<String, Vec<About>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = known
            .iter()
            .filter(|(n, _)| name.is_none_or(|name| *n == name));
        let wanted = wanted.take(limit);
        wanted
            .map(|(n, about)| (n.clone(), vec![about.clone()]))
            .collect()
    }

    fn update(&self, name: &str, same: impl Fn(&About) -> bool, change: impl FnOnce(&mut About)) {
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            match known.get(name) {
                Some(about) if same(about) => return,
                None if known.len() >= MOST || name.len() > text::LONGEST_LABEL => return,
                _ => {}
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        change(known.entry(name.to_owned()).or_default());
    }
}

impl Reading<'_> {
    pub(crate) fn kind(&mut self, name: &str, kind: &str) {
        let kind = match kind {
            "counter" | "gauge" | "histogram" | "summary" => kind,
            _ => "unknown",
        };
        let same = |about: &About| about.kind == kind;
        self.metadata
            .update(name, same, |about| about.kind = kind.to_owned());
    }

    pub(crate) fn help(&mut self, name: &str, raw: &str) {
        let end = raw.floor_char_boundary(LONGEST_HELP);
        let help = text::help(raw.get(..end).unwrap_or_default());
        let same = |about: &About| about.help == help;
        self.metadata
            .update(name, same, |about| about.help.clone_from(&help));
    }
}
