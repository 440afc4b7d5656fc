//! Delete and deletecollection.
//!
//! An object goes at once, unless finalizers or a pod's grace period hold it: then it is marked, and goes with the update
//! that removes the last hold.

use std::sync::Arc;

use jiff::SignedDuration;
use malla_apimachinery::meta;
use serde_json::{Value, json};

use super::create::text;
use super::read::{self, ListOptions};
use super::update::releases;
use super::{Cx, MODIFIED, Target, write_error};
use crate::admission::{self, Operation, Review};
use crate::client::{DeleteParams, Propagation};
use crate::core::Core;
use crate::error::ApiError;
use crate::store::{Expect, Stored, Write, WriteError};
use crate::strategy::Strategy;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const ATTEMPTS: usize = 10;

/// What became of the object.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// It is gone; this was its last state.
    Gone(Arc<Value>),
    /// It is marked and waits for its finalizers or its grace period.
    Pending(Arc<Value>),
}

/// Deletes one object.
pub(crate) async fn delete(
    core: &Core,
    target: &Target,
    params: &DeleteParams,
    cx: &mut Cx,
) -> Result<Deleted, ApiError> {
    admission::lifecycle_delete(target)?;
    for _ in 0..ATTEMPTS {
        let Some(live) = core.store.get(target.resource(), &target.key()) else {
            return Err(ApiError::not_found(target.about()));
        };
        check_preconditions(target, params, &live)?;
        let mut review = Review::new(target, Operation::Delete, &target.name, None);
        review.old = Some(target.shown(&live.object));
        review.options = options(params);
        admission::validate(core, &review, None, cx).await?;
        if let Some(deleted) = attempt(core, target, params, &live, cx).await? {
            return Ok(deleted);
        }
    }
    Err(ApiError::conflict(target.about(), MODIFIED))
}

/// Deletes what a list with `options` finds; returns what it deleted.
pub(crate) async fn delete_collection(
    core: &Core,
    target: &Target,
    options: &ListOptions,
    params: &DeleteParams,
    cx: &mut Cx,
) -> Result<Vec<Arc<Value>>, ApiError> {
    let listed = read::list(core, target, options)?;
    let mut deleted = Vec::with_capacity(listed.items.len());
    for item in listed.items {
        let mut one = target.clone();
        text(&item, "/metadata/name").clone_into(&mut one.name);
        text(&item, "/metadata/namespace").clone_into(&mut one.namespace);
        match delete(core, &one, params, cx).await {
            Ok(Deleted::Gone(last) | Deleted::Pending(last)) => deleted.push(last),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

async fn attempt(
    core: &Core,
    target: &Target,
    params: &DeleteParams,
    live: &Stored,
    cx: &Cx,
) -> Result<Option<Deleted>, ApiError> {
    let marked = mark(core, target, params, &live.object);
    let gone = releases(target, &marked);
    if !gone && meta::same_content(&marked, &live.object) {
        return Ok(Some(Deleted::Pending(target.shown(&live.object))));
    }
    if cx.dry_run {
        let object = Arc::new(marked);
        return Ok(Some(outcome(target, gone, &object)));
    }
    let write = Write {
        resource: target.resource().clone(),
        key: target.key(),
        expect: Expect::Version(live.version),
        object: (!gone).then_some(marked),
    };
    match core.store.write(write).await {
        Ok(stored) => {
            Strategy::of(target.resource()).stored(core);
            Ok(Some(outcome(target, gone, &stored.object)))
        }
        Err(WriteError::Changed) => Ok(None),
        Err(error) => Err(write_error(target, &target.name, error)),
    }
}

fn outcome(target: &Target, gone: bool, object: &Arc<Value>) -> Deleted {
    let object = target.shown(object);
    if gone {
        return Deleted::Gone(object);
    }
    Deleted::Pending(object)
}

/// The object as deletion leaves it, before it is known whether anything still holds it.
fn mark(core: &Core, target: &Target, params: &DeleteParams, live: &Value) -> Value {
    let mut object = live.clone();
    set_propagation(&mut object, params.propagation);
    let strategy = Strategy::of(target.resource());
    let grace = strategy.grace_period(&object, params.grace_period_seconds);
    let metadata = &mut object["metadata"];
    let already = metadata["deletionTimestamp"].is_string();
    let current = metadata["deletionGracePeriodSeconds"].as_u64();
    if already && current.is_some_and(|current| current <= grace) {
        return object;
    }
    // A shorter grace period moves the deadline; a longer one is ignored, as in Kubernetes.
    let grace_signed = i64::try_from(grace).unwrap_or(i64::MAX);
    let deadline = core
        .now()
        .saturating_add(SignedDuration::from_secs(grace_signed));
    let deadline = deadline.unwrap_or(jiff::Timestamp::MAX);
    metadata["deletionTimestamp"] = meta::time(deadline).into();
    metadata["deletionGracePeriodSeconds"] = grace.into();
    if !already {
        let generation = metadata["generation"].as_i64();
        if let Some(generation) = generation.filter(|generation| *generation > 0) {
            metadata["generation"] = generation.saturating_add(1).into();
        }
    }
    strategy.mark_deleted(core, &mut object);
    object
}

/// Foreground and orphan deletion are finalizers the garbage collector works off.
fn set_propagation(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else {
        return;
    };
    let mut finalizers: Vec<Value> = object["metadata"]["finalizers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != ORPHAN && finalizer != FOREGROUND);
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FOREGROUND.into()),
        Propagation::Orphan => finalizers.push(ORPHAN.into()),
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        if finalizers.is_empty() {
            metadata.shift_remove("finalizers");
        } else {
            metadata.insert("finalizers".to_owned(), finalizers.into());
        }
    }
}

fn check_preconditions(
    target: &Target,
    params: &DeleteParams,
    live: &Stored,
) -> Result<(), ApiError> {
    let metadata = &live.object["metadata"];
    let differs = |what: &str, field: &str, want: &Option<String>| {
        let found = metadata[field].as_str().unwrap_or("");
        let want = want.as_deref()?;
        (want != found).then(|| {
            format!("Precondition failed: {what} in precondition: {want}, {what} in object meta: {found}")
        })
    };
    let broken = differs("UID", "uid", &params.uid).or_else(|| {
        differs(
            "ResourceVersion",
            "resourceVersion",
            &params.resource_version,
        )
    });
    match broken {
        Some(why) => Err(ApiError::conflict(target.about(), why)),
        None => Ok(()),
    }
}

/// The `DeleteOptions` webhooks see.
fn options(params: &DeleteParams) -> Value {
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
    if let Some(grace) = params.grace_period_seconds {
        options["gracePeriodSeconds"] = grace.into();
    }
    if let Some(propagation) = params.propagation {
        options["propagationPolicy"] = format!("{propagation:?}").into();
    }
    options
}
