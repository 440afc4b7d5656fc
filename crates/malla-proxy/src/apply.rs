//! From resources to what is served: parse, check, publish, tell the listeners.
//!
//! One [`Applier`] writes the configuration, from a bootstrap file and from a control plane alike. Per response: everything
//! is parsed first, listeners bind, then one snapshot is published, then the listeners that have what they need start.
//!
//! Invariants: a resource that is refused leaves its last good version serving; a listener whose routes have not come yet
//! is bound but not served, so its first client waits instead of getting an error.
mod refs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use malla_proxy_config::bootstrap::Bootstrap;
use malla_proxy_config::cluster::Cluster;
use malla_proxy_config::endpoints::EndpointSet;
use malla_proxy_config::listener::Listener;
use malla_proxy_config::route::RouteConfig;
use malla_proxy_config::secret::{Secret, SecretKind};
use malla_proxy_config::tls::{DataSource, TlsCertificate, ValidationContext};
use malla_proxy_config::{Checked, Invalid};
use malla_runtime::ready::Gate;
use malla_xds::client::{Interest, Received, Rejection, ResourceHandler, Update, Verdict};
use malla_xds_proto::{
    bootstrap as pb_bootstrap, cluster as pb_cluster, endpoint, listener, route, tls, type_url,
};
use prost::Message;

use crate::inventory::Inventory;
use crate::listener::manager::{ListenError, Manager, Reservation};
use crate::live::Live;
use crate::upstream::cluster::Clusters;

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
    gates: Gates,
    /// Secrets that come from this process's own identity.
    own_secrets: BTreeSet<Arc<str>>,
    /// Bound listeners that wait for their routes.
    warming: BTreeMap<Arc<str>, Reservation>,
    /// The first listeners have come.
    listeners_seen: bool,
}

