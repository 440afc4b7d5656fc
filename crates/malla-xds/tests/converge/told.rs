//! Resources that tell what has changed of them, if it is not too long ago.

use std::collections::BTreeSet;
use std::sync::Arc;

use malla_xds::{Layers, Name, NodeResources, Resource, ResourceMap, ResourceSet};

/// Publications back from which changes are remembered.
const REMEMBERED: usize = 3;

/// Everything that was published, of which the last counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told(Vec<Arc<ResourceSet>>);

impl Told {
    pub(crate) fn publish(&mut self, set: ResourceSet) {
        self.0.push(Arc::new(set));
    }

    fn now(&self) -> &ResourceSet {
        self.0.last().unwrap()
    }

    fn map(&self, at: usize, type_url: &str) -> ResourceMap {
        let all = self.0[at].wildcard(type_url).into_iter();
        let all = all.flat_map(Layers::iter);
        all.map(|(name, it)| (name.clone(), it.clone())).collect()
    }
}

impl NodeResources for Told {
    fn version(&self) -> &str {
        self.now().version()
    }

    fn wildcard(&self, type_url: &str) -> Option<Layers<'_>> {
        self.now().wildcard(type_url)
    }

    fn get(&self, type_url: &str, name: &str) -> Option<Resource> {
        self.now().get(type_url, name)
    }

    /// The first publication since which the type is the same.
    fn revision(&self, type_url: &str) -> Option<u64> {
        let last = self.0.len() - 1;
        let now = self.map(last, type_url);
        let mut earlier = (0..last).rev();
        let other = earlier.find(|at| self.map(*at, type_url) != now);
        u64::try_from(other.map_or(0, |at| at + 1)).ok()
    }

    fn changed(&self, type_url: &str, since: u64) -> Option<Vec<Name>> {
        let (since, last) = (usize::try_from(since).unwrap(), self.0.len() - 1);
        if since + REMEMBERED < last {
            return None;
        }
        let (then, now) = (self.map(since, type_url), self.map(last, type_url));
        let names: BTreeSet<&Name> = then.keys().chain(now.keys()).collect();
        let changed = names
            .into_iter()
            .filter(|name| then.get(*name) != now.get(*name));
        Some(changed.cloned().collect())
    }
}
