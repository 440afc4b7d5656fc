//! EndpointSlices and Endpoints: which pods stand behind a Service.
//!
//! `backends` is pure; around it, slices are compared with what is stored. A Service without a
//! selector is its owner's business; an Endpoints object made for one is mirrored to a slice.

mod backends;
mod mirror;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use malla_apiserver::{ApiError, Client, DeleteParams, ListParams, Patch, Resource, kinds};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use self::backends::Backends;
use super::{Context, Feeds};
use crate::object::{self, Key, text};
use crate::queue::{Next, Queue};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// The name kube-controller-manager signs with; other tools look for it.
const MANAGER: &str = "endpointslice-controller.k8s.io";
const WORKERS: usize = 8;

pub(super) fn start(context: Context, feeds: &mut Feeds) -> AbortOnDropHandle<()> {
    let queue = Queue::<Key>::new();
    let services = Arc::clone(&queue);
    feeds
        .services
        .listen(move |change| services.add(change.key.clone()));
    let (pods, client) = (Arc::clone(&queue), context.client.clone());
    feeds.pods.listen(move |change| {
        let states = [change.old.as_deref(), change.new.as_deref()];
        for key in services_of(&client, &change.key.namespace, &states) {
            pods.add(key);
        }
    });
    let endpoints = Arc::clone(&queue);
    feeds
        .endpoints
        .listen(move |change| endpoints.add(change.key.clone()));
    // A slice that somebody took away comes back.
    let slices = Arc::clone(&queue);
    feeds.endpoint_slices.listen(move |change| {
        if let (Some(old), None) = (&change.old, &change.new) {
            let labels = old.pointer("/metadata/labels");
            let label = |name: &str| labels.and_then(|all| all.get(name)).and_then(Value::as_str);
            if let (Some(service), Some(MANAGER | mirror::MIRROR)) =
                (label(SERVICE_LABEL), label(MANAGED_LABEL))
            {
                slices.add(Key::new(&change.key.namespace, service));
            }
        }
    });
    queue.run("endpoints", WORKERS, move |key| {
        reconcile(context.clone(), key)
    })
}

/// Services whose selectors fit one of a pod's states.
fn services_of(client: &Client, namespace: &str, states: &[Option<&Value>]) -> Vec<Key> {
    let listed = client.list(&kinds::SERVICES, Some(namespace), &ListParams::default());
    let services = listed.map(|listed| listed.items).unwrap_or_default();
    let selected = |service: &Value| {
        let selector = service.pointer("/spec/selector").and_then(Value::as_object);
        states.iter().flatten().any(|pod| {
            let labels = pod.pointer("/metadata/labels");
            selector.is_some_and(|selector| {
                let mut all = selector.iter();
                all.all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
            })
        })
    };
    let fitting = services.iter().filter(|service| selected(service));
    fitting.map(|service| Key::of(service)).collect()
}

async fn reconcile(context: Context, key: Key) -> Result<Next, ApiError> {
    let service = object::find::<Service>(&context.client, &kinds::SERVICES, &key)?;
    mirror::sync(&context, &key, service.as_ref()).await?;
    let spec = service.as_ref().and_then(|service| service.spec.clone());
    let selector = spec
        .as_ref()
        .and_then(|spec| spec.selector.clone())
        .unwrap_or_default();
    let external = spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
    let (Some(service), Some(spec), false) = (service, spec, external || selector.is_empty())
    else {
        // Nothing to select by, or nothing to select for: owned slices would be stale.
        let stale = slices_of(&context, &key, MANAGER)?;
        return replace(&context, &key, &BTreeMap::new(), stale)
            .await
            .map(|()| Next::Done);
    };
    let pods: Vec<Pod> = object::list(&context.client, &kinds::PODS, key.scope(), |pod| {
        let labels = pod.pointer("/metadata/labels");
        let mut all = selector.iter();
        all.all(|(key, value)| {
            labels
                .and_then(|labels| labels.get(key))
                .and_then(Value::as_str)
                == Some(value)
        })
    })?;
    let settings = &context.settings;
    let backends = Backends::new(
        &spec,
        &key.name,
        &pods,
        &settings.node,
        settings.zone.as_deref(),
    );
    let slices = backends.slices(&service);
    let stored = slices_of(&context, &key, MANAGER)?;
    replace(&context, &key, &slices, stored).await?;
    write_endpoints(&context, &key, &service, &backends).await?;
    Ok(Next::Done)
}

