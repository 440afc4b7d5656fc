//! Deployments: one ReplicaSet per template, and the way from one to the next.
//!
//! Works on JSON where templates are copied, so that no field is lost that this build does not
//! know. Invariant: a Deployment's ReplicaSets are found by their controller reference alone.

mod revision;
mod rollout;
mod status;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::Pod;
use malla_apiserver::{ApiError, DeleteParams, ListParams, Patch, kinds};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use self::rollout::{Limits, Set};
use super::{Context, Feeds};
use crate::events::{Severity, Subject};
use crate::object::{self, Key, controller_of, is_controlled_by, text};
use crate::pods;
use crate::queue::{Next, Queue};

const COMPONENT: &str = "deployment-controller";
const WORKERS: usize = 8;
/// Larger sizes count as this: no machine runs them, and sums stay in range.
const LARGEST: i32 = 1_000_000;
/// `revisionHistoryLimit` when it is not set.
const DEFAULT_HISTORY: i32 = 10;

pub(super) fn start(context: Context, feeds: &mut Feeds) -> AbortOnDropHandle<()> {
    let queue = Queue::<Key>::new();
    let deployments = Arc::clone(&queue);
    feeds.deployments.listen(move |change| {
        if change.new.is_some() {
            deployments.add(change.key.clone());
        }
    });
    let sets = Arc::clone(&queue);
    feeds.replica_sets.listen(move |change| {
        for set in change.old.iter().chain(&change.new) {
            if let Some(owner) = controller_of(set)
                && text(owner, "/kind") == "Deployment"
            {
                sets.add(Key::new(&change.key.namespace, text(owner, "/name")));
            }
        }
    });
    // `Recreate` waits for the last old pod to be gone.
    let (gone, client) = (Arc::clone(&queue), context.client.clone());
    feeds.pods.listen(move |change| {
        let (Some(pod), None) = (&change.old, &change.new) else {
            return;
        };
        let Some(set) = controller_of(pod) else {
            return;
        };
        let scope = Some(change.key.namespace.as_str());
        if let Ok(set) = client.get(&kinds::REPLICA_SETS, scope, text(set, "/name"))
            && let Some(owner) = controller_of(&set)
        {
            gone.add(Key::new(&change.key.namespace, text(owner, "/name")));
        }
    });
    queue.run("deployment", WORKERS, move |key| {
        reconcile(context.clone(), key)
    })
}

/// A Deployment and its ReplicaSets at one moment.
struct View {
    raw: Arc<Value>,
    deployment: Deployment,
    spec: DeploymentSpec,
    key: Key,
    /// Oldest first.
    sets: Vec<Arc<Value>>,
}

impl View {
    fn read(context: &Context, key: &Key) -> Result<Option<Self>, ApiError> {
        let Some(raw) = object::find_raw(&context.client, &kinds::DEPLOYMENTS, key)? else {
            return Ok(None);
        };
        let deployment: Deployment = object::typed(&raw)?;
        let uid = deployment.metadata.uid.clone().unwrap_or_default();
        let listed =
            context
                .client
                .list(&kinds::REPLICA_SETS, key.scope(), &ListParams::default())?;
        let mut sets = listed.items;
        sets.retain(|set| is_controlled_by(set, &uid));
        sets.sort_by(|one, other| revision::age(one).cmp(&revision::age(other)));
        Ok(Some(Self {
            spec: deployment.spec.clone(),
            raw,
            deployment,
            key: key.clone(),
            sets,
        }))
    }

    fn template(&self) -> &Value {
        self.raw.pointer("/spec/template").unwrap_or(&Value::Null)
    }

    fn desired(&self) -> i32 {
        self.spec.replicas.unwrap_or(1).clamp(0, LARGEST)
    }

    fn limits(&self) -> Limits {
        let rolling = self
            .spec
            .strategy
            .as_ref()
            .and_then(|s| s.rolling_update.as_ref());
        if self.recreates() {
            return Limits {
                desired: self.desired(),
                surge: 0,
                unavailable: self.desired(),
            };
        }
        Limits::resolve(
            self.desired(),
            rolling.and_then(|rolling| rolling.max_surge.as_ref()),
            rolling.and_then(|rolling| rolling.max_unavailable.as_ref()),
        )
    }

    fn recreates(&self) -> bool {
        let strategy = self.spec.strategy.as_ref();
        strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
    }

    /// The ReplicaSet of the current template; the oldest if there are several.
    fn new_set(&self) -> Option<&Arc<Value>> {
        let template = |set: &Value| set.pointer("/spec/template").cloned().unwrap_or_default();
        self.sets
            .iter()
            .find(|set| revision::same_template(&template(set), self.template()))
    }

    fn old_sets(&self) -> Vec<&Arc<Value>> {
        let new = self.new_set().map(|set| text(set, "/metadata/uid"));
        let other = |set: &&Arc<Value>| Some(text(set, "/metadata/uid")) != new;
        self.sets.iter().filter(other).collect()
    }
}

