//! ReplicaSets: as many pods as asked for.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use malla_apiserver::{ApiError, DeleteParams, Patch, kinds};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::{Context, Feeds};
use crate::events::{Severity, Subject, seconds};
use crate::object::{self, Key, controller_of, is_controlled_by, text};
use crate::pods;
use crate::queue::{Next, Queue};

const COMPONENT: &str = "replicaset-controller";
/// ReplicaSets worked on at a time: creating a pod may wait for an admission webhook.
const WORKERS: usize = 8;
/// Pods created or deleted in one go (kube-controller-manager's burst).
const BURST: usize = 500;

pub(super) fn start(context: Context, feeds: &mut Feeds) -> AbortOnDropHandle<()> {
    let queue = Queue::<Key>::new();
    let sets = Arc::clone(&queue);
    feeds.replica_sets.listen(move |change| {
        if change.new.is_some() {
            sets.add(change.key.clone());
        }
    });
    let (pods, client) = (Arc::clone(&queue), context.client.clone());
    feeds.pods.listen(move |change| {
        for pod in change.old.iter().chain(&change.new) {
            match controller_of(pod) {
                Some(owner) if text(owner, "/kind") == "ReplicaSet" => {
                    pods.add(Key::new(&change.key.namespace, text(owner, "/name")));
                }
                Some(_) => {}
                // An orphan may fit some set.
                None => {
                    let scope = Some(change.key.namespace.as_str());
                    let params = malla_apiserver::ListParams::default();
                    let listed = client.list(&kinds::REPLICA_SETS, scope, &params);
                    for set in listed.map(|listed| listed.items).unwrap_or_default() {
                        pods.add(Key::of(&set));
                    }
                }
            }
        }
    });
    queue.run("replicaset", WORKERS, move |key| {
        reconcile(context.clone(), key)
    })
}

async fn reconcile(context: Context, key: Key) -> Result<Next, ApiError> {
    let Some(raw) = object::find_raw(&context.client, &kinds::REPLICA_SETS, &key)? else {
        return Ok(Next::Done);
    };
    let set: ReplicaSet = object::typed(&raw)?;
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(Next::Done);
    }
    let mine = claim(&context, &set, &key).await?;
    let active: Vec<&Pod> = mine.iter().filter(|pod| pods::is_active(pod)).collect();
    let spec = set.spec.clone();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let scaled = if active.len() < wanted {
        create(&context, &raw, &set, wanted - active.len()).await
    } else {
        delete(&context, &set, &active, active.len() - wanted).await
    };
    let min_ready = Duration::from_secs(
        spec.min_ready_seconds
            .unwrap_or(0)
            .max(0)
            .unsigned_abs()
            .into(),
    );
    let again = write_status(
        &context,
        &key,
        &set,
        &active,
        min_ready,
        scaled.as_ref().err(),
    );
    let again = again.await?;
    scaled?;
    Ok(again)
}

/// The set's pods, adopting those that fit and have no controller.
async fn claim(context: &Context, set: &ReplicaSet, key: &Key) -> Result<Vec<Pod>, ApiError> {
    let uid = set.metadata.uid.clone().unwrap_or_default();
    let selector = set.spec.selector.clone();
    let candidates: Vec<Pod> = object::list(&context.client, &kinds::PODS, key.scope(), |pod| {
        is_controlled_by(pod, &uid) || controller_of(pod).is_none()
    })?;
    let mut mine = Vec::new();
    for pod in candidates {
        let fits = object::selects(&selector, &object::labels(&pod.metadata));
        let owned = pod
            .metadata
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.uid == uid);
        if owned && fits {
            mine.push(pod);
        } else if owned || (fits && pods::is_active(&pod)) {
            let mut owners: Vec<_> = pod.metadata.owner_references.clone().unwrap_or_default();
            if owned {
                owners.retain(|owner| owner.uid != uid);
            } else {
                owners.push(object::controlled_by(
                    "apps/v1",
                    "ReplicaSet",
                    &set.metadata,
                ));
            }
            let change = json!({"metadata": {
                "uid": pod.metadata.uid, "ownerReferences": owners,
            }});
            let name = pod.metadata.name.clone().unwrap_or_default();
            let patch = Patch::Merge(change);
            context
                .client
                .patch(&kinds::PODS, key.scope(), &name, patch)
                .await?;
            if !owned {
                mine.push(pod);
            }
        }
    }
    Ok(mine)
}

async fn create(
    context: &Context,
    raw: &Value,
    set: &ReplicaSet,
    count: usize,
) -> Result<(), ApiError> {
    let namespace = set.metadata.namespace.clone().unwrap_or_default();
    let new_pod = || {
        let mut pod = raw.pointer("/spec/template").cloned().unwrap_or_default();
        let owner = object::controlled_by("apps/v1", "ReplicaSet", &set.metadata);
        let name = set.metadata.name.as_deref().unwrap_or_default();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["namespace"] = json!(namespace);
        pod["metadata"]["generateName"] = json!(format!("{name}-"));
        pod["metadata"]["ownerReferences"] = json!([owner]);
        pod
    };
    let subject = || Subject::new("apps/v1", "ReplicaSet", &set.metadata);
    let creations = (0..count.min(BURST)).map(|_| async {
        let created = context
            .client
            .create(&kinds::PODS, Some(&namespace), new_pod())
            .await;
        let (severity, reason, message) = match &created {
            Ok(pod) => {
                let name = text(pod, "/metadata/name");
                (
                    Severity::Normal,
                    "SuccessfulCreate",
                    format!("Created pod: {name}"),
                )
            }
            Err(error) => {
                let message = format!("Error creating: {}", error.message());
                (Severity::Warning, "FailedCreate", message)
            }
        };
        context
            .events
            .record(COMPONENT, severity, subject(), reason, message);
        created.map(drop)
    });
    join_all(creations).await.into_iter().collect()
}

