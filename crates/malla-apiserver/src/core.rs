//! The state one server shares among its requests.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use jiff::Timestamp;
use malla_apimachinery::meta::ObjectKey;
use serde_json::Value;
use tokio::sync::watch;

use crate::admission::Hooks;
use crate::auth::{Authority, TokenKeys};
use crate::config::Config;
use crate::outside::{Dial, HostDial, NodeRuntime};
use crate::registry::{CRDS, Registry};
use crate::store::{Store, Stored};
use crate::strategy::service::Reservations;

/// Everything behind a [`crate::Server`].
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) authority: Authority,
    pub(crate) tokens: TokenKeys,
    /// Addresses and ports given to Services whose write is not durable yet.
    pub(crate) reservations: Arc<Reservations>,
    pub(crate) hooks: Hooks,
    registry: ArcSwap<Registry>,
    /// Bumped with every new registry. The lock serialises rebuilding.
    registry_version: watch::Sender<u64>,
    rebuilding: Mutex<()>,
    dial: ArcSwap<Arc<dyn Dial>>,
    node: ArcSwap<Option<Arc<dyn NodeRuntime>>>,
}

impl Core {
    pub(crate) fn new(
        config: Config,
        store: Store,
        authority: Authority,
        tokens: TokenKeys,
    ) -> Self {
        let dial: Arc<dyn Dial> = Arc::new(HostDial);
        let core = Self {
            config,
            store,
            authority,
            tokens,
            reservations: Arc::default(),
            hooks: Hooks::default(),
            registry: ArcSwap::from_pointee(Registry::builtin()),
            registry_version: watch::Sender::new(0),
            rebuilding: Mutex::new(()),
            dial: ArcSwap::from_pointee(dial),
            node: ArcSwap::from_pointee(None),
        };
        core.refresh_registry();
        core
    }

    /// What is served now.
    pub(crate) fn registry(&self) -> Guard<Arc<Registry>> {
        self.registry.load()
    }

    /// Told when what is served changes.
    pub(crate) fn registry_changes(&self) -> watch::Receiver<u64> {
        self.registry_version.subscribe()
    }

    /// Serves what the stored CRDs say from now on.
    pub(crate) fn refresh_registry(&self) {
        let _one_at_a_time = self
            .rebuilding
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let crds: Vec<Arc<Value>> = {
            let world = self.store.read();
            let all = world.range(CRDS, None, None);
            all.map(|(_, stored)| stored.object.clone()).collect()
        };
        let next = self.registry().with_crds(crds.iter().map(|crd| &**crd));
        self.registry.store(Arc::new(next));
        self.registry_version.send_modify(|version| *version += 1);
    }

    pub(crate) fn dial(&self) -> Arc<dyn Dial> {
        Arc::clone(&self.dial.load())
    }

    pub(crate) fn attach_dial(&self, dial: Arc<dyn Dial>) {
        self.dial.store(Arc::new(dial));
    }

    pub(crate) fn node(&self) -> Option<Arc<dyn NodeRuntime>> {
        Option::clone(&self.node.load())
    }

    pub(crate) fn attach_node(&self, node: Arc<dyn NodeRuntime>) {
        self.node.store(Arc::new(Some(node)));
    }

    /// The wall clock the caller chose.
    pub(crate) fn now(&self) -> Timestamp {
        (self.config.clock)()
    }

    /// A stored object of a built-in kind.
    pub(crate) fn stored(&self, resource: &str, namespace: &str, name: &str) -> Option<Stored> {
        let key = ObjectKey {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        self.store.get(resource, &key)
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}
