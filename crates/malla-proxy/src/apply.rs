//! From resources to what is served: parse, check, publish, tell the listeners.
//!
//! One [`Applier`] writes the configuration, from a bootstrap file and from control planes alike. Per response: everything
//! is parsed first, listeners bind, then one snapshot is published, then what has all it needs takes over.
//!
//! Invariants: a resource that is refused leaves its last good version serving; a cluster that still waits for endpoints
//! or secrets leaves its former version serving; a listener whose routes have not come yet is bound but not served, so its
//! first client waits instead of getting an error.
mod agent;
mod extensions;
mod identity;
mod refs;
mod settle;
mod warm;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use malla_proxy_config::bootstrap::Bootstrap;
use malla_proxy_config::cluster::{Bind, Cluster, Discovery};
use malla_proxy_config::config_source::{ConfigSource, Origin};
use malla_proxy_config::endpoints::EndpointSet;
use malla_proxy_config::listener::Listener;
use malla_proxy_config::route::RouteConfig;
use malla_proxy_config::runtime::Values;
use malla_proxy_config::secret::Secret;
use malla_proxy_config::{Checked, Invalid};
use malla_runtime::ready::Gate;
use malla_xds::client::{Received, Rejection, Update};
use malla_xds_proto::{
    bootstrap as pb_bootstrap, cluster as pb_cluster, endpoint, listener, route, tls, type_url,
};
use prost::Message;
use tokio::time::Instant;

use crate::inventory::{Inventory, Version};
use crate::listener::manager::{ListenError, Manager, Reservation};
use crate::live::Live;
use crate::runtime::{self, Runtime};
use crate::tls::TlsSetup;
use crate::upstream::cluster::Clusters;

pub use self::identity::own_identity;
pub use self::refs::Need;
use self::warm::{Fetch, Fetches};

/// The names under which a workload's own credential and roots are known in a mesh.
pub const WORKLOAD_SECRETS: [&str; 2] = ["default", "ROOTCA"];

/// Why a bootstrap cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("listener `{name}`: {source}{}", reason(.source))]
    Listener { name: Arc<str>, source: ListenError },
    #[error("cluster `{name}`: {reason}")]
    Cluster { name: Arc<str>, reason: String },
    #[error("secret `{name}`: {reason}")]
    Secret { name: Arc<str>, reason: String },
    #[error("dynamic_resources.{field}: {reason}")]
    Source { field: &'static str, reason: String },
}

