//! What the control plane writes to the cluster. Only the leader of several replicas does.
//!
//! Every writer is level-triggered: it compares what is there with what should be and changes the
//! difference, so that it may be interrupted anywhere and run again.

pub mod authority;
pub mod gateway_api;
pub mod gateway_ports;
pub mod roots;
pub mod status;

use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use roots::MANAGER;

/// Objects of one kind, of a namespace or of the cluster.
fn api(
    client: &kube::Client,
    resource: &ApiResource,
    namespace: Option<&str>,
) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    }
}

/// Merges `status` into the one that an object has. One that was deleted meanwhile needs none.
///
/// # Errors
/// When the API server refuses or cannot be reached.
async fn patch_status(
    objects: &Api<DynamicObject>,
    name: &str,
    status: &Value,
) -> kube::Result<()> {
    let parameters = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(json!({"status": status}));
    match objects.patch_status(name, &parameters, &patch).await {
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
        other => other.map(drop),
    }
}