/// A Service's slices that `manager` made.
fn slices_of(context: &Context, key: &Key, manager: &str) -> Result<Vec<Arc<Value>>, ApiError> {
    let params = ListParams {
        label_selector: format!("{SERVICE_LABEL}={},{MANAGED_LABEL}={manager}", key.name),
        ..ListParams::default()
    };
    Ok(context
        .client
        .list(&kinds::ENDPOINT_SLICES, key.scope(), &params)?
        .items)
}

/// Makes the stored slices those wanted, by name.
async fn replace(
    context: &Context,
    key: &Key,
    wanted: &BTreeMap<String, Value>,
    stored: Vec<Arc<Value>>,
) -> Result<(), ApiError> {
    let client = &context.client;
    for old in &stored {
        let name = text(old, "/metadata/name");
        if !wanted.contains_key(name) {
            let params = DeleteParams::default();
            let deleted = client
                .delete(&kinds::ENDPOINT_SLICES, key.scope(), name, &params)
                .await;
            tolerate(deleted, ApiError::is_not_found)?;
        }
    }
    for (name, slice) in wanted {
        let known = stored
            .iter()
            .find(|old| text(old, "/metadata/name") == name);
        write(
            client,
            &kinds::ENDPOINT_SLICES,
            key,
            name,
            known,
            slice,
            &["endpoints", "ports"],
        )
        .await?;
    }
    Ok(())
}

/// Creates an object, or updates it if `fields` or its labels differ.
async fn write(
    client: &Client,
    resource: &Resource,
    key: &Key,
    name: &str,
    known: Option<&Arc<Value>>,
    wanted: &Value,
    fields: &[&str],
) -> Result<(), ApiError> {
    let Some(known) = known else {
        let created = client.create(resource, key.scope(), wanted.clone()).await;
        return tolerate(created, ApiError::is_already_exists);
    };
    let labels = |object: &Value| object.pointer("/metadata/labels").cloned();
    let empty = |value: &Value| value.is_null() || value == &json!([]);
    let differs = |field: &&str| {
        let (old, new) = (&known[*field], &wanted[*field]);
        old != new && !(empty(old) && empty(new))
    };
    if !fields.iter().any(differs) && labels(known) == labels(wanted) {
        return Ok(());
    }
    let mut changes = serde_json::Map::new();
    for field in fields {
        changes.insert((*field).to_owned(), wanted[*field].clone());
    }
    changes.insert("metadata".to_owned(), json!({"labels": labels(wanted)}));
    let patch = Patch::Merge(Value::Object(changes));
    let patched = client.patch(resource, key.scope(), name, patch).await;
    tolerate(patched, ApiError::is_not_found)
}

fn tolerate<T>(result: Result<T, ApiError>, fine: fn(&ApiError) -> bool) -> Result<(), ApiError> {
    match result {
        Err(error) if !fine(&error) => Err(error),
        _ => Ok(()),
    }
}

async fn write_endpoints(
    context: &Context,
    key: &Key,
    service: &Service,
    backends: &Backends,
) -> Result<(), ApiError> {
    let known = object::find_raw(&context.client, &kinds::ENDPOINTS, key)?;
    let wanted = backends.endpoints(service);
    let client = &context.client;
    write(
        client,
        &kinds::ENDPOINTS,
        key,
        &key.name,
        known.as_ref(),
        &wanted,
        &["subsets"],
    )
    .await
}