fn reason(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Opened as the first configuration is in place.
#[derive(Debug, Clone)]
pub struct Gates {
    pub clusters: Gate,
    pub listeners: Gate,
}

/// The one writer of the configuration.
#[derive(Debug)]
pub struct Applier {
    live: Live,
    manager: Arc<Mutex<Manager>>,
    clusters: Clusters,
    inventory: Inventory,
    setup: TlsSetup,
    gates: Gates,
    /// Secrets that come from this process's own identity.
    own_secrets: BTreeSet<Arc<str>>,
    /// Where connections to clusters come from that do not say it.
    bind: Option<Bind>,
    /// Clusters of the bootstrap through which configuration may come.
    static_clusters: BTreeSet<Arc<str>>,
    /// New versions of clusters that wait for endpoints or secrets.
    warming_clusters: BTreeMap<Arc<str>, Cluster>,
    /// Bound listeners that wait for routes or secrets.
    warming: BTreeMap<Arc<str>, Reservation>,
    fetches: Fetches,
    /// The first clusters and listeners, where a control plane has them.
    first_clusters: Option<Fetch>,
    first_listeners: Option<Fetch>,
    /// The first clusters are there, or nobody waits for them any more.
    clusters_settled: bool,
    /// Secrets as they were given, for those that are made of files.
    from_files: HashMap<Arc<str>, Secret>,
    runtime: Runtime,
    /// What is applied is not new, but read again.
    again: bool,
}

impl Applier {
    pub fn new(
        live: Live,
        manager: Arc<Mutex<Manager>>,
        clusters: Clusters,
        inventory: Inventory,
        setup: TlsSetup,
        gates: Gates,
        has_identity: bool,
    ) -> Self {
        let own_secrets = WORKLOAD_SECRETS
            .iter()
            .filter(|_| has_identity)
            .map(|name| Arc::from(*name))
            .collect();
        Self {
            live,
            manager,
            clusters,
            inventory,
            setup,
            gates,
            own_secrets,
            bind: None,
            static_clusters: BTreeSet::new(),
            warming_clusters: BTreeMap::new(),
            warming: BTreeMap::new(),
            fetches: Fetches::default(),
            first_clusters: None,
            first_listeners: None,
            clusters_settled: false,
            from_files: HashMap::new(),
            runtime: Runtime::default(),
            again: false,
        }
    }

    /// Applies a bootstrap's static resources. All of them must be usable.
    pub fn bootstrap(&mut self, wire: pb_bootstrap::Bootstrap) -> Result<Bootstrap, ApplyError> {
        self.note_static(&wire);
        let layers = Bootstrap::runtime_layers(&wire)?;
        let cluster = wire.node.as_ref().map_or("", |node| &node.cluster);
        self.runtime = Runtime::new(layers, cluster);
        let Checked { value, warnings } = Bootstrap::from_proto_with(wire, self.runtime.values())?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        for cluster in &value.clusters {
            if !matches!(cluster.discovery, Discovery::Eds { .. }) {
                self.static_clusters.insert(Arc::clone(&cluster.name));
            }
        }
        check_sources(&value, &self.static_clusters)?;
        self.bind.clone_from(&value.bind);
        for cluster in &value.clusters {
            let checked = self
                .check_cluster(cluster)
                .and_then(|()| self.check_needs(&refs::of_cluster(cluster)));
            checked.map_err(|reason| ApplyError::Cluster {
                name: Arc::clone(&cluster.name),
                reason,
            })?;
        }
        let resources = value.clone();
        self.live.update_now(|draft| resources.apply(draft));
        let snapshot = self.live.load_full();
        self.clusters.follow(&snapshot);
        for listener in &value.listeners {
            let at = |source| ApplyError::Listener {
                name: Arc::clone(&listener.name),
                source,
            };
            self.check_needs(&refs::of_listener(listener))
                .map_err(|reason| at(ListenError::Source(reason)))?;
            let reservation = self
                .manager()
                .reserve(listener, &snapshot, None)
                .map_err(at)?;
            // The draft may have named it: look it up by address then.
            let found = snapshot.listener(&listener.name).or_else(|| {
                snapshot
                    .listeners()
                    .find(|other| other.addresses == listener.addresses)
            });
            if let Some(listener) = found {
                self.warming.insert(Arc::clone(&listener.name), reservation);
            }
        }
        let now = Instant::now();
        let first = |source: &Option<ConfigSource>| {
            source
                .as_ref()
                .map(|source| Fetch::new(now, source.first_fetch))
        };
        self.first_clusters = first(&value.dynamic.clusters);
        self.first_listeners = first(&value.dynamic.listeners);
        Ok(value)
    }

    /// A control plane that is not in the bootstrap will send clusters and listeners, however long it takes.
    pub fn expect_everything(&mut self) {
        let now = Instant::now();
        self.first_clusters = Some(Fetch::new(now, None));
        self.first_listeners = Some(Fetch::new(now, None));
    }

    /// Where it notes what it was given.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The configuration this one writes.
    pub fn live(&self) -> &Live {
        &self.live
    }

    fn manager(&self) -> MutexGuard<'_, Manager> {
        // The manager leaves itself consistent at every step that can fail.
        self.manager.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_static(&self, wire: &pb_bootstrap::Bootstrap) {
        let Some(resources) = &wire.static_resources else {
            return;
        };
        let version = Arc::from("");
        let note = |url: &str, name: &str, body: Vec<u8>| {
            self.inventory
                .accept(url, &Arc::from(name), &version, body.into(), true);
        };
        for cluster in &resources.clusters {
            note(type_url::CLUSTER, &cluster.name, cluster.encode_to_vec());
        }
        for listener in &resources.listeners {
            note(type_url::LISTENER, &listener.name, listener.encode_to_vec());
        }
        for secret in &resources.secrets {
            note(type_url::SECRET, &secret.name, secret.encode_to_vec());
        }
    }

    /// Errors that only show when certificates are read.
    fn check_cluster(&self, cluster: &Cluster) -> Result<(), String> {
        let snapshot = self.live.load_full();
        self.clusters
            .check_tls(cluster, &snapshot)
            .map_err(|error| format!("{error}{}", reason(&error)))
    }

    fn apply_clusters(&mut self, update: &Update, rejected: &mut Vec<Rejection>) {
        let mut parsed = Vec::new();
        for received in &update.resources {
            let cluster = self.read(
                &update.type_url,
                received,
                pb_cluster::Cluster::decode,
                Cluster::from_proto_with,
                rejected,
            );
            let Some(mut cluster) = cluster else { continue };
            cluster.bind_by(self.bind.as_ref());
            let checked = self
                .check_cluster(&cluster)
                .and_then(|()| self.check_needs(&refs::of_cluster(&cluster)));
            match checked {
                Ok(()) => {
                    self.accept(&update.type_url, received);
                    parsed.push(cluster);
                }
                Err(reason) => self.reject(&update.type_url, received, reason, rejected),
            }
        }
        for cluster in parsed {
            self.warming_clusters
                .insert(Arc::clone(&cluster.name), cluster);
        }
        for name in &update.removed {
            self.warming_clusters.remove(name);
        }
        if !update.removed.is_empty() {
            self.live.update_now(|draft| {
                for name in &update.removed {
                    draft.remove_cluster(name);
                }
            });
            self.clusters.follow(&self.live.load_full());
        }
        if let Some(first) = &mut self.first_clusters {
            first.done();
        }
    }

    fn apply_endpoints(&mut self, update: &Update, rejected: &mut Vec<Rejection>) {
        let decode = endpoint::ClusterLoadAssignment::decode;
        let parsed = self.read_all(update, decode, EndpointSet::from_proto_with, rejected);
        self.live.update_now(|draft| {
            for set in parsed {
                draft.put_endpoints(set);
            }
            for name in &update.removed {
                draft.remove_endpoints(name);
            }
        });
        self.clusters.note_endpoints();
    }

    fn apply_routes(&mut self, update: &Update, rejected: &mut Vec<Rejection>) {
        let (same, new): (Vec<_>, Vec<_>) = update
            .resources
            .iter()
            .cloned()
            .partition(|received| self.is_in_use(&update.type_url, received));
        for received in &same {
            self.accept(&update.type_url, received);
        }
        let new = Update {
            resources: new,
            ..update.clone()
        };
        let parsed = self.read_all(
            &new,
            route::RouteConfiguration::decode,
            RouteConfig::from_proto_with,
            rejected,
        );
        self.live.update_now(|draft| {
            for route in parsed {
                draft.put_route(route);
            }
            for name in &update.removed {
                draft.remove_route(name);
            }
        });
    }

    fn apply_secrets(&mut self, update: &Update, rejected: &mut Vec<Rejection>) {
        let mut usable = Vec::new();
        for received in &update.resources {
            if self.own_secrets.contains(&received.name) {
                continue;
            }
            let secret = self.read(
                &update.type_url,
                received,
                tls::Secret::decode,
                Secret::from_proto_with,
                rejected,
            );
            let Some(secret) = secret else { continue };
            match self.setup.load_secret(&secret) {
                Ok(loaded) => {
                    self.accept(&update.type_url, received);
                    if secret.files().0.is_empty() {
                        self.from_files.remove(&secret.name);
                    } else {
                        self.from_files.insert(Arc::clone(&secret.name), secret);
                    }
                    usable.push(loaded);
                }
                Err(error) => {
                    let text = format!("{error}{}", reason(&error));
                    self.reject(&update.type_url, received, text, rejected);
                }
            }
        }
        // One that is gone is used until there is another, as Envoy does: handshakes go on.
        self.live.update_now(|draft| {
            for secret in usable {
                draft.put_secret(secret);
            }
        });
    }

    /// The secrets made of files, as they were given.
    pub fn secrets_from_files(&self) -> impl Iterator<Item = &Secret> {
        self.from_files.values()
    }

    /// Reads a secret's files again. What is there now is used only if it is whole.
    pub fn reload_secret(&mut self, name: &str) {
        let Some(secret) = self.from_files.get(name) else {
            return;
        };
        match self.setup.load_secret(secret) {
            Ok(loaded) => {
                tracing::info!(secret = name, "the files of a secret were replaced");
                self.live.update_now(|draft| draft.put_secret(loaded));
            }
            Err(error) => {
                let text = format!("{error}{}", reason(&error));
                tracing::warn!(
                    secret = name,
                    error = text,
                    "the files of a secret were replaced and cannot be used; the last ones stay"
                );
            }
        }
    }

    fn apply_listeners(&mut self, update: &Update, rejected: &mut Vec<Rejection>) {
        // Ports of listeners that go may be wanted by those that come.
        for name in &update.removed {
            self.warming.remove(name);
            self.manager().remove(name);
        }
        let mut parsed = Vec::new();
        for received in &update.resources {
            let listener = self.read(
                &update.type_url,
                received,
                listener::Listener::decode,
                Listener::from_proto_with,
                rejected,
            );
            let Some(listener) = listener else { continue };
            let reserved = self
                .check_needs(&refs::of_listener(&listener))
                .map_err(ListenError::Source)
                .and_then(|()| {
                    let held = self.warming.get(&listener.name);
                    let snapshot = self.live.load_full();
                    self.manager().reserve(&listener, &snapshot, held)
                });
            match reserved {
                Ok(reservation) => {
                    self.accept(&update.type_url, received);
                    let held = self.warming.remove(&listener.name);
                    let reservation = reservation.and(held, &listener);
                    self.warming.insert(Arc::clone(&listener.name), reservation);
                    parsed.push(listener);
                }
                Err(error) => {
                    let text = format!("{error}{}", reason(&error));
                    self.reject(&update.type_url, received, text, rejected);
                }
            }
        }
        self.live.update_now(|draft| {
            for listener in parsed {
                draft.put_listener(listener);
            }
            for name in &update.removed {
                draft.remove_listener(name);
            }
        });
        if let Some(first) = &mut self.first_listeners {
            first.done();
        }
    }

    /// The runtime, to be shown.
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Overrides runtime values.
    ///
    /// # Errors
    /// When the bootstrap has no layer for that.
    pub(crate) fn modify_runtime(
        &mut self,
        changes: &[(String, String)],
    ) -> Result<(), &'static str> {
        let changed = self.runtime.modify(changes)?;
        self.read_again(&changed);
        Ok(())
    }

    /// Reads the runtime's files again.
    pub(crate) fn reload_runtime(&mut self) {
        let changed = self.runtime.read_files();
        self.read_again(&changed);
    }

    /// Applies the resources that depend on these runtime keys once more, as they came.
    fn read_again(&mut self, keys: &BTreeSet<String>) {
        if keys.is_empty() {
            return;
        }
        tracing::info!(?keys, "runtime values changed");
        self.again = true;
        for type_url in [
            type_url::CLUSTER,
            type_url::LISTENER,
            type_url::ROUTE,
            type_url::EXTENSION_CONFIG,
        ] {
            let accepted = self.inventory.of(type_url).into_iter();
            let accepted = accepted.filter_map(|(name, entry)| Some((name, entry.accepted?)));
            let resources: Vec<Received> = accepted
                .filter(|(name, known)| {
                    !name.is_empty() && runtime::depends(&known.body, name, keys)
                })
                .map(|(name, known)| Received {
                    name: (&*name).into(),
                    version: (&*known.version).into(),
                    body: known.body,
                })
                .collect();
            if resources.is_empty() {
                continue;
            }
            let update = Update {
                type_url: type_url.into(),
                resources,
                removed: Vec::new(),
                version: String::new(),
            };
            for rejection in self.apply(&update) {
                let (name, reason) = (&*rejection.name, &*rejection.reason);
                tracing::warn!(
                    name,
                    reason,
                    "a resource cannot be used with these runtime values"
                );
            }
        }
        self.again = false;
    }

    /// Whether sources can be used: their files are there, their clusters are of the bootstrap.
    fn check_needs(&self, needs: &[Need]) -> Result<(), String> {
        needs
            .iter()
            .filter(|need| !self.is_own(need) && !self.is_agent_file(need))
            .try_for_each(|need| check_origin(&need.reference.source.from, &self.static_clusters))
    }

    /// True for the workload's identity, wherever it is said to come from: this process has it.
    fn is_own(&self, need: &Need) -> bool {
        need.type_url == type_url::SECRET && self.own_secrets.contains(&need.reference.name)
    }

    /// Takes over one response as a whole. Returns what of it cannot be used; of that the last good version stays in use.
    pub fn apply(&mut self, update: &Update) -> Vec<Rejection> {
        let mut rejected = Vec::new();
        match update.type_url.as_str() {
            type_url::CLUSTER => self.apply_clusters(update, &mut rejected),
            type_url::ENDPOINTS => self.apply_endpoints(update, &mut rejected),
            type_url::LISTENER => self.apply_listeners(update, &mut rejected),
            type_url::ROUTE => self.apply_routes(update, &mut rejected),
            type_url::SECRET => self.apply_secrets(update, &mut rejected),
            type_url::EXTENSION_CONFIG => self.apply_extensions(update, &mut rejected),
            other => {
                let reason = format!("this proxy does not understand resources of type {other}");
                let names = update
                    .resources
                    .iter()
                    .map(|received| Arc::clone(&received.name));
                rejected.extend(names.map(|name| Rejection {
                    name,
                    reason: reason.clone(),
                }));
            }
        }
        let stays = &*update.type_url == type_url::SECRET;
        for name in update.removed.iter().filter(|_| !stays) {
            self.inventory.remove(&update.type_url, name);
        }
        let came = update.resources.iter().map(|received| &received.name);
        for name in came.chain(&update.removed) {
            self.fetches.done(&update.type_url, name);
        }
        rejected
    }

    /// True for what is in use already, byte for byte: what filters keep for it (token buckets) lives on.
    fn is_in_use(&self, url: &str, received: &Received) -> bool {
        let same = |known: Version| known.body == received.body;
        !self.again
            && self
                .inventory
                .accepted(url, &received.name)
                .is_some_and(same)
    }

    fn read_all<W, T>(
        &self,
        update: &Update,
        decode: fn(Bytes) -> Result<W, prost::DecodeError>,
        parse: fn(W, &Arc<Values>) -> Result<Checked<T>, Invalid>,
        rejected: &mut Vec<Rejection>,
    ) -> Vec<T> {
        let mut parsed = Vec::with_capacity(update.resources.len());
        for received in &update.resources {
            if let Some(value) = self.read(&update.type_url, received, decode, parse, rejected) {
                self.accept(&update.type_url, received);
                parsed.push(value);
            }
        }
        parsed
    }

    fn read<W, T>(
        &self,
        url: &str,
        received: &Received,
        decode: fn(Bytes) -> Result<W, prost::DecodeError>,
        parse: fn(W, &Arc<Values>) -> Result<Checked<T>, Invalid>,
        rejected: &mut Vec<Rejection>,
    ) -> Option<T> {
        let result = match decode(received.body.clone()) {
            Ok(wire) => parse(wire, self.runtime.values()).map_err(|invalid| invalid.to_string()),
            Err(error) => Err(format!("does not decode: {error}")),
        };
        match result {
            Ok(Checked { value, warnings }) => {
                for warning in warnings {
                    tracing::debug!(name = %received.name, %warning, "a setting has no effect");
                }
                Some(value)
            }
            Err(reason) => {
                self.reject(url, received, reason, rejected);
                None
            }
        }
    }

    fn accept(&self, url: &str, received: &Received) {
        self.inventory.accept(
            url,
            &received.name,
            &received.version,
            received.body.clone(),
            self.again && self.inventory.is_static(url, &received.name),
        );
    }

    fn reject(
        &self,
        url: &str,
        received: &Received,
        reason: String,
        rejected: &mut Vec<Rejection>,
    ) {
        self.inventory.refuse(
            url,
            &received.name,
            &received.version,
            received.body.clone(),
            reason.clone(),
        );
        rejected.push(Rejection {
            name: Arc::clone(&received.name),
            reason,
        });
    }
}

