//! Create.

use std::sync::Arc;

use malla_apimachinery::apply;
use malla_apimachinery::meta::{self, Creation};
use serde_json::{Value, json};
use uuid::Uuid;

use super::intent::{Endpoint, manager};
use super::{Cx, Target, Written, decode, random_suffix, renormalise, write_error};
use crate::admission::{self, Operation, Review};
use crate::core::Core;
use crate::error::ApiError;
use crate::store::{Expect, Write};
use crate::strategy::Strategy;

/// Tries with a fresh name when a generated one is taken, as kube-apiserver since 1.32.
const NAME_ATTEMPTS: usize = 8;

/// Stores a new object. `target.name` is empty, or the name an apply creates.
pub(crate) async fn create(
    core: &Core,
    target: &Target,
    mut object: Value,
    cx: &mut Cx,
) -> Result<Written, ApiError> {
    if target.family.terminating {
        return Err(ApiError::method_not_allowed(
            &target.family.group_resource,
            "create not allowed while custom resource definition is terminating",
        ));
    }
    decode(&target.kind, &mut object, cx)?;
    check_namespace(target, &object)?;
    finish(core, target, object, cx, false).await
}

/// Stores a new object that is decoded already; `applied`: its field ownership is recorded already.
pub(crate) async fn finish(
    core: &Core,
    target: &Target,
    object: Value,
    cx: &mut Cx,
    applied: bool,
) -> Result<Written, ApiError> {
    let generated = target.name.is_empty() && text(&object, "/metadata/name").is_empty();
    let warned = cx.warnings.len();
    for _ in 1..NAME_ATTEMPTS {
        let result = attempt(core, target, object.clone(), cx, applied).await;
        match result {
            Err(error) if generated && error.is_already_exists() => cx.warnings.truncate(warned),
            other => return other,
        }
    }
    attempt(core, target, object, cx, applied).await
}

async fn attempt(
    core: &Core,
    target: &Target,
    mut object: Value,
    cx: &mut Cx,
    applied: bool,
) -> Result<Written, ApiError> {
    let kind = &*target.kind;
    prepare(core, target, &mut object)?;
    let strategy = Strategy::of(target.resource());
    kind.default_object(&mut object);
    strategy.begin_create(&mut object);
    if !applied {
        record_owner(core, target, &mut object, cx);
    }
    let name = text(&object, "/metadata/name").to_owned();
    admission::lifecycle_create(core, target, &object)?;
    strategy.admit_create(core, target, &mut object).await?;
    let review = Review::new(target, Operation::Create, &name, None);
    admission::mutate(core, &review, &mut object, cx).await?;
    renormalise(kind, &mut object)?;
    let mut errors = kind.validate_create(&object);
    errors.extend(strategy.validate(&object));
    if !errors.is_empty() {
        return Err(ApiError::invalid(&kind.group, &kind.kind, &name, &errors));
    }
    admission::validate(core, &review, Some(&object), cx).await?;
    let _held = strategy.allocate(core, None, &mut object)?;
    strategy.before_store(core, &mut object);
    let object = store(core, target, &name, object, cx).await?;
    Ok(Written {
        object: target.shown(&object),
        created: true,
    })
}

async fn store(
    core: &Core,
    target: &Target,
    name: &str,
    object: Value,
    cx: &Cx,
) -> Result<Arc<Value>, ApiError> {
    let mut key = target.key();
    name.clone_into(&mut key.name);
    let object = target.to_storage(object);
    if cx.dry_run {
        if core.store.get(target.resource(), &key).is_some() {
            return Err(ApiError::already_exists(target.about_name(name)));
        }
        return Ok(Arc::new(object));
    }
    let write = Write {
        resource: target.resource().clone(),
        key,
        expect: Expect::Absent,
        object: Some(object),
    };
    let stored = core.store.write(write).await;
    let stored = stored.map_err(|error| write_error(target, name, error))?;
    Strategy::of(target.resource()).stored(core);
    Ok(stored.object)
}

fn prepare(core: &Core, target: &Target, object: &mut Value) -> Result<(), ApiError> {
    let creation = Creation {
        namespace: &target.namespace,
        uid: &Uuid::new_v4().to_string(),
        now: core.now(),
        suffix: &random_suffix(),
    };
    let with_status = target.kind.status;
    meta::prepare_create(object, &creation, with_status).map_err(|error| {
        if error.path == "metadata.resourceVersion" {
            return ApiError::bad_request(
                "resourceVersion should not be set on objects to be created",
            );
        }
        let name = object.pointer("/metadata/name").and_then(Value::as_str);
        let kind = &target.kind;
        ApiError::invalid(&kind.group, &kind.kind, name.unwrap_or(""), &[error])
    })
}

fn record_owner(core: &Core, target: &Target, object: &mut Value, cx: &Cx) {
    let api_version = target.kind.api_version();
    let endpoint = Endpoint {
        manager: &cx.manager,
        subresource: None,
        now: core.now(),
    };
    let manager = manager(&target.kind, &api_version, endpoint);
    apply::update(&target.kind.schema, None, object, &manager);
}

/// The body's namespace must be the path's, or absent.
pub(crate) fn check_namespace(target: &Target, object: &Value) -> Result<(), ApiError> {
    let given = text(object, "/metadata/namespace");
    if given.is_empty() || given == target.namespace {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    )
    .with_details(json!({})))
}

/// A string field, or "".
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or("")
}
