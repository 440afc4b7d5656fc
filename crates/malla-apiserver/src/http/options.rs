//! What a request asks besides its path: options from the query, headers and body.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use hyper::body::Incoming;
use malla_apimachinery::error::FieldError;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Exchange, body};
use crate::client::{DeleteParams, Propagation};
use crate::error::{ApiError, Reason};
use crate::rest::intent::Intent;
use crate::rest::read::{ListOptions, Match};
use crate::rest::{Cx, Target};

/// Longest `fieldManager` (apimachinery `FieldManagerMaxLength`).
const MAX_MANAGER: usize = 128;
/// How long a client may take to send a body.
const BODY: Duration = Duration::from_secs(30);

/// Who asks and how, from the query and the headers.
pub(super) fn cx(exchange: &Exchange, target: &Target) -> Result<Cx, ApiError> {
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
    Ok(Cx {
        user: Arc::clone(&exchange.user),
        manager: manager.chars().take(MAX_MANAGER).collect(),
        dry_run: query.dry_run()?,
        validation: query.field_validation()?,
        warnings: target.kind.deprecation.iter().cloned().collect(),
    })
}

/// `limit`, `continue`, `resourceVersion` and `resourceVersionMatch`, checked together.
pub(super) fn paging(exchange: &Exchange, mut list: ListOptions) -> Result<ListOptions, ApiError> {
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

pub(super) async fn delete_params(
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

/// A replacement from the body.
pub(super) async fn replacement(
    exchange: &Exchange,
    request: Request<Incoming>,
    cx: &mut Cx,
) -> Result<Intent, ApiError> {
    let bytes = read_body(exchange, request).await?;
    let object = body::object(&exchange.headers, &bytes, cx)?;
    Ok(Intent::Replace(object))
}

/// A patch from the body, of the kind its media type says.
pub(super) async fn patch(
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

/// The whole body, within its bounds of size and time.
pub(super) async fn read_body(
    exchange: &Exchange,
    request: Request<Incoming>,
) -> Result<Bytes, ApiError> {
    let reading = body::read(request.into_body(), exchange.core.config.limits.body);
    timeout(BODY, reading).await.map_err(|_| {
        let message = format!("the request body did not come within {} s", BODY.as_secs());
        ApiError::new(Reason::Timeout, message)
    })?
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}
