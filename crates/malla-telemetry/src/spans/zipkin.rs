//! Zipkin's spans, v2 JSON: `POST /api/v2/spans`.
//!
//! <https://zipkin.io/zipkin-api/#/default/post_spans>. Each becomes an OTLP span, so that there is
//! one set of limits. A server that shares its caller's span id (B3's old way) gets an id of its own
//! below the caller's, as Jaeger's readers do it: a store knows a span by its id.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{HeaderMap, StatusCode, header};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Otlp;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use serde::Deserialize;

use crate::spans::model::id;
use crate::spans::otlp::{LARGEST, SpanIntake, unpack};

/// `POST /api/v2/spans`.
pub(crate) fn router(intake: Arc<SpanIntake>) -> Router {
    Router::new()
        .route("/api/v2/spans", post(spans))
        .fallback(elsewhere)
        .layer(DefaultBodyLimit::max(LARGEST))
        .with_state(intake)
}

async fn elsewhere() -> (StatusCode, &'static str) {
    let text = "only POST /api/v2/spans is taken here (JSON); spans are asked for at the console's /jaeger/api/\n";
    (StatusCode::NOT_FOUND, text)
}

async fn spans(State(intake): State<Arc<SpanIntake>>, headers: HeaderMap, body: Bytes) -> Response {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    // Some clients name none.
    if !matches!(kind, None | Some("application/json" | "")) {
        let text = "content-type: application/json is expected (v2 JSON)\n";
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, text).into_response();
    }
    let read = unpack(&headers, body).and_then(|body| parse(&body));
    let request = match read {
        Ok(resource_spans) => ExportTraceServiceRequest { resource_spans },
        Err(reason) => return (StatusCode::BAD_REQUEST, reason + "\n").into_response(),
    };
    match intake.take(request).await {
        Ok(answer) => match answer.partial_success {
            None => StatusCode::ACCEPTED.into_response(),
            Some(partial) => {
                let text = format!(
                    "{} spans are not taken: {}\n",
                    partial.rejected_spans, partial.error_message
                );
                (StatusCode::BAD_REQUEST, text).into_response()
            }
        },
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Zipkin {
    trace_id: String,
    id: String,
    #[serde(default)]
    parent_id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    /// Unix microseconds; some clients send a fraction.
    #[serde(default)]
    timestamp: Option<f64>,
    #[serde(default)]
    duration: Option<f64>,
    #[serde(default)]
    shared: Option<bool>,
    #[serde(default)]
    local_endpoint: Option<Endpoint>,
    #[serde(default)]
    remote_endpoint: Option<Endpoint>,
    #[serde(default)]
    annotations: Option<Vec<Annotation>>,
    #[serde(default)]
    tags: Option<std::collections::BTreeMap<String, serde_json::Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    #[serde(default)]
    service_name: Option<String>,
    #[serde(default)]
    ipv4: Option<String>,
    #[serde(default)]
    ipv6: Option<String>,
    #[serde(default)]
    port: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Annotation {
    #[serde(default)]
    timestamp: f64,
    #[serde(default)]
    value: String,
}

/// Reads a list of spans; ids that cannot be are left empty and counted by who converts them.
pub(crate) fn parse(body: &[u8]) -> Result<Vec<ResourceSpans>, String> {
    let spans: Vec<Zipkin> = serde_json::from_slice(body)
        .map_err(|error| format!("a list of Zipkin v2 spans is expected: {error}"))?;
    Ok(spans.into_iter().map(convert).collect())
}

fn convert(span: Zipkin) -> ResourceSpans {
    let local = span.local_endpoint.as_ref();
    let service = local.and_then(|endpoint| endpoint.service_name.clone());
    let service = service.filter(|name| !name.is_empty());
    let mut resource = vec![text(
        "service.name",
        service.unwrap_or_else(|| "unknown_service".to_owned()),
    )];
    if let Some(address) = local.and_then(Endpoint::address) {
        resource.push(text("ip", address));
    }
    let resource = Resource {
        attributes: resource,
        ..Resource::default()
    };
    let scope = ScopeSpans {
        spans: vec![otlp(span)],
        ..ScopeSpans::default()
    };
    ResourceSpans {
        resource: Some(resource),
        scope_spans: vec![scope],
        ..ResourceSpans::default()
    }
}

fn otlp(span: Zipkin) -> Span {
    let kind = match span.kind.as_deref() {
        Some("CLIENT") => SpanKind::Client,
        Some("SERVER") => SpanKind::Server,
        Some("PRODUCER") => SpanKind::Producer,
        Some("CONSUMER") => SpanKind::Consumer,
        _ => SpanKind::Internal,
    };
    let span_id = id(&span.id, 8).unwrap_or_default();
    let parent = span.parent_id.as_deref().and_then(|text| id(text, 8));
    let shared = span.shared == Some(true) && kind == SpanKind::Server;
    let (span_id, parent_span_id) = match shared {
        true => (below(&span_id), span_id),
        false => (span_id, parent.unwrap_or_default()),
    };
    let start = nanoseconds(span.timestamp);
    let mut attributes = Vec::new();
    let mut status = None;
    for (key, value) in span.tags.unwrap_or_default() {
        let value = match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        // Zipkin's way to say so: whatever the value is.
        if key == "error" {
            status = Some(Status {
                code: 2,
                message: String::new(),
            });
            if value == "true" {
                continue;
            }
            attributes.push(text("error.message", value));
            continue;
        }
        attributes.push(text(&key, value));
    }
    if let Some(peer) = span.remote_endpoint.as_ref() {
        let name = peer.service_name.clone().filter(|name| !name.is_empty());
        attributes.extend(name.map(|name| text("peer.service", name)));
        attributes.extend(peer.address().map(|address| text("peer.address", address)));
    }
    let events = span.annotations.unwrap_or_default().into_iter();
    let events = events.map(|annotation| Event {
        time_unix_nano: nanoseconds(Some(annotation.timestamp)),
        name: annotation.value,
        ..Event::default()
    });
    Span {
        trace_id: id(&span.trace_id, 16).unwrap_or_default(),
        span_id,
        parent_span_id,
        name: span.name.unwrap_or_default(),
        kind: kind.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(nanoseconds(span.duration)),
        attributes,
        events: events.collect(),
        status,
        ..Span::default()
    }
}

impl Endpoint {
    fn address(&self) -> Option<String> {
        let ip = self.ipv4.as_ref().or(self.ipv6.as_ref());
        let ip = ip.filter(|ip| !ip.is_empty())?;
        Some(match self.port.filter(|port| *port > 0) {
            Some(port) if ip.contains(':') => format!("[{ip}]:{port}"),
            Some(port) => format!("{ip}:{port}"),
            None => ip.clone(),
        })
    }
}

/// An id for the server's half of a shared span: always the same one, and never the caller's.
fn below(id: &[u8]) -> Vec<u8> {
    let hash = xxhash_rust::xxh3::xxh3_64(id).to_be_bytes();
    match id.iter().any(|byte| *byte != 0) {
        true => hash.to_vec(),
        false => Vec::new(),
    }
}

/// Of microseconds; what cannot be a time is none.
fn nanoseconds(microseconds: Option<f64>) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "such casts saturate; microseconds of this era are exact"
    )]
    let whole = microseconds.unwrap_or(0.0) as u64;
    whole.saturating_mul(1000)
}

