//! What one client wants of one type, what it holds, and what it has been sent.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::facts::TypeFacts;
use crate::order;
use crate::resource::{Name, NodeResources, Resource, ResourceMap, TypeUrl, Version};

/// The name that subscribes to everything.
pub(crate) const WILDCARD: &str = "*";

/// What the client holds under a name, as far as we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Held {
    Version(Version),
    /// It has been told that there is none.
    Nothing,
}

/// A push that has not been answered.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) nonce: String,
    pub(super) at: Instant,
    /// [`NodeResources::version`] when it was sent.
    pub(super) version: Version,
    /// Those that were new to the client.
    pub(super) names: Vec<Name>,
    /// All that it said something about.
    pub(super) about: Vec<Name>,
}

/// What a push holds, in names.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Those that are new to the client.
    pub(super) names: Vec<Name>,
    /// All that it says something about.
    pub(super) about: Vec<Name>,
    /// How many of them are removals.
    pub(super) removed: usize,
}

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) type_url: TypeUrl,
    pub(super) wildcard: bool,
    /// The client has named a resource at least once; from then on an empty list means "none".
    pub(super) explicit: bool,
    pub(super) names: BTreeSet<Name>,
    pub(super) held: BTreeMap<Name, Held>,
    /// To be answered even if nothing changed: the client asked.
    pub(super) asked: BTreeSet<Name>,
    /// The first answer to a wildcard is sent even if it is empty: clients wait for it.
    pub(super) unanswered: bool,
    /// Something may have to be sent.
    pub(super) due: bool,
    /// [`NodeResources::revision`] that `held` was last compared with.
    pub(super) compared: Option<u64>,
    pub(super) in_flight: Option<InFlight>,
    pub(super) last_nonce: Option<String>,
    pub(super) facts: TypeFacts,
}

impl Subscription {
    pub(super) fn new(type_url: TypeUrl) -> Self {
        Self {
            type_url,
            wildcard: false,
            explicit: false,
            names: BTreeSet::new(),
            held: BTreeMap::new(),
            asked: BTreeSet::new(),
            unanswered: false,
            due: true,
            compared: None,
            in_flight: None,
            last_nonce: None,
            facts: TypeFacts::default(),
        }
    }

    pub(super) fn order(&self) -> (u8, &TypeUrl) {
        (order::rank(&self.type_url), &self.type_url)
    }

    /// New content: due, unless the source says that nothing of this type has changed.
    pub(super) fn content_changed(&mut self, resources: &dyn NodeResources) {
        let revision = resources.revision(&self.type_url);
        if revision.is_none() || revision != self.compared {
            self.due = true;
        }
    }

    pub(super) fn subscribe_wildcard(&mut self) {
        if !self.wildcard {
            self.wildcard = true;
            self.unanswered = true;
        }
    }

    pub(super) fn unsubscribe_wildcard(&mut self) {
        self.wildcard = false;
        self.unanswered = false;
        let names = &self.names;
        self.held.retain(|name, _| names.contains(name));
        self.asked.retain(|name| names.contains(name));
    }

    /// Visits everything the client is entitled to, with what there is.
    pub(super) fn each_wanted(
        &self,
        resources: &dyn NodeResources,
        mut visit: impl FnMut(&Name, Option<&Resource>),
    ) {
        let all = self.everything(resources);
        for (name, resource) in all.into_iter().flatten() {
            visit(name, Some(resource));
        }
        for name in &self.names {
            if !all.is_some_and(|all| all.contains_key(name)) {
                visit(name, resources.get(&self.type_url, name).as_ref());
            }
        }
    }

    /// Whether the client is entitled to `name`, be there such a resource or not.
    pub(super) fn wants(&self, resources: &dyn NodeResources, name: &str) -> bool {
        self.names.contains(name)
            || self
                .everything(resources)
                .is_some_and(|all| all.contains_key(name))
    }

    /// What the wildcard covers, when it is subscribed to.
    fn everything<'a>(&self, resources: &'a dyn NodeResources) -> Option<&'a ResourceMap> {
        let wildcard = self.wildcard.then_some(&self.type_url)?;
        resources.wildcard(wildcard)
    }

    /// Whether the client holds exactly this.
    pub(super) fn holds(&self, name: &str, resource: &Resource) -> bool {
        matches!(self.held.get(name), Some(Held::Version(version)) if *version == resource.version)
    }

    /// Whether there is something the client does not have yet.
    pub(super) fn has_additions(&self, resources: &dyn NodeResources) -> bool {
        let mut any = false;
        self.each_wanted(resources, |name, resource| {
            any |= resource.is_some_and(|resource| !self.holds(name, resource));
        });
        any
    }
}
