//! What one client wants of one type, what it holds, and what it has been sent.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::facts::TypeFacts;
use super::held::{Held, Holdings};
use crate::order;
use crate::resource::{Layers, Name, NodeResources, Resource, TypeUrl, Version};

/// The name that subscribes to everything.
pub(crate) const WILDCARD: &str = "*";

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
    pub(super) held: Holdings,
    /// To be answered even if nothing changed: the client asked.
    pub(super) asked: BTreeSet<Name>,
    /// The first answer to a wildcard is sent even if it is empty: clients wait for it.
    pub(super) unanswered: bool,
    /// Something may have to be sent.
    pub(super) due: bool,
    /// [`NodeResources::revision`] that `held` was last compared with, and agreed with but for what the
    /// client rejects.
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
            held: Holdings::default(),
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

    /// What was to be sent has been, but for removals that are deferred: the next comparison starts where this
    /// one did then.
    pub(super) fn compared_with(&mut self, resources: &dyn NodeResources, deferred: bool) {
        self.due = deferred;
        if !deferred {
            self.compared = resources.revision(&self.type_url);
        }
    }

    pub(super) fn subscribe_wildcard(&mut self) {
        if !self.wildcard {
            self.wildcard = true;
            self.unanswered = true;
            self.compared = None;
        }
    }

    pub(super) fn unsubscribe_wildcard(&mut self) {
        self.wildcard = false;
        self.unanswered = false;
        let names = &self.names;
        self.held.retain(|name| names.contains(name));
        self.asked.retain(|name| names.contains(name));
    }

    /// Visits everything the client is entitled to, with what there is.
    pub(super) fn each_wanted(
        &self,
        resources: &dyn NodeResources,
        mut visit: impl FnMut(&Name, Option<&Resource>),
    ) {
        let all = self.everything(resources);
        for (name, resource) in all.into_iter().flat_map(Layers::iter) {
            visit(name, Some(resource));
        }
        for name in &self.names {
            if !all.is_some_and(|all| all.contains(name)) {
                visit(name, resources.get(&self.type_url, name).as_ref());
            }
        }
    }

    /// Whether the client is entitled to `name`, be there such a resource or not.
    pub(super) fn wants(&self, resources: &dyn NodeResources, name: &str) -> bool {
        self.names.contains(name)
            || self
                .everything(resources)
                .is_some_and(|all| all.contains(name))
    }

    /// What the wildcard covers, when it is subscribed to.
    fn everything<'a>(&self, resources: &'a dyn NodeResources) -> Option<Layers<'a>> {
        let wildcard = self.wildcard.then_some(&self.type_url)?;
        resources.wildcard(wildcard)
    }

    /// Whether the client holds exactly this.
    pub(super) fn holds(&self, name: &str, resource: &Resource) -> bool {
        matches!(self.held.get(name), Some(Held::Version(version)) if *version == resource.version)
    }

    /// The only names at which what the client holds may differ from what it should: those that have changed
    /// since they were compared, and those it asked about. `None` where all have to be looked at.
    pub(super) fn suspects(&self, resources: &dyn NodeResources) -> Option<BTreeSet<Name>> {
        let changed = resources.changed(&self.type_url, self.compared?)?;
        Some(
            changed
                .into_iter()
                .chain(self.asked.iter().cloned())
                .collect(),
        )
    }

    /// Whether there is something the client does not have yet.
    pub(super) fn has_additions(&self, resources: &dyn NodeResources) -> bool {
        if let Some(suspects) = self.suspects(resources) {
            return suspects.iter().any(|name| {
                let resource = resources.get(&self.type_url, name);
                self.wants(resources, name) && resource.is_some_and(|it| !self.holds(name, &it))
            });
        }
        let mut any = false;
        self.each_wanted(resources, |name, resource| {
            any |= resource.is_some_and(|resource| !self.holds(name, resource));
        });
        any
    }
}