fn numbers(set: &Value) -> Set {
    let number = |pointer: &str| {
        let value = set.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        i32::try_from(value).unwrap_or(LARGEST).clamp(0, LARGEST)
    };
    Set {
        replicas: number("/spec/replicas"),
        available: number("/status/availableReplicas"),
    }
}

async fn reconcile(context: Context, key: Key) -> Result<Next, ApiError> {
    let Some(view) = View::read(&context, &key)? else {
        return Ok(Next::Done);
    };
    if view.deployment.metadata.deletion_timestamp.is_some() {
        return status::write(&context, &view, None).await;
    }
    let paused = view.spec.paused.unwrap_or(false);
    let progress = if paused || resized(&view) {
        resize(&context, &view, paused).await
    } else {
        roll(&context, &view).await
    };
    let failure = progress.as_ref().err();
    let view = View::read(&context, &key)?.unwrap_or(view);
    let next = status::write(&context, &view, failure).await?;
    progress?;
    if !paused {
        forget_history(&context, &view).await?;
    }
    Ok(next)
}

/// Whether `spec.replicas` changed since the sets were last scaled.
fn resized(view: &View) -> bool {
    view.sets.iter().any(|set| {
        let known = revision::annotation(set, revision::DESIRED);
        numbers(set).replicas > 0 && known.parse() != Ok(view.desired())
    })
}

/// Brings the sets to a changed size without going on with the rollout.
async fn resize(context: &Context, view: &View, paused: bool) -> Result<(), ApiError> {
    let active: Vec<&Arc<Value>> = view
        .sets
        .iter()
        .filter(|s| numbers(s).replicas > 0)
        .collect();
    let only = match active.as_slice() {
        [] => view.new_set().or(view.sets.last()),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(only) = only {
        return scale(context, view, only, view.desired()).await;
    }
    if active.is_empty() || (view.recreates() && !paused) {
        return Ok(());
    }
    let sizes: Vec<i32> = active.iter().map(|set| numbers(set).replicas).collect();
    let after = rollout::proportional(view.limits(), &sizes);
    for (set, replicas) in active.into_iter().zip(after) {
        scale(context, view, set, replicas).await?;
    }
    Ok(())
}

/// One step towards the current template.
async fn roll(context: &Context, view: &View) -> Result<(), ApiError> {
    let old = view.old_sets();
    if view.recreates() {
        for set in &old {
            scale(context, view, set, 0).await?;
        }
        if has_pods(context, view, &old)? {
            return Ok(());
        }
        let new = ensure_new_set(context, view, view.desired()).await?;
        return scale(context, view, &new, view.desired()).await;
    }
    let sets: Vec<Set> = old.iter().map(|set| numbers(set)).collect();
    let fresh = Set {
        replicas: 0,
        available: 0,
    };
    let known = view.new_set().map_or(fresh, |set| numbers(set));
    let (up, down) = rollout::rolling_step(view.limits(), known, &sets);
    let new = ensure_new_set(context, view, up).await?;
    scale(context, view, &new, up).await?;
    for (set, replicas) in old.into_iter().zip(down) {
        scale(context, view, set, replicas).await?;
    }
    Ok(())
}

/// Whether any pod of the sets is still there, ending or not.
fn has_pods(context: &Context, view: &View, sets: &[&Arc<Value>]) -> Result<bool, ApiError> {
    let left: Vec<Pod> = object::list(&context.client, &kinds::PODS, view.key.scope(), |pod| {
        sets.iter()
            .any(|set| is_controlled_by(pod, text(set, "/metadata/uid")))
    })?;
    Ok(left.iter().any(|pod| !pods::is_finished(pod)))
}

/// The ReplicaSet of the current template, made if need be with `replicas`.
async fn ensure_new_set(
    context: &Context,
    view: &View,
    replicas: i32,
) -> Result<Arc<Value>, ApiError> {
    let latest = view
        .sets
        .iter()
        .map(|set| revision::number(set))
        .max()
        .unwrap_or(0);
    let set = match view.new_set() {
        Some(set) => {
            let newest = view
                .old_sets()
                .iter()
                .all(|old| revision::number(old) < revision::number(set));
            let number = if newest {
                revision::number(set)
            } else {
                latest + 1
            };
            let mut annotations = revision::copied_annotations(&view.raw);
            annotations.insert(revision::REVISION.to_owned(), json!(number.to_string()));
            let known = set
                .pointer("/metadata/annotations")
                .cloned()
                .unwrap_or_default();
            if annotations
                .iter()
                .all(|(name, value)| known.get(name) == Some(value))
            {
                Arc::clone(set)
            } else {
                let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
                let name = text(set, "/metadata/name");
                let client = &context.client;
                client
                    .patch(&kinds::REPLICA_SETS, view.key.scope(), name, patch)
                    .await?
            }
        }
        None => create_set(context, view, replicas, latest + 1).await?,
    };
    let number = revision::number(&set).to_string();
    if revision::annotation(&view.raw, revision::REVISION) != number {
        let patch =
            Patch::Merge(json!({"metadata": {"annotations": {revision::REVISION: number}}}));
        let client = &context.client;
        client
            .patch(&kinds::DEPLOYMENTS, view.key.scope(), &view.key.name, patch)
            .await?;
    }
    Ok(set)
}

async fn create_set(
    context: &Context,
    view: &View,
    replicas: i32,
    number: i64,
) -> Result<Arc<Value>, ApiError> {
    let collisions = view
        .deployment
        .status
        .as_ref()
        .and_then(|status| status.collision_count);
    let hash = revision::hash(view.template(), collisions.unwrap_or(0));
    let mut template = view.template().clone();
    template["metadata"]["labels"][revision::HASH_LABEL] = json!(hash);
    let mut selector = view
        .raw
        .pointer("/spec/selector")
        .cloned()
        .unwrap_or_default();
    selector["matchLabels"][revision::HASH_LABEL] = json!(hash);
    let mut annotations = revision::copied_annotations(&view.raw);
    annotations.insert(revision::REVISION.to_owned(), json!(number.to_string()));
    annotations.insert(
        revision::DESIRED.to_owned(),
        json!(view.desired().to_string()),
    );
    annotations.insert(
        revision::MOST.to_owned(),
        json!(view.limits().most().to_string()),
    );
    let set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", view.key.name),
            "namespace": view.key.namespace,
            "labels": template["metadata"]["labels"],
            "annotations": annotations,
            "ownerReferences": [object::controlled_by("apps/v1", "Deployment", &view.deployment.metadata)],
        },
        "spec": {
            "replicas": replicas,
            "minReadySeconds": view.spec.min_ready_seconds.unwrap_or(0),
            "selector": selector,
            "template": template,
        },
    });
    let created = context
        .client
        .create(&kinds::REPLICA_SETS, view.key.scope(), set)
        .await;
    if created.as_ref().is_err_and(ApiError::is_already_exists) {
        // Another template has the same hash (or the set was just made): the count sets them apart.
        let status = json!({"status": {"collisionCount": collisions.unwrap_or(0) + 1}});
        let client = &context.client;
        let (scope, name) = (view.key.scope(), &view.key.name);
        client
            .patch_status(&kinds::DEPLOYMENTS, scope, name, Patch::Merge(status))
            .await?;
    }
    let set = created?;
    tell_scaled(context, view, &set, 0, replicas);
    Ok(set)
}

