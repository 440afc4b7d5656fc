//! Calling the users' webhooks: mutating ones in order, validating ones together.

use std::sync::Arc;

use futures_util::future::join_all;
use malla_apimachinery::patch;
use serde_json::Value;

use super::Review;
use super::call::{self, CallError, Verdict};
use super::hook::{Hook, MUTATING, VALIDATING};
use super::matching::{self, Invocation};
use crate::core::Core;
use crate::error::ApiError;
use crate::rest::{Cx, renormalise};

/// Lets the mutating webhooks change `object`, in order of configuration name and entry. Those that ask for it are
/// called once more when a later one changed what they saw.
pub(super) async fn mutate(
    core: &Core,
    review: &Review<'_>,
    object: &mut Value,
    cx: &mut Cx,
) -> Result<(), ApiError> {
    if exempt(review) {
        return Ok(());
    }
    let hooks = core.hooks.of(core, MUTATING);
    // For each webhook that was called and wants to be again: how many changes there were after its own.
    let mut seen: Vec<(usize, u32)> = Vec::new();
    let mut changes = 0;
    for (index, hook) in hooks.iter().enumerate() {
        if let Some(changed) = mutate_by(core, hook, review, object, cx).await? {
            changes += u32::from(changed);
            if hook.reinvoke {
                seen.push((index, changes));
            }
        }
    }
    for (index, at) in seen {
        let Some(hook) = hooks.get(index) else {
            continue;
        };
        if changes > at && mutate_by(core, hook, review, object, cx).await? == Some(true) {
            changes += 1;
        }
    }
    Ok(())
}

/// Asks all validating webhooks at once; the first refusal, in their order, is the answer.
pub(super) async fn validate(
    core: &Core,
    review: &Review<'_>,
    object: Option<&Value>,
    cx: &mut Cx,
) -> Result<(), ApiError> {
    if exempt(review) {
        return Ok(());
    }
    let hooks = core.hooks.of(core, VALIDATING);
    if hooks.is_empty() {
        return Ok(());
    }
    let asking = hooks
        .iter()
        .map(|hook| consult(core, hook, review, object, cx));
    let answers = join_all(asking).await;
    let mut refusal = None;
    for (hook, answer) in hooks.iter().zip(answers) {
        match answer {
            Ok(Some((verdict, _))) => {
                cx.warnings.extend(verdict.warnings);
                refusal = refusal.or(verdict.refusal);
            }
            Ok(None) => {}
            Err(error) => refusal = refusal.or(failed(hook, &error).err()),
        }
    }
    refusal.map_or(Ok(()), Err)
}

/// Webhooks cannot stop the repair of webhooks.
fn exempt(review: &Review<'_>) -> bool {
    let resource = &**review.target.resource();
    resource == MUTATING || resource == VALIDATING
}

/// Tells whether the webhook was called, and whether it changed the object.
async fn mutate_by(
    core: &Core,
    hook: &Arc<Hook>,
    review: &Review<'_>,
    object: &mut Value,
    cx: &mut Cx,
) -> Result<Option<bool>, ApiError> {
    let asked = consult(core, hook, review, Some(object), cx).await;
    let (verdict, invocation) = match asked {
        Ok(Some(answer)) => answer,
        Ok(None) => return Ok(None),
        Err(error) => return failed(hook, &error).map(|()| None),
    };
    cx.warnings.extend(verdict.warnings);
    if let Some(refusal) = verdict.refusal {
        return Err(refusal);
    }
    let Some(ops) = verdict.patch else {
        return Ok(Some(false));
    };
    match patched(review, &invocation, object, &ops) {
        Ok(next) => {
            let changed = next != *object;
            *object = next;
            Ok(Some(changed))
        }
        Err(why) => {
            let error = CallError::Answer(why);
            failed(hook, &error).map(|()| Some(false))
        }
    }
}

/// Applies the webhook's patch to the object in the version it was shown.
fn patched(
    review: &Review<'_>,
    invocation: &Invocation,
    object: &Value,
    ops: &Value,
) -> Result<Value, String> {
    let shown = invocation.convert(object);
    let mut next = patch::json_patch(&shown, ops).map_err(|error| error.to_string())?;
    let own = Invocation {
        kind: review.target.kind.clone(),
    };
    if !next.is_object() {
        return Err("the patch leaves no object".to_owned());
    }
    next = own.convert(&next);
    renormalise(&review.target.kind, &mut next).map_err(|error| error.to_string())?;
    Ok(next)
}

/// Asks the webhook if it wants the request: its verdict, and the version it saw.
async fn consult(
    core: &Core,
    hook: &Arc<Hook>,
    review: &Review<'_>,
    object: Option<&Value>,
    cx: &Cx,
) -> Result<Option<(Verdict, Invocation)>, CallError> {
    let wanted = matching::wants(core, hook, review, object).map_err(CallError::Configuration)?;
    let Some(invocation) = wanted else {
        return Ok(None);
    };
    let old = review.old.as_deref().map(|old| invocation.convert(old));
    let object = object.map(|object| invocation.convert(object));
    let mut request = invocation.request(review, cx.user.info(), cx.dry_run);
    let matched = matching::conditions(hook, &request, object.as_ref(), old.as_ref());
    if !matched.map_err(CallError::Configuration)? {
        return Ok(None);
    }
    if cx.dry_run && !hook.dry_run {
        let refusal = ApiError::bad_request(format!(
            "admission webhook {:?} does not support dry run",
            hook.name
        ));
        let verdict = Verdict {
            patch: None,
            warnings: Vec::new(),
            refusal: Some(refusal),
        };
        return Ok(Some((verdict, invocation)));
    }
    request["object"] = object.unwrap_or(Value::Null);
    request["oldObject"] = old.unwrap_or(Value::Null);
    let verdict = call::ask(core, hook, request).await?;
    Ok(Some((verdict, invocation)))
}

/// What a webhook that cannot be asked means.
fn failed(hook: &Hook, error: &CallError) -> Result<(), ApiError> {
    if hook.ignore_failure {
        tracing::warn!(webhook = hook.name, %error, "failed, ignored by its failurePolicy");
        return Ok(());
    }
    Err(ApiError::internal(format!(
        "failed calling webhook {:?}: {error}",
        hook.name
    )))
}
