//! Requests on resources: which verb, with which options, through the same paths as the in-process client.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use malla_apimachinery::error::FieldError;
use serde_json::{Value, json};

use super::path::ResourcePath;
use super::respond::{self, Body};
use super::{Exchange, body, pod, watch};
use crate::admission;
use crate::auth::{request, review};
use crate::client::{DeleteParams, Propagation};
use crate::error::{ApiError, Reason};
use crate::rest::delete::Deleted;
use crate::rest::intent::Intent;
use crate::rest::read::{ListOptions, Match};
use crate::rest::{Cx, Target, create, delete, read, scale, update};

/// Longest `fieldManager` (apimachinery `FieldManagerMaxLength`).
const MAX_MANAGER: usize = 128;

/// Serves one request on a resource.
pub(super) async fn serve(
    exchange: Exchange,
    path: ResourcePath,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let target = resolve(&exchange, &path)?;
    if target.kind.namespaced && target.namespace.is_empty() && !target.name.is_empty() {
        return Err(ApiError::no_such_path());
    }
    if !path.subresource.is_empty() {
        return subresource(exchange, target, &path.subresource, request).await;
    }
    let mut cx = cx(&exchange)?;
    let answer = match (exchange.method.clone(), target.name.is_empty()) {
        (Method::GET | Method::HEAD, true) => list_or_watch(&exchange, target),
        (Method::GET | Method::HEAD, false) => get_or_watch(&exchange, target),
        (Method::POST, true) => post(&exchange, &target, request, &mut cx).await,
        (Method::PUT, false) => {
            let intent = replacement(&exchange, request, &mut cx).await?;
            write(&exchange, &target, None, &intent, &mut cx).await
        }
        (Method::PATCH, false) => {
            let intent = patch(&exchange, request, &mut cx).await?;
            write(&exchange, &target, None, &intent, &mut cx).await
        }
        (Method::DELETE, named) => {
            let params = delete_params(&exchange, request, &mut cx).await?;
            if named {
                delete_all(&exchange, &target, &params, &mut cx).await
            } else {
                delete_one(&exchange, &target, &params, &mut cx).await
            }
        }
        _ => Err(not_allowed(&exchange, &target)),
    };
    let mut answer = answer?;
    respond::warn(&mut answer, &cx.warnings);
    Ok(answer)
}

fn resolve(exchange: &Exchange, path: &ResourcePath) -> Result<Target, ApiError> {
    let registry = exchange.core.registry();
    let served = registry.find(&path.group, &path.version, &path.resource);
    let served = served.ok_or_else(ApiError::no_such_path)?;
    if !served.kind.namespaced && !path.namespace.is_empty() {
        return Err(ApiError::no_such_path());
    }
    Ok(Target::new(served, &path.namespace, &path.name))
}

