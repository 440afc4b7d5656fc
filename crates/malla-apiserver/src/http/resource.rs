//! Requests on resources: which verb, with which options, through the same paths as the in-process client.

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::options::{self, delete_params, paging, patch, read_body, replacement};
use super::path::ResourcePath;
use super::respond::{self, Body};
use super::{Exchange, body, pod, subresource, watch};
use crate::auth::review;
use crate::client::DeleteParams;
use crate::error::ApiError;
use crate::rest::delete::Deleted;
use crate::rest::intent::Intent;
use crate::rest::read::ListOptions;
use crate::rest::{Cx, Target, create, decode, delete, read, update};

/// Pod subresources the node answers.
const NODE_SUBRESOURCES: [&str; 4] = ["log", "exec", "attach", "portforward"];

/// Serves one request on a resource.
pub(super) async fn serve(
    exchange: Exchange,
    path: ResourcePath,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let target = resolve(&exchange, &path)?;
    let sub = path.subresource.as_str();
    if &**target.resource() == "pods" && NODE_SUBRESOURCES.contains(&sub) {
        return pod::serve(exchange, target, sub, request).await;
    }
    let mut cx = options::cx(&exchange, &target)?;
    let answer = match sub {
        "" => verb(&exchange, target, request, &mut cx).await,
        sub => subresource::serve(&exchange, &target, sub, request, &mut cx).await,
    };
    // Warnings go out with refusals, too.
    let mut answer = answer.unwrap_or_else(|error| respond::error(&error));
    respond::warn(&mut answer, &cx.warnings);
    Ok(answer)
}

async fn verb(
    exchange: &Exchange,
    target: Target,
    request: Request<Incoming>,
    cx: &mut Cx,
) -> Result<Response<Body>, ApiError> {
    match (exchange.method.clone(), target.name.is_empty()) {
        (Method::GET | Method::HEAD, true) => list_or_watch(exchange, target),
        (Method::GET | Method::HEAD, false) => get_or_watch(exchange, target),
        (Method::POST, true) => post(exchange, &target, request, cx).await,
        (Method::PUT, false) => {
            let intent = replacement(exchange, request, cx).await?;
            write(exchange, &target, None, &intent, cx).await
        }
        (Method::PATCH, false) => {
            let intent = patch(exchange, request, cx).await?;
            write(exchange, &target, None, &intent, cx).await
        }
        (Method::DELETE, all) => {
            let params = delete_params(exchange, request, cx).await?;
            if all {
                delete_all(exchange, &target, &params, cx).await
            } else {
                delete_one(exchange, &target, &params, cx).await
            }
        }
        _ => Err(not_allowed(exchange, &target)),
    }
}

fn resolve(exchange: &Exchange, path: &ResourcePath) -> Result<Target, ApiError> {
    let registry = exchange.core.registry();
    let served = registry.find(&path.group, &path.version, &path.resource);
    let served = served.ok_or_else(ApiError::no_such_path)?;
    if !served.kind.namespaced && !path.namespace.is_empty() {
        return Err(ApiError::no_such_path());
    }
    if served.kind.namespaced && path.namespace.is_empty() && !path.name.is_empty() {
        return Err(ApiError::no_such_path());
    }
    Ok(Target::new(served, &path.namespace, &path.name))
}

fn get_or_watch(exchange: &Exchange, target: Target) -> Result<Response<Body>, ApiError> {
    if exchange.query.flag("watch") {
        let one = format!("metadata.name={}", target.name);
        let list = ListOptions::new(&target, "", &one)?;
        return watch::serve(exchange, target, list);
    }
    if target.kind.review {
        return Err(not_allowed(exchange, &target));
    }
    let object = read::get(&exchange.core, &target)?;
    respond::object(exchange, &target, StatusCode::OK, &object)
}

fn list_or_watch(exchange: &Exchange, target: Target) -> Result<Response<Body>, ApiError> {
    if target.kind.review {
        return Err(not_allowed(exchange, &target));
    }
    let query = &exchange.query;
    let (labels, fields) = (query.get("labelSelector"), query.get("fieldSelector"));
    let list = ListOptions::new(&target, labels, fields)?;
    if query.flag("watch") {
        return watch::serve(exchange, target, list);
    }
    let options = paging(exchange, list)?;
    let page = read::list(&exchange.core, &target, &options)?;
    respond::list(exchange, &target, &page)
}

async fn post(
    exchange: &Exchange,
    target: &Target,
    request: Request<Incoming>,
    cx: &mut Cx,
) -> Result<Response<Body>, ApiError> {
    let bytes = read_body(exchange, request).await?;
    let mut object = body::object(&exchange.headers, &bytes, cx)?;
    if target.kind.review {
        decode(&target.kind, &mut object, cx)?;
        let answer = review::answer(&exchange.core, &target.kind.kind, object, &exchange.user)?;
        return Ok(respond::json(StatusCode::CREATED, &answer));
    }
    if target.kind.namespaced && target.namespace.is_empty() {
        return Err(ApiError::bad_request(
            "an empty namespace may not be set during creation",
        ));
    }
    let written = create::create(&exchange.core, target, object, cx).await?;
    respond::object(exchange, target, StatusCode::CREATED, &written.object)
}

async fn delete_one(
    exchange: &Exchange,
    target: &Target,
    params: &DeleteParams,
    cx: &mut Cx,
) -> Result<Response<Body>, ApiError> {
    match delete::delete(&exchange.core, target, params, cx).await? {
        // The node confirms a pod's end with its object; of other kinds only the fact is told.
        Deleted::Gone(last) if &**target.resource() == "pods" => {
            respond::object(exchange, target, StatusCode::OK, &last)
        }
        Deleted::Gone(last) => {
            let details = json!({
                "name": target.name, "group": target.kind.group, "kind": target.kind.plural,
                "uid": last["metadata"]["uid"],
            });
            Ok(respond::json(StatusCode::OK, &success(details)))
        }
        Deleted::Pending(object) => respond::object(exchange, target, StatusCode::OK, &object),
    }
}

async fn delete_all(
    exchange: &Exchange,
    target: &Target,
    params: &DeleteParams,
    cx: &mut Cx,
) -> Result<Response<Body>, ApiError> {
    if target.kind.review || &**target.resource() == "namespaces" {
        return Err(not_allowed(exchange, target));
    }
    let query = &exchange.query;
    let (labels, fields) = (query.get("labelSelector"), query.get("fieldSelector"));
    let list = ListOptions::new(target, labels, fields)?;
    let options = paging(exchange, list)?;
    let deleted = delete::delete_collection(&exchange.core, target, &options, params, cx).await?;
    Ok(respond::items(target, &deleted))
}

/// Replaces or patches, through `subresource` or not.
pub(super) async fn write(
    exchange: &Exchange,
    target: &Target,
    subresource: Option<&str>,
    intent: &Intent,
    cx: &mut Cx,
) -> Result<Response<Body>, ApiError> {
    if target.kind.review {
        return Err(not_allowed(exchange, target));
    }
    let written = update::update(&exchange.core, target, subresource, intent, cx).await?;
    let status = if written.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    respond::object(exchange, target, status, &written.object)
}

/// A `Status` of success.
pub(super) fn success(details: Value) -> Value {
    let mut status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if details
        .as_object()
        .is_some_and(|details| !details.is_empty())
    {
        status["details"] = details;
    }
    status
}

pub(super) fn not_allowed(exchange: &Exchange, target: &Target) -> ApiError {
    ApiError::method_not_allowed(target.resource(), exchange.method.as_str())
}
