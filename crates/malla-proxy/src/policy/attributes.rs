//! The attributes that conditions of policies see of a request, or of a connection, before there is any answer: Envoy's
//! names, absent where a value is not known.

use http::HeaderName;
use malla_proxy_config::expression::Expression;
use malla_proxy_config::metadata::Value;
use malla_proxy_config::request::joined;
use malla_proxy_config::stream_state::StreamState;
use serde_json::{Map, Value as Json};

use super::rbac::Subject;
use crate::connection::{End, TlsInfo};
use crate::telemetry::access_log::protocol;

/// True if a condition holds for what is asked about. What is not known makes it fail, as in Envoy.
pub(super) fn holds(condition: &Expression, subject: &Subject<'_>) -> bool {
    let values: Vec<(&str, Json)> = condition
        .roots()
        .iter()
        .map(|root| (*root, of(root, subject)))
        .collect();
    let values: Vec<(&str, &Json)> = values.iter().map(|(root, value)| (*root, value)).collect();
    condition.holds(&values)
}

fn of(root: &str, subject: &Subject<'_>) -> Json {
    let connection = subject.connection;
    let noted = subject.request.and_then(|request| request.state);
    let noted = noted.or(connection.state.as_deref());
    Json::Object(match root {
        "request" => request(subject),
        "connection" => self::connection(subject),
        "source" => end(subject.remote),
        "destination" => end(&connection.local),
        "metadata" => metadata(noted),
        _ => filter_state(noted),
    })
}

fn request(subject: &Subject<'_>) -> Map<String, Json> {
    let mut out = Map::new();
    let Some(request) = subject.request else {
        return out;
    };
    let mut headers = Map::new();
    for name in request.headers.keys() {
        if let Some(value) = joined(request.headers, name) {
            headers.insert(name.as_str().to_owned(), value.into());
        }
    }
    for (name, value) in [
        (":method", request.method.as_str()),
        (":path", request.path),
        (":scheme", request.scheme),
        (":authority", request.authority()),
    ] {
        headers.insert(name.to_owned(), value.into());
    }
    let mut set = |name: &str, value: Json| out.insert(name.to_owned(), value);
    set("method", request.method.as_str().into());
    set("path", request.path.into());
    set("url_path", request.path_only().into());
    set("query", request.query().into());
    set("scheme", request.scheme.into());
    set("host", request.authority().into());
    if let Some(version) = subject.protocol {
        set("protocol", protocol(version).into());
    }
    for (name, field) in [
        ("referer", http::header::REFERER),
        ("useragent", http::header::USER_AGENT),
        ("id", HeaderName::from_static("x-request-id")),
    ] {
        if let Some(value) = joined(request.headers, &field) {
            set(name, value.into());
        }
    }
    set("headers", headers.into());
    out
}

fn connection(subject: &Subject<'_>) -> Map<String, Json> {
    let connection = subject.connection;
    let mut out = Map::new();
    let tls = connection.tls.as_ref();
    let mtls = tls.is_some_and(|tls: &TlsInfo| tls.peer.is_some());
    out.insert("mtls".into(), mtls.into());
    out.insert("id".into(), connection.id.into());
    let peer = tls.and_then(|tls| tls.peer.as_deref());
    let first = |names: Option<&Vec<std::sync::Arc<str>>>| {
        let first = names.and_then(|names| names.first());
        first.map(|name| Json::from(&**name))
    };
    let text = |text: &str| (!text.is_empty()).then(|| Json::from(text));
    for (name, value) in [
        (
            "requested_server_name",
            connection.server_name.as_deref().and_then(text),
        ),
        ("tls_version", tls.and_then(|tls| text(tls.version))),
        (
            "subject_local_certificate",
            tls.and_then(|tls| text(&tls.local_subject)),
        ),
        (
            "subject_peer_certificate",
            peer.and_then(|peer| text(&peer.subject)),
        ),
        (
            "dns_san_local_certificate",
            first(tls.map(|tls| &tls.local_dns_sans)),
        ),
        (
            "dns_san_peer_certificate",
            first(peer.map(|peer| &peer.dns_sans)),
        ),
        (
            "uri_san_local_certificate",
            first(tls.map(|tls| &tls.local_uri_sans)),
        ),
        (
            "uri_san_peer_certificate",
            first(peer.map(|peer| &peer.uri_sans)),
        ),
        (
            "sha256_peer_certificate_digest",
            peer.and_then(|peer| text(&peer.sha256)),
        ),
    ] {
        if let Some(value) = value {
            out.insert(name.to_owned(), value);
        }
    }
    out
}

fn end(end: &End) -> Map<String, Json> {
    let mut out = Map::from_iter([("address".to_owned(), Json::from(end.to_string()))]);
    if let Some(port) = end.port() {
        out.insert("port".into(), port.into());
    }
    out
}

/// What filters have noted in dynamic metadata, as `metadata.filter_metadata[namespace]`.
pub(crate) fn metadata(noted: Option<&StreamState>) -> Map<String, Json> {
    let namespaces = noted.into_iter().flat_map(|state| &state.metadata.0);
    let namespaces = namespaces.map(|(name, tree)| {
        let tree = Value::Object(tree.clone()).into_json();
        (name.clone(), tree)
    });
    let all: Map<String, Json> = namespaces.collect();
    Map::from_iter([("filter_metadata".to_owned(), all.into())])
}

/// What filters have noted in filter state, by key.
pub(crate) fn filter_state(noted: Option<&StreamState>) -> Map<String, Json> {
    let objects = noted.into_iter().flat_map(|state| &state.objects);
    let objects = objects.map(|(key, text)| (key.to_string(), Json::from(&**text)));
    objects.collect()
}