fn text(key: &str, value: String) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(Otlp::StringValue(value)),
        }),
        ..KeyValue::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spans::model::{SpanRecord, convert as records, hex};

    fn read(json: &str) -> Vec<SpanRecord> {
        records(parse(json.as_bytes()).unwrap()).spans
    }

    #[test]
    fn a_span_keeps_what_it_says() {
        let spans = read(
            r#"[{"traceId": "463ac35c9f6413ad", "id": "a2fb4a1d1a96d312", "parentId": "0020000000000001",
                "name": "get /order", "kind": "CLIENT", "timestamp": 1472470996199000, "duration": 207000,
                "localEndpoint": {"serviceName": "cart.base", "ipv4": "10.0.0.1", "port": 80},
                "remoteEndpoint": {"serviceName": "order", "ipv6": "::1", "port": 7},
                "annotations": [{"timestamp": 1472470996238000, "value": "ws"}],
                "tags": {"http.path": "/order", "error": "503"}}]"#,
        );
        let [span] = &spans[..] else {
            panic!("{spans:?}")
        };
        assert_eq!(hex(&span.trace_id), "0000000000000000463ac35c9f6413ad");
        assert_eq!(hex(&span.parent_id), "0020000000000001");
        assert_eq!((span.service.as_str(), span.kind), ("cart.base", 3));
        assert_eq!(
            (span.start, span.duration),
            (1_472_470_996_199_000, 207_000)
        );
        assert_eq!(span.events.len(), 1);
        let tag = |key: &str| {
            let tag = span.tags.iter().find(|tag| tag.key == key);
            tag.map(crate::spans::model::Tag::shown).unwrap_or_default()
        };
        assert_eq!(tag("http.path"), "/order");
        assert_eq!(tag("error"), "true");
        assert_eq!(tag("error.message"), "503");
        assert_eq!(tag("peer.service"), "order");
        assert_eq!(tag("peer.address"), "[::1]:7");
    }

    #[test]
    fn a_shared_span_becomes_two() {
        let spans = read(
            r#"[{"traceId": "1", "id": "2", "kind": "CLIENT"}, {"traceId": "1", "id": "2", "kind": "SERVER", "shared": true}]"#,
        );
        assert_ne!(spans[0].span_id, spans[1].span_id);
        assert_eq!(spans[1].parent_id, spans[0].span_id);
    }

    #[test]
    fn ids_that_cannot_be_are_refused_alone() {
        let json = r#"[{"traceId": "1", "id": "zz"}, {"traceId": "0", "id": "1", "shared": true, "kind": "SERVER"}, {"traceId": "1", "id": "1", "timestamp": -5.5}]"#;
        let converted = records(parse(json.as_bytes()).unwrap());
        assert_eq!((converted.spans.len(), converted.invalid), (1, 2));
        for bad in ["", "{}", "[1]", r#"[{"id": "1"}]"#, "[[[[[["] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(parse(&bytes));
        }

        #[test]
        fn no_number_makes_it_panic(time in any::<f64>(), long in any::<f64>(), name in ".*") {
            let span = serde_json::json!([{"traceId": "1", "id": "1", "timestamp": time, "duration": long, "name": name}]);
            drop(parse(span.to_string().as_bytes()).map(records));
        }
    }
}
