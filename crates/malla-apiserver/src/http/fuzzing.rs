//! Parsers that only `http` uses, for `fuzz/`; compiled with `--cfg fuzzing` alone.

use std::sync::{Arc, LazyLock};

use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use malla_apimachinery::kind::FieldValidation;
use serde_json::Value;

use super::accept::Accept;
use super::path::Path;
use super::query::Query;
use super::{body, json, path, protobuf, socket};
use crate::auth::{TokenKeys, User, impersonate};
use crate::rest::Cx;

/// What `object` and `patch` take, and one that they do not.
pub const MEDIA_TYPES: [&str; 9] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml; charset=utf-8",
    "",
    "text/html",
];

pub fn protobuf(bytes: &[u8]) -> Option<Value> {
    protobuf::decode(bytes).ok()
}

pub fn json(bytes: &[u8]) -> Option<Value> {
    json::parse(bytes).ok().map(|(value, _)| value)
}

pub fn object(media_type: &'static str, bytes: &[u8]) -> Option<Value> {
    body::object(&content_type(media_type), bytes, &mut cx()).ok()
}

pub fn patch(media_type: &'static str, bytes: &[u8]) {
    let _ = body::patch(&content_type(media_type), bytes, false, &mut cx());
}

fn content_type(media_type: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(media_type))])
}

fn cx() -> Cx {
    Cx {
        user: Arc::new(User::anonymous()),
        manager: "fuzz".to_owned(),
        dry_run: false,
        validation: FieldValidation::Warn,
        warnings: Vec::new(),
    }
}

pub fn path(text: &str) {
    if let Ok(path) = Path::parse(text) {
        path.text();
    }
}

pub fn percent_decode(text: &str) -> Option<String> {
    path::percent_decode(text)
}

pub fn query(text: &str) {
    let query = Query::parse(text);
    for name in ["limit", "timeoutSeconds", "gracePeriodSeconds", "sinceTime"] {
        let _ = query.number::<u64>(name);
        query.flag(name);
        query.all(name).count();
    }
    let _ = query.dry_run();
    let _ = query.field_validation();
    let _ = query.resource_version();
}

pub fn accept(text: &str) {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(header::ACCEPT, value);
    }
    let accept = Accept::parse(&headers);
    let _ = accept.negotiate();
    accept.json();
    accept.openapi_protobuf();
    accept.aggregated();
}

pub fn continue_token(text: &str) {
    let _ = crate::rest::read::parse_token(text);
}

/// Whether a key made just now has signed the token.
pub fn is_ours(token: &str) -> bool {
    static KEYS: LazyLock<TokenKeys> = LazyLock::new(|| {
        let key = TokenKeys::make().expect("a key can be made");
        TokenKeys::read(&key, "https://fuzz").expect("it was just made")
    });
    KEYS.claims(token).is_ok()
}

pub fn impersonate(mut headers: HeaderMap) {
    let admin = Arc::new(User::certified("admin".to_owned(), Vec::new()));
    if impersonate::effective(admin, &mut headers).is_ok() {
        let left = |name: &HeaderName| name.as_str().starts_with("impersonate-extra-");
        assert!(!headers.keys().any(left), "{headers:?}");
    }
}

/// The patch an answer holds.
pub fn webhook_answer(answer: &Value) -> Option<Value> {
    crate::admission::answered_patch(answer)
}

pub fn websocket(bytes: &[u8]) {
    // Reading from memory never waits.
    socket::take_all(bytes).now_or_never();
}

pub fn spdy(bytes: &[u8]) {
    super::spdy::read_all(bytes);
}
