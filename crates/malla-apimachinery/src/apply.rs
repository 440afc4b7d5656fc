//! Server-side apply and field ownership (`metadata.managedFields`).
use jiff::Timestamp;
use serde_json::Value;
use thiserror::Error;

use crate::schema::Schema;

/// Who writes, and through which endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Manager<'a> {
    /// `fieldManager`, or what the server derives from the user agent for updates.
    pub name: &'a str,
    /// `apiVersion` of the request.
    pub api_version: &'a str,
    /// `status`, `scale` or none.
    pub subresource: Option<&'a str>,
    /// Now, for the `time` of entries that change.
    pub now: Timestamp,
    /// Dotted top-level paths this endpoint does not write: [`crate::kind::ResourceKind::ignored_fields`].
    pub ignored: &'a [&'a str],
}

/// One field somebody else owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// `conflict with "kubectl-client-side-apply" using apps/v1`.
    pub message: String,
    /// Path such as `.spec.replicas`.
    pub field: String,
}

/// Why an apply was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// Fields are owned by others and `force` was not given (HTTP 409, reason Conflict).
    #[error("{}", conflict_message(.0))]
    Conflict(Vec<Conflict>),
    /// The applied object is malformed, e.g. a list entry lacks its key (HTTP 400 or 500 in Kubernetes; use 400).
    #[error("{0}")]
    Malformed(String),
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    let _ = conflicts;
    unimplemented!()
}

impl ApplyError {
    /// The 409 or 400 `metav1.Status`.
    pub fn status(&self) -> Value {
        unimplemented!()
    }
}

/// Applies `config` over `live` (none: creates) and returns the new object with its managedFields. The result is not yet
/// defaulted or validated.
pub fn apply(
    schema: &Schema,
    live: Option<&Value>,
    config: &Value,
    manager: &Manager<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    let _ = (schema, live, config, manager, force);
    unimplemented!()
}

/// Records an update (create, put, patch) of `live` (none: create) to `new` in `new`'s managedFields.
pub fn update(schema: &Schema, live: Option<&Value>, new: &mut Value, manager: &Manager<'_>) {
    let _ = (schema, live, new, manager);
    unimplemented!()
}
