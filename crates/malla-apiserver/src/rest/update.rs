//! Update and patch, of objects and of their `status`.

use std::sync::Arc;

use malla_apimachinery::apply;
use malla_apimachinery::meta;
use serde_json::Value;

use super::create::{self, check_namespace, text};
use super::intent::{Endpoint, Intent, manager};
use super::{Cx, Target, Written, decode, renormalise, write_error};
use crate::admission::{self, Operation, Review};
use crate::core::Core;
use crate::error::ApiError;
use crate::store::{Expect, Stored, Write, WriteError};
use crate::strategy::Strategy;

/// Lost races before a patch gives up (kube-apiserver's `MaxRetryWhenPatchConflicts` is 5; local writes are quicker).
const ATTEMPTS: usize = 10;

/// Replaces or patches the target, through `subresource` (`status`, or none).
pub(crate) async fn update(
    core: &Core,
    target: &Target,
    subresource: Option<&str>,
    intent: &Intent,
    cx: &mut Cx,
) -> Result<Written, ApiError> {
    let warned = cx.warnings.len();
    for _ in 0..ATTEMPTS {
        cx.warnings.truncate(warned);
        let Some(live) = core.store.get(target.resource(), &target.key()) else {
            return create_by_update(core, target, subresource, intent, cx).await;
        };
        match attempt(core, target, subresource, intent, &live, cx).await? {
            Outcome::Done(object) => {
                return Ok(Written {
                    object: target.shown(&object),
                    created: false,
                });
            }
            Outcome::LostRace => {}
        }
    }
    Err(ApiError::conflict(target.about(), super::MODIFIED))
}

enum Outcome {
    Done(Arc<Value>),
    LostRace,
}

async fn attempt(
    core: &Core,
    target: &Target,
    subresource: Option<&str>,
    intent: &Intent,
    live: &Stored,
    cx: &mut Cx,
) -> Result<Outcome, ApiError> {
    let old = target.shown(&live.object);
    let mut new = produce(core, target, subresource, intent, &old, cx)?;
    let recorded = intent.is_apply();
    attempt_with(
        core,
        target,
        subresource,
        live,
        &old,
        &mut new,
        recorded,
        cx,
    )
    .await
}

/// The rest of an update's life, once the new object is known. `recorded`: its field ownership is.
#[allow(
    clippy::too_many_arguments,
    reason = "the life of one update, split from its start only"
)]
async fn attempt_with(
    core: &Core,
    target: &Target,
    subresource: Option<&str>,
    live: &Stored,
    old: &Arc<Value>,
    new: &mut Value,
    recorded: bool,
    cx: &mut Cx,
) -> Result<Outcome, ApiError> {
    let kind = &*target.kind;
    check_identity(target, new, old)?;
    let strategy = Strategy::of(target.resource());
    meta::prepare_update(new, old, subresource, kind.status);
    kind.default_object(new);
    strategy.begin_update(old, new, subresource);
    if !recorded {
        record_owner(core, target, subresource, old, new, cx);
    }
    let mut review = Review::new(target, Operation::Update, &target.name, subresource);
    review.old = Some(old.clone());
    admission::mutate(core, &review, new, cx).await?;
    renormalise(kind, new)?;
    let mut errors = kind.validate_update(new, old);
    errors.extend(strategy.validate(new));
    if !errors.is_empty() {
        return Err(ApiError::invalid(
            &kind.group,
            &kind.kind,
            &target.name,
            &errors,
        ));
    }
    admission::validate(core, &review, Some(new), cx).await?;
    let _held = strategy.allocate(core, Some(old), new)?;
    strategy.before_store(core, new);
    commit(core, target, live, std::mem::take(new), cx).await
}

/// Stores a new state, or removes the object when this was the last thing that held it.
async fn commit(
    core: &Core,
    target: &Target,
    live: &Stored,
    new: Value,
    cx: &Cx,
) -> Result<Outcome, ApiError> {
    let new = target.to_storage(new);
    let gone = releases(target, &new);
    if !gone && meta::same_content(&new, &live.object) {
        return Ok(Outcome::Done(live.object.clone()));
    }
    if cx.dry_run {
        return Ok(Outcome::Done(Arc::new(new)));
    }
    let last = gone.then(|| new.clone());
    let write = Write {
        resource: target.resource().clone(),
        key: target.key(),
        expect: Expect::Version(live.version),
        object: (!gone).then_some(new),
    };
    match core.store.write(write).await {
        Ok(stored) => {
            Strategy::of(target.resource()).stored(core);
            Ok(Outcome::Done(last.map_or(stored.object, Arc::new)))
        }
        Err(WriteError::Changed) => Ok(Outcome::LostRace),
        Err(error) => Err(write_error(target, &target.name, error)),
    }
}

fn produce(
    core: &Core,
    target: &Target,
    subresource: Option<&str>,
    intent: &Intent,
    old: &Value,
    cx: &mut Cx,
) -> Result<Value, ApiError> {
    let manager = cx.manager.clone();
    let endpoint = Endpoint {
        manager: &manager,
        subresource,
        now: core.now(),
    };
    let intent = decoded(target, intent, cx)?;
    let mut new = intent.produce(&target.kind, Some(old), endpoint)?;
    if !matches!(*intent, Intent::Replace(_)) {
        decode(&target.kind, &mut new, cx)?;
    }
    Ok(new)
}

