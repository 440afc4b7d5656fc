//! What one client holds of one type, as far as we know.

use std::collections::BTreeMap;

use crate::resource::{Aggregate, Name, Version};

/// What the client holds under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Held {
    Version(Version),
    /// It has been told that there is none.
    Nothing,
}

/// Names and what is held under them, with one version for it all.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    names: BTreeMap<Name, Held>,
    aggregate: Aggregate,
}

impl Holdings {
    pub(super) fn get(&self, name: &str) -> Option<&Held> {
        self.names.get(name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        self.names.keys()
    }

    pub(super) fn insert(&mut self, name: Name, held: Held) {
        if let Held::Version(version) = &held {
            self.aggregate.add(&name, version);
        }
        if let Some(Held::Version(before)) = self.names.insert(name.clone(), held) {
            self.aggregate.remove(&name, &before);
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some(Held::Version(before)) = self.names.remove(name) {
            self.aggregate.remove(name, &before);
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Name) -> bool) {
        let aggregate = &mut self.aggregate;
        self.names.retain(|name, held| {
            let kept = keep(name);
            if let (false, Held::Version(version)) = (kept, held) {
                aggregate.remove(name, version);
            }
            kept
        });
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Of all that is held: changes with it.
    pub(super) fn version(&self) -> Version {
        self.aggregate.version()
    }
}

impl FromIterator<(Name, Held)> for Holdings {
    fn from_iter<I: IntoIterator<Item = (Name, Held)>>(all: I) -> Self {
        let mut holdings = Self::default();
        all.into_iter()
            .for_each(|(name, held)| holdings.insert(name, held));
        holdings
    }
}
