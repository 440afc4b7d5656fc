//! What the consuming end asks of its owner.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::stream::Event;
use crate::resource::{Name, TypeUrl, Version};

/// What one wants of a type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interest {
    /// Everything the server has for this node.
    pub wildcard: bool,
    /// These by name, besides.
    pub names: BTreeSet<Name>,
}

impl Interest {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self {
            wildcard: true,
            names: BTreeSet::new(),
        }
    }

    /// Nothing but these.
    #[must_use]
    pub fn names<N: Into<Name>>(names: impl IntoIterator<Item = N>) -> Self {
        Self {
            wildcard: false,
            names: names.into_iter().map(Into::into).collect(),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.wildcard && self.names.is_empty()
    }

    /// Whether `name` belongs to it.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }
}

/// A resource as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub name: Name,
    pub version: Version,
    /// The encoded message, without its `Any`.
    pub body: Bytes,
}

/// One response, whatever the variant: what is new or changed, and what is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    pub type_url: TypeUrl,
    pub resources: Vec<Received>,
    /// Gone, or (for a name that was asked for) known not to exist.
    pub removed: Vec<Name>,
    /// The server's name for this state; for display.
    pub version: String,
}

/// A resource that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub name: Name,
    /// For the author of the configuration: what is wrong, and where.
    pub reason: String,
}

/// The answer to an [`Update`]. What is not rejected is accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    pub rejected: Vec<Rejection>,
    /// Types whose subscription is to be as given here from now on: the endpoints of the clusters
    /// that have just arrived, and so on.
    pub subscriptions: Vec<(TypeUrl, Interest)>,
}

/// Understands resources.
pub trait ResourceHandler: Send {
    /// What to subscribe to at the start.
    fn subscriptions(&self) -> Vec<(TypeUrl, Interest)>;

    /// Takes over one response as a whole. A rejected resource's last good version must stay in use.
    fn apply(&mut self, update: Update) -> Verdict;

    /// The connection came or went, or a response was answered.
    fn event(&mut self, event: &Event) {
        let _ = event;
    }
}
