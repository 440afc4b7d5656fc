//! One immutable world of the proxy, and the cells that change without rebuilding it.
//!
//! A [`Draft`] starts from the current snapshot, takes what a discovery response changed, and becomes the next one;
//! everything untouched is shared. Endpoints and secrets live in cells that survive from snapshot to snapshot, so an
//! endpoint update is one pointer store and rebuilds nothing.
//!
//! Invariants: a snapshot never changes after [`Draft::finish`]; a cell is only stored to by the single writer that
//! owns the draft; names in routes stay names, so a cluster that arrives later heals the route.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use foldhash::fast::RandomState;

use crate::cluster::{Cluster, Discovery};
use crate::endpoints::EndpointSet;
use crate::http_filter::Extension;
use crate::listener::Listener;
use crate::route::RouteConfig;
use crate::secret::Secret;

/// A table by resource name.
pub type Table<T> = HashMap<Arc<str>, T, RandomState>;

/// The endpoints of one cluster as they are now; `None` until the first load assignment came.
pub type EndpointCell = Arc<ArcSwapOption<EndpointSet>>;
/// One secret as it is now; `None` until it came.
pub type SecretCell = Arc<ArcSwapOption<Secret>>;

/// Everything the proxy runs on at one moment.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// Counts up by one with each snapshot.
    pub version: u64,
    listeners: Table<Arc<Listener>>,
    routes: Table<Arc<RouteConfig>>,
    extensions: Table<Arc<Extension>>,
    clusters: Table<ClusterEntry>,
    endpoints: Table<EndpointCell>,
    secrets: Table<SecretCell>,
}

/// A cluster with the cell its endpoints are in.
#[derive(Debug, Clone)]
pub struct ClusterEntry {
    /// The checked cluster; same pointer as long as the resource did not change.
    pub config: Arc<Cluster>,
    /// Endpoints of STATIC and EDS clusters; empty for DNS and ORIGINAL_DST, whose owner finds them itself.
    pub endpoints: EndpointCell,
}

impl Snapshot {
    /// A listener by name.
    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.get(name)
    }

    /// All listeners, in no particular order.
    pub fn listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners.values()
    }

    /// A route configuration by name.
    pub fn route(&self, name: &str) -> Option<&Arc<RouteConfig>> {
        self.routes.get(name)
    }

    /// All route configurations, in no particular order.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<RouteConfig>> {
        self.routes.values()
    }

    /// An HTTP filter that came on its own, by name.
    pub fn extension(&self, name: &str) -> Option<&Arc<Extension>> {
        self.extensions.get(name)
    }

    /// A cluster by name.
    pub fn cluster(&self, name: &str) -> Option<&ClusterEntry> {
        self.clusters.get(name)
    }

    /// All clusters, in no particular order.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterEntry> {
        self.clusters.values()
    }

    /// The cell of a secret; it exists once the secret came or something in the snapshot named it.
    pub fn secret(&self, name: &str) -> Option<&SecretCell> {
        self.secrets.get(name)
    }

    /// All secrets there are cells for, by name.
    pub fn secrets(&self) -> impl Iterator<Item = (&Arc<str>, &SecretCell)> {
        self.secrets.iter()
    }

    /// All load assignments there are cells for, by EDS name.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Arc<str>, &EndpointCell)> {
        self.endpoints.iter()
    }

    /// Starts the next snapshot.
    pub fn draft(&self) -> Draft {
        Draft { next: self.clone() }
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("version", &self.version)
            .field("listeners", &self.listeners.len())
            .field("routes", &self.routes.len())
            .field("extensions", &self.extensions.len())
            .field("clusters", &self.clusters.len())
            .field("endpoints", &self.endpoints.len())
            .field("secrets", &self.secrets.len())
            .finish()
    }
}

/// The next snapshot, being built by the one writer.
#[derive(Debug)]
pub struct Draft {
    next: Snapshot,
}

impl Draft {
    /// Adds or replaces a listener.
    pub fn put_listener(&mut self, listener: Listener) {
        self.next
            .listeners
            .insert(Arc::clone(&listener.name), Arc::new(listener));
    }

