//! The Gateway API's other half: the class that is there by itself, pods and Services of Gateways,
//! and statuses.
//!
//! What is made for a Gateway belongs to it, so deleting the Gateway removes it. A Deployment's
//! `replicas` is not ours once it is made: whoever scales it keeps that.

use std::collections::HashMap;
use std::sync::Arc;

use kube::api::{ApiResource, Patch, PatchParams};
use kube::core::GroupVersionKind;
use malla_api::gateway_api::lower::{Managed, Outcome, Status};
use malla_api::gateway_api::{CLASS, CONTROLLER, GROUP};
use serde_json::{Value, json};
use tracing::{debug, warn};

use super::roots::MANAGER;
use super::{api, patch_status};
use crate::index::World;
use crate::manifest::{Installation, managed_gateway};
use crate::secrets::{Asked, Reader};
use crate::source::Watched;

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
            good &= self.tell(status).await;
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
        let kind = GroupVersionKind::gvk(group, version, &text(&object["kind"]));
        let namespace = object["metadata"]["namespace"].as_str();
        let objects = api(&self.client, &ApiResource::from_gvk(&kind), namespace);
        let parameters = PatchParams::apply(MANAGER).force();
        let name = text(&object["metadata"]["name"]);
        objects
            .patch(&name, &parameters, &Patch::Apply(object))
            .await
            .map(drop)
    }

    /// Writes a status that is not what stands.
    async fn tell(&self, status: &Status) -> bool {
        if !status.changed {
            return true;
        }
        let Status {
            kind,
            namespace,
            name,
            ..
        } = status;
        let namespace = kind.is_namespaced().then_some(namespace.as_str());
        let resource = Watched::GatewayApi(*kind).resource();
        let objects = api(&self.client, &resource, namespace);
        match patch_status(&objects, name, &status.status).await {
            Ok(()) => true,
            Err(error) => {
                debug!(kind = kind.name(), name, %error, "a status could not be written");
                false
            }
        }
    }
}
