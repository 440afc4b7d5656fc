//! The Gateway API's objects as they were read, and what they mean in a world.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::DynamicObject;
use malla_api::gateway_api::GatewayKind;
use malla_api::gateway_api::lower::{Address, Object, Objects, Outcome, Surroundings, lower};
use malla_model::Mesh;
use malla_model::mesh::MeshParts;
use serde::de::DeserializeOwned;
use tracing::warn;

use super::World;
use super::cluster::Key;
use crate::source::Change;
use crate::webhook::review::NamespaceLabels;

/// Where Services are reached from outside, by namespace and name.
pub type Addresses = BTreeMap<(String, String), Vec<Address>>;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct GatewayApi {
    read: BTreeMap<(GatewayKind, Key), Arc<DynamicObject>>,
    objects: Arc<Objects>,
}

impl GatewayApi {
    /// Whether anything is different now, statuses included: writers compare against them.
    pub(super) fn apply(&mut self, kind: GatewayKind, change: Change) -> bool {
        let before = self.read.clone();
        match change {
            Change::Replaced(list) => {
                self.read.retain(|(of, _), _| *of != kind);
                let list = list
                    .into_iter()
                    .map(|object| ((kind, Key::of(&object)), object));
                self.read.extend(list);
            }
            Change::Applied(object) => drop(self.read.insert((kind, Key::of(&object)), object)),
            Change::Deleted(object) => drop(self.read.remove(&(kind, Key::of(&object)))),
        }
        let same = |a: &DynamicObject, b: &DynamicObject| {
            a.metadata.uid == b.metadata.uid
                && a.metadata.labels == b.metadata.labels
                && a.metadata.generation == b.metadata.generation
                && a.data == b.data
        };
        let changed = before.len() != self.read.len()
            || before
                .iter()
                .zip(&self.read)
                .any(|((a, old), (b, new))| a != b || !same(old, new));
        if changed {
            self.objects = Arc::new(self.read_all());
        }
        changed
    }

    fn read_all(&self) -> Objects {
        Objects {
            classes: self.of(GatewayKind::GatewayClass),
            gateways: self.of(GatewayKind::Gateway),
            http_routes: self.of(GatewayKind::HttpRoute),
            grants: self.of(GatewayKind::ReferenceGrant),
        }
    }

    fn of<T: DeserializeOwned>(&self, kind: GatewayKind) -> Vec<Arc<Object<T>>> {
        let objects = self.read.iter().filter(|((of, _), _)| *of == kind);
        objects
            .filter_map(|((_, key), object)| match Object::read(&object.metadata, &object.data) {
                Ok(read) => Some(Arc::new(read)),
                Err(error) => {
                    warn!(kind = kind.name(), ?key, %error, "an object of the Gateway API cannot be read and is left out");
                    None
                }
            })
            .collect()
    }

    pub(super) fn objects(&self) -> Arc<Objects> {
        Arc::clone(&self.objects)
    }

    /// Adds what acts to the parts of a mesh, whose services are there already.
    pub(super) fn add_to(&self, parts: &mut MeshParts, namespaces: &NamespaceLabels) {
        if self.objects.is_empty() {
            return;
        }
        let around = Surroundings {
            settings: &parts.settings,
            services: &parts.services,
            secrets: &parts.secrets,
            namespaces,
            // Only statuses tell of addresses and times.
            addresses: &BTreeMap::new(),
            now: "",
        };
        let outcome = lower(&self.objects, &around);
        parts.gateways.extend(outcome.gateways);
        parts.virtual_services.extend(outcome.virtual_services);
    }
}

impl World {
    /// What the Gateway API's objects mean, with their statuses as of `now` (RFC 3339).
    #[must_use]
    pub fn gateway_api(&self, now: &str) -> Outcome {
        let mesh: &Mesh = &self.mesh;
        let around = Surroundings {
            settings: &mesh.settings,
            services: &mesh.services,
            secrets: &mesh.secrets,
            namespaces: &self.namespaces,
            addresses: &self.addresses,
            now,
        };
        lower(&self.gateway_objects, &around)
    }
}
