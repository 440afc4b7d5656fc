//! What the API server reads off HTTP requests and answers of webhooks.

use malla_apiserver::fuzzing;
use serde_json::Value;

use crate::input::Input;
use crate::kubernetes::exercise;
use crate::samples::{KINDS, OBJECTS, kind_of};
use crate::values;

/// `application/vnd.kubernetes.protobuf`: what decodes goes on as JSON would.
pub fn protobuf(data: &[u8]) {
    let with_magic;
    let body = match data.split_first() {
        Some((0, raw)) => {
            with_magic = [b"k8s\0", raw].concat();
            &with_magic
        }
        _ => data,
    };
    let Some(object) = fuzzing::protobuf(body) else {
        return;
    };
    assert_eq!(fuzzing::protobuf(body).as_ref(), Some(&object));
    served(&object);
}

fn served(object: &Value) {
    let kind = KINDS
        .iter()
        .find(|kind| kind.kind == object["kind"] && kind.api_version() == object["apiVersion"]);
    if let Some(kind) = kind {
        exercise(kind, object, object.clone());
    }
}

/// A body of any media type (by the first byte): JSON, YAML, patches.
pub fn body(data: &[u8]) {
    let Some((media, bytes)) = data.split_first() else {
        return;
    };
    let ours = fuzzing::json(bytes);
    let theirs: Option<Value> = serde_json::from_slice(bytes).ok();
    assert_eq!(ours, theirs, "serde_json reads it otherwise");
    let media = fuzzing::MEDIA_TYPES[usize::from(*media) % fuzzing::MEDIA_TYPES.len()];
    if let Some(object) = fuzzing::object(media, bytes) {
        served(&object);
    }
    fuzzing::patch(media, bytes);
}

/// Path, query and `Accept` header, a line each.
pub fn request(data: &[u8]) {
    let mut input = Input::new(data);
    let mut line = || String::from_utf8_lossy(input.line()).into_owned();
    let (path, query, accept) = (line(), line(), line());
    fuzzing::path(&path);
    fuzzing::query(&query);
    fuzzing::accept(&accept);
    fuzzing::continue_token(&query);
    if let Some(decoded) = fuzzing::percent_decode(&path) {
        assert!(decoded.len() <= path.len() && !decoded.contains('\0'));
        let encoded: String = decoded.bytes().map(|byte| format!("%{byte:02X}")).collect();
        assert_eq!(fuzzing::percent_decode(&encoded), Some(decoded));
    }
}

/// A bearer token of a stranger is nobody's; headers that impersonate are taken away or refused.
pub fn token(data: &[u8]) {
    let mut input = Input::new(data);
    let first = String::from_utf8_lossy(input.line()).into_owned();
    assert!(!fuzzing::is_ours(&first), "forged: {first}");
    let mut headers = http::HeaderMap::new();
    while !input.is_empty() && headers.len() < 32 {
        let (name, value) = (input.line(), input.line());
        let name = [b"impersonate-", name].concat();
        if let (Ok(name), Ok(value)) = (
            http::HeaderName::from_bytes(&name),
            http::HeaderValue::from_bytes(value),
        ) {
            headers.append(name, value);
        }
    }
    fuzzing::impersonate(headers);
}

/// The answer of an admission webhook, and its patch on the object it is about.
pub fn webhook_answer(data: &[u8]) {
    let mut input = Input::new(data);
    let sample = input.pick(&OBJECTS);
    let answer = if input.flag() {
        let Ok(answer) = serde_json::from_slice(input.rest()) else {
            return;
        };
        answer
    } else {
        let mut answer = serde_json::json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": {"uid": "u", "allowed": true,
            "warnings": ["w"], "status": {"code": 403, "message": "no", "reason": "Forbidden", "details": {"causes": [{"message": "m"}]}}}});
        values::damage(&mut answer, &mut input);
        answer
    };
    if let Some(patch) = fuzzing::webhook_answer(&answer)
        && let Ok(object) = malla_apimachinery::patch::json_patch(sample, &patch)
    {
        exercise(kind_of(sample), sample, object);
    }
}

/// Bytes of a WebSocket client of `exec` and of `port-forward`.
pub fn websocket(data: &[u8]) {
    fuzzing::websocket(data);
}

/// Bytes of a client of `port-forward` that speaks SPDY.
pub fn spdy(data: &[u8]) {
    fuzzing::spdy(data);
}
