//! The one writer of the world: takes changes, lowers what changed, and makes worlds on request.
//!
//! Invariants. Nothing here does IO or waits. An object is lowered when it changes, not when a
//! world is made. A service is put together again only when it, its EndpointSlices, or a pod behind
//! them changed. What could not be lowered is kept with the reason: it may heal.

mod cluster;
mod config;
mod gateway_api;

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::api::DynamicObject;
use malla_api::gateway_api::lower::Objects;
use malla_api::lower::{assemble, mesh_config};
use malla_model::mesh::MeshParts;
use malla_model::{Mesh, MeshSettings, Secrets};

pub use cluster::{Cluster, Key};
pub use config::{ConfigObject, Configs};
pub use gateway_api::Addresses;
use gateway_api::GatewayApi;

use crate::source::{Change, Update, Watched};
use crate::webhook::review::NamespaceLabels;

/// One instant of everything the control plane knows. Cheap to clone and never changed.
#[derive(Debug, Clone)]
pub struct World {
    /// Counts worlds; a later one has a larger number.
    pub number: u64,
    pub mesh: Arc<Mesh>,
    pub namespaces: Arc<NamespaceLabels>,
    pub configs: Arc<Vec<Arc<ConfigObject>>>,
    pub gateway_objects: Arc<Objects>,
    pub addresses: Arc<Addresses>,
    /// Services that ask for their ports to be managed.
    pub gateway_services: Arc<Vec<(Key, crate::write::gateway_ports::GatewayService)>>,
    /// What of MeshConfig is not acted on.
    pub mesh_config_notes: Arc<Vec<String>>,
}

/// All that was read, and what it was lowered to.
#[derive(Debug)]
pub struct Index {
    defaults: MeshSettings,
    settings: MeshSettings,
    mesh_config_notes: Arc<Vec<String>>,
    cluster: Cluster,
    configs: Configs,
    gateway_api: GatewayApi,
    secrets: Arc<Secrets>,
    /// Kinds whose first list has arrived.
    listed: BTreeSet<Watched>,
    number: u64,
}

impl Index {
    /// `defaults` hold until a MeshConfig says otherwise.
    #[must_use]
    pub fn new(defaults: MeshSettings) -> Self {
        Self {
            settings: defaults.clone(),
            defaults,
            mesh_config_notes: Arc::default(),
            cluster: Cluster::default(),
            configs: Configs::default(),
            gateway_api: GatewayApi::default(),
            secrets: Arc::default(),
            listed: BTreeSet::new(),
            number: 0,
        }
    }

    /// Whether every kind has been listed once: before that, a world would lack things that exist.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        Watched::all().all(|watched| self.listed.contains(&watched))
    }

    /// Takes one change in; says whether a new world is due.
    pub fn apply(&mut self, (watched, change): Update) -> bool {
        if matches!(change, Change::Replaced(_)) {
            self.listed.insert(watched);
        }
        match watched {
            Watched::MeshConfig => self.apply_mesh_config(&change),
            Watched::Istio(kind) => self.configs.apply(kind, change, &self.settings),
            Watched::GatewayApi(kind) => self.gateway_api.apply(kind, change),
            _ => self.cluster.apply(watched, change, &self.settings),
        }
    }

    /// Takes over what is known of Secrets; a new world is due then.
    pub fn set_secrets(&mut self, secrets: Arc<Secrets>) {
        self.secrets = secrets;
    }

    fn apply_mesh_config(&mut self, change: &Change) -> bool {
        let object = match change {
            Change::Replaced(list) => list.first(),
            Change::Applied(object) => Some(object),
            Change::Deleted(_) => None,
        };
        let text = object.map(|o| mesh_yaml(o)).unwrap_or_default();
        let (mut settings, mut notes) = match mesh_config::lower(&text, &self.defaults) {
            Ok(lowered) => (
                lowered.value,
                lowered
                    .not_honoured
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            ),
            // The last good settings stay.
            Err(error) => (self.settings.clone(), vec![error.to_string()]),
        };
        // Certificates are of the domain that this process started with.
        if settings.trust_domain != self.defaults.trust_domain {
            let (asked, stands) = (&settings.trust_domain, &self.defaults.trust_domain);
            notes.push(format!("trustDomain: {asked} takes effect when the control plane starts anew, until then it is {stands}"));
            settings.trust_domain = stands.clone();
        }
        for note in &notes {
            tracing::warn!(note, "MeshConfig");
        }
        self.mesh_config_notes = Arc::new(notes);
        if settings == self.settings {
            return false;
        }
        self.settings = settings;
        self.configs.lower_again(&self.settings);
        self.cluster.lower_again(&self.settings);
        true
    }

    /// Only statuses of the Gateway API tell of them.
    fn addresses(&mut self) -> Addresses {
        if self.gateway_api.objects().is_empty() {
            return Addresses::new();
        }
        self.cluster.addresses()
    }

    /// The world as it is now.
    pub fn world(&mut self) -> World {
        self.number += 1;
        self.cluster.refresh(&self.settings);
        let mut parts = MeshParts {
            settings: self.settings.clone(),
            services: self.cluster.services(),
            workloads: self.cluster.workloads(),
            secrets: Arc::clone(&self.secrets),
            ..MeshParts::default()
        };
        assemble::add(&mut parts, self.configs.acting());
        let namespaces = self.cluster.namespaces();
        self.gateway_api.add_to(&mut parts, &namespaces);
        World {
            number: self.number,
            mesh: Arc::new(Mesh::new(parts)),
            namespaces,
            configs: Arc::new(self.configs.all()),
            gateway_objects: self.gateway_api.objects(),
            addresses: Arc::new(self.addresses()),
            gateway_services: Arc::new(self.cluster.gateway_services()),
            mesh_config_notes: Arc::clone(&self.mesh_config_notes),
        }
    }
}

