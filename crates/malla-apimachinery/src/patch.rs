//! The three classic patches: JSON patch, JSON merge patch, strategic merge patch.
//!
//! Invariants: a patch changes the object wholly or not at all; no patch makes an object deeper than [`MAX_DEPTH`] or, by copying
//! within itself, grow past [`MAX_COPIED_BYTES`].

mod strategic;

use json_patch::{Patch, PatchOperation};
use serde_json::Value;
use thiserror::Error;

use crate::schema::Schema;

/// Most operations of a JSON patch, as in kube-apiserver.
const MAX_OPERATIONS: usize = 10_000;
/// Most bytes that `copy` operations of one patch may duplicate.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;
/// Deepest object a patch may make; JSON parsers stop at 128.
const MAX_DEPTH: usize = 128;

/// Why a patch was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatchError {
    /// The patch itself is malformed (HTTP 400).
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object (HTTP 422).
    #[error("the server rejected our request due to an error in our request: {0}")]
    Unapplicable(String),
    /// The patch is too large (HTTP 413).
    #[error("{0}")]
    TooLarge(String),
}

/// Applies a JSON patch (RFC 6902).
pub fn json_patch(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let count = patch.as_array().map_or(0, Vec::len);
    if count > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
        )));
    }
    let operations: Patch = serde_json::from_value(patch.clone())
        .map_err(|error| PatchError::Malformed(format!("error decoding patch: {error}")))?;
    let mut result = object.clone();
    let mut copied = 0_usize;
    for operation in &operations.0 {
        if operation.path().count() > MAX_DEPTH {
            return Err(PatchError::TooLarge(format!(
                "a path is deeper than {MAX_DEPTH}"
            )));
        }
        if let PatchOperation::Copy(copy) = operation {
            let size = copy
                .from
                .resolve(&result)
                .map_or(0, |value| value.to_string().len());
            copied = copied.saturating_add(size);
            if copied > MAX_COPIED_BYTES {
                return Err(PatchError::TooLarge(format!(
                    "copy operations duplicate more than {MAX_COPIED_BYTES} bytes"
                )));
            }
        }
        json_patch::patch(&mut result, std::slice::from_ref(operation))
            .map_err(|error| PatchError::Unapplicable(error.to_string()))?;
    }
    bounded(result)
}

/// Applies a JSON merge patch (RFC 7386).
pub fn merge_patch(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed(
            "error decoding patch: a merge patch must be a JSON object".to_owned(),
        ));
    }
    let mut result = object.clone();
    json_patch::merge(&mut result, patch);
    bounded(result)
}

/// Applies a strategic merge patch; lists merge as the schema's patch strategies say.
pub fn strategic_merge_patch(
    schema: &Schema,
    object: &Value,
    patch: &Value,
) -> Result<Value, PatchError> {
    let (Some(original), Some(patch)) = (object.as_object(), patch.as_object()) else {
        return Err(PatchError::Malformed(
            "error decoding patch: a strategic merge patch must be a JSON object".to_owned(),
        ));
    };
    let merged = strategic::merge_maps(Some(&schema.root), original.clone(), patch.clone())?;
    bounded(Value::Object(merged))
}

fn bounded(value: Value) -> Result<Value, PatchError> {
    if depth_within(&value, MAX_DEPTH) {
        return Ok(value);
    }
    Err(PatchError::TooLarge(format!(
        "the patched object would be nested deeper than {MAX_DEPTH}"
    )))
}

fn depth_within(value: &Value, limit: usize) -> bool {
    match value {
        Value::Array(_) | Value::Object(_) if limit == 0 => false,
        Value::Array(items) => items.iter().all(|item| depth_within(item, limit - 1)),
        Value::Object(map) => map.values().all(|child| depth_within(child, limit - 1)),
        _ => true,
    }
}

#[cfg(test)]
#[path = "patch/tests.rs"]
mod tests;
