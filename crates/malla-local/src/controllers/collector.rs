//! The garbage collector: objects whose owners are gone, and deletions that wait for dependents.
//!
//! Follows every resource, custom ones included. Invariants: an object is deleted only if every
//! owner it names is known to be gone (by uid, checked in the store); `foregroundDeletion` is
//! lifted only when no dependent that blocks is left, `orphan` only when none refers to the owner.

mod graph;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use malla_apiserver::{ApiError, Client, DeleteParams, Patch, Resource, kinds};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use self::graph::{Graph, Node, Owner};
use super::Context;
use crate::feed::Feed;
use crate::object::{self, Key, text};
use crate::queue::{Next, Queue};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// How soon a deletion that waits for others is looked at again if nothing tells us first.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

type Shared = Arc<Mutex<Graph>>;
type Following = BTreeMap<Resource, AbortOnDropHandle<()>>;

pub(super) fn start(context: Context) -> AbortOnDropHandle<()> {
    let queue = Queue::<String>::new();
    let graph: Shared = Arc::default();
    let (client, shared) = (context.client.clone(), Arc::clone(&graph));
    let worker = Arc::clone(&queue).run("collector", 4, move |uid| {
        collect(client.clone(), Arc::clone(&shared), uid)
    });
    AbortOnDropHandle::new(tokio::spawn(async move {
        let _worker = worker;
        follow_all(&context.client, &graph, &queue).await;
    }))
}

/// Follows every resource there is, and those that CRDs add or take away.
async fn follow_all(client: &Client, graph: &Shared, queue: &Arc<Queue<String>>) {
    let changed = Arc::new(tokio::sync::Notify::new());
    let mut definitions = Feed::of(kinds::CUSTOM_RESOURCE_DEFINITIONS);
    let told = Arc::clone(&changed);
    definitions.listen(move |_| told.notify_one());
    let _definitions = definitions.start(client.clone());
    let mut following = Following::new();
    loop {
        let served = client.deletable_resources();
        following.retain(|resource, _| served.iter().any(|(one, _)| one == resource));
        for (resource, _) in served {
            if resource == kinds::EVENTS || following.contains_key(&resource) {
                continue; // Events own nothing and are owned by nothing.
            }
            let task = follow(client, graph, queue, &resource);
            following.insert(resource, task);
        }
        changed.notified().await;
    }
}

fn follow(
    client: &Client,
    graph: &Shared,
    queue: &Arc<Queue<String>>,
    resource: &Resource,
) -> AbortOnDropHandle<()> {
    let mut feed = Feed::of(resource.clone());
    let (graph, queue, resource) = (Arc::clone(graph), Arc::clone(queue), resource.clone());
    feed.listen(move |change| {
        let Some(object) = change.object() else {
            return;
        };
        let uid = text(object, "/metadata/uid").to_owned();
        let mut graph = graph.lock().unwrap_or_else(PoisonError::into_inner);
        let affected = match &change.new {
            Some(new) => graph.put(uid, Node::of(resource.clone(), change.key.clone(), new)),
            None => graph.remove(&uid),
        };
        for uid in affected {
            queue.add(uid);
        }
    });
    feed.start(client.clone())
}

/// Looks at one object: does it wait for dependents, or is it one whose owners are gone?
async fn collect(client: Client, graph: Shared, uid: String) -> Result<Next, ApiError> {
    let (node, dependents) = {
        let graph = graph.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(node) = graph.get(&uid) else {
            return Ok(Next::Done);
        };
        (node.clone(), graph.dependents(&uid))
    };
    let Some(object) = object::find_raw(&client, &node.resource, &node.key)? else {
        return Ok(Next::Done);
    };
    if text(&object, "/metadata/uid") != uid {
        return Ok(Next::Done);
    }
    let ending = object.pointer("/metadata/deletionTimestamp").is_some();
    if ending && has_finalizer(&object, ORPHAN) {
        return orphan(&client, &node, &object, &uid, &dependents).await;
    }
    if ending && has_finalizer(&object, FOREGROUND) {
        return foreground(&client, &node, &object, &uid, &dependents).await;
    }
    if ending || node.owners.is_empty() {
        return Ok(Next::Done);
    }
    drop_if_ownerless(&client, &node, &object, &uid).await
}