async fn scale(context: &Context, view: &View, set: &Value, replicas: i32) -> Result<(), ApiError> {
    let known = numbers(set).replicas;
    let desired = view.desired().to_string();
    let marked = revision::annotation(set, revision::DESIRED) == desired;
    if known == replicas && (marked || replicas == 0) {
        return Ok(());
    }
    let patch = Patch::Merge(json!({
        "metadata": {"annotations": {
            revision::DESIRED: desired, revision::MOST: view.limits().most().to_string(),
        }},
        "spec": {"replicas": replicas},
    }));
    let name = text(set, "/metadata/name");
    let client = &context.client;
    client
        .patch(&kinds::REPLICA_SETS, view.key.scope(), name, patch)
        .await?;
    if known != replicas {
        tell_scaled(context, view, set, known, replicas);
    }
    Ok(())
}

fn tell_scaled(context: &Context, view: &View, set: &Value, from: i32, to: i32) {
    if from == to {
        return;
    }
    let direction = if to > from { "up" } else { "down" };
    let name = text(set, "/metadata/name");
    let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
    let subject = Subject::new("apps/v1", "Deployment", &view.deployment.metadata);
    let events = &context.events;
    events.record(
        COMPONENT,
        Severity::Normal,
        subject,
        "ScalingReplicaSet",
        message,
    );
}

/// Deletes the oldest empty sets beyond `revisionHistoryLimit`.
async fn forget_history(context: &Context, view: &View) -> Result<(), ApiError> {
    let limit = view.spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY);
    let mut idle: Vec<&Arc<Value>> = view
        .old_sets()
        .into_iter()
        .filter(|set| {
            let alive = set
                .pointer("/status/replicas")
                .and_then(Value::as_i64)
                .unwrap_or(0);
            numbers(set).replicas == 0 && alive == 0
        })
        .collect();
    idle.sort_by_key(|set| revision::number(set));
    let surplus = idle
        .len()
        .saturating_sub(usize::try_from(limit).unwrap_or(0));
    for set in idle.into_iter().take(surplus) {
        let params = DeleteParams {
            uid: Some(text(set, "/metadata/uid").to_owned()),
            ..DeleteParams::default()
        };
        let name = text(set, "/metadata/name");
        let deleted = context
            .client
            .delete(&kinds::REPLICA_SETS, view.key.scope(), name, &params)
            .await;
        match deleted {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