async fn delete(
    context: &Context,
    set: &ReplicaSet,
    active: &[&Pod],
    count: usize,
) -> Result<(), ApiError> {
    let mut ranked = active.to_vec();
    ranked.sort_by_key(|pod| deletion_rank(pod));
    let deletions = ranked.into_iter().take(count.min(BURST)).map(|pod| async {
        let key = Key::of_meta(&pod.metadata);
        let params = DeleteParams {
            uid: pod.metadata.uid.clone(),
            ..DeleteParams::default()
        };
        let client = &context.client;
        let deleted = client
            .delete(&kinds::PODS, key.scope(), &key.name, &params)
            .await;
        match deleted {
            Err(error) if !error.is_not_found() => Err(error),
            _ => {
                let subject = Subject::new("apps/v1", "ReplicaSet", &set.metadata);
                let message = format!("Deleted pod: {}", key.name);
                context.events.record(
                    COMPONENT,
                    Severity::Normal,
                    subject,
                    "SuccessfulDelete",
                    message,
                );
                Ok(())
            }
        }
    });
    join_all(deletions).await.into_iter().collect()
}

/// Less useful pods go first: unbound, pending, not ready, often restarted, young.
fn deletion_rank(pod: &Pod) -> (bool, bool, bool, Reverse<i32>, Reverse<Option<Timestamp>>) {
    let status = pod.status.as_ref();
    let bound = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.node_name.is_some());
    let running = status.and_then(|status| status.phase.as_deref()) == Some("Running");
    let restarts = status
        .and_then(|status| status.container_statuses.as_ref())
        .into_iter()
        .flatten()
        .map(|container| container.restart_count)
        .max()
        .unwrap_or(0);
    let made = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (
        bound,
        running,
        pods::is_ready(pod),
        Reverse(restarts),
        Reverse(made),
    )
}

async fn write_status(
    context: &Context,
    key: &Key,
    set: &ReplicaSet,
    before: &[&Pod],
    min_ready: Duration,
    failure: Option<&ApiError>,
) -> Result<Next, ApiError> {
    let uid = set.metadata.uid.clone().unwrap_or_default();
    let mine: Vec<Pod> = object::list(&context.client, &kinds::PODS, key.scope(), |pod| {
        is_controlled_by(pod, &uid)
    })?;
    let active: Vec<&Pod> = mine.iter().filter(|pod| pods::is_active(pod)).collect();
    let template_labels = set
        .spec
        .template
        .as_ref()
        .and_then(|template| template.metadata.as_ref())
        .map(object::labels)
        .unwrap_or_default();
    let labelled = |pod: &&&Pod| {
        let labels = object::labels(&pod.metadata);
        template_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    };
    let now = Timestamp::now();
    let ready_for = |pod: &Pod| pods::ready_for(pod, now);
    let available = |pod: &&&Pod| ready_for(pod).is_some_and(|time| time >= min_ready);
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let ready = active.iter().filter(|pod| pods::is_ready(pod)).count();
    let available = active.iter().filter(available).count();
    let mut status = json!({
        "replicas": active.len(),
        "fullyLabeledReplicas": active.iter().filter(labelled).count(),
        "readyReplicas": ready,
        "availableReplicas": available,
        "observedGeneration": set.metadata.generation,
        "conditions": [],
    });
    if let Some(failure) = failure {
        let reason = if before.len() < active.len() {
            "FailedDelete"
        } else {
            "FailedCreate"
        };
        status["conditions"] = json!([{
            "type": "ReplicaFailure", "status": "True", "reason": reason,
            "message": failure.message(), "lastTransitionTime": seconds(now),
        }]);
    }
    let known = set.status.clone().unwrap_or_default();
    if !same(&known, &status, count(ready), count(available)) {
        let patch = Patch::Merge(json!({"status": status}));
        let client = &context.client;
        client
            .patch_status(&kinds::REPLICA_SETS, key.scope(), &key.name, patch)
            .await?;
    }
    if available < ready {
        return Ok(Next::After(min_ready));
    }
    Ok(Next::Done)
}

fn same(known: &ReplicaSetStatus, status: &Value, ready: i32, available: i32) -> bool {
    let number = |name: &str| status.get(name).and_then(Value::as_i64);
    let failing = known.conditions.iter().flatten().next().is_some();
    let fails = status
        .get("conditions")
        .is_some_and(|all| all != &json!([]));
    Some(i64::from(known.replicas)) == number("replicas")
        && known.fully_labeled_replicas.map(i64::from) == number("fullyLabeledReplicas")
        && known.ready_replicas.unwrap_or(0) == ready
        && known.available_replicas.unwrap_or(0) == available
        && known.observed_generation == number("observedGeneration")
        && failing == fails
}