async fn subresource(
    exchange: Exchange,
    target: Target,
    subresource: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let method = exchange.method.clone();
    let resource = target.resource().clone();
    if &*resource == "pods" && matches!(subresource, "log" | "exec" | "attach" | "portforward") {
        return pod::serve(exchange, target, subresource, request).await;
    }
    let mut cx = cx(&exchange)?;
    let answer = match (&*resource, subresource) {
        (_, "status") if target.kind.status => match method {
            Method::GET => {
                let object = read::get(&exchange.core, &target)?;
                respond::object(&exchange, &target, StatusCode::OK, &object)
            }
            Method::PUT => {
                let intent = replacement(&exchange, request, &mut cx).await?;
                write(&exchange, &target, Some("status"), &intent, &mut cx).await
            }
            Method::PATCH => {
                let intent = patch(&exchange, request, &mut cx).await?;
                write(&exchange, &target, Some("status"), &intent, &mut cx).await
            }
            _ => Err(not_allowed(&exchange, &target)),
        },
        (_, "scale") if target.kind.scale.is_some() => {
            let shown = match method {
                Method::GET => scale::get(&exchange.core, &target)?,
                Method::PUT => {
                    let intent = replacement(&exchange, request, &mut cx).await?;
                    scale::update(&exchange.core, &target, &intent, &mut cx).await?
                }
                Method::PATCH => {
                    let intent = patch(&exchange, request, &mut cx).await?;
                    scale::update(&exchange.core, &target, &intent, &mut cx).await?
                }
                _ => return Err(not_allowed(&exchange, &target)),
            };
            Ok(respond::json(StatusCode::OK, &shown))
        }
        ("namespaces", "finalize") if method == Method::PUT => {
            let bytes = read_body(&exchange, request).await?;
            let wanted = body::object(&exchange.headers, &bytes, &mut cx)?;
            let finalizers = wanted["spec"]["finalizers"].clone();
            let object = update::finalize(&exchange.core, &target, finalizers, &mut cx).await?;
            respond::object(&exchange, &target, StatusCode::OK, &object)
        }
        ("pods", "binding") if method == Method::POST => {
            let bytes = read_body(&exchange, request).await?;
            let binding = body::object(&exchange.headers, &bytes, &mut cx)?;
            let node = binding["target"]["name"].as_str().unwrap_or_default();
            update::bind(&exchange.core, &target, node, &mut cx).await?;
            Ok(respond::json(StatusCode::CREATED, &success(json!({}))))
        }
        ("serviceaccounts", "token") if method == Method::POST => {
            let bytes = read_body(&exchange, request).await?;
            let wanted = body::object(&exchange.headers, &bytes, &mut cx)?;
            let answer = request::answer(&exchange.core, &target, wanted)?;
            Ok(respond::json(StatusCode::CREATED, &answer))
        }
        _ => Err(ApiError::no_such_path()),
    };
    let mut answer = answer?;
    respond::warn(&mut answer, &cx.warnings);
    Ok(answer)
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

/// `limit`, `continue`, `resourceVersion` and `resourceVersionMatch`, checked together.
fn paging(exchange: &Exchange, mut list: ListOptions) -> Result<ListOptions, ApiError> {
    let query = &exchange.query;
    let limit: Option<usize> = query.number("limit")?;
    list.limit = limit.filter(|limit| *limit > 0);
    list.version = query.resource_version()?;
    let token = query.get("continue");
    if !token.is_empty() {
        if list.version.is_some_and(|version| version != 0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        list.version = None;
        list.token = Some(token.to_owned());
    }
    list.matching = match query.get("resourceVersionMatch") {
        "" | "NotOlderThan" => Match::NotOlderThan,
        "Exact" if list.version.is_some_and(|version| version != 0) => Match::Exact,
        "Exact" => {
            return Err(ApiError::bad_request(
                "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\" or none",
            ));
        }
        word => {
            return Err(ApiError::bad_request(format!(
                "resourceVersionMatch: Unsupported value: {word:?}: supported values: \"Exact\", \"NotOlderThan\""
            )));
        }
    };
    Ok(list)
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
        crate::rest::decode(&target.kind, &mut object, cx)?;
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

async fn write(
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

async fn delete_params(
    exchange: &Exchange,
    request: Request<Incoming>,
    cx: &mut Cx,
) -> Result<DeleteParams, ApiError> {
    let bytes = read_body(exchange, request).await?;
    let options = match bytes.is_empty() {
        true => json!({}),
        false => body::object(&exchange.headers, &bytes, cx)?,
    };
    let query = &exchange.query;
    let mut params = DeleteParams {
        grace_period_seconds: match &options["gracePeriodSeconds"] {
            Value::Null => query.number("gracePeriodSeconds")?,
            seconds => Some(seconds.as_u64().ok_or_else(|| {
                ApiError::bad_request("gracePeriodSeconds: Invalid value: must be 0 or more")
            })?),
        },
        uid: text(&options["preconditions"]["uid"]),
        resource_version: text(&options["preconditions"]["resourceVersion"]),
        propagation: None,
    };
    let policy = text(&options["propagationPolicy"]);
    let policy = policy.unwrap_or_else(|| query.get("propagationPolicy").to_owned());
    params.propagation = match policy.as_str() {
        "" => orphan_dependents(&options["orphanDependents"]),
        "Background" => Some(Propagation::Background),
        "Foreground" => Some(Propagation::Foreground),
        "Orphan" => Some(Propagation::Orphan),
        other => {
            return Err(ApiError::bad_request(format!(
                "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\""
            )));
        }
    };
    let dry_run = options["dryRun"].as_array().into_iter().flatten();
    for value in dry_run {
        if value != "All" {
            return Err(ApiError::bad_request(
                "dryRun: Unsupported value: supported values: \"All\"",
            ));
        }
        cx.dry_run = true;
    }
    Ok(params)
}

/// The older way to say `propagationPolicy`.
fn orphan_dependents(value: &Value) -> Option<Propagation> {
    match value.as_bool()? {
        true => Some(Propagation::Orphan),
        false => Some(Propagation::Background),
    }
}

async fn replacement(
    exchange: &Exchange,
    request: Request<Incoming>,
    cx: &mut Cx,
) -> Result<Intent, ApiError> {
    let bytes = read_body(exchange, request).await?;
    let object = body::object(&exchange.headers, &bytes, cx)?;
    Ok(Intent::Replace(object))
}

async fn patch(
    exchange: &Exchange,
    request: Request<Incoming>,
    cx: &mut Cx,
) -> Result<Intent, ApiError> {
    let bytes = read_body(exchange, request).await?;
    let force = exchange.query.flag("force");
    let intent = body::patch(&exchange.headers, &bytes, force, cx)?;
    if intent.is_apply() && exchange.query.get("fieldManager").is_empty() {
        let error = FieldError::required("fieldManager", "is required for apply patch");
        return Err(ApiError::invalid(
            "meta.k8s.io",
            "PatchOptions",
            "",
            &[error],
        ));
    }
    Ok(intent)
}

async fn read_body(exchange: &Exchange, request: Request<Incoming>) -> Result<Bytes, ApiError> {
    body::read(request.into_body(), exchange.core.config.limits.body).await
}

/// Who asks and how, from the query and the headers.
pub(super) fn cx(exchange: &Exchange) -> Result<Cx, ApiError> {
    let query = &exchange.query;
    let given = query.get("fieldManager");
    if given.len() > MAX_MANAGER || given.chars().any(char::is_control) {
        return Err(ApiError::bad_request(format!(
            "fieldManager: Invalid value: {given:?}: may not be more than {MAX_MANAGER} printable characters"
        )));
    }
    let agent = exchange.headers.get(header::USER_AGENT);
    let agent = agent
        .and_then(|agent| agent.to_str().ok())
        .unwrap_or("unknown");
    let program = agent.split('/').next().unwrap_or(agent);
    let manager = if given.is_empty() { program } else { given };
    let deprecation = None::<String>;
    Ok(Cx {
        user: Arc::clone(&exchange.user),
        manager: manager.chars().take(MAX_MANAGER).collect(),
        dry_run: query.dry_run()?,
        validation: query.field_validation()?,
        warnings: deprecation.into_iter().collect(),
    })
}

fn success(details: Value) -> Value {
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

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn not_allowed(exchange: &Exchange, target: &Target) -> ApiError {
    let _ = (
        target,
        Reason::MethodNotAllowed,
        admission::Operation::Connect,
    );
    ApiError::method_not_allowed(target.resource(), exchange.method.as_str())
}