/// The intent with its object decoded, where it is one: replacements and applied configurations.
fn decoded<'a>(
    target: &Target,
    intent: &'a Intent,
    cx: &mut Cx,
) -> Result<std::borrow::Cow<'a, Intent>, ApiError> {
    use std::borrow::Cow;
    match intent {
        Intent::Replace(object) => {
            let mut object = object.clone();
            decode(&target.kind, &mut object, cx)?;
            check_namespace(target, &object)?;
            Ok(Cow::Owned(Intent::Replace(object)))
        }
        Intent::Apply { config, force } => {
            let mut config = config.clone();
            decode(&target.kind, &mut config, cx)?;
            check_namespace(target, &config)?;
            let force = *force;
            Ok(Cow::Owned(Intent::Apply { config, force }))
        }
        patch => Ok(Cow::Borrowed(patch)),
    }
}

/// Apply creates what is not there; nothing else does.
async fn create_by_update(
    core: &Core,
    target: &Target,
    subresource: Option<&str>,
    intent: &Intent,
    cx: &mut Cx,
) -> Result<Written, ApiError> {
    if subresource.is_some() || !intent.is_apply() {
        return Err(ApiError::not_found(target.about()));
    }
    let intent = decoded(target, intent, cx)?.into_owned();
    let manager = cx.manager.clone();
    let endpoint = Endpoint {
        manager: &manager,
        subresource,
        now: core.now(),
    };
    let mut object = intent.produce(&target.kind, None, endpoint)?;
    let given = text(&object, "/metadata/name");
    if given.is_empty() {
        object["metadata"]["name"] = target.name.clone().into();
    } else if given != target.name {
        return Err(name_mismatch(given, &target.name));
    }
    create::finish(core, target, object, cx, true).await
}

fn check_identity(target: &Target, new: &Value, old: &Value) -> Result<(), ApiError> {
    let name = text(new, "/metadata/name");
    if !name.is_empty() && name != target.name {
        return Err(name_mismatch(name, &target.name));
    }
    check_namespace(target, new)?;
    meta::check_preconditions(new, old).map_err(|why| ApiError::conflict(target.about(), why))
}

fn name_mismatch(body: &str, url: &str) -> ApiError {
    ApiError::bad_request(format!(
        "the name of the object ({body}) does not match the name on the URL ({url})"
    ))
}

fn record_owner(
    core: &Core,
    target: &Target,
    subresource: Option<&str>,
    old: &Value,
    new: &mut Value,
    cx: &Cx,
) {
    let api_version = target.kind.api_version();
    let endpoint = Endpoint {
        manager: &cx.manager,
        subresource,
        now: core.now(),
    };
    let manager = manager(&target.kind, &api_version, endpoint);
    apply::update(&target.kind.schema, Some(old), new, &manager);
}

/// Whether nothing holds a deleted object any more.
pub(crate) fn releases(target: &Target, object: &Value) -> bool {
    let metadata = &object["metadata"];
    let listed = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    metadata["deletionTimestamp"].is_string()
        && !listed(&metadata["finalizers"])
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && !(&**target.resource() == "namespaces" && listed(&object["spec"]["finalizers"]))
}

/// Changes an object by a function of its live state, with all the checks of an update: for the endpoints that are
/// not plain updates (scale, binding, finalize).
pub(crate) async fn change(
    core: &Core,
    target: &Target,
    subresource: &str,
    cx: &mut Cx,
    edit: impl Fn(&mut Value) -> Result<(), ApiError> + Send + Sync,
) -> Result<Arc<Value>, ApiError> {
    for _ in 0..ATTEMPTS {
        let Some(live) = core.store.get(target.resource(), &target.key()) else {
            return Err(ApiError::not_found(target.about()));
        };
        let old = target.shown(&live.object);
        let mut new = Value::clone(&old);
        edit(&mut new)?;
        let endpoint = Some(subresource);
        let outcome = attempt_with(core, target, endpoint, &live, &old, &mut new, false, cx).await;
        if let Outcome::Done(object) = outcome? {
            return Ok(target.shown(&object));
        }
    }
    Err(ApiError::conflict(target.about(), super::MODIFIED))
}

/// Sets `spec.finalizers` of a namespace (`namespaces/finalize`); with none left, an ending namespace goes.
pub(crate) async fn finalize(
    core: &Core,
    target: &Target,
    finalizers: Value,
    cx: &mut Cx,
) -> Result<Arc<Value>, ApiError> {
    change(core, target, "finalize", cx, |namespace| {
        namespace["spec"]["finalizers"] = match &finalizers {
            Value::Array(list) => list.clone().into(),
            _ => Value::Array(Vec::new()),
        };
        Ok(())
    })
    .await
}

/// Binds a pod to a node (`pods/binding`), once.
pub(crate) async fn bind(
    core: &Core,
    target: &Target,
    node: &str,
    cx: &mut Cx,
) -> Result<Arc<Value>, ApiError> {
    if node.is_empty() {
        return Err(ApiError::bad_request(
            "target.name: Required value: the node to bind the pod to",
        ));
    }
    change(core, target, "binding", cx, |pod| {
        let refuse = |why: String| Err(ApiError::conflict(target.about(), why));
        if pod["metadata"]["deletionTimestamp"].is_string() {
            let name = &target.name;
            return refuse(format!(
                "pod {name} is being deleted, cannot be assigned to a host"
            ));
        }
        match pod["spec"]["nodeName"].as_str() {
            None | Some("") => {
                pod["spec"]["nodeName"] = node.into();
                Ok(())
            }
            Some(bound) => refuse(format!(
                "pod {} is already assigned to node {bound:?}",
                target.name
            )),
        }
    })
    .await
}
