//! The resources the proxy was given, as they were given: what `/config_dump` shows.
//!
//! Invariant: it is written by the one writer of the configuration and read by the admin endpoint only; traffic never
//! looks at it.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;

/// One resource, or what is known of it.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// The good version in use.
    pub accepted: Option<Version>,
    /// A later version that was refused.
    pub refused: Option<Refused>,
    /// From the bootstrap, not from a control plane.
    pub is_static: bool,
}

/// One version of a resource.
#[derive(Debug, Clone)]
pub struct Version {
    pub version: Arc<str>,
    /// The encoded message, without its `Any`.
    pub body: Bytes,
    pub updated: SystemTime,
}

/// A version that was refused.
#[derive(Debug, Clone)]
pub struct Refused {
    pub at: SystemTime,
    pub version: Arc<str>,
    pub reason: String,
    pub body: Bytes,
}

type Resources = BTreeMap<String, BTreeMap<Arc<str>, Entry>>;

/// Everything by type URL and name; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    resources: Arc<Mutex<Resources>>,
}

impl Inventory {
    /// Notes a version now in use.
    pub fn accept(
        &self,
        type_url: &str,
        name: &Arc<str>,
        version: &Arc<str>,
        body: Bytes,
        is_static: bool,
    ) {
        let mut resources = self.lock();
        let entry = resources
            .entry(type_url.to_owned())
            .or_default()
            .entry(Arc::clone(name))
            .or_default();
        entry.accepted = Some(Version {
            version: Arc::clone(version),
            body,
            updated: SystemTime::now(),
        });
        entry.refused = None;
        entry.is_static = is_static;
    }

    /// The version in use.
    pub fn accepted(&self, type_url: &str, name: &str) -> Option<Version> {
        let resources = self.lock();
        resources.get(type_url)?.get(name)?.accepted.clone()
    }

    /// Whether a resource is of the bootstrap.
    pub fn is_static(&self, type_url: &str, name: &str) -> bool {
        let resources = self.lock();
        let entry = resources.get(type_url).and_then(|known| known.get(name));
        entry.is_some_and(|entry| entry.is_static)
    }

    /// Notes a version that could not be used.
    pub fn refuse(
        &self,
        type_url: &str,
        name: &Arc<str>,
        version: &Arc<str>,
        body: Bytes,
        reason: String,
    ) {
        let mut resources = self.lock();
        let entry = resources
            .entry(type_url.to_owned())
            .or_default()
            .entry(Arc::clone(name))
            .or_default();
        entry.refused = Some(Refused {
            at: SystemTime::now(),
            version: Arc::clone(version),
            reason,
            body,
        });
    }

    /// Forgets a resource.
    pub fn remove(&self, type_url: &str, name: &str) {
        if let Some(resources) = self.lock().get_mut(type_url) {
            resources.remove(name);
        }
    }

    /// The resources of one type, by name.
    pub fn of(&self, type_url: &str) -> BTreeMap<Arc<str>, Entry> {
        self.lock().get(type_url).cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Resources> {
        // Entries are replaced whole, so a panic elsewhere leaves them whole.
        self.resources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
