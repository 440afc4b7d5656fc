//! What a write wants the object to become, apart from what the object is now.

use jiff::Timestamp;
use malla_apimachinery::apply::{self, ApplyError, Manager};
use malla_apimachinery::kind::ResourceKind;
use malla_apimachinery::patch::{self, PatchError};
use serde_json::Value;

use crate::error::{ApiError, Reason};

/// A replacement, or one of the four patches.
#[derive(Debug, Clone)]
pub(crate) enum Intent {
    Replace(Value),
    Json(Value),
    Merge(Value),
    Strategic(Value),
    Apply { config: Value, force: bool },
}

/// Who intends, and through which endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endpoint<'a> {
    pub(crate) manager: &'a str,
    pub(crate) subresource: Option<&'a str>,
    pub(crate) now: Timestamp,
}

impl Intent {
    /// The object after this write, given what it is now (`None`: apply creates it).
    pub(crate) fn produce(
        &self,
        kind: &ResourceKind,
        live: Option<&Value>,
        endpoint: Endpoint<'_>,
    ) -> Result<Value, ApiError> {
        let now = live.unwrap_or(&Value::Null);
        match self {
            Self::Replace(object) => Ok(object.clone()),
            Self::Json(ops) => patch::json_patch(now, ops).map_err(patch_error),
            Self::Merge(changes) => patch::merge_patch(now, changes).map_err(patch_error),
            Self::Strategic(_) if kind.custom => Err(no_strategic_merge()),
            Self::Strategic(changes) => {
                patch::strategic_merge_patch(&kind.schema, now, changes).map_err(patch_error)
            }
            Self::Apply { config, force } => {
                let api_version = kind.api_version();
                let manager = manager(kind, &api_version, endpoint);
                apply::apply(&kind.schema, live, config, &manager, *force).map_err(apply_error)
            }
        }
    }

    /// Whether field ownership is already recorded in what [`Intent::produce`] returns.
    pub(crate) fn is_apply(&self) -> bool {
        matches!(self, Self::Apply { .. })
    }
}

/// The machinery's view of an endpoint.
pub(crate) fn manager<'a>(
    kind: &ResourceKind,
    api_version: &'a str,
    endpoint: Endpoint<'a>,
) -> Manager<'a> {
    Manager {
        name: endpoint.manager,
        api_version,
        subresource: endpoint.subresource,
        now: endpoint.now,
        ignored: kind.ignored_fields(endpoint.subresource),
    }
}

fn patch_error(error: PatchError) -> ApiError {
    let reason = match &error {
        PatchError::Malformed(_) => Reason::BadRequest,
        PatchError::Unapplicable(_) => Reason::Invalid,
        PatchError::TooLarge(_) => Reason::RequestEntityTooLarge,
    };
    ApiError::new(reason, error.to_string())
}

fn apply_error(error: ApplyError) -> ApiError {
    ApiError::from_status(&error.status())
}

fn no_strategic_merge() -> ApiError {
    ApiError::new(
        Reason::UnsupportedMediaType,
        "the body of the request was in an unknown format - accepted media types include: \
         application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
    )
}