    /// Removes a listener; true if it was there.
    pub fn remove_listener(&mut self, name: &str) -> bool {
        self.next.listeners.remove(name).is_some()
    }

    /// Adds or replaces a route configuration.
    pub fn put_route(&mut self, route: RouteConfig) {
        self.next
            .routes
            .insert(Arc::clone(&route.name), Arc::new(route));
    }

    /// Removes a route configuration; true if it was there.
    pub fn remove_route(&mut self, name: &str) -> bool {
        self.next.routes.remove(name).is_some()
    }

    /// Adds or replaces an HTTP filter that came on its own.
    pub fn put_extension(&mut self, extension: Extension) {
        self.next
            .extensions
            .insert(Arc::clone(&extension.name), Arc::new(extension));
    }

    /// Removes such a filter; true if it was there.
    pub fn remove_extension(&mut self, name: &str) -> bool {
        self.next.extensions.remove(name).is_some()
    }

    /// Adds or replaces a cluster and connects it to its endpoint cell.
    pub fn put_cluster(&mut self, cluster: Cluster) {
        let config = Arc::new(cluster);
        let endpoints = match &config.discovery {
            Discovery::Static(set) => Arc::new(ArcSwapOption::from(Some(Arc::clone(set)))),
            Discovery::Eds { service, .. } => self.endpoint_cell(service),
            Discovery::StrictDns(_) | Discovery::LogicalDns(_) | Discovery::OriginalDst(_) => {
                EndpointCell::default()
            }
        };
        self.next
            .clusters
            .insert(Arc::clone(&config.name), ClusterEntry { config, endpoints });
    }

    /// Removes a cluster; true if it was there.
    pub fn remove_cluster(&mut self, name: &str) -> bool {
        self.next.clusters.remove(name).is_some()
    }

    /// Stores a load assignment at once: readers of the current snapshot see it too.
    pub fn put_endpoints(&mut self, set: EndpointSet) {
        let cell = self.endpoint_cell(&set.cluster_name);
        cell.store(Some(Arc::new(set)));
    }

    /// Forgets a load assignment: clusters that use it have no endpoints. True if it was there.
    pub fn remove_endpoints(&mut self, name: &str) -> bool {
        self.next
            .endpoints
            .get(name)
            .is_some_and(|cell| cell.swap(None).is_some())
    }

    /// Stores a secret at once: readers of the current snapshot see it too.
    pub fn put_secret(&mut self, secret: Secret) {
        let cell = self.secret_cell(&secret.name);
        cell.store(Some(Arc::new(secret)));
    }

    /// Forgets a secret; true if it was there.
    pub fn remove_secret(&mut self, name: &str) -> bool {
        self.next
            .secrets
            .get(name)
            .is_some_and(|cell| cell.swap(None).is_some())
    }

    /// The cell of a secret that something names, made now if need be.
    pub fn secret_cell(&mut self, name: &Arc<str>) -> SecretCell {
        Arc::clone(self.next.secrets.entry(Arc::clone(name)).or_default())
    }

    /// The finished snapshot, one version on.
    pub fn finish(mut self) -> Snapshot {
        self.next.version += 1;
        let Snapshot {
            clusters,
            endpoints,
            ..
        } = &mut self.next;
        let used: std::collections::HashSet<&str> = clusters
            .values()
            .filter_map(|entry| match &entry.config.discovery {
                Discovery::Eds { service, .. } => Some(&**service),
                _ => None,
            })
            .collect();
        // A cell nobody names and nobody filled is garbage.
        endpoints.retain(|name, cell| used.contains(&**name) || cell.load().is_some());
        self.next
    }

    fn endpoint_cell(&mut self, name: &Arc<str>) -> EndpointCell {
        Arc::clone(self.next.endpoints.entry(Arc::clone(name)).or_default())
    }
}

/// A shared current snapshot: readers load, one writer stores.
pub type SnapshotCell = ArcSwap<Snapshot>;
