//! Namespaces: what a live one must hold, and the end of a deleted one.

use std::sync::Arc;

use malla_apiserver::{ApiError, DeleteParams, ListParams, Patch, kinds};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

use super::{Context, Feeds};
use crate::object::{self, Key, text};
use crate::queue::{Next, Queue};

/// Holds the cluster's certificate in every namespace, for service-account volumes.
const ROOT_CA_CONFIG_MAP: &str = "kube-root-ca.crt";
const DEFAULT_ACCOUNT: &str = "default";
/// How soon an ending namespace is looked at again: its objects end in their own time.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

pub(super) fn start(context: Context, feeds: &mut Feeds) -> AbortOnDropHandle<()> {
    let queue = Queue::<Key>::new();
    let namespaces = Arc::clone(&queue);
    feeds.namespaces.listen(move |change| {
        if change.new.is_some() {
            namespaces.add(change.key.clone());
        }
    });
    // What a live namespace must hold comes back when it is taken away.
    for (feed, name) in [
        (&mut feeds.service_accounts, DEFAULT_ACCOUNT),
        (&mut feeds.config_maps, ROOT_CA_CONFIG_MAP),
    ] {
        let queue = Arc::clone(&queue);
        feed.listen(move |change| {
            if change.key.name == name && change.old.is_some() {
                queue.add(Key::new("", &change.key.namespace));
            }
        });
    }
    queue.run("namespace", 2, move |key| reconcile(context.clone(), key))
}

async fn reconcile(context: Context, key: Key) -> Result<Next, ApiError> {
    let Some(namespace) = object::find_raw(&context.client, &kinds::NAMESPACES, &key)? else {
        return Ok(Next::Done);
    };
    if namespace.pointer("/metadata/deletionTimestamp").is_some() {
        return end(&context, &key.name, &namespace).await;
    }
    ensure_default_account(&context, &key.name).await?;
    ensure_root_ca(&context, &key.name).await?;
    Ok(Next::Done)
}

async fn ensure_default_account(context: &Context, namespace: &str) -> Result<(), ApiError> {
    let key = Key::new(namespace, DEFAULT_ACCOUNT);
    if object::find_raw(&context.client, &kinds::SERVICE_ACCOUNTS, &key)?.is_some() {
        return Ok(());
    }
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": DEFAULT_ACCOUNT, "namespace": namespace},
    });
    let created = context
        .client
        .create(&kinds::SERVICE_ACCOUNTS, Some(namespace), account)
        .await;
    tolerate_existing(created)
}

async fn ensure_root_ca(context: &Context, namespace: &str) -> Result<(), ApiError> {
    let data = json!({"ca.crt": context.settings.ca_pem});
    let key = Key::new(namespace, ROOT_CA_CONFIG_MAP);
    match object::find_raw(&context.client, &kinds::CONFIG_MAPS, &key)? {
        Some(found) if found.get("data") == Some(&data) => Ok(()),
        Some(_) => {
            let patch = Patch::Merge(json!({"data": data}));
            let (client, scope) = (&context.client, Some(namespace));
            let patched = client
                .patch(&kinds::CONFIG_MAPS, scope, ROOT_CA_CONFIG_MAP, patch)
                .await;
            patched.map(drop)
        }
        None => {
            let config_map = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "data": data,
                "metadata": {
                    "name": ROOT_CA_CONFIG_MAP, "namespace": namespace,
                    "annotations": {"kubernetes.io/description":
                        "Contains a CA bundle that can be used to verify the kube-apiserver."},
                },
            });
            let created = context
                .client
                .create(&kinds::CONFIG_MAPS, Some(namespace), config_map)
                .await;
            tolerate_existing(created)
        }
    }
}

fn tolerate_existing<T>(result: Result<T, ApiError>) -> Result<(), ApiError> {
    match result {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(()),
    }
}

/// Deletes everything in a namespace; once nothing is left, lets the namespace go.
async fn end(context: &Context, name: &str, namespace: &Value) -> Result<Next, ApiError> {
    let holders = namespace
        .pointer("/spec/finalizers")
        .and_then(Value::as_array);
    let held = holders.is_some_and(|all| all.iter().any(|one| one == "kubernetes"));
    if !held {
        return Ok(Next::Done);
    }
    let mut left = Vec::new();
    for (resource, namespaced) in context.client.deletable_resources() {
        if !namespaced {
            continue;
        }
        let listed = context
            .client
            .list(&resource, Some(name), &ListParams::default())?;
        for object in &listed.items {
            // Events are not deleted one by one by anybody who waits for them.
            if object.pointer("/metadata/deletionTimestamp").is_none() {
                let params = DeleteParams {
                    uid: Some(text(object, "/metadata/uid").to_owned()),
                    ..DeleteParams::default()
                };
                let object_name = text(object, "/metadata/name");
                let deleted = context
                    .client
                    .delete(&resource, Some(name), object_name, &params)
                    .await;
                match deleted {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => {
                        return Err(error);
                    }
                    _ => {}
                }
            }
        }
        let remaining = context
            .client
            .list(&resource, Some(name), &ListParams::default())?;
        if !remaining.items.is_empty() {
            left.push((resource.plural.clone(), remaining.items.len()));
        }
    }
    if left.is_empty() {
        context.client.finalize_namespace(name).await?;
        return Ok(Next::Done);
    }
    tracing::debug!(namespace = name, ?left, "the namespace is not empty yet");
    Ok(Next::After(LOOK_AGAIN))
}
