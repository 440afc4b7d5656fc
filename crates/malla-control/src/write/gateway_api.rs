//! The Gateway API's other half: the class that is there by itself, pods and Services of Gateways,
//! and statuses.
//!
//! What is made for a Gateway belongs to it, so deleting the Gateway removes it. A Deployment's
//! `replicas` is not ours once it is made: whoever scales it keeps that.

use std::collections::HashMap;
use std::sync::Arc;

use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use malla_api::gateway_api::lower::{Managed, Outcome, Status};
use malla_api::gateway_api::{CLASS, CONTROLLER, GROUP, GatewayKind};
use serde_json::{Value, json};
use tracing::{debug, warn};

use super::roots::MANAGER;
use crate::index::World;
use crate::manifest::{Installation, managed_gateway};
use crate::secrets::{Asked, Reader};

/// Puts into the cluster what the Gateway API's objects call for.
pub struct Writer {
    client: kube::Client,
    installation: Installation,
    asked: Arc<Asked>,
    /// What was applied last, by kind, namespace and name.
    applied: HashMap<String, Value>,
    class_is_there: bool,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("installation", &self.installation)
            .finish_non_exhaustive()
    }
}

impl Writer {
    #[must_use]
    pub fn new(client: kube::Client, installation: Installation, asked: Arc<Asked>) -> Self {
        Self {
            client,
            installation,
            asked,
            applied: HashMap::new(),
            class_is_there: false,
        }
    }

    /// Writes what is not as it should be; whether all of it could be written.
    pub async fn write(&mut self, world: &World) -> bool {
        let now =
            jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default();
        let Outcome {
            statuses,
            managed,
            secret_namespaces,
            ..
        } = world.gateway_api(&now.to_string());
        for namespace in secret_namespaces {
            self.asked.ask(Reader {
                namespace,
                account: None,
            });
        }
        let mut good = self.ensure_class().await;
        for managed in &managed {
            good &= self.deploy(managed).await;
        }
        for status in &statuses {
            good &= self.tell(world, status).await;
        }
        good
    }

    /// Makes the class once; whoever deletes it gets it back with the next control plane.
    async fn ensure_class(&mut self) -> bool {
        if self.class_is_there {
            return true;
        }
        let class = json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "GatewayClass", "metadata": {"name": CLASS},
            "spec": {"controllerName": CONTROLLER, "description": "Gateways run by Malla's control plane"},
        });
        self.class_is_there = match self.apply(&class).await {
            Ok(()) => true,
            // The cluster does not have the Gateway API.
            Err(kube::Error::Api(answer)) if answer.code == 404 => return true,
            Err(error) => {
                warn!(%error, "the GatewayClass {CLASS} could not be made");
                false
            }
        };
        self.class_is_there
    }

    async fn deploy(&mut self, managed: &Managed) -> bool {
        let mut good = true;
        for object in managed_gateway(&self.installation, managed) {
            let key = format!(
                "{} {} {}",
                object["kind"], object["metadata"]["namespace"], object["metadata"]["name"]
            );
            if self.applied.get(&key) == Some(&object) {
                continue;
            }
            match self.apply(&object).await {
                Ok(()) => drop(self.applied.insert(key, object)),
                Err(error) => {
                    good = false;
                    warn!(object = key, gateway = managed.gateway, %error, "what a Gateway needs could not be made");
                }
            }
        }
        good
    }

    async fn apply(&self, object: &Value) -> kube::Result<()> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let version = text(&object["apiVersion"]);
        let (group, version) = version.rsplit_once('/').unwrap_or(("", &version));
        let kind = text(&object["kind"]);
        let resource = resource(group, version, &kind, &plural(&kind));
        let api = self.api(&resource, object["metadata"]["namespace"].as_str());
        let parameters = PatchParams::apply(MANAGER).force();
        let name = text(&object["metadata"]["name"]);
        api.patch(&name, &parameters, &Patch::Apply(object))
            .await
            .map(drop)
    }

    /// Writes a status that is not what stands.
    async fn tell(&self, world: &World, status: &Status) -> bool {
        let standing = standing(world, status);
        let same = status
            .status
            .as_object()
            .into_iter()
            .flatten()
            .all(|(key, value)| standing.get(key) == Some(value));
        if same {
            return true;
        }
        let resource = resource(
            GROUP,
            version(status.kind),
            status.kind.name(),
            status.kind.plural(),
        );
        let namespace = status.kind.is_namespaced().then_some(&*status.namespace);
        let api = self.api(&resource, namespace);
        let patch = Patch::Merge(json!({"status": status.status}));
        let parameters = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match api.patch_status(&status.name, &parameters, &patch).await {
            Ok(_) => true,
            // Deleted meanwhile.
            Err(kube::Error::Api(answer)) if answer.code == 404 => true,
            Err(error) => {
                debug!(kind = status.kind.name(), name = status.name, %error, "a status could not be written");
                false
            }
        }
    }

    fn api(&self, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }
}

/// The version that every cluster serves.
fn version(kind: GatewayKind) -> &'static str {
    kind.versions().first().copied().unwrap_or("v1")
}

fn plural(kind: &str) -> String {
    match kind {
        "GatewayClass" => "gatewayclasses".to_owned(),
        kind => format!("{}s", kind.to_ascii_lowercase()),
    }
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        },
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// The status that stands, as the world has it.
fn standing(world: &World, status: &Status) -> Value {
    let objects = &world.gateway_objects;
    let is = |namespace: &str, name: &str| (namespace, name) == (&*status.namespace, &*status.name);
    let found = match status.kind {
        GatewayKind::GatewayClass => objects
            .classes
            .iter()
            .find(|o| o.name() == status.name)
            .map(|o| &o.status),
        GatewayKind::Gateway => objects
            .gateways
            .iter()
            .find(|o| is(o.namespace(), o.name()))
            .map(|o| &o.status),
        GatewayKind::HttpRoute => objects
            .http_routes
            .iter()
            .find(|o| is(o.namespace(), o.name()))
            .map(|o| &o.status),
        GatewayKind::ReferenceGrant => None,
    };
    found.cloned().unwrap_or_default()
}
