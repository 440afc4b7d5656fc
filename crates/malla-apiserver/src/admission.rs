//! What stands between a request and the store: namespace lifecycle, and the users' webhooks.

mod call;
mod hook;
mod matching;
mod webhook;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::core::Core;
use crate::error::ApiError;
use crate::rest::{Cx, Target};
pub(crate) use hook::{Hooks, MUTATING, VALIDATING, check};

/// The verbs webhooks see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// A request under admission.
#[derive(Debug, Clone)]
pub(crate) struct Review<'a> {
    pub(crate) target: &'a Target,
    pub(crate) operation: Operation,
    pub(crate) name: &'a str,
    pub(crate) subresource: Option<&'a str>,
    pub(crate) old: Option<Arc<Value>>,
    /// `CreateOptions`, `UpdateOptions`, `DeleteOptions`.
    pub(crate) options: Value,
    /// The kind of the object under review, where it is not the resource's own (`PodExecOptions`).
    pub(crate) object_kind: Option<&'static str>,
}

impl Operation {
    /// As in webhook rules.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

impl<'a> Review<'a> {
    pub(crate) fn new(
        target: &'a Target,
        operation: Operation,
        name: &'a str,
        subresource: Option<&'a str>,
    ) -> Self {
        let kind = match operation {
            Operation::Create | Operation::Connect => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
        };
        Self {
            target,
            operation,
            name,
            subresource,
            old: None,
            object_kind: None,
            options: json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"}),
        }
    }
}

/// Namespaces no one may delete.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Nothing is made in a namespace that is missing or ending.
pub(crate) fn lifecycle_create(
    core: &Core,
    target: &Target,
    object: &Value,
) -> Result<(), ApiError> {
    if !target.kind.namespaced {
        return Ok(());
    }
    let namespace = target.namespace.as_str();
    let Some(stored) = core.stored("namespaces", "", namespace) else {
        let about = crate::error::About {
            group: "",
            resource: "namespaces",
            name: namespace,
        };
        return Err(ApiError::not_found(about));
    };
    if !stored.object["metadata"]["deletionTimestamp"].is_string() {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let refused = ApiError::forbidden(
        target.about_name(name),
        format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        ),
    );
    let details = json!({
        "name": name, "group": target.kind.group, "kind": target.kind.plural,
        "causes": [{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        }],
    });
    Err(refused.with_details(details))
}

/// The cluster's own namespaces stay.
pub(crate) fn lifecycle_delete(target: &Target) -> Result<(), ApiError> {
    if &**target.resource() == "namespaces" && IMMORTAL.contains(&target.name.as_str()) {
        let why = "this namespace may not be deleted";
        return Err(ApiError::forbidden(target.about(), why));
    }
    Ok(())
}

/// Lets the mutating webhooks change the object.
pub(crate) async fn mutate(
    core: &Core,
    review: &Review<'_>,
    object: &mut Value,
    cx: &mut Cx,
) -> Result<(), ApiError> {
    Box::pin(webhook::mutate(core, review, object, cx)).await
}

/// Lets the validating webhooks refuse. `object` is `None` for deletions.
pub(crate) async fn validate(
    core: &Core,
    review: &Review<'_>,
    object: Option<&Value>,
    cx: &mut Cx,
) -> Result<(), ApiError> {
    Box::pin(webhook::validate(core, review, object, cx)).await
}

/// The patch in a webhook's answer to the review `u`.
#[cfg(fuzzing)]
pub(crate) fn answered_patch(answer: &Value) -> Option<Value> {
    call::verdict("fuzz", &Value::from("u"), answer).ok()?.patch
}
