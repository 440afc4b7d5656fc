//! Answers.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use malla_apimachinery::table::IncludeObject;
use serde_json::{Value, json};

use super::Exchange;
use super::accept::{Encoding, Form};
use crate::error::ApiError;
use crate::rest::Target;
use crate::rest::read::Page;

/// What answers are made of; streams end early on an error.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Longest text of one `Warning` header (k8s.io/apiserver: 256 unless all fit 4 KiB).
const WARNING_CHARS: usize = 1024;
/// Most `Warning` headers of one answer.
const WARNINGS: usize = 32;

pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn response(status: StatusCode, media: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    response
}

pub(super) fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    response(status, "text/plain; charset=utf-8", full(text))
}

pub(super) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    response(status, "application/json", full(value.to_string()))
}

pub(super) fn json_bytes(body: Bytes) -> Response<Body> {
    response(StatusCode::OK, "application/json", full(body))
}

pub(super) fn openapi_protobuf(body: Bytes) -> Response<Body> {
    // Go's media type parser refuses the `@` of the name it asks by; kube-apiserver answers with a dot, too.
    let media = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    response(StatusCode::OK, media, full(body))
}

pub(super) fn stream(media: &'static str, body: Body) -> Response<Body> {
    response(StatusCode::OK, media, body)
}

pub(super) fn aggregated(value: &Value) -> Response<Body> {
    let media = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    response(StatusCode::OK, media, full(value.to_string()))
}

pub(super) fn jwks(value: &Value) -> Response<Body> {
    response(
        StatusCode::OK,
        "application/jwk-set+json",
        full(value.to_string()),
    )
}

/// A document that clients cache by its hash; for ever, if they asked for this very one.
pub(super) fn hashed(exchange: &Exchange, body: Bytes, hash: &str) -> Response<Body> {
    let tag = format!("\"{hash}\"");
    let known = exchange
        .headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|have| have == tag.as_str());
    let mut answer = if known {
        response(StatusCode::NOT_MODIFIED, "application/json", full(""))
    } else {
        response(StatusCode::OK, "application/json", full(body))
    };
    let headers = answer.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    if exchange.query.get("hash") == hash {
        let always = HeaderValue::from_static("public, immutable, max-age=31536000");
        headers.insert(header::CACHE_CONTROL, always);
    }
    answer
}

pub(super) fn error(error: &ApiError) -> Response<Body> {
    let status = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = json(status, &error.to_status());
    if status == StatusCode::TOO_MANY_REQUESTS {
        answer
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}

/// Adds `Warning` headers (RFC 7234 code 299), each text once.
pub(super) fn warn(answer: &mut Response<Body>, warnings: &[String]) {
    let mut told: Vec<&String> = Vec::new();
    for warning in warnings {
        if told.contains(&warning) || told.len() == WARNINGS {
            continue;
        }
        told.push(warning);
        let text: String = warning
            .chars()
            .filter(|c| !c.is_control())
            .take(WARNING_CHARS)
            .collect();
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            answer.headers_mut().append(header::WARNING, value);
        }
    }
}

/// One object, in the form asked for.
pub(super) fn object(
    exchange: &Exchange,
    target: &Target,
    status: StatusCode,
    object: &Value,
) -> Result<Response<Body>, ApiError> {
    let (form, encoding) = exchange.accept.negotiate()?;
    let shown = match form {
        Form::Object => return encode(status, encoding, object),
        Form::Metadata => partial(object, "PartialObjectMetadata"),
        Form::Table => {
            let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            let include = include(exchange)?;
            let now = exchange.core.now();
            target
                .kind
                .columns
                .table(&[object], metadata, include, now, true)
        }
    };
    encode(status, encoding, &shown)
}

/// A list, in the form asked for.
pub(super) fn list(
    exchange: &Exchange,
    target: &Target,
    page: &Page,
) -> Result<Response<Body>, ApiError> {
    let (form, encoding) = exchange.accept.negotiate()?;
    let mut metadata = json!({"resourceVersion": page.version.to_string()});
    if let Some(token) = &page.token {
        metadata["continue"] = token.clone().into();
    }
    if let Some(remaining) = page.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    let kind = &target.kind;
    let body = match form {
        Form::Table => {
            let objects: Vec<&Value> = page.items.iter().map(|item| &**item).collect();
            let include = include(exchange)?;
            let now = exchange.core.now();
            let table = kind.columns.table(&objects, metadata, include, now, true);
            return encode(StatusCode::OK, encoding, &table);
        }
        Form::Object => {
            let items = page.items.iter().map(|item| item.to_string());
            list_text(&kind.list_kind, &kind.api_version(), &metadata, items)
        }
        Form::Metadata => {
            let items = page.items.iter();
            let items = items.map(|item| partial(item, "PartialObjectMetadata").to_string());
            list_text(
                "PartialObjectMetadataList",
                "meta.k8s.io/v1",
                &metadata,
                items,
            )
        }
    };
    if encoding == Encoding::Yaml {
        let value: Value = serde_json::from_str(&body).map_err(ApiError::internal)?;
        return encode(StatusCode::OK, encoding, &value);
    }
    Ok(response(StatusCode::OK, "application/json", full(body)))
}

/// A list of objects that share nothing but being answered together (deletecollection).
pub(super) fn items(target: &Target, items: &[Arc<Value>]) -> Response<Body> {
    let kind = &target.kind;
    let items = items.iter().map(|item| item.to_string());
    let body = list_text(&kind.list_kind, &kind.api_version(), &json!({}), items);
    response(StatusCode::OK, "application/json", full(body))
}

/// Writes a list without building it as one value first.
fn list_text(
    kind: &str,
    api_version: &str,
    metadata: &Value,
    items: impl Iterator<Item = String>,
) -> String {
    let mut text = format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
        Value::from(kind),
        Value::from(api_version)
    );
    for (index, item) in items.enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&item);
    }
    text.push_str("]}");
    text
}

/// Only the metadata of an object.
pub(super) fn partial(object: &Value, kind: &str) -> Value {
    json!({"kind": kind, "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// `includeObject`.
pub(super) fn include(exchange: &Exchange) -> Result<IncludeObject, ApiError> {
    let word = exchange.query.get("includeObject");
    IncludeObject::parse(word)
        .ok_or_else(|| ApiError::bad_request(format!("unrecognized includeObject value: {word:?}")))
}

fn encode(
    status: StatusCode,
    encoding: Encoding,
    value: &Value,
) -> Result<Response<Body>, ApiError> {
    match encoding {
        Encoding::Json => Ok(json(status, value)),
        Encoding::Yaml => {
            let text = serde_saphyr::to_string(value).map_err(ApiError::internal)?;
            Ok(response(status, "application/yaml", full(text)))
        }
    }
}