fn mesh_yaml(object: &DynamicObject) -> String {
    object
        .data
        .pointer("/data/mesh")
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(value: Value) -> Arc<DynamicObject> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn complete(index: &mut Index) {
        for watched in Watched::all() {
            assert!(!index.is_complete());
            index.apply((watched, Change::Replaced(vec![])));
        }
        assert!(index.is_complete());
    }

    fn pod(name: &str, ip: &str) -> Arc<DynamicObject> {
        object(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "base", "labels": {"app": "cart", "security.istio.io/tlsMode": "istio"}},
            "spec": {"serviceAccountName": "default", "nodeName": "local", "containers": [{"name": "cart"}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
        }))
    }

    fn slice(ips: &[&str]) -> Arc<DynamicObject> {
        let endpoints: Vec<Value> = ips
            .iter()
            .map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}}))
            .collect();
        object(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "cart-x", "namespace": "base", "labels": {"kubernetes.io/service-name": "cart"}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 7000, "protocol": "TCP"}],
        }))
    }

    fn service() -> Arc<DynamicObject> {
        object(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "cart", "namespace": "base"},
            "spec": {"clusterIP": "10.96.0.7", "selector": {"app": "cart"}, "ports": [{"name": "http", "port": 7000, "targetPort": 7000, "protocol": "TCP"}]},
        }))
    }

    #[test]
    fn a_service_learns_of_its_pods_in_any_order() {
        let mut index = Index::new(MeshSettings::default());
        complete(&mut index);
        assert!(index.apply((Watched::Service, Change::Applied(service()))));
        assert!(index.apply((
            Watched::EndpointSlice,
            Change::Applied(slice(&["10.0.0.1"]))
        )));
        let before = index.world();
        assert_eq!(before.mesh.services[0].endpoints.len(), 1);
        assert!(index.apply((Watched::Pod, Change::Applied(pod("cart-1", "10.0.0.1")))));
        let after = index.world();
        assert!(after.mesh.services[0].endpoints[0].identity.is_some());
        assert!(after.number > before.number);
        index.apply((Watched::EndpointSlice, Change::Deleted(slice(&[]))));
        assert!(index.world().mesh.services[0].endpoints.is_empty());
    }

    #[test]
    fn what_did_not_change_is_the_same_value() {
        let mut index = Index::new(MeshSettings::default());
        complete(&mut index);
        index.apply((Watched::Service, Change::Applied(service())));
        let first = index.world().mesh.services[0].clone();
        assert!(!index.apply((Watched::Service, Change::Applied(service()))));
        assert!(Arc::ptr_eq(&first, &index.world().mesh.services[0]));
    }

    #[test]
    fn a_broken_rule_is_kept_with_its_reason() {
        let mut index = Index::new(MeshSettings::default());
        complete(&mut index);
        let rule = object(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "x", "namespace": "base"}, "spec": {"hosts": 7},
        }));
        index.apply((
            Watched::Istio(malla_api::Kind::VirtualService),
            Change::Applied(rule),
        ));
        let world = index.world();
        assert!(world.mesh.virtual_services.is_empty());
        assert!(world.configs[0].outcome.is_err());
    }

    #[test]
    fn a_bad_mesh_config_leaves_the_last_good_one() {
        let mut index = Index::new(MeshSettings::default());
        let config = |text: &str| {
            let map = object(
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio"}, "data": {"mesh": text}}),
            );
            (Watched::MeshConfig, Change::Applied(map))
        };
        assert!(index.apply(config("accessLogFile: /dev/stdout")));
        assert!(!index.apply(config("[")));
        let world = index.world();
        assert_eq!(
            world.mesh.settings.access_log_file.as_deref(),
            Some("/dev/stdout")
        );
        assert_eq!(world.mesh_config_notes.len(), 1);
        // The trust domain stays what certificates are of.
        index.apply(config(
            "{accessLogFile: /dev/stderr, trustDomain: example.org}",
        ));
        let world = index.world();
        assert_eq!(world.mesh.settings.trust_domain.as_str(), "cluster.local");
        let [note] = &world.mesh_config_notes[..] else {
            panic!("{:?}", world.mesh_config_notes)
        };
        assert!(note.contains("example.org takes effect when"), "{note}");
    }
}
