//! The three classic patches: JSON patch, JSON merge patch, strategic merge patch.
use serde_json::Value;
use thiserror::Error;

use crate::schema::Schema;

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
    let _ = (object, patch);
    unimplemented!()
}

/// Applies a JSON merge patch (RFC 7386).
pub fn merge_patch(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let _ = (object, patch);
    unimplemented!()
}

/// Applies a strategic merge patch; lists merge as the schema's patch strategies say.
pub fn strategic_merge_patch(
    schema: &Schema,
    object: &Value,
    patch: &Value,
) -> Result<Value, PatchError> {
    let _ = (schema, object, patch);
    unimplemented!()
}
