//! Istio's objects: listed, shown, applied, deleted.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use malla_api::Kind;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Body, kind};
use crate::auth::{Action, User, require};
use crate::cluster::Address;
use crate::error::{ApiError, Code};
use crate::findings::about;
use crate::history::Author;
use crate::mirror::{Object, Watched, active};
use crate::server::App;
use crate::yaml::{documents, print};

/// Longest note with a change.
const LONGEST_NOTE: usize = 500;

#[derive(Debug, Deserialize)]
pub(crate) struct Filter {
    kind: Option<String>,
    namespace: Option<String>,
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Query(filter): Query<Filter>,
) -> Result<Json<Value>, ApiError> {
    let kinds = match filter.kind.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => vec![kind(name)?],
        None => Kind::ALL.to_vec(),
    };
    let namespace = filter.namespace.filter(|namespace| !namespace.is_empty());
    let messages = app.analyzer.messages(&app.mirror).await;
    let objects = kinds
        .into_iter()
        .flat_map(|kind| app.mirror.list(Watched::Istio(kind)));
    let wanted = objects.filter(|object| {
        namespace
            .as_deref()
            .is_none_or(|wanted| wanted == object.namespace())
    });
    let listed = wanted.map(|object| {
        let (kind, namespace, name) = (object.text("/kind"), object.namespace(), object.name());
        json!({
            "kind": kind, "namespace": namespace, "name": name,
            "conditions": conditions(&object.value),
            "findings": about(&messages, kind, namespace, name),
            "active": active(&object.value),
            "created": object.text("/metadata/creationTimestamp"),
            "manager": object.manager(),
        })
    });
    Ok(Json(listed.collect()))
}

type Place = Path<(String, String, String)>;

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Path((name_of_kind, namespace, name)): Place,
) -> Result<Json<Value>, ApiError> {
    let kind = kind(&name_of_kind)?;
    // Asked of the cluster, not the mirror: an editor must start from the newest form.
    let address = Address {
        watched: Watched::Istio(kind),
        namespace,
        name,
    };
    let object = present(&app, &address).await?;
    let messages = app.analyzer.messages(&app.mirror).await;
    Ok(Json(json!({
        "object": object.value,
        "yaml": print(&object.value),
        "conditions": conditions(&object.value),
        "findings": about(&messages, kind.name(), &address.namespace, &address.name),
        "active": active(&object.value),
    })))
}

#[derive(Debug, Deserialize)]
pub(crate) struct ApplyRequest {
    yaml: String,
    note: Option<String>,
}

pub(crate) async fn apply(
    State(app): State<Arc<App>>,
    Extension(user): Extension<User>,
    Body(request): Body<ApplyRequest>,
) -> Result<Json<Value>, ApiError> {
    let note = request.note.filter(|note| !note.is_empty());
    if note
        .as_ref()
        .is_some_and(|note| note.chars().count() > LONGEST_NOTE)
    {
        return Err(
            ApiError::invalid(format!("a note has at most {LONGEST_NOTE} characters")).at("note"),
        );
    }
    let mut wanted = Vec::new();
    for document in documents(&request.yaml)? {
        let address = istio(&document.value)?;
        allow(&app, &user, "update", &address).await?;
        wanted.push((address, document.value));
    }
    if wanted.is_empty() {
        return Err(ApiError::invalid("there is no object in it").at("yaml"));
    }
    let author = Author {
        who: user.name,
        note,
    };
    let mut changes = Vec::new();
    for (address, object) in wanted {
        changes.extend(write(&app, &address, &object, &author).await?);
    }
    Ok(Json(json!({ "changes": changes })))
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Extension(user): Extension<User>,
    Path((name_of_kind, namespace, name)): Place,
) -> Result<Json<Value>, ApiError> {
    let address = Address {
        watched: Watched::Istio(kind(&name_of_kind)?),
        namespace,
        name,
    };
    allow(&app, &user, "delete", &address).await?;
    let author = Author {
        who: user.name,
        note: None,
    };
    let id = remove(&app, &address, &author).await?;
    Ok(Json(json!({"changes": id.into_iter().collect::<Vec<_>>()})))
}

/// The address of an object of an Istio kind: others are not the console's to write.
pub(crate) fn istio(object: &Value) -> Result<Address, ApiError> {
    let address = Address::of(object)?;
    if matches!(address.watched, Watched::Istio(_)) {
        return Ok(address);
    }
    let error = format!("the console writes Istio's kinds, not {}", address.kind());
    Err(ApiError::invalid(error)
        .at("kind")
        .fix("use kubectl for others"))
}

/// Asks whether the user may change that object.
pub(crate) async fn allow(
    app: &App,
    user: &User,
    verb: &'static str,
    address: &Address,
) -> Result<(), ApiError> {
    let action = Action {
        verb,
        resource: address.kind(),
        namespace: address.namespace.clone(),
        name: address.name.clone(),
    };
    require(app.guard.authorizer.as_ref(), user, &action).await
}

/// Writes an object and records who did; the change's id, or `None` if it was like this already.
pub(crate) async fn write(
    app: &App,
    address: &Address,
    wanted: &Value,
    author: &Author,
) -> Result<Option<String>, ApiError> {
    let written = app
        .cluster
        .put(address, wanted, false)
        .await
        .map_err(|error| named(error, address))?;
    Ok(app.history.written(&written, author, &app.mirror).await)
}

/// Deletes an object and records who did.
pub(crate) async fn remove(
    app: &App,
    address: &Address,
    author: &Author,
) -> Result<Option<String>, ApiError> {
    let object = present(app, address).await?;
    app.cluster.delete(address).await?;
    Ok(app.history.removed(&object, author, &app.mirror).await)
}

async fn present(app: &App, address: &Address) -> Result<Object, ApiError> {
    let object = app.cluster.get(address).await?;
    object.ok_or_else(|| {
        ApiError::not_found(format!(
            "there is no {} {}/{}",
            address.kind(),
            address.namespace,
            address.name
        ))
    })
}

/// Of several objects, the one that failed.
fn named(mut error: ApiError, address: &Address) -> ApiError {
    if error.code != Code::Unavailable {
        error.message = format!(
            "{} {}/{}: {}",
            address.kind(),
            address.namespace,
            address.name,
            error.message
        );
    }
    error
}

/// Conditions in the API's shape.
fn conditions(object: &Value) -> Vec<Value> {
    let written = object
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    let texts = written.into_iter().flatten().map(|condition| {
        let text = |name: &str| condition.get(name).and_then(Value::as_str).unwrap_or_default();
        let status = match text("status") {
            known @ ("True" | "False") => known,
            _ => "Unknown",
        };
        let mut shown = json!({"type": text("type"), "status": status, "reason": text("reason"), "message": text("message")});
        if !text("lastTransitionTime").is_empty() {
            shown["lastTransitionTime"] = json!(text("lastTransitionTime"));
        }
        shown
    });
    texts.collect()
}