/// As [`Applier::bootstrap`] does it, also for `--mode validate`.
///
/// # Errors
/// When a file is not there, or a server's cluster is not in the bootstrap.
pub fn check_sources(
    bootstrap: &Bootstrap,
    static_clusters: &BTreeSet<Arc<str>>,
) -> Result<(), ApplyError> {
    let dynamic = &bootstrap.dynamic;
    let at = |field| move |reason| ApplyError::Source { field, reason };
    if let Some(ads) = &dynamic.ads {
        check_origin(&Origin::Grpc(Arc::clone(ads)), static_clusters).map_err(at("ads_config"))?;
    }
    let sources = [
        ("cds_config", &dynamic.clusters),
        ("lds_config", &dynamic.listeners),
    ];
    for (field, source) in sources {
        if let Some(source) = source {
            check_origin(&source.from, static_clusters).map_err(at(field))?;
        }
    }
    let asks = dynamic.ads.is_some() || dynamic.clusters.is_some() || dynamic.listeners.is_some();
    if asks && (bootstrap.node.id.is_empty() || bootstrap.node.cluster.is_empty()) {
        return Err(ApplyError::Source {
            field: "node",
            reason: "node `id` and `cluster` are required; set them in `node`, or with --service-node and --service-cluster".to_owned(),
        });
    }
    Ok(())
}

fn check_origin(origin: &Origin, static_clusters: &BTreeSet<Arc<str>>) -> Result<(), String> {
    match origin {
        Origin::Ads | Origin::Bootstrap => Ok(()),
        Origin::Path(path) if path.path.exists() => Ok(()),
        Origin::Path(path) => Err(format!(
            "paths must refer to an existing path in the system: '{}' does not exist",
            path.path.display()
        )),
        Origin::Grpc(origin) if static_clusters.contains(&origin.service.cluster) => Ok(()),
        Origin::Grpc(origin) => Err(format!(
            "must have a statically defined non-EDS cluster: '{}' does not exist, was added via api, or is an EDS cluster",
            origin.service.cluster
        )),
    }
}
