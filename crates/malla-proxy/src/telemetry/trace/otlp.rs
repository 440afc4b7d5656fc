//! Spans as OTLP protobuf (`opentelemetry/proto/trace/v1/trace.proto`).

use bytes::Bytes;
use malla_proxy_config::tracing::OpenTelemetry;

use super::span::{Facts, Kind};
use crate::telemetry::wire;

/// `Span.status.code` of an error.
const STATUS_ERROR: u64 = 2;

/// `Span.attributes`.
pub(super) fn attribute(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    key_value(out, 9, name, value);
}

/// A `KeyValue` with a string.
fn key_value(out: &mut Vec<u8>, field: u32, name: &str, value: &[u8]) {
    wire::message(out, field, |out| {
        wire::bytes(out, 1, name.as_bytes());
        wire::message(out, 2, |out| wire::text(out, 1, value));
    });
}

/// One `ScopeSpans.spans`.
pub(super) fn span(out: &mut Vec<u8>, span: &Facts<'_>) {
    let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    wire::message(out, 2, |out| {
        wire::bytes(out, 1, &span.ids.trace.to_be_bytes());
        wire::bytes(out, 2, &span.ids.span.to_be_bytes());
        if let Some(state) = span.state {
            wire::text(out, 3, state);
        }
        if let Some(parent) = span.ids.parent {
            wire::bytes(out, 4, &parent.to_be_bytes());
        }
        wire::text(out, 5, span.name.as_bytes());
        let kind = match span.kind {
            Kind::Server => 2,
            Kind::Client => 3,
        };
        wire::uint(out, 6, kind);
        wire::fixed64(out, 7, nanos(span.start));
        wire::fixed64(out, 8, nanos(span.start + span.duration));
        out.extend_from_slice(span.tags);
        if span.error {
            wire::message(out, 15, |out| wire::uint(out, 3, STATUS_ERROR));
        }
    });
}

/// An `ExportTraceServiceRequest` around encoded spans, in two pieces.
pub fn request(config: &OpenTelemetry, resource: &[(String, String)], spans: Bytes) -> [Bytes; 2] {
    let mut inner = Vec::with_capacity(512);
    wire::message(&mut inner, 1, |out| {
        for (name, value) in resource {
            key_value(out, 1, name, value.as_bytes());
        }
    });
    let mut scope = Vec::new();
    if config.scope {
        wire::message(&mut scope, 1, |out| {
            wire::bytes(out, 1, b"malla");
            wire::bytes(out, 2, env!("CARGO_PKG_VERSION").as_bytes());
        });
    }
    wire::begin_message(&mut inner, 2, scope.len() + spans.len());
    inner.extend_from_slice(&scope);
    let mut head = Vec::with_capacity(inner.len() + 8);
    wire::begin_message(&mut head, 1, inner.len() + spans.len());
    head.extend_from_slice(&inner);
    [Bytes::from(head), spans]
}

/// The resource of a tracer: who sends these spans.
pub fn resource(
    config: &OpenTelemetry,
    env: &dyn Fn(&str) -> Option<String>,
) -> Vec<(String, String)> {
    let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut out = Vec::new();
    if !config.service_name.is_empty() {
        out.push(own("service.name", &config.service_name));
    }
    if config.sdk_attributes {
        out.push(own("telemetry.sdk.language", "rust"));
        out.push(own("telemetry.sdk.name", "malla"));
        out.push(own("telemetry.sdk.version", env!("CARGO_PKG_VERSION")));
    }
    if config.resource_from_environment
        && let Some(text) = env("OTEL_RESOURCE_ATTRIBUTES")
    {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        out.extend(pairs.map(|(name, value)| own(name.trim(), value.trim())));
    }
    out.extend(config.resource.iter().cloned());
    out
}
