//! The Gateway API's objects as they were read, and what they mean in a world.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::api::DynamicObject;
use malla_api::gateway_api::GatewayKind;
use malla_api::gateway_api::lower::{Address, Name, Objects, Outcome, Surroundings, lower};
use malla_model::Mesh;
use malla_model::mesh::MeshParts;
use tracing::warn;

use super::World;
use super::cluster::Key;
use crate::source::Change;
use crate::webhook::review::NamespaceLabels;

/// Where Services are reached from outside, by namespace and name.
pub type Addresses = BTreeMap<Name, Vec<Address>>;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct GatewayApi {
    objects: Objects,
    /// As worlds have them; nobody has what changed since the last world.
    shared: Option<Arc<Objects>>,
}

impl GatewayApi {
    /// Whether anything is different now, statuses included: writers compare against them.
    pub(super) fn apply(&mut self, kind: GatewayKind, change: Change) -> bool {
        let changed = match change {
            Change::Replaced(list) => {
                let names: BTreeSet<Name> = list.iter().map(|object| name(object)).collect();
                let gone = self.objects.retain(kind, |name| names.contains(name));
                list.iter()
                    .fold(gone, |changed, object| self.put(kind, object) || changed)
            }
            Change::Applied(object) => self.put(kind, &object),
            Change::Deleted(object) => self.objects.remove(kind, &name(&object)),
        };
        if changed {
            self.shared = None;
        }
        changed
    }

    fn put(&mut self, kind: GatewayKind, object: &DynamicObject) -> bool {
        let put = self.objects.put(kind, &object.metadata, &object.data);
        put.unwrap_or_else(|error| {
            let (namespace, name) = name(object);
            warn!(kind = kind.name(), namespace, name, %error, "an object of the Gateway API cannot be read and is left out");
            true
        })
    }

    pub(super) fn objects(&mut self) -> Arc<Objects> {
        let shared = &mut self.shared;
        Arc::clone(shared.get_or_insert_with(|| Arc::new(self.objects.clone())))
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

fn name(object: &DynamicObject) -> Name {
    let Key { namespace, name } = Key::of(object);
    (namespace, name)
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
