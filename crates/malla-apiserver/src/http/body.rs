//! Request bodies: bounded, and in a form the server reads.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use malla_apimachinery::kind::FieldValidation;
use serde_json::Value;

use super::json;
use super::protobuf::{self, ProtobufError};
use crate::error::{ApiError, Reason};
use crate::rest::Cx;
use crate::rest::intent::Intent;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// Most bytes read and dropped beyond the limit.
const MAX_DROPPED: usize = 16 * 1024 * 1024;

/// Reads a body of at most `limit` bytes. Of a longer one some more is read and dropped, so that the client has sent
/// it and reads the answer.
pub(super) async fn read(mut body: Incoming, limit: usize) -> Result<Bytes, ApiError> {
    let mut bytes = BytesMut::new();
    let mut length = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| ApiError::bad_request(format!("read the request body: {error}")))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        length = length.saturating_add(data.len());
        if length > limit.saturating_add(MAX_DROPPED) {
            break;
        }
        if length <= limit {
            bytes.extend_from_slice(&data);
        }
    }
    if length <= limit {
        return Ok(bytes.freeze());
    }
    Err(ApiError::new(
        Reason::RequestEntityTooLarge,
        format!("Request entity too large: limit is {limit}"),
    ))
}

/// The media type of a body, without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let text = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media = text.unwrap_or("").split(';').next().unwrap_or("").trim();
    media.to_ascii_lowercase()
}

/// Parses an object; repeated keys are warned of or refused, like unknown ones.
pub(super) fn object(headers: &HeaderMap, bytes: &[u8], cx: &mut Cx) -> Result<Value, ApiError> {
    match media_type(headers).as_str() {
        "" | "application/json" | "*/*" => from_json(bytes, cx),
        "application/yaml" => from_yaml(bytes),
        PROTOBUF => protobuf::decode(bytes).map_err(|error| match error {
            ProtobufError::Kind { .. } => unsupported("application/json, application/yaml"),
            error => {
                ApiError::bad_request(format!("the request body is not valid protobuf: {error}"))
            }
        }),
        _ => Err(unsupported(
            &["application/json", "application/yaml", PROTOBUF].join(", "),
        )),
    }
}

/// Parses a patch by its media type.
pub(super) fn patch(
    headers: &HeaderMap,
    bytes: &[u8],
    force: bool,
    cx: &mut Cx,
) -> Result<Intent, ApiError> {
    let media = media_type(headers);
    if media != APPLY_PATCH && force {
        return Err(ApiError::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
        ));
    }
    match media.as_str() {
        JSON_PATCH => Ok(Intent::Json(from_json(bytes, cx)?)),
        MERGE_PATCH => Ok(Intent::Merge(from_json(bytes, cx)?)),
        STRATEGIC_PATCH => Ok(Intent::Strategic(from_json(bytes, cx)?)),
        APPLY_PATCH => {
            let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
            let config = if first == Some(&b'{') {
                from_json(bytes, cx)?
            } else {
                from_yaml(bytes)?
            };
            Ok(Intent::Apply { config, force })
        }
        _ => Err(unsupported(
            &[JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH].join(", "),
        )),
    }
}

fn from_json(bytes: &[u8], cx: &mut Cx) -> Result<Value, ApiError> {
    let (value, twice) = json::parse(bytes).map_err(|error| {
        ApiError::bad_request(format!("the request body is not valid JSON: {error}"))
    })?;
    let texts = twice.iter().map(|path| format!("duplicate field {path:?}"));
    match cx.validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => cx.warnings.extend(texts),
        FieldValidation::Strict if twice.is_empty() => {}
        FieldValidation::Strict => {
            let texts: Vec<String> = texts.collect();
            return Err(ApiError::bad_request(format!(
                "strict decoding error: {}",
                texts.join(", ")
            )));
        }
    }
    Ok(value)
}

fn from_yaml(bytes: &[u8]) -> Result<Value, ApiError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| ApiError::bad_request("the request body is not valid UTF-8"))?;
    serde_saphyr::from_str(text).map_err(|error| {
        ApiError::bad_request(format!("the request body is not valid YAML: {error}"))
    })
}

fn unsupported(accepted: &str) -> ApiError {
    ApiError::new(
        Reason::UnsupportedMediaType,
        format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        ),
    )
}