impl Applier {
    pub fn new(
        live: Live,
        manager: Arc<Mutex<Manager>>,
        clusters: Clusters,
        inventory: Inventory,
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
            gates,
            own_secrets,
            warming: BTreeMap::new(),
            listeners_seen: false,
        }
    }

    /// Applies a bootstrap's static resources. All of them must be usable.
    pub fn bootstrap(&mut self, wire: pb_bootstrap::Bootstrap) -> Result<Bootstrap, ApplyError> {
        self.note_static(&wire);
        let Checked { value, warnings } = Bootstrap::from_proto(wire)?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        for cluster in &value.clusters {
            self.check_cluster(cluster)
                .map_err(|reason| ApplyError::Cluster {
                    name: Arc::clone(&cluster.name),
                    reason,
                })?;
        }
        let listeners = value.listeners.clone();
        let resources = value.clone();
        self.live.update_now(|draft| resources.apply(draft));
        let snapshot = self.live.load_full();
        self.clusters.follow(&snapshot);
        for listener in listeners {
            let at = |source| ApplyError::Listener {
                name: Arc::clone(&listener.name),
                source,
            };
            let reservation = self.manager().reserve(&listener, &snapshot).map_err(at)?;
            // The draft may have named it: look it up by address then.
            let found = snapshot.listener(&listener.name).or_else(|| {
                snapshot
                    .listeners()
                    .find(|other| other.addresses == listener.addresses)
            });
            if let Some(listener) = found {
                let served = self.manager().serve(Arc::clone(listener), reservation);
                served.map_err(|source| ApplyError::Listener {
                    name: Arc::clone(&listener.name),
                    source,
                })?;
            }
        }
        Ok(value)
    }

    /// No control plane will add anything: what is there is all.
    pub fn complete(&self) {
        self.gates.clusters.open();
        self.gates.listeners.open();
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
                Cluster::from_proto,
                rejected,
            );
            let Some(cluster) = cluster else { continue };
            match self.check_cluster(&cluster) {
                Ok(()) => {
                    self.accept(&update.type_url, received);
                    parsed.push(cluster);
                }
                Err(reason) => self.reject(&update.type_url, received, reason, rejected),
            }
        }
        self.live.update_now(|draft| {
            for cluster in parsed {
                draft.put_cluster(cluster);
            }
            for name in &update.removed {
                draft.remove_cluster(name);
            }
        });
        self.clusters.follow(&self.live.load_full());
        self.gates.clusters.open();
    }

    fn apply_endpoints(&mut self, update: &Update, rejected: &mut Vec<Rejection>) {
        let decode = endpoint::ClusterLoadAssignment::decode;
        let parsed = self.read_all(update, decode, EndpointSet::from_proto, rejected);
        self.live.update_now(|draft| {
            for set in parsed {
                draft.put_endpoints(set);
            }
            for name in &update.removed {
                draft.remove_endpoints(name);
            }
        });
    }

    fn apply_routes(&mut self, update: &Update, rejected: &mut Vec<Rejection>) {
        let parsed = self.read_all(
            update,
            route::RouteConfiguration::decode,
            RouteConfig::from_proto,
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
        let parsed = self.read_all(update, tls::Secret::decode, Secret::from_proto, rejected);
        let own = &self.own_secrets;
        self.live.update_now(|draft| {
            for secret in parsed
                .into_iter()
                .filter(|secret| !own.contains(&secret.name))
            {
                draft.put_secret(secret);
            }
            for name in update.removed.iter().filter(|name| !own.contains(*name)) {
                draft.remove_secret(name);
            }
        });
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
                Listener::from_proto,
                rejected,
            );
            let Some(listener) = listener else { continue };
            let reserved = self.manager().reserve(&listener, &self.live.load_full());
            match reserved {
                Ok(reservation) => {
                    self.accept(&update.type_url, received);
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
    }

    /// Serves the listeners whose routes are all there.
    fn serve_warmed(&mut self) {
        let snapshot = self.live.load_full();
        let waiting = std::mem::take(&mut self.warming);
        for (name, reservation) in waiting {
            let Some(listener) = snapshot.listener(&name) else {
                continue;
            };
            let ready = refs::routes_of(listener).all(|route| snapshot.route(route).is_some());
            if !ready {
                self.warming.insert(name, reservation);
                continue;
            }
            if let Err(error) = self.manager().serve(Arc::clone(listener), reservation) {
                tracing::error!(listener = %name, %error, "a listener that was accepted cannot be served");
            }
        }
    }

    /// What the snapshot names and does not hold by wildcard.
    fn wanted(&self) -> Vec<(malla_xds::TypeUrl, Interest)> {
        let snapshot = self.live.load_full();
        let endpoints = snapshot
            .clusters()
            .filter_map(|entry| refs::endpoints_of(&entry.config))
            .cloned();
        let routes = snapshot
            .listeners()
            .flat_map(|listener| refs::routes_of(listener).cloned().collect::<Vec<_>>());
        let mut secrets: BTreeSet<Arc<str>> = BTreeSet::new();
        snapshot
            .clusters()
            .for_each(|entry| refs::secrets_of_cluster(&entry.config, &mut secrets));
        snapshot
            .listeners()
            .for_each(|listener| refs::secrets_of_listener(listener, &mut secrets));
        let secrets = secrets
            .into_iter()
            .filter(|name| !self.own_secrets.contains(name));
        vec![
            (type_url::ENDPOINTS.into(), Interest::names(endpoints)),
            (type_url::ROUTE.into(), Interest::names(routes)),
            (type_url::SECRET.into(), Interest::names(secrets)),
        ]
    }

    fn read_all<W, T>(
        &self,
        update: &Update,
        decode: fn(Bytes) -> Result<W, prost::DecodeError>,
        parse: fn(W) -> Result<Checked<T>, Invalid>,
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
        parse: fn(W) -> Result<Checked<T>, Invalid>,
        rejected: &mut Vec<Rejection>,
    ) -> Option<T> {
        let result = match decode(received.body.clone()) {
            Ok(wire) => parse(wire).map_err(|invalid| invalid.to_string()),
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
            false,
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

/// Puts this process's own credential and roots (PEM) where TLS contexts find them.
pub fn own_identity(live: &Live, chain: Bytes, key: Bytes, roots: Bytes) {
    let [own, trusted] = WORKLOAD_SECRETS;
    let certificate = TlsCertificate {
        chain: DataSource::Inline(chain),
        key: DataSource::Inline(key),
    };
    let context = ValidationContext {
        trusted_ca: Some(DataSource::Inline(roots)),
        ..ValidationContext::default()
    };
    live.update_now(|draft| {
        draft.put_secret(Secret {
            name: own.into(),
            kind: SecretKind::Certificate(Arc::new(certificate)),
        });
        draft.put_secret(Secret {
            name: trusted.into(),
            kind: SecretKind::Validation(Arc::new(context)),
        });
    });
}

impl ResourceHandler for Applier {
    fn subscriptions(&self) -> Vec<(malla_xds::TypeUrl, Interest)> {
        let everything =
            [type_url::CLUSTER, type_url::LISTENER].map(|url| (url.into(), Interest::all()));
        everything.into_iter().collect()
    }

    fn apply(&mut self, update: Update) -> Verdict {
        let mut rejected = Vec::new();
        match update.type_url.as_str() {
            type_url::CLUSTER => self.apply_clusters(&update, &mut rejected),
            type_url::ENDPOINTS => self.apply_endpoints(&update, &mut rejected),
            type_url::LISTENER => self.apply_listeners(&update, &mut rejected),
            type_url::ROUTE => self.apply_routes(&update, &mut rejected),
            type_url::SECRET => self.apply_secrets(&update, &mut rejected),
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
        for name in &update.removed {
            self.inventory.remove(&update.type_url, name);
        }
        self.serve_warmed();
        self.listeners_seen |= update.type_url.as_str() == type_url::LISTENER;
        if self.listeners_seen && self.warming.is_empty() {
            self.gates.listeners.open();
        }
        Verdict {
            rejected,
            subscriptions: self.wanted(),
        }
    }
}
