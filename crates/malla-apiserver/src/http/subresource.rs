//! Subresources that are answered here: `status`, `scale`, `finalize`, `binding`, `token`.

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::options::{patch, read_body, replacement};
use super::resource::{not_allowed, success, write};
use super::respond::{self, Body};
use super::{Exchange, body};
use crate::auth::request;
use crate::error::ApiError;
use crate::rest::intent::Intent;
use crate::rest::{Cx, Target, read, scale, update};

/// Serves a request on a subresource.
pub(super) async fn serve(
    exchange: &Exchange,
    target: &Target,
    subresource: &str,
    request: Request<Incoming>,
    cx: &mut Cx,
) -> Result<Response<Body>, ApiError> {
    let post = exchange.method == Method::POST;
    match (&**target.resource(), subresource) {
        (_, "status") if target.kind.status => status(exchange, target, request, cx).await,
        (_, "scale") if target.kind.scale.is_some() => {
            let shown = match exchange.method {
                Method::GET => scale::get(&exchange.core, target)?,
                _ => {
                    let intent = intent(exchange, target, request, cx).await?;
                    scale::update(&exchange.core, target, &intent, cx).await?
                }
            };
            Ok(respond::json(StatusCode::OK, &shown))
        }
        ("namespaces", "finalize") if exchange.method == Method::PUT => {
            let wanted = object(exchange, request, cx).await?;
            let finalizers = wanted["spec"]["finalizers"].clone();
            let object = update::finalize(&exchange.core, target, finalizers, cx).await?;
            respond::object(exchange, target, StatusCode::OK, &object)
        }
        ("pods", "binding") if post => {
            let binding = object(exchange, request, cx).await?;
            let node = binding["target"]["name"].as_str().unwrap_or_default();
            update::bind(&exchange.core, target, node, cx).await?;
            Ok(respond::json(StatusCode::CREATED, &success(json!({}))))
        }
        ("serviceaccounts", "token") if post => {
            let wanted = object(exchange, request, cx).await?;
            let answer = request::answer(&exchange.core, target, wanted)?;
            Ok(respond::json(StatusCode::CREATED, &answer))
        }
        _ => Err(ApiError::no_such_path()),
    }
}

async fn status(
    exchange: &Exchange,
    target: &Target,
    request: Request<Incoming>,
    cx: &mut Cx,
) -> Result<Response<Body>, ApiError> {
    if exchange.method == Method::GET {
        let object = read::get(&exchange.core, target)?;
        return respond::object(exchange, target, StatusCode::OK, &object);
    }
    let intent = intent(exchange, target, request, cx).await?;
    write(exchange, target, Some("status"), &intent, cx).await
}

async fn intent(
    exchange: &Exchange,
    target: &Target,
    request: Request<Incoming>,
    cx: &mut Cx,
) -> Result<Intent, ApiError> {
    match exchange.method {
        Method::PUT => replacement(exchange, request, cx).await,
        Method::PATCH => patch(exchange, request, cx).await,
        _ => Err(not_allowed(exchange, target)),
    }
}

async fn object(
    exchange: &Exchange,
    request: Request<Incoming>,
    cx: &mut Cx,
) -> Result<Value, ApiError> {
    let bytes = read_body(exchange, request).await?;
    body::object(&exchange.headers, &bytes, cx)
}