async fn drop_if_ownerless(
    client: &Client,
    node: &Node,
    object: &Value,
    uid: &str,
) -> Result<Next, ApiError> {
    let mut alive = Vec::new();
    let mut waited_for = false;
    for owner in &node.owners {
        match owner_state(client, node, owner)? {
            OwnerState::Alive => alive.push(owner.uid.clone()),
            OwnerState::WaitsForDependents => waited_for = true,
            OwnerState::Gone => {}
        }
    }
    if alive.len() == node.owners.len() {
        return Ok(Next::Done);
    }
    if !alive.is_empty() {
        // Others still want it: only the gone owners' references go.
        let kept = references(object, |owner| alive.iter().any(|uid| uid == owner));
        return patch_references(client, node, uid, kept).await;
    }
    let params = DeleteParams {
        uid: Some(uid.to_owned()),
        resource_version: Some(text(object, "/metadata/resourceVersion").to_owned()),
        propagation: waited_for.then_some(malla_apiserver::Propagation::Foreground),
        ..DeleteParams::default()
    };
    let (scope, name) = (node.key.scope(), &node.key.name);
    match client.delete(&node.resource, scope, name, &params).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Next::Done),
    }
}

/// Deletes the dependents; lifts the finalizer when no blocking one is left.
async fn foreground(
    client: &Client,
    node: &Node,
    object: &Value,
    uid: &str,
    dependents: &[Node],
) -> Result<Next, ApiError> {
    let blocking = |dependent: &&Node| {
        let mut owners = dependent.owners.iter();
        owners.any(|owner| owner.uid == uid && owner.blocks)
    };
    let mut left = false;
    for dependent in dependents.iter().filter(blocking) {
        let found = object::find_raw(client, &dependent.resource, &dependent.key)?;
        let still = found.filter(|found| references_uid(found, uid));
        let Some(still) = still else { continue };
        left = true;
        if still.pointer("/metadata/deletionTimestamp").is_none() {
            drop_if_ownerless(client, dependent, &still, text(&still, "/metadata/uid")).await?;
        }
    }
    if left {
        return Ok(Next::After(LOOK_AGAIN));
    }
    lift(client, node, object, FOREGROUND).await
}

async fn orphan(
    client: &Client,
    node: &Node,
    object: &Value,
    uid: &str,
    dependents: &[Node],
) -> Result<Next, ApiError> {
    for dependent in dependents {
        let found = object::find_raw(client, &dependent.resource, &dependent.key)?;
        if let Some(found) = found.filter(|found| references_uid(found, uid)) {
            let kept = references(&found, |owner| owner != uid);
            let own = text(&found, "/metadata/uid");
            patch_references(client, dependent, own, kept).await?;
        }
    }
    lift(client, node, object, ORPHAN).await
}

async fn lift(
    client: &Client,
    node: &Node,
    object: &Value,
    finalizer: &str,
) -> Result<Next, ApiError> {
    let all = object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array);
    let kept: Vec<&Value> = all
        .into_iter()
        .flatten()
        .filter(|one| *one != finalizer)
        .collect();
    let patch = Patch::Merge(json!({"metadata": {
        "resourceVersion": text(object, "/metadata/resourceVersion"), "finalizers": kept,
    }}));
    let (scope, name) = (node.key.scope(), &node.key.name);
    match client.patch(&node.resource, scope, name, patch).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Next::Done),
    }
}

enum OwnerState {
    Alive,
    WaitsForDependents,
    Gone,
}

fn owner_state(client: &Client, node: &Node, owner: &Owner) -> Result<OwnerState, ApiError> {
    // A kind that is not served (any more) cannot be judged: leave its dependents alone.
    let Some((resource, namespaced)) = client.resource_of(&owner.api_version, &owner.kind) else {
        return Ok(OwnerState::Alive);
    };
    let namespace = if namespaced {
        node.key.namespace.as_str()
    } else {
        ""
    };
    let key = Key::new(namespace, &owner.name);
    let found = object::find_raw(client, &resource, &key)?;
    let Some(found) = found.filter(|found| text(found, "/metadata/uid") == owner.uid) else {
        return Ok(OwnerState::Gone);
    };
    let ending = found.pointer("/metadata/deletionTimestamp").is_some();
    if ending && has_finalizer(&found, FOREGROUND) {
        return Ok(OwnerState::WaitsForDependents);
    }
    Ok(OwnerState::Alive)
}

fn has_finalizer(object: &Value, name: &str) -> bool {
    let all = object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array);
    all.is_some_and(|all| all.iter().any(|one| one == name))
}

fn references(object: &Value, keep: impl Fn(&str) -> bool) -> Vec<Value> {
    let all = object
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array);
    let all = all.into_iter().flatten();
    all.filter(|owner| keep(text(owner, "/uid")))
        .cloned()
        .collect()
}

fn references_uid(object: &Value, uid: &str) -> bool {
    !references(object, |owner| owner == uid).is_empty()
}

async fn patch_references(
    client: &Client,
    node: &Node,
    uid: &str,
    kept: Vec<Value>,
) -> Result<Next, ApiError> {
    let patch = Patch::Merge(json!({"metadata": {"uid": uid, "ownerReferences": kept}}));
    let (scope, name) = (node.key.scope(), &node.key.name);
    match client.patch(&node.resource, scope, name, patch).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Next::Done),
    }
}
